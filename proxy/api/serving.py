"""Sends a reply to a client while watching whether the client is still there."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.api.render import PING, event
from proxy.api.wire import envelope, error_response, scrubbed, shown_status
from proxy.errors import TallyError

HOLD_S = 10.0
"""How long the headers of a stream are held back, so that an early failure keeps its status; then between pings."""

_GONE = 499
_STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What to send: a JSON body, or the events of a stream."""

    headers: Mapping[str, str]
    body: bytes = b""
    events: AsyncGenerator[bytes, None] | None = None


class Served(Response):
    """An ASGI response that makes its reply (`work`) while it is sent, and cancels it when the client goes.

    `streamed`: after `hold_s` seconds without a reply the stream is opened with `early` headers, and kept alive with
    comments. `budget_status` stands for 402.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[Reply]],
        *,
        streamed: bool,
        early: Mapping[str, str],
        budget_status: int = 402,
        hold_s: float = HOLD_S,
        ended: Callable[[int], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._work = work
        self._streamed = streamed
        self._early = early
        self._budget_status = budget_status
        self._hold_s = hold_s
        self._ended = ended
        self._opened = False
        self._status = 500

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the reply until it is sent or the client is gone."""
        try:
            async with asyncio.TaskGroup() as tasks:
                served = tasks.create_task(self._serve(scope, receive, send))
                gone = tasks.create_task(_disconnected(receive))
                await asyncio.wait({served, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not served.done():
                    self._status = _GONE
                served.cancel()
                gone.cancel()
        finally:
            self._ended(self._status)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._reply(send)
            self._status = 200
            if reply.events is None:
                await Response(reply.body, 200, dict(reply.headers), "application/json")(scope, receive, send)
            else:
                await self._stream(reply.events, reply.headers, send)
        except TallyError as error:
            shown = scrubbed(error)
            self._status = shown_status(shown, self._budget_status)
            if self._opened:
                await _body(send, event(envelope(shown)), more=False)
            else:
                await error_response(error, self._early, self._budget_status)(scope, receive, send)

    async def _reply(self, send: Send) -> Reply:
        if not self._streamed:
            return await self._work()
        # an error must not leave the group as a group of errors
        error: TallyError | None = None
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(self._keep_alive(send))
            try:
                return await self._work()
            except TallyError as raised:
                error = raised
            finally:
                waiting.cancel()
        raise error

    async def _keep_alive(self, send: Send) -> None:
        await asyncio.sleep(self._hold_s)
        await self._open(send, self._early)
        while True:
            await _body(send, PING)
            await asyncio.sleep(self._hold_s)

    async def _stream(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str], send: Send) -> None:
        async with aclosing(events):
            async for data in events:
                await self._open(send, headers)
                await _body(send, data)
        await _body(send, b"", more=False)

    async def _open(self, send: Send, headers: Mapping[str, str]) -> None:
        if not self._opened:
            self._opened = True
            raw = [(name.encode(), value.encode()) for name, value in {**_STREAM_HEADERS, **headers}.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})


async def _body(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
