"""The ledger as a worker sees it: calls to the one process that writes, over a Unix socket.

Calls are sent without waiting for the replies of earlier ones. What must not be lost is held here until the writer
says that it is on disk, and is sent again to its successor where it died before.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import orjson

from proxy.errors import LedgerUnavailable
from proxy.ledger import Amount, Credentials, Refused, RequestRow, Reservation, Settlement, Shortage
from proxy.ledger.books import Books
from proxy.ledger.frames import Ask, Frame, Frames, framed, raised
from proxy.ledger.serving import reader
from proxy.ledger.store import MAX_INTEGER
from proxy.ledger.written import WrittenLedger

T = TypeVar("T")

_PATIENCE_S = 0.8
"""How long a call waits for its reply: who may not spend is told so within a second."""
_AGAIN_S = 0.05
_LAST_S = 10.0
_CHUNK = 262_144
_log = logging.getLogger(__name__)


class RemoteLedger:
    """A `Ledger` behind the socket at `path`. `owner` names this process; `replaced` are the dead before it.

    `books` opens the ledger's own file, for work that has no name. For one event loop.
    """

    def __init__(self, path: Path, owner: str, replaced: tuple[str, ...], *, books: Callable[[], Books]) -> None:
        self._line = _Line(path, (owner, *replaced))
        self._open_books = books
        self._own: WrittenLedger | None = None
        self._opening = asyncio.Lock()

    async def reserve(self, reservation: Reservation) -> int:
        """Reserve for as many of the choices as the budget holds; returns how many. Raises NotFound, ValueError."""
        if not _counts(reservation.base, reservation.each):
            return 0
        try:
            return int(await self._line.ask(Ask.RESERVE, reservation))
        except (asyncio.CancelledError, LedgerUnavailable):
            # nobody will hear that it was granted
            self.settle(Settlement(reservation.attempt, reservation.account, ()))
            raise

    async def extend(self, attempt: str, more: Amount) -> bool:
        """Add to a reservation if the budget holds it; false adds nothing."""
        return _counts(more) and bool(await self._line.ask(Ask.EXTEND, (attempt, more)))

    def settle(self, settlement: Settlement) -> None:
        """End a reservation and charge its rows, once. Never waits."""
        self._line.tell(Ask.SETTLE, settlement)

    def record(self, row: RequestRow) -> None:
        """Write a request's verdict and its draws' ballots. Never waits."""
        self._line.tell(Ask.RECORD, row)

    async def authenticate(self, key: str) -> Credentials | None:
        """What a bearer key stands for, or None when it is unknown, revoked or expired."""
        # a text that is no Unicode is nobody's key, and JSON has no place for it
        if not key.isascii():
            return None
        found: Credentials | None = reader(Credentials | None).validate_python(
            await self._line.ask(Ask.AUTHENTICATE, key)
        )
        return found

    async def shortage(self, refused: Refused) -> Shortage | None:
        """Which limit did not hold something; None where there is room for it by now."""
        if not _counts(refused.base, refused.each):
            return None
        found: Shortage | None = reader(Shortage | None).validate_python(await self._line.ask(Ask.SHORTAGE, refused))
        return found

    async def outcomes(self, tenant: str, model: str, limit: int) -> list[tuple[float, bool]]:
        """The confidence of each of the last `limit` judged answers, and whether it was right, latest first."""
        return [(sure, right) for sure, right in await self._line.ask(Ask.OUTCOMES, (tenant, model, limit))]

    async def scores(self, tenant: str, model: str, limit: int) -> list[list[float]]:
        """The scores of the samples of each of the last `limit` scored requests, latest first."""
        return list(await self._line.ask(Ask.SCORES, (tenant, model, limit)))

    async def feedback(self, tenant: str, request: str, *, correct: bool) -> bool:
        """Keep whether an answer was right. False where the tenant has no such request that was answered."""
        return bool(await self._line.ask(Ask.FEEDBACK, (tenant, request, correct)))

    async def probe(self) -> None:
        """Write something, to see that the file takes it."""
        await self._line.ask(Ask.PROBE, None)

    async def run(self, work: Callable[[Books], T]) -> T:
        """Run `work` on books of this process' own, beside the writer's, in one transaction in a thread."""
        async with self._opening:
            if self._own is None:
                self._own = WrittenLedger(await asyncio.to_thread(self._open_books))
        return await self._own.run(work)

    async def flush(self) -> None:
        """Return when all that was settled and recorded before is on disk."""
        await self._line.tell(Ask.FLUSH, None)

    async def close(self) -> None:
        """Wait, for some seconds at most, until nothing is left to be written, and let go of the writer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await self._line.written()
        self._line.close()
        if self._own is not None:
            await self._own.close()


