"""A ledger behind one writer thread, awaited from an event loop."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar, cast

from proxy.errors import LedgerUnavailable
from proxy.ledger import Amount, Credentials, Refused, RequestRow, Reservation, Settlement, Shortage
from proxy.ledger.books import Books
from proxy.ledger.feedback import recent_outcomes, tell_feedback
from proxy.ledger.lock import ServerLock
from proxy.ledger.scores import recent_scores
from proxy.ledger.shortage import shortage
from proxy.ledger.writer import Operation, Writer, extending, recording, reserving, settling

T = TypeVar("T")


class WrittenLedger:
    """A `Ledger` on books that nobody else uses; `lock` is let go of at the end. `tend_s` is the `Writer`'s.

    Every awaited method raises LedgerUnavailable while the store cannot be written.
    """

    def __init__(self, books: Books, lock: ServerLock | None = None, tend_s: float | None = None) -> None:
        self._writer = Writer(books, tend_s)
        self._lock = lock
        self._desks: dict[asyncio.AbstractEventLoop, _Desk] = {}

    async def reserve(self, reservation: Reservation) -> int:
        """Reserve for as many of the choices as the budget holds; returns how many. Raises NotFound, ValueError."""
        try:
            return cast(int, await self._ask(reserving(reservation)))
        except (asyncio.CancelledError, LedgerUnavailable):
            # nobody will hear that it was granted, and a store that was lost may have granted it all the same
            self._release(reservation)
            raise

    async def extend(self, attempt: str, more: Amount) -> bool:
        """Add to a reservation if the budget holds it; false adds nothing."""
        return cast(bool, await self._ask(extending(attempt, more)))

    def settle(self, settlement: Settlement) -> None:
        """End a reservation and charge its rows, once. Never waits."""
        self._add(settling(settlement))

    def record(self, row: RequestRow) -> None:
        """Write a request's verdict and its draws' ballots. Never waits."""
        self._add(recording(row))

    async def authenticate(self, key: str) -> Credentials | None:
        """What a bearer key stands for, or None when it is unknown, revoked or expired."""
        return await self.run(lambda books: books.credentials(key))

    async def shortage(self, refused: Refused) -> Shortage | None:
        """Which limit did not hold something; None where there is room for it by now."""
        return await self.run(lambda books: shortage(books, refused))

    async def outcomes(self, tenant: str, model: str, limit: int) -> list[tuple[float, bool]]:
        """The confidence of each of the last `limit` judged answers, and whether it was right, latest first."""
        return await self.run(lambda books: recent_outcomes(books, tenant, model, limit))

    async def scores(self, tenant: str, model: str, limit: int) -> list[list[float]]:
        """The scores of the samples of each of the last `limit` scored requests, latest first."""
        return await self.run(lambda books: recent_scores(books, tenant, model, limit))

    async def feedback(self, tenant: str, request: str, *, correct: bool) -> bool:
        """Keep whether an answer was right. False where the tenant has no such request that was answered."""
        return await self.run(lambda books: tell_feedback(books, tenant, request, correct=correct))

    async def probe(self) -> None:
        """Write something, to see that the store takes it."""
        await self.run(lambda books: books.probe())

    async def run(self, work: Callable[[Books], T]) -> T:
        """Run `work` on the books, in one transaction in the writer's thread; its error is raised here."""
        return cast(T, await self._ask(Operation(work)))

    def submit(self, operation: Operation) -> None:
        """Add work whose answer is heard in the writer's thread. Raises LedgerUnavailable once closed."""
        self._writer.submit(operation)

    async def flush(self) -> None:
        """Return when all that was settled and recorded before is on disk, however long the store is broken."""
        await self._ask(Operation(lambda _: None, kept=True))

    async def close(self) -> None:
        """Write what is left and let go of the file. A store that stays broken is given up after some seconds."""
        for desk in self._desks.values():
            desk.post()
        self._writer.stop()
        await asyncio.to_thread(self._writer.join)
        if self._lock is not None:
            self._lock.release()

    def _add(self, operation: Operation) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._writer.submit(operation)
            return
        self._desk(loop).add(operation)

    def _desk(self, loop: asyncio.AbstractEventLoop) -> "_Desk":
        found = self._desks.get(loop)
        if found is None:
            found = self._desks[loop] = _Desk(loop, self._writer)
        return found

    def _release(self, reservation: Reservation) -> None:
        # a closed ledger has ended everything that was reserved, or leaves it to the next start
        with suppress(LedgerUnavailable):
            self.settle(Settlement(reservation.attempt, reservation.account, ()))

    async def _ask(self, operation: Operation) -> object:
        loop = asyncio.get_running_loop()
        desk, future = self._desk(loop), loop.create_future()
        operation.answer = partial(desk.hear, future)
        desk.add(operation)
        return await future


class _Desk:
    """Between an event loop and the writer: what is asked in one turn of the loop goes out together.

    So do the answers that are there when the loop comes to look: a thread that is woken for each costs more than most
    of what is asked.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, writer: Writer) -> None:
        self._loop = loop
        self._writer = writer
        self._asked: list[Operation] = []
        self._answers: deque[tuple[asyncio.Future[object], object, Exception | None]] = deque()
        self._waking = False

    def add(self, operation: Operation) -> None:
        """Have it written. Raises LedgerUnavailable once the writer takes no more."""
        if self._writer.closed:
            self._writer.submit(operation)
        if not self._asked:
            self._loop.call_soon(self.post)
        self._asked.append(operation)

    def post(self) -> None:
        """Hand over what was asked."""
        asked, self._asked = self._asked, []
        if asked:
            self._writer.submit_all(asked)

    def hear(self, future: "asyncio.Future[object]", result: object, error: Exception | None) -> None:
        """Take an answer, in the writer's thread."""
        self._answers.append((future, result, error))
        if not self._waking:
            self._waking = True
            # a loop that has closed has nobody left who waits
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # first: what is told from here on needs another look
        self._waking = False
        while self._answers:
            _resolve(*self._answers.popleft())


def _resolve(future: "asyncio.Future[object]", result: object, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
