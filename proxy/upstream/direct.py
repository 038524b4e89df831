"""The lean lane: OpenAI-compatible servers over plain HTTP, with aiohttp and orjson."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from math import isfinite

import aiohttp
import orjson

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.types import JSON
from proxy.upstream import Endpoint
from proxy.upstream.scrub import scrub
from proxy.upstream.sse import DONE, EventParser

PROVIDERS = frozenset({"openai", "hosted_vllm", "custom_openai"})
OPENAI_BASE = "https://api.openai.com/v1"
_CHAT = "chat/completions"
_CONNECT_S = 10.0
_LINGER_S = 0.5
_MESSAGE_CHARS = 2000
_NAME_CHARS = 200


class DirectLane:
    """One pooled session for all deployments; how many calls a deployment may have is the deployment's to say."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, endpoint: Endpoint, body: JSON, timeout: float) -> bytes:
        """One call, its whole reply."""
        return await self.post(endpoint, _CHAT, body, timeout)

    async def post(self, endpoint: Endpoint, path: str, body: JSON, timeout: float) -> bytes:
        """One plain POST, its whole reply."""
        try:
            async with self._post(endpoint, path, body, timeout) as response:
                content = await response.read()
                if response.status >= 400:
                    raise upstream_error(response.status, response.headers, content, endpoint)
                return content
        except (TimeoutError, aiohttp.ClientError) as error:
            raise _lost(error) from error

    async def stream(self, endpoint: Endpoint, body: JSON, timeout: float) -> AsyncGenerator[bytes, None]:
        """One streamed call, chunk by chunk. A server that answers in one piece gives that one piece.

        A stream that just ends, without `[DONE]`, raises UpstreamUnreachable after its last chunk.
        """
        try:
            async with self._post(endpoint, _CHAT, body, timeout) as response:
                if response.status >= 400:
                    raise upstream_error(response.status, response.headers, await response.read(), endpoint)
                if response.content_type == "application/json":
                    yield await response.read()
                    return
                parser = EventParser()
                async for chunk in response.content.iter_any():
                    for event in parser.feed(chunk):
                        if event == DONE:
                            await _read_out(response)
                            return
                        yield event
                for event in parser.end():
                    if event == DONE:
                        return
                    yield event
                raise UpstreamUnreachable("the provider's stream ended too early", sent=True)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise _lost(error) from error

    async def close(self) -> None:
        """Close the pooled connections."""
        if self._session is not None:
            await self._session.close()

    def _post(
        self, endpoint: Endpoint, path: str, body: JSON, timeout: float
    ) -> "aiohttp.client._RequestContextManager":
        if self._session is None:
            # a provider's cookies would go from one tenant's call to the next one's
            jar = aiohttp.DummyCookieJar()
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=jar)
        headers = {"content-type": "application/json", **endpoint.params.get("extra_headers", {})}
        if endpoint.api_key:
            headers.setdefault("authorization", f"Bearer {endpoint.api_key}")
        if organization := endpoint.params.get("organization"):
            headers["openai-organization"] = organization
        return self._session.post(
            _address(endpoint.api_base or OPENAI_BASE, path),
            data=orjson.dumps(body),
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(_CONNECT_S, timeout)),
        )


def _address(base: str, path: str) -> str:
    return f"{base.removesuffix('/v1')}{path}" if path.startswith("/") else f"{base}/{path}"


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


async def _read_out(response: aiohttp.ClientResponse) -> None:
    # a connection that was read to its end can be used again
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while not response.content.at_eof():
                await response.content.readany()


def _lost(error: Exception) -> UpstreamError:
    # no word of the address: it is the operator's
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamTimeout("the provider did not answer in time", sent=False)
    if isinstance(error, TimeoutError):
        return UpstreamTimeout("the provider did not answer in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamUnreachable("the provider cannot be reached")
    return UpstreamUnreachable("the connection to the provider broke", sent=True)
