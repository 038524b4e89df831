"""The ledger on one SQLite file, or in memory."""

from collections.abc import Callable, Collection
from contextlib import ExitStack
from secrets import token_bytes
from typing import Self

from proxy.ledger.books import Books
from proxy.ledger.lock import ServerLock
from proxy.ledger.store import Synchronous, database_path
from proxy.ledger.written import WrittenLedger

_BUSY_S = 0.4
"""How long a transaction waits for a writer in another process: a reservation is refused within a second."""

_TEND_S = 1.0
"""How often the writer looks for what time has made due, and does a part of it, in which requests wait."""


class SqliteLedger(WrittenLedger):
    """A `Ledger` on one SQLite file, or in memory. Made by `open`, ended by `close`."""

    @classmethod
    def open(
        cls,
        url: str,
        *,
        clock: Callable[[], float],
        token: Callable[[int], bytes] = token_bytes,
        pepper: bytes | None = None,
        synchronous: Synchronous = "FULL",
        prepare: Callable[[Books], None] = lambda _: None,
        living: Collection[str] = (),
    ) -> Self:
        """Open `sqlite:///FILE` (`sqlite://`: memory) for a server, and charge what a dead one left reserved.

        `prepare` has the books to itself before anybody else; `living` are owners whose reservations stay.
        `clock` is the wall clock, in seconds since 1970. Raises ConfigError, also when another server has the file.
        """
        path = database_path(url)
        if path is None:
            books = Books.open(None, clock=clock, token=token, pepper=pepper)
            prepare(books)
            return cls(books, tend_s=_TEND_S)
        lock = ServerLock(path)
        with ExitStack() as failing:
            failing.callback(lock.release)
            books = Books.open(path, clock=clock, token=token, pepper=pepper, synchronous=synchronous, busy_s=_BUSY_S)
            books.sweep_all(living)
            prepare(books)
            failing.pop_all()
        return cls(books, lock, _TEND_S)
