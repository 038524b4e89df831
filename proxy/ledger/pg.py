"""Postgres as the books' database: asyncpg on an event loop of its own, in the thread that writes the ledger."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from math import isinf
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.errors import ConfigError, Problem
from proxy.ledger.address import scrubbed
from proxy.ledger.database import Insert, StoreLost

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")

_CHUNK = 1000
_ENDS = ("COMMIT", "ROLLBACK")
_READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_MOST_S = 30.0
"""How long a connection and a lock are waited for at most, however long a statement may take."""
_POLL_S = 0.02
_TORN = "the connection was lost in the middle of a transaction"
_ALIVE = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""After some ten seconds of silence the server lets go of a connection, and of the locks that it holds."""
_END_FORMER = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE usename = current_user AND application_name = $1 AND pid <> pg_backend_pid()"""
_OF_TIMEOUT = 0.9
"""The server gives up before the client does, which costs no connection."""


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

    `timeout` is in seconds, for a connection and for each statement (infinite: statements take as long as they take);
    `idle` is how long a transaction may stand still (0: for ever). Both may change between transactions. Raises
    StoreLost where there is no connection or no answer in time, asyncpg's own errors, and ConfigError for an address
    that makes no sense.
    """

    locking = " FOR UPDATE"
    owner: int | None = None
    """The advisory lock that every connection holds, shared with others of the same owner."""

    def __init__(self, url: str, *, timeout: float, idle: float = 0.0) -> None:
        self._asyncpg = _driver(url)
        self._url = url
        self.timeout = timeout
        self.idle = idle
        self._connected = False
        self._name = f"tally {token_hex(8)}"
        self._loop = asyncio.new_event_loop()
        self._open: asyncpg.Connection | None = None
        self._told = (0.0, 0.0)
        self._prepared: dict[str, Any] = {}
        self._begun = False

    def another(self, timeout: float) -> "PostgresDatabase":
        """A connection more to the same server."""
        return PostgresDatabase(self._url, timeout=timeout, idle=self.idle)

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

    def begin_reading(self) -> None:
        """All that is read is of one moment, and nothing may change."""
        self.execute(_READING)
        self._begun = True

    @contextmanager
    def patient(self, timeout: float) -> Iterator[None]:
        """In a transaction: statements may take so long, in seconds. What locks are waited for stays as it is."""
        hot = self.timeout
        if timeout <= hot:
            yield
            return
        self.execute(_statement(timeout, "LOCAL "))
        self.timeout = timeout
        try:
            yield
            # what ends in an error is rolled back, and this with it
            self.execute(_statement(hot, "LOCAL "))
        finally:
            self.timeout = hot

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
                raise StoreLost(self._reason(error)) from error
        return self._ask(lambda open_: self._run(open_, numbered(sql), values))

    def executemany(self, sql: str, values: Iterable[Sequence[Any]], /) -> None:
        """Run one statement for each of the values."""
        self._ask(lambda open_: open_.executemany(numbered(sql), list(values)))

    def insert(self, statement: Insert, rows: Sequence[Sequence[Any]], /) -> None:
        """Insert rows, in order."""
        self.executemany(statement.sql, rows)

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

    def join(self, owner: int) -> None:
        """Hold the advisory lock of `owner` on this and on every later connection."""
        self._ask(lambda open_: open_.execute(_shared(owner)))
        self.owner = owner

    def close(self) -> None:
        """Let go of the connection, also of one that is lost. Raises nothing."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._ended())
            self._loop.close()

    def _ask(self, question: "Callable[[asyncpg.Connection], Awaitable[T]]") -> T:
        return self._loop.run_until_complete(self._asked(question))

    async def _asked(self, question: "Callable[[asyncpg.Connection], Awaitable[T]]") -> T:
        driver = self._asyncpg
        try:
            async with asyncio.timeout(None if isinf(self.timeout) else self.timeout):
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
            driver.IdleInTransactionSessionTimeoutError,
            # a newer replica has changed the tables: what was prepared is to be prepared anew
            driver.InvalidCachedStatementError,
        ) as error:
            self._drop()
            raise StoreLost(self._reason(error)) from error
        except (
            driver.InsufficientResourcesError,
            driver.OperatorInterventionError,
            driver.LockNotAvailableError,
            driver.TransactionRollbackError,
            driver.PostgresSystemError,
            driver.ReadOnlySQLTransactionError,
            # the database is another one, as while a copy is put in its place
            driver.UndefinedTableError,
            driver.UndefinedFunctionError,
            driver.InsufficientPrivilegeError,
        ) as error:
            raise StoreLost(self._reason(error)) from error

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
            self._told = (0.0, 0.0)
            self._open = await self._made()
        limits = (self.timeout, self.idle)
        if self._told != limits and not self._open.is_in_transaction():
            await self._open.execute(_limits(*limits))
            self._told = limits
        return self._open

    async def _made(self) -> "asyncpg.Connection":
        """A new connection. Whatever Postgres has against it may be over soon, as while a copy is put in its place."""
        try:
            async with asyncio.timeout(min(self.timeout, _MOST_S)):
                return await self._greeted(await self._connect())
        except self.error as error:
            raise StoreLost(self._reason(error)) from error

    async def _connect(self) -> "asyncpg.Connection":
        told = {"application_name": self._name, **_ALIVE}
        try:
            return await self._asyncpg.connect(self._url, timeout=min(self.timeout, _MOST_S), server_settings=told)
        except OSError:
            # a certificate that is not trusted is a ValueError, too
            raise
        except ValueError as error:
            if self._connected:
                # it was an address, and is not the operator's mistake
                raise StoreLost(self._reason(error)) from error
            # what the driver says of it may hold a piece of a password
            reason = "is not the address of a Postgres: escape what is special in its password, as in %2F for /"
            raise ConfigError([Problem("database_url", "", reason)]) from None

    async def _greeted(self, made: "asyncpg.Connection") -> "asyncpg.Connection":
        """The connection, once it holds what it has to hold."""
        with ExitStack() as failing:
            failing.callback(made.terminate)
            if self._connected:
                # the server may still believe in the connection that was lost, keep the rows that it had locked, and
                # commit what it was told: what follows must find all that or nothing of it
                while await made.fetch(_END_FORMER, self._name):  # noqa: ASYNC110 - a server has no event for it
                    await asyncio.sleep(_POLL_S)
            if self.owner is not None:
                await made.execute(_shared(self.owner))
            failing.pop_all()
        self._connected = True
        return made

    def _drop(self) -> None:
        self._begun = False
        if self._open is not None:
            self._open.terminate()
            self._open = None

    async def _ended(self) -> None:
        driver = self._asyncpg
        if self._open is not None and not self._open.is_closed():
            try:
                async with asyncio.timeout(min(self.timeout, _MOST_S)):
                    await self._open.close()
            except (TimeoutError, OSError, driver.InterfaceError, driver.InternalClientError, self.error):
                self._drop()
        # such as a request to cancel a statement that was given up
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        # a socket that was aborted is closed in the loop's next round
        await asyncio.sleep(0)

    def _reason(self, error: BaseException) -> str:
        return scrubbed(str(error) or type(error).__name__, self._url)


@cache
def numbered(sql: str) -> str:
    """The same statement with `$1`, `$2` for `?`, or for `?1`, `?2`."""
    places = iter(range(1, 1000))
    return re.sub(r"\?(\d*)", lambda match: f"${match[1] or next(places)}", sql)


def _limits(timeout: float, idle: float) -> str:
    lock, still = _milliseconds(min(timeout, _MOST_S)), int(1000 * idle)
    return f"{_statement(timeout)}; SET lock_timeout = {lock}; SET idle_in_transaction_session_timeout = {still}"


def _statement(timeout: float, scope: str = "") -> str:
    return f"SET {scope}statement_timeout = {0 if isinf(timeout) else _milliseconds(timeout)}"


def _milliseconds(timeout: float) -> int:
    return int(1000 * timeout * _OF_TIMEOUT)


def _shared(owner: int) -> str:
    return f"SELECT pg_advisory_lock_shared({owner})"


def _count(status: str) -> int:
    """How many rows a command's tag tells of, as in `INSERT 0 5` or `UPDATE 2`."""
    number = status.rpartition(" ")[2]
    return int(number) if number.isdecimal() else 0


def _driver(url: str) -> Any:  # noqa: ANN401 - a module
    try:
        import asyncpg
    except ImportError:
        reason = "needs the extra postgres: pip install 'tally-proxy[postgres]'"
        raise ConfigError([Problem(url.partition("://")[0], "database_url", reason)]) from None
    return asyncpg
