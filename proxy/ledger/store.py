"""One open SQLite file: where it is, how it is opened, and its transactions."""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from proxy.errors import ConfigError, Problem
from proxy.ledger.address import shown
from proxy.ledger.database import Cursor, Database, Insert, Row, SqliteDatabase
from proxy.ledger.schema import MIGRATIONS, migrate, version

MAX_INTEGER = 2**63 - 1
"""The largest integer that SQLite holds: nine billion dollars in nano-USD."""

Synchronous = Literal["FULL", "NORMAL", "OFF"]


def wall_clock() -> float:
    """Seconds since 1970: what the ledger goes by, and nothing else."""
    return time.time_ns() / 1e9


def database_path(url: str) -> Path | None:
    """The file of `sqlite:///relative.db` or `sqlite:////absolute.db`; None for memory (`sqlite://`)."""
    scheme, separator, rest = url.partition("://")
    if scheme != "sqlite" or not separator or (rest and not rest.startswith("/")):
        raise ConfigError(
            [Problem(shown(url), "", "is not a database: use sqlite:///FILE, sqlite:////FILE or sqlite://")]
        )
    name = rest.removeprefix("/")
    return None if name in ("", ":memory:") else Path(name)


def connect(path: Path | None, *, synchronous: Synchronous = "FULL", busy_s: float = 5.0) -> SqliteDatabase:
    """Open the file, which is made where it is missing, with its tables up to date. None: a database in memory.

    `busy_s` is how long, in seconds, a transaction waits for another writer. Raises ConfigError.
    """
    try:
        if path is not None:
            path.touch(mode=0o600)  # the pepper of the keys is in it
        connection = _connection(str(path or ":memory:"), busy_s)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
    except (sqlite3.Error, OSError) as error:
        raise ConfigError([Problem(str(path), "", f"cannot be opened as a ledger: {error}")]) from error
    connection.row_factory = sqlite3.Row
    return connection


def connect_read_only(path: Path | None, *, busy_s: float = 5.0) -> SqliteDatabase:
    """Open an existing file to read alone, also while a server writes to it. Raises ConfigError."""
    if path is None:
        raise ConfigError([Problem("sqlite://", "", "is in the memory of its server, no one else can read it")])
    if not path.is_file():
        raise ConfigError([Problem(str(path), "", "there is no such ledger")])
    try:
        connection = _connection(f"{path.absolute().as_uri()}?mode=ro", busy_s)
        found = version(connection)
    except sqlite3.Error as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read as a ledger: {error}")]) from error
    if found != len(MIGRATIONS):
        connection.close()
        reason = f"is a ledger of version {found}, this program reads version {len(MIGRATIONS)}"
        raise ConfigError([Problem(str(path), "", reason)])
    connection.row_factory = sqlite3.Row
    return connection


def _connection(name: str, busy_s: float) -> SqliteDatabase:
    # one thread at a time uses it, and not always the one that opened it
    return sqlite3.connect(
        name,
        timeout=busy_s,
        isolation_level=None,
        check_same_thread=False,
        uri=name.startswith("file:"),
        factory=SqliteDatabase,
    )


class Store:
    """An open ledger and the wall clock, in seconds since 1970. Not safe for two threads at once."""

    def __init__(self, connection: Database, clock: Callable[[], float]) -> None:
        self._db = connection
        self._clock = clock
        self._moment: float | None = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Inside another transaction it is a step of that one, which can fail alone."""
        if self._db.in_transaction:
            with self._step():
                yield
            return
        self._db.begin()
        try:
            # a window that begins in it holds whatever is charged in it
            self._moment = self._clock()
            yield
            self._db.execute("COMMIT")
        finally:
            self._moment = None
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One view of the ledger for several reads; writers go on beside it."""
        if self._db.in_transaction:
            yield
            return
        self._db.begin_reading()
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    @contextmanager
    def _step(self) -> Iterator[None]:
        self._db.execute("SAVEPOINT step")
        done = False
        try:
            yield
            done = True
        finally:
            # a full disk ends the whole transaction, savepoints and all
            if self._db.in_transaction:
                if not done:
                    self._db.execute("ROLLBACK TO step")
                self._db.execute("RELEASE step")

    def rows(self, sql: str, *values: object) -> Cursor:
        """The rows of a query."""
        return self._db.execute(sql, values)

    def stream(self, sql: str, *values: object) -> Iterator[Row]:
        """The rows of a query that may have very many, some at a time; inside `reading` alone."""
        return self._db.stream(sql, values)

    def columns(self, sql: str, *values: object) -> list[str]:
        """The names of the columns of a query, in order."""
        return self._db.columns(sql, values)

    def row(self, sql: str, *values: object) -> Row | None:
        """The first row of a query, or None."""
        row: Row | None = self._db.execute(sql, values).fetchone()
        return row

    def insert(self, statement: Insert, rows: Sequence[Sequence[object]]) -> None:
        """Insert rows, in order."""
        self._db.insert(statement, rows)

    def update(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """Run one UPDATE for each of the values."""
        self._db.executemany(sql, values)

    def _set_meta(self, name: str, value: bytes) -> None:
        self._db.execute(
            "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )

    def now(self) -> float:
        """The time, in seconds since 1970; in a transaction the moment at which it began."""
        return self._clock() if self._moment is None else self._moment

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
