"""What the books ask of a database: plain SQL that SQLite and Postgres both understand, `?` for each value."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

_AT_ONCE = (32, 16, 8, 4, 2, 1)
"""Rows that one statement inserts: few sizes, so that each is prepared once."""

_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


class StoreLost(Exception):
    """The database cannot be reached, or does not answer in time."""


class Row(Protocol):
    """A row, by the names of its columns or by their places."""

    def __getitem__(self, name: str | int, /) -> Any: ...  # noqa: ANN401 - a value of any column

    def keys(self) -> Iterable[str]:
        """The names of the columns, in order."""


class Cursor(Protocol):
    """The result of a statement. `rowcount` is how many rows a change was made to."""

    @property
    def rowcount(self) -> int: ...  # noqa: D102

    def fetchone(self) -> Any: ...  # noqa: ANN401, D102 - a row or None

    def fetchall(self) -> list[Any]: ...  # noqa: D102

    def __iter__(self) -> Iterator[Any]: ...


class Insert:
    """The statement that inserts rows of so many values (`width`), and the same for several rows at once.

    `into` names the table and its columns; `conflict` is what follows the values.
    """

    def __init__(self, into: str, width: int, conflict: str = "") -> None:
        values = f"({', '.join('?' * width)})"

        def inserting(rows: int) -> str:
            return f"INSERT INTO {into} VALUES {', '.join([values] * rows)} {conflict}"  # noqa: S608 - names of our own

        self.sql = inserting(1)
        self._several = {rows: inserting(rows) for rows in _AT_ONCE}

    def parts(self, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, list[Any]]]:
        """Statements that together insert all rows, with their values."""
        done = 0
        for most, sql in self._several.items():
            while len(rows) - done >= most:
                yield sql, list(chain.from_iterable(rows[done : done + most]))
                done += most


class Database(Protocol):
    """An open connection, for one thread at a time; in autocommit outside a transaction.

    `locking` is what a SELECT ends in whose rows are to be changed in the same transaction.
    """

    locking: str

    @property
    def in_transaction(self) -> bool: ...  # noqa: D102

    def begin(self) -> None:
        """Begin a transaction that will write."""

    def begin_reading(self) -> None:
        """Begin a transaction that reads alone, and sees the database as it is at one moment."""

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Cursor: ...  # noqa: D102

    def executemany(self, sql: str, values: Iterable[Sequence[Any]], /) -> object: ...  # noqa: D102

    def insert(self, statement: Insert, rows: Sequence[Sequence[Any]], /) -> None:
        """Insert rows, in order."""

    def stream(self, sql: str, values: Sequence[Any] = (), /) -> Iterator[Any]:
        """The rows of a query, some at a time, inside a transaction."""

    def columns(self, sql: str, values: Sequence[Any] = (), /) -> list[str]:
        """The names of the columns of a query, in order."""

    def close(self) -> None: ...  # noqa: D102


class SqliteDatabase(sqlite3.Connection):
    """SQLite as a `Database`."""

    locking = ""

    def begin(self) -> None:
        """IMMEDIATE: what is read in it is still true when it is written."""
        self.execute("BEGIN IMMEDIATE")

    def begin_reading(self) -> None:
        """Writers go on; what they commit is not seen."""
        self.execute("BEGIN")

    def insert(self, statement: Insert, rows: Sequence[Sequence[Any]], /) -> None:
        """Insert rows, many at once: for each statement this thread may have to wait for the interpreter."""
        for sql, values in statement.parts(rows):
            self.execute(sql, values)

    def stream(self, sql: str, values: Sequence[Any] = (), /) -> Iterator[Any]:
        """The rows of a query, as they are read."""
        return iter(self.execute(sql, values))

    def columns(self, sql: str, values: Sequence[Any] = (), /) -> list[str]:
        """The names of the columns of a query, in order."""
        return [column[0] for column in self.execute(f"{sql} LIMIT 0", values).description]


def unavailable(error: Exception) -> bool:
    """Whether an error is the store's own, so that what was asked may be tried again."""
    # the low byte is the kind of error; sqlite3's own complaints have no code
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, StoreLost) or (isinstance(error, sqlite3.Error) and code in _UNAVAILABLE)
