"""A ledger behind one writer thread, awaited from an event loop."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar, cast

from proxy.ledger import Amount, Credentials, RequestRow, Reservation, Settlement
from proxy.ledger.books import Books
from proxy.ledger.lock import ServerLock
from proxy.ledger.writer import Answer, Operation, Writer

T = TypeVar("T")


class WrittenLedger:
    """A `Ledger` on books that nobody else uses; `lock` is let go of at the end.

    Every awaited method raises LedgerUnavailable while the store cannot be written.
    """

    def __init__(self, books: Books, lock: ServerLock | None = None) -> None:
        self._writer = Writer(books)
        self._lock = lock

    async def reserve(self, reservation: Reservation) -> int:
        """Reserve for as many of the choices as the budget holds; returns how many. Raises NotFound, ValueError."""
        try:
            return cast(
                int, await self._ask(lambda books: books.reserve(reservation), tenant=reservation.account.tenant)
            )
        except asyncio.CancelledError:
            # nobody will hear that it was granted, so nothing will be sent for it
            self.settle(Settlement(reservation.attempt, reservation.account, ()))
            raise

    async def extend(self, attempt: str, more: Amount) -> bool:
        """Add to a reservation if the budget holds it; false adds nothing."""
        return await self.run(lambda books: books.extend(attempt, more))

    def settle(self, settlement: Settlement) -> None:
        """End a reservation and charge its rows, once. Never waits."""
        self._writer.submit(
            Operation(lambda books: books.settle(settlement), kept=True, tenant=settlement.account.tenant)
        )

    def record(self, row: RequestRow) -> None:
        """Write a request's verdict and its draws' ballots. Never waits."""
        self._writer.submit(Operation(lambda books: books.record(row), kept=True))

    async def authenticate(self, key: str) -> Credentials | None:
        """What a bearer key stands for, or None when it is unknown, revoked or expired."""
        return await self.run(lambda books: books.credentials(key))

    async def run(self, work: Callable[[Books], T]) -> T:
        """Run `work` on the books, in one transaction in the writer's thread; its error is raised here."""
        return cast(T, await self._ask(work))

    async def flush(self) -> None:
        """Return when all that was settled and recorded before is on disk, however long the store is broken."""
        await self._ask(lambda _: None, kept=True)

    async def close(self) -> None:
        """Write what is left and let go of the file. A store that stays broken is given up after some seconds."""
        self._writer.stop()
        await asyncio.to_thread(self._writer.join)
        if self._lock is not None:
            self._lock.release()

    async def _ask(self, work: Callable[[Books], object], *, kept: bool = False, tenant: str | None = None) -> object:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        self._writer.submit(Operation(work, _answer(loop, future), kept, tenant))
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