class _Call:
    """A call without its reply. `kept` is sent again to the next writer."""

    __slots__ = ("data", "kept", "reply")

    def __init__(self, data: bytes, reply: "asyncio.Future[Any]", *, kept: bool) -> None:
        self.data = data
        self.reply = reply
        self.kept = kept


class _Line:
    """The connection. A Unix socket connects at once, so that nothing here waits but for replies."""

    def __init__(self, path: Path, hello: tuple[str, ...]) -> None:
        self._path = str(path)
        self._hello = framed(0, Ask.HELLO, hello)
        self._numbers = count(1)
        self._calls: dict[int, _Call] = {}
        self._socket: socket.socket | None = None
        self._frames = Frames()
        self._unsent = bytearray()
        self._closed = False
        self._again: asyncio.TimerHandle | None = None

    async def ask(self, what: Ask, value: object) -> Any:  # noqa: ANN401 - whatever the reply holds
        """The reply to a call. Raises LedgerUnavailable where none comes in time."""
        number, call = self._begin(what, value, kept=False)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await call.reply
        except TimeoutError:
            raise _gone() from None
        finally:
            self._calls.pop(number, None)

    def tell(self, what: Ask, value: object) -> "asyncio.Future[Any]":
        """Send what must not be lost; the future is done when it is on disk."""
        _, call = self._begin(what, value, kept=True)
        call.reply.add_done_callback(_complain)
        return call.reply

    async def written(self) -> None:
        """Return when all that must not be lost is on disk; at once where it is."""
        owing = [call.reply for call in self._calls.values() if call.kept]
        if owing:
            await asyncio.wait(owing)

    def close(self) -> None:
        """Let go of the connection."""
        self._closed = True
        self._hang_up()

    def _begin(self, what: Ask, value: object, *, kept: bool) -> tuple[int, _Call]:
        if self._closed:
            raise LedgerUnavailable("the ledger is closed")
        loop = asyncio.get_running_loop()
        if self._socket is None:
            self._connect(loop)
        number = next(self._numbers) % 2**32
        call = _Call(framed(number, what, value), loop.create_future(), kept=kept)
        if self._socket is None and not kept:
            raise _gone()
        self._calls[number] = call
        if self._socket is not None:
            self._send(call.data)
        return number, call

    def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._closed or self._socket is not None:
            return
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.setblocking(False)
        try:
            opened.connect(self._path)
        except OSError:
            opened.close()
            self._connect_soon(loop)
            return
        self._socket, self._frames, self._unsent = opened, Frames(), bytearray()
        loop.add_reader(opened, self._receive)
        self._send(self._hello + b"".join(call.data for call in self._calls.values()))

    def _connect_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._again is not None:
            self._again.cancel()
        self._again = loop.call_later(_AGAIN_S, self._connect, loop)

    def _send(self, data: bytes) -> None:
        if self._unsent or self._socket is None:
            self._unsent += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        if sent < len(data):
            self._unsent += data[sent:]
            asyncio.get_running_loop().add_writer(self._socket, self._send_on)

    def _send_on(self) -> None:
        data, self._unsent = bytes(self._unsent), bytearray()
        if self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket)
            self._send(data)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_CHUNK) if self._socket is not None else b""
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        for frame in self._frames.feed(data):
            self._hear(frame)

    def _hear(self, frame: Frame) -> None:
        call = self._calls.pop(frame.number, None)
        if call is None or call.reply.done():
            return
        if frame.kind:
            call.reply.set_exception(raised(frame.body))
        else:
            call.reply.set_result(orjson.loads(frame.body))

    def _lose(self) -> None:
        """The writer is dead: its successor hears again what must not be lost, and the others are refused."""
        self._hang_up()
        for number, call in list(self._calls.items()):
            if not call.kept:
                del self._calls[number]
                if not call.reply.done():
                    call.reply.set_exception(_gone())
        self._connect_soon(asyncio.get_running_loop())

    def _hang_up(self) -> None:
        opened, self._socket = self._socket, None
        if opened is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(opened)
            loop.remove_writer(opened)
            opened.close()


def _complain(reply: "asyncio.Future[Any]") -> None:
    error = None if reply.cancelled() else reply.exception()
    if error is not None:
        _log.error("an entry of the ledger was not written: %s", error)


def _gone() -> LedgerUnavailable:
    error = LedgerUnavailable("the ledger cannot be written just now: its writer does not answer")
    error.retry_after = 1.0
    return error


def _counts(*amounts: Amount) -> bool:
    """Whether a ledger can count so far."""
    return all(value <= MAX_INTEGER for each in amounts for value in (each.nano, each.tokens, each.samples))
