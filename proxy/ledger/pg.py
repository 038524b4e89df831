"""Postgres as the books' database: asyncpg on an event loop of its own, in the thread that writes the ledger."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.errors import ConfigError, Problem
from proxy.ledger.database import StoreLost

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")

_CHUNK = 1000
_ENDS = ("COMMIT", "ROLLBACK")
_TORN = "the connection was lost in the middle of a transaction"


class PostgresCursor:
    """The result of a statement that has run."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self.rowcount = rowcount
        self._rows = rows
        self._next = 0

    def fetchone(self) -> Any:  # noqa: ANN401 - a row or None
        """The next row, or None."""
        self._next += 1
        return self._rows[self._next - 1] if self._next <= len(self._rows) else None

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        left, self._next = self._rows[self._next :], len(self._rows)
        return left

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())


class PostgresDatabase:
    """A connection, made when it is first needed and again after it was lost. For one thread at a time.

    `timeout` is in seconds, for a connection and for each statement. Raises StoreLost where there is no answer in time,
    and asyncpg's own errors.
    """

    locking = " FOR UPDATE"
    owner: int | None = None
    """The advisory lock that every connection holds."""

    def __init__(self, url: str, *, timeout: float) -> None:
        self._asyncpg = _driver(url)
        self._url = url
        self.timeout = timeout
        self._loop = asyncio.new_event_loop()
        self._open: asyncpg.Connection | None = None
        self._prepared: dict[str, Any] = {}
        self._begun = False

    @property
    def error(self) -> type[Exception]:
        """What Postgres itself may complain of."""
        found: type[Exception] = self._asyncpg.PostgresError
        return found

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun, failed or not."""
        return self._open is not None and not self._open.is_closed() and bool(self._open.is_in_transaction())

    def begin(self) -> None:
        """Rows that are read to be changed are locked one by one."""
        self.execute("BEGIN")
        self._begun = True

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> PostgresCursor:
        """Run one statement. A transaction whose connection was lost in it ends in StoreLost, whatever is asked."""
        if sql in _ENDS:
            self._begun = False
            if not self.in_transaction:
                raise StoreLost(_TORN)
            try:
                return self._ask(lambda open_: self._run(open_, sql, ()))
            except self.error as error:
                # whatever Postgres has against it, nothing of the transaction is there
                raise StoreLost(_reason(error)) from error
        return self._ask(lambda open_: self._run(open_, numbered(sql), values))

    def executemany(self, sql: str, values: Iterable[Sequence[Any]], /) -> None:
        """Run one statement for each of the values."""
        self._ask(lambda open_: open_.executemany(numbered(sql), list(values)))

    def stream(self, sql: str, values: Sequence[Any] = (), /) -> Iterator[Any]:
        """The rows of a query, some at a time, inside a transaction."""
        cursor = self._ask(lambda open_: open_.cursor(numbered(sql), *values))
        while rows := self._ask(lambda _: cursor.fetch(_CHUNK)):
            yield from rows

    def columns(self, sql: str, _values: Sequence[Any] = (), /) -> list[str]:
        """The names of the columns of a query, in order."""
        statement = self._ask(lambda open_: open_.prepare(numbered(sql)))
        return [column.name for column in statement.get_attributes()]

    def script(self, sql: str) -> None:
        """Run many statements, without values."""
        self._ask(lambda open_: open_.execute(sql))

    def close(self) -> None:
        """Let go of the connection."""
        if self._open is not None and not self._open.is_closed():
            self._ask(lambda open_: open_.close())
        self._loop.close()

    def _ask(self, question: "Callable[[asyncpg.Connection], Awaitable[T]]") -> T:
        return self._loop.run_until_complete(self._asked(question))

    async def _asked(self, question: "Callable[[asyncpg.Connection], Awaitable[T]]") -> T:
        driver = self._asyncpg
        try:
            async with asyncio.timeout(self.timeout):
                return await question(await self._connection())
        except (
            TimeoutError,
            OSError,
            driver.InterfaceError,
            driver.InternalClientError,
            driver.PostgresConnectionError,
            driver.CannotConnectNowError,
            driver.AdminShutdownError,
            driver.CrashShutdownError,
            driver.InvalidAuthorizationSpecificationError,
        ) as error:
            self._drop()
            raise StoreLost(_reason(error)) from error
        except (
            driver.QueryCanceledError,
            driver.LockNotAvailableError,
            driver.TooManyConnectionsError,
            driver.DeadlockDetectedError,
            driver.SerializationError,
            driver.DiskFullError,
            driver.ReadOnlySQLTransactionError,
        ) as error:
            raise StoreLost(_reason(error)) from error

    async def _run(self, open_: "asyncpg.Connection", sql: str, values: Sequence[Any]) -> PostgresCursor:
        if not values and not sql.startswith("SELECT"):
            # such as BEGIN, which gives no rows
            return PostgresCursor([], _count(await open_.execute(sql)))
        statement = self._prepared.get(sql)
        if statement is None:
            statement = self._prepared[sql] = await open_.prepare(sql)
        rows = await statement.fetch(*values)
        return PostgresCursor(rows, _count(statement.get_statusmsg()))

    async def _connection(self) -> "asyncpg.Connection":
        if self._open is None or self._open.is_closed():
            if self._begun:
                # what came before it in the transaction is gone
                self._begun = False
                raise StoreLost(_TORN)
            # the books ask some dozens of things, each prepared once a connection
            self._prepared.clear()
            self._open = await self._asyncpg.connect(self._url, timeout=self.timeout)
            if self.owner is not None:
                await self._open.execute(f"SELECT pg_advisory_lock({self.owner})")
        return self._open

    def _drop(self) -> None:
        self._begun = False
        if self._open is not None:
            self._open.terminate()
            self._open = None


@cache
def numbered(sql: str) -> str:
    """The same statement with `$1`, `$2` for `?`, or for `?1`, `?2`."""
    places = iter(range(1, 1000))
    return re.sub(r"\?(\d*)", lambda match: f"${match[1] or next(places)}", sql)


def _count(status: str) -> int:
    """How many rows a command's tag tells of, as in `INSERT 0 5` or `UPDATE 2`."""
    number = status.rpartition(" ")[2]
    return int(number) if number.isdecimal() else 0


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _driver(url: str) -> Any:  # noqa: ANN401 - a module
    try:
        import asyncpg
    except ImportError:
        reason = "needs the extra postgres: pip install 'tally-proxy[postgres]'"
        raise ConfigError([Problem(url.partition("://")[0], "database_url", reason)]) from None
    return asyncpg
