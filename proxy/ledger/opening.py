"""Which store a `database_url` names: a SQLite file, memory, or Postgres (whose driver is imported only then)."""

from collections.abc import Callable
from contextlib import closing

from proxy.errors import ConfigError, Problem
from proxy.ledger.books import Books
from proxy.ledger.lock import ServerLock
from proxy.ledger.sqlite import SqliteLedger
from proxy.ledger.store import database_path
from proxy.ledger.written import WrittenLedger

_POSTGRES = ("postgres://", "postgresql://")


def is_postgres(url: str) -> bool:
    """Whether a URL names a Postgres."""
    return url.startswith(_POSTGRES)


def open_ledger(url: str, *, clock: Callable[[], float], prepare: Callable[[Books], None]) -> WrittenLedger:
    """The ledger of a server; what dead servers left reserved is charged. `clock` is the wall clock.

    `prepare` is the first to use the books. Raises ConfigError.
    """
    if is_postgres(url):
        from proxy.ledger.postgres import PostgresLedger

        return PostgresLedger.open(url, clock=clock, prepare=prepare)
    return SqliteLedger.open(url, clock=clock, prepare=prepare)


def prepare_ledger(url: str, *, clock: Callable[[], float], prepare: Callable[[Books], None]) -> None:
    """Make a ledger ready for worker processes, and let go of it: tables, what the dead reserved, `prepare`.

    Raises ConfigError, also for a ledger in memory, which processes cannot share.
    """
    if is_postgres(url):
        from proxy.ledger.postgres import PostgresBooks

        # what the dead have reserved is charged by each of the workers as it starts
        with closing(PostgresBooks.open_url(url, clock=clock)) as books:
            books.prepare(prepare)
        return
    path = database_path(url)
    if path is None:
        raise ConfigError(
            [Problem("sqlite://", "", "is in the memory of one process: workers need a file, or Postgres")]
        )
    lock = ServerLock(path)
    try:
        with closing(Books.open(path, clock=clock)) as books:
            books.sweep_all()
            prepare(books)
    finally:
        lock.release()


def open_books(url: str, *, clock: Callable[[], float]) -> Books:
    """The books to write to, also beside a running server; a file is made where it is missing. Raises ConfigError."""
    if is_postgres(url):
        from proxy.ledger.pg_sharing import PATIENT_S
        from proxy.ledger.postgres import PostgresBooks

        return PostgresBooks.open_url(url, clock=clock, timeout=PATIENT_S)
    path = database_path(url)
    if path is None:
        raise ConfigError([Problem("sqlite://", "", "is in the memory of its server: use its admin API")])
    return Books.open(path, clock=clock)


def read_books(url: str, *, clock: Callable[[], float]) -> Books:
    """The books to read alone; a missing ledger is an error. Raises ConfigError."""
    if is_postgres(url):
        from proxy.ledger.postgres import PostgresBooks

        return PostgresBooks.read_url(url, clock=clock)
    return Books.open_read_only(database_path(url), clock=clock)
