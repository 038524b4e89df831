"""The lean lane: OpenAI-compatible servers over plain HTTP/1.1 connections of its own."""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from math import isfinite
from typing import Protocol

import orjson

from proxy.errors import UpstreamError, UpstreamUnreachable
from proxy.types import JSON
from proxy.upstream import Endpoint
from proxy.upstream.connection import Connection
from proxy.upstream.connections import Connections
from proxy.upstream.scrub import scrub
from proxy.upstream.session import Answered, Session
from proxy.upstream.sse import DONE, EventParser
from proxy.upstream.target import OPENAI_BASE, Target, target

__all__ = ["OPENAI_BASE", "PROVIDERS", "DirectLane", "error_from", "upstream_error"]

PROVIDERS = frozenset({"openai", "hosted_vllm", "custom_openai"})
_CHAT = "chat/completions"
_LINGER_S = 0.5
_MESSAGE_CHARS = 2000
_NAME_CHARS = 200
_MOST_TARGETS = 4096


class _Response(Protocol):
    """A response that has begun."""

    status: int

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def read(self) -> bytes: ...

    async def whole(self) -> bytes: ...


class DirectLane:
    """Calls over pooled connections; how many calls a deployment may have is the deployment's to say.

    `environ` may name proxies, by the usual variables. Redirects are not followed.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._connections = Connections()
        self._session = Session()
        self._targets: dict[tuple[int, str], tuple[Endpoint, Target]] = {}

    async def complete(self, endpoint: Endpoint, body: JSON, timeout: float) -> bytes:
        """One call, its whole reply."""
        return await self.post(endpoint, _CHAT, body, timeout)

    async def post(self, endpoint: Endpoint, path: str, body: JSON, timeout: float) -> bytes:
        """One plain POST, its whole reply."""
        call = _Call(self._connections, self._session, timeout)
        try:
            response = await call.begin(self._target(endpoint, path), orjson.dumps(body), whole=True)
            content = await response.whole()
            if response.status >= 400:
                raise upstream_error(response.status, response.headers, content, endpoint)
            return content
        finally:
            call.end()

    async def stream(self, endpoint: Endpoint, body: JSON, timeout: float) -> AsyncGenerator[bytes, None]:
        """One streamed call, chunk by chunk. A server that answers in one piece gives that one piece.

        A stream that just ends, without `[DONE]`, raises UpstreamUnreachable after its last chunk.
        """
        call = _Call(self._connections, self._session, timeout)
        try:
            response = await call.begin(self._target(endpoint, _CHAT), orjson.dumps(body), whole=False)
            headers = response.headers
            if response.status >= 400:
                raise upstream_error(response.status, headers, await response.whole(), endpoint)
            if headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
                yield await response.whole()
                return
            parser = EventParser()
            while piece := await response.read():
                for event in parser.feed(piece):
                    if event == DONE:
                        await _read_out(response)
                        return
                    yield event
            for event in parser.end():
                if event == DONE:
                    return
                yield event
            raise UpstreamUnreachable("the provider's stream ended too early", sent=True)
        finally:
            call.end()

    async def close(self) -> None:
        """Close the pooled connections."""
        self._connections.close()
        await self._session.close()

    def _target(self, endpoint: Endpoint, path: str) -> Target:
        key = id(endpoint), path
        known, found = self._targets.get(key, (None, None))
        if found is None or known is not endpoint:
            if len(self._targets) >= _MOST_TARGETS:
                self._targets.clear()
            try:
                found = target(endpoint, path, self._environ)
            except ValueError as error:
                # no word of the value, which may be a key
                raise UpstreamUnreachable("the deployment's address or a header of it cannot be sent") from error
            self._targets[key] = endpoint, found
        return found


class _Call:
    """One call; `end` must follow `begin`, whatever became of that."""

    def __init__(self, connections: Connections, session: Session, timeout: float) -> None:
        self._connections = connections
        self._session = session
        self._timeout = timeout
        self._connection: Connection | None = None
        self._answered: Answered | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def begin(self, target: Target, body: bytes, *, whole: bool) -> _Response:
        """Send the request; its response, which has begun unless it will be read `whole`."""
        if target.origin is None:
            self._answered = await self._session.post(target, body, self._timeout)
            return self._answered
        loop = asyncio.get_running_loop()
        late = loop.time() + self._timeout
        connection = self._connection = await self._connections.take(target.origin, self._timeout)
        self._timer = loop.call_at(late, connection.expire)
        connection.send(b"%b%d\r\n\r\n%b" % (target.head, len(body), body), whole=whole)
        if not whole:
            await connection.headed()
        return connection

    def end(self) -> None:
        """Let go of the connection; hang up where something is still to come."""
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            self._connections.give_back(self._connection)
        if self._answered is not None:
            self._answered.done()


def upstream_error(
    status: int, headers: Mapping[str, str], content: bytes, secret: Endpoint | str | None = None
) -> UpstreamError:
    """The error that a provider's reply of status 400 or more is. Nothing of `secret` stays in it: see `scrub`."""
    try:
        data = orjson.loads(content)
    except orjson.JSONDecodeError:
        data = content.decode(errors="replace").strip()
    return error_from(status, data, _retry_after(headers), secret)


def error_from(
    status: int,
    data: object,
    retry_after: float | None = None,
    secret: Endpoint | str | None = None,
    *,
    sent: bool = False,
) -> UpstreamError:
    """The error in `data`: OpenAI's envelope, the error object itself, or plain text. Nothing of `secret` stays."""
    fields = data if isinstance(data, dict) else {}
    inner = fields.get("error", fields)
    fields = inner if isinstance(inner, dict) else {"message": inner}
    message = fields.get("message") or fields.get("detail") or (data if isinstance(data, str) else "")
    text = str(message) or f"the provider answered with status {status}"
    told = {
        name: scrub(str(fields[name]), secret)[:_NAME_CHARS]
        for name in ("type", "code", "param")
        if isinstance(fields.get(name), str | int)
    }
    return UpstreamError(
        scrub(text, secret)[:_MESSAGE_CHARS], status=status, retry_after=retry_after, sent=sent, **told
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` (a date is not understood)."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        if isfinite(seconds):
            return max(0.0, seconds)
    return None


async def _read_out(response: _Response) -> None:
    # a connection that was read to its end can be used again
    with suppress(TimeoutError, UpstreamError):
        async with asyncio.timeout(_LINGER_S):
            while await response.read():
                pass
