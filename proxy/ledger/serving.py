"""The one process that writes a SQLite ledger, at the service of the others: their calls over a Unix socket.

Each connection is one worker's, which says its name first. When the connection ends the worker is dead, or has ended
all that it had reserved: what is left under its name is charged at once.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, cast

from pydantic import TypeAdapter

from proxy.ledger import Amount, Refused, RequestRow, Reservation, Settlement
from proxy.ledger.books import Books
from proxy.ledger.feedback import recent_outcomes, tell_feedback
from proxy.ledger.frames import Ask, Frame, Frames, framed, told
from proxy.ledger.scores import recent_scores
from proxy.ledger.shortage import shortage
from proxy.ledger.writer import Operation, extending, recording, settling
from proxy.ledger.written import WrittenLedger


class LedgerServer:
    """Serves `ledger` until it is told to stop and the last worker is gone."""

    def __init__(self, ledger: WrittenLedger) -> None:
        self.ledger = ledger
        self._stopping = False
        self._connections: set[_Connection] = set()
        self._over = asyncio.Event()

    async def serve(self, listener: socket.socket) -> None:
        """Serve those who connect to `listener`, and close the ledger at the end."""
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(partial(_Connection, self, loop), sock=listener)
        try:
            await self._over.wait()
        finally:
            server.close()
            await self.ledger.close()

    def stop(self) -> None:
        """Take it that the last worker to leave is the last."""
        self._stopping = True
        self._check()

    def joined(self, connection: "_Connection") -> None:
        """A worker is there."""
        self._connections.add(connection)

    def left(self, connection: "_Connection") -> None:
        """A worker is gone."""
        self._connections.discard(connection)
        self._check()

    def _check(self) -> None:
        if self._stopping and not self._connections:
            self._over.set()


class _Connection(asyncio.Protocol):
    """One worker. Replies come from the writer's thread and are sent a group at a time."""

    def __init__(self, server: LedgerServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._frames = Frames()
        self._replies: deque[bytes] = deque()
        self._waking = False
        self._owner = ""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's
        self._transport = cast(asyncio.WriteTransport, transport)
        self._server.joined(self)

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            if frame.kind == Ask.HELLO:
                self._greet(frame)
            else:
                self._server.ledger.submit(self._operation(frame))

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._charge(self._owner)
        self._server.left(self)

    def _greet(self, frame: Frame) -> None:
        self._owner, *replaced = _read(tuple[str, ...], frame.body)
        for owner in replaced:
            self._charge(owner)

    def _charge(self, owner: str) -> None:
        if owner:
            self._server.ledger.submit(Operation(lambda books: books.sweep_owner(owner), kept=True))

    def _operation(self, frame: Frame) -> Operation:
        return replace(_asked(frame, self._owner), answer=partial(self._answer, frame.number))

    def _answer(self, number: int, result: object, error: Exception | None) -> None:
        self._replies.append(framed(number, 0, result) if error is None else framed(number, 1, told(error)))
        if not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._send)

    def _send(self) -> None:
        self._waking = False
        sent = []
        while self._replies:
            sent.append(self._replies.popleft())
        if self._transport is not None and sent:
            self._transport.write(b"".join(sent))


def _asked(frame: Frame, owner: str) -> Operation:
    """What a call asks, without the one who hears the answer."""
    match frame.kind:
        case Ask.RESERVE:
            return _reserving(_read(Reservation, frame.body), owner)
        case Ask.SETTLE:
            return settling(_read(Settlement, frame.body))
        case Ask.RECORD:
            return recording(_read(RequestRow, frame.body))
        case Ask.EXTEND:
            attempt, more = _read(tuple[str, Amount], frame.body)
            return extending(attempt, more)
        case Ask.FLUSH:
            return Operation(lambda _: None, kept=True)
        case _:
            return Operation(_look(frame))


def _look(frame: Frame) -> Callable[[Books], object]:
    match frame.kind:
        case Ask.AUTHENTICATE:
            key = _read(str, frame.body)
            return lambda books: books.credentials(key)
        case Ask.SHORTAGE:
            refused = _read(Refused, frame.body)
            return lambda books: shortage(books, refused)
        case Ask.OUTCOMES:
            told_by = _read(tuple[str, str, int], frame.body)
            return lambda books: recent_outcomes(books, *told_by)
        case Ask.SCORES:
            scored_by = _read(tuple[str, str, int], frame.body)
            return lambda books: recent_scores(books, *scored_by)
        case Ask.FEEDBACK:
            tenant, request, correct = _read(tuple[str, str, bool], frame.body)
            return lambda books: tell_feedback(books, tenant, request, correct=correct)
        case _:
            return lambda books: books.probe()


def _reserving(reservation: Reservation, owner: str) -> Operation:
    def run(books: Books) -> int:
        # the books are the writer's alone, and each reservation is its own worker's
        books.owner = owner
        return books.reserve(reservation)

    return Operation(run, tenant=reservation.account.tenant, hot=reservation, owner=owner)


def _read(kind: Any, body: bytes) -> Any:  # noqa: ANN401 - a value of that kind
    return reader(kind).validate_json(body)


@cache
def reader(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any type
    """Reads values of a kind from JSON, made at its first use."""
    return TypeAdapter(kind)
