"""The ledger on SQLite: the books behind one writer thread, awaited from an event loop."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack, suppress
from secrets import token_bytes
from typing import Self, TypeVar, cast

from proxy.ledger import Amount, RequestRow, Reservation, Settlement
from proxy.ledger.books import Books
from proxy.ledger.lock import ServerLock
from proxy.ledger.store import Synchronous, database_path
from proxy.ledger.writer import Answer, Operation, Writer
from proxy.types import Key, Tenant

T = TypeVar("T")

_BUSY_S = 0.4
"""How long a transaction waits for a writer in another process: a reservation is refused within a second."""


class SqliteLedger:
    """A `Ledger` on one SQLite file, or in memory. Made by `open`, ended by `close`.

    Every awaited method raises LedgerUnavailable while the file is locked or the disk is full.
    """

    def __init__(self, books: Books, lock: ServerLock | None = None) -> None:
        self._writer = Writer(books)
        self._lock = lock

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
    ) -> Self:
        """Open `sqlite:///FILE` (`sqlite://`: memory) for a server, and charge what a dead one left reserved.

        `prepare` has the books to itself before anybody else.
        `clock` is the wall clock, in seconds since 1970. Raises ConfigError, also when another server has the file.
        """
        path = database_path(url)
        if path is None:
            books = Books.open(None, clock=clock, token=token, pepper=pepper)
            prepare(books)
            return cls(books)
        lock = ServerLock(path)
        with ExitStack() as failing:
            failing.callback(lock.release)
            books = Books.open(path, clock=clock, token=token, pepper=pepper, synchronous=synchronous, busy_s=_BUSY_S)
            books.sweep_all()
            prepare(books)
            failing.pop_all()
        return cls(books, lock)

    async def reserve(self, reservation: Reservation) -> int:
        """Reserve for as many of the choices as the budget holds; returns how many. Raises NotFound, ValueError."""
        try:
            return await self.run(lambda books: books.reserve(reservation))
        except asyncio.CancelledError:
            # nobody will hear that it was granted, so nothing will be sent for it
            self.settle(Settlement(reservation.attempt, reservation.account, ()))
            raise

    async def extend(self, attempt: str, more: Amount) -> bool:
        """Add to a reservation if the budget holds it; false adds nothing."""
        return await self.run(lambda books: books.extend(attempt, more))

    def settle(self, settlement: Settlement) -> None:
        """End a reservation and charge its rows, once. Never waits."""
        self._writer.submit(Operation(lambda books: books.settle(settlement), kept=True))

    def record(self, row: RequestRow) -> None:
        """Write a request's verdict and its draws' ballots. Never waits."""
        self._writer.submit(Operation(lambda books: books.record(row), kept=True))

    async def authenticate(self, key: str) -> tuple[Tenant, Key] | None:
        """The tenant and the key, or None when the key is unknown, revoked or expired."""
        return await self.run(lambda books: books.authenticate(key))

    async def run(self, work: Callable[[Books], T]) -> T:
        """Run `work` on the books, in one transaction in the writer's thread; its error is raised here."""
        return cast(T, await self._ask(work, kept=False))

    async def flush(self) -> None:
        """Return when all that was settled and recorded before is on disk, however long the store is broken."""
        await self._ask(lambda _: None, kept=True)

    async def close(self) -> None:
        """Write what is left and let go of the file. A store that stays broken is given up after some seconds."""
        self._writer.stop()
        await asyncio.to_thread(self._writer.join)
        if self._lock is not None:
            self._lock.release()

    async def _ask(self, work: Callable[[Books], object], *, kept: bool) -> object:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        self._writer.submit(Operation(work, _answer(loop, future), kept))
        return await future


def _answer(loop: asyncio.AbstractEventLoop, future: asyncio.Future[object]) -> Answer:
    def tell(result: object, error: Exception | None) -> None:
        # a loop that has closed has nobody left who waits
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, future, result, error)

    return tell


def _resolve(future: asyncio.Future[object], result: object, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
