"""Sends a reply to a client while watching whether the client is still there."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from functools import partial

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.api.presence import while_there
from proxy.api.render import PING, event
from proxy.api.sending import Sending
from proxy.api.wire import envelope, error_response, scrubbed, shown_status
from proxy.errors import ClientGone, TallyError
from proxy.values import value

HOLD_S = 10.0
"""How long the headers of a stream are held back, so that an early failure keeps its status; then between pings."""

WRITE_S = 60.0
"""How long a client may take nothing of what is sent to it, before it counts as gone."""

_STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


@value(frozen=True, slots=True)
class Reply:
    """What to send: a JSON body, or the events of a stream.

    `source` is what the events are made from, where that has begun before they have: closing a generator that never
    began closes nothing that it would have.
    """

    headers: Mapping[str, str]
    body: bytes = b""
    events: AsyncGenerator[bytes, None] | None = None
    source: AsyncGenerator[bytes, None] | None = None

    async def aclose(self) -> None:
        """End the stream, wherever it is."""
        for part in (self.events, self.source):
            if part is not None:
                await part.aclose()


def error_event(error: TallyError) -> bytes:
    """An error in a chat's stream."""
    return event(envelope(error))


class Served(Response):
    """An ASGI response that makes its reply (`work`) while it is sent, and cancels it when the client goes.

    `streamed`: after `hold_s` seconds without a reply the stream is opened with `early` headers, and kept alive with
    comments; with `notes`, lines to send as they come, it is opened at once. `budget_status` stands for 402. `broke` is
    what is sent for an error once the stream is open. A client that reads nothing for `write_s` seconds is gone.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[Reply]],
        *,
        streamed: bool,
        early: Mapping[str, str],
        budget_status: int = 402,
        hold_s: float = HOLD_S,
        write_s: float = WRITE_S,
        ended: Callable[[int], None] = lambda _: None,
        notes: "asyncio.Queue[bytes] | None" = None,
        broke: Callable[[TallyError], bytes] = error_event,
    ) -> None:
        # the headers of a response are made when it is known: nothing of the base's own is used
        self._work = work
        self._streamed = streamed
        self._early = early
        self._budget_status = budget_status
        self._hold_s = hold_s
        self._write_s = write_s
        self._ended = ended
        self._broke = broke
        self._at_once = notes is not None
        self._notes = notes
        self._opened = False
        self._status = 500
        self._unsent = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the reply until it is sent or the client is gone."""
        sending = Sending(send, self._write_s)
        try:
            stayed = await while_there(scope, receive, partial(self._serve, sending))
            if not stayed and self._unsent:
                self._status = ClientGone.status
        finally:
            sending.close()
            self._ended(self._status)

    async def _serve(self, send: Send) -> None:
        try:
            await self._answer(send)
            self._unsent = False
        except ClientGone as gone:
            self._status, self._unsent = gone.status, False

    async def _answer(self, send: Send) -> None:
        try:
            reply = await self._reply(send)
            self._status = 200
            if reply.events is None:
                await _whole(send, reply)
            else:
                async with aclosing(reply):
                    await self._stream(reply.events, reply.headers, send)
        except ClientGone:
            raise
        except TallyError as error:
            shown = scrubbed(error)
            self._status = shown_status(shown, self._budget_status)
            if self._opened:
                await _body(send, self._broke(shown), more=False)
            else:
                response = error_response(error, self._early, self._budget_status)
                await _sent(send, response.status_code, response.raw_headers, bytes(response.body))

    async def _reply(self, send: Send) -> Reply:
        if not self._streamed:
            return await self._work()
        # an error must not leave the group as a group of errors
        found: Reply | TallyError | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                alive = _Later(tasks, 0.0 if self._at_once else self._hold_s, partial(self._keep_alive, send))
                try:
                    found = await self._work()
                except TallyError as error:
                    found = error
                finally:
                    alive.cancel()
            await self._tell_rest(send)
        except (asyncio.CancelledError, ClientGone, ExceptionGroup) as error:
            # the client went just when its reply had come
            if isinstance(found, Reply):
                await found.aclose()
            if isinstance(error, ExceptionGroup):
                # of the two that ran here one failed, and the other was cancelled
                raise error.exceptions[0] from None
            raise
        if isinstance(found, TallyError):
            raise found
        return found

    async def _tell_rest(self, send: Send) -> None:
        while self._notes is not None and not self._notes.empty():
            await self._open(send, self._early)
            await _body(send, self._notes.get_nowait())

    async def _keep_alive(self, send: Send) -> None:
        await self._open(send, self._early)
        await _body(send, PING)
        while True:
            await _body(send, await self._line())

    async def _line(self) -> bytes:
        """What to send next while the reply is not there: a note, or a sign of life where none comes for long."""
        if self._notes is None:
            await asyncio.sleep(self._hold_s)
            return PING
        try:
            async with asyncio.timeout(self._hold_s):
                return await self._notes.get()
        except TimeoutError:
            return PING

    async def _stream(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str], send: Send) -> None:
        async for data in events:
            if not self._opened:
                await self._open(send, headers)
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await _body(send, b"", more=False)

    async def _open(self, send: Send, headers: Mapping[str, str]) -> None:
        if not self._opened:
            self._opened = True
            raw = [(name.encode(), value.encode()) for name, value in {**_STREAM_HEADERS, **headers}.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})


async def _body(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _whole(send: Send, reply: Reply) -> None:
    length = b"%d" % len(reply.body)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()]
    headers += [(b"content-length", length), (b"content-type", b"application/json")]
    await _sent(send, 200, headers, reply.body)


async def _sent(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Later:
    """A task that begins after `seconds`, unless it is cancelled before."""

    def __init__(
        self, tasks: asyncio.TaskGroup, seconds: float, work: Callable[[], Coroutine[None, None, None]]
    ) -> None:
        self._tasks = tasks
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._begin)
        else:
            self._begin()

    def cancel(self) -> None:
        for each in (self._timer, self._task):
            if each is not None:
                each.cancel()

    def _begin(self) -> None:
        self._task = self._tasks.create_task(self._work())
