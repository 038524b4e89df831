"""Carries to the provider what LiteLLM's transforms made: aiohttp, in the shape of LiteLLM's own HTTP client."""

import json as stdlib_json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from ssl import SSLContext
from typing import Any

import aiohttp
import httpx
import orjson

_CONNECT_S = 10.0
# what httpx wants to know of a request; no word of the address, which is the operator's
_REQUEST = httpx.Request("POST", "http://provider.invalid")
_JSON = "application/json"
# aiohttp has undone these already
_UNDONE = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class Carrier:
    """One pooled session for all calls. `ssl` as aiohttp takes it, `headers` go with every call."""

    def __init__(self, ssl: SSLContext | bool, headers: Mapping[str, str]) -> None:
        self._ssl = ssl
        self._headers = headers
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        """The session; it is made by the first call, in whose event loop it stays."""
        if self._session is None:
            # a provider's cookies would go from one tenant's call to the next one's
            jar = aiohttp.DummyCookieJar()
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, ssl=self._ssl)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=jar, headers=self._headers)
        return self._session

    async def close(self) -> None:
        """Close the pooled connections."""
        if self._session is not None:
            await self._session.close()


class Errand:
    """One call of the provider. `sent`: a request has been handed over, so that it may be billed."""

    def __init__(self, carrier: Carrier, timeout: float) -> None:
        self.sent = False
        self._carrier = carrier
        self._timeout = timeout
        self._open: aiohttp.ClientResponse | None = None

    async def post(
        self,
        url: str,
        *,
        data: str | bytes | None = None,
        json: object = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
        content: str | bytes | None = None,
        **_: Any,  # noqa: ANN401 - timeouts and logs, which are not its own
    ) -> httpx.Response:
        """What `AsyncHTTPHandler.post` of LiteLLM does, without its second tries. Raises httpx's errors."""
        body = _encoded(json) if json is not None else content if content is not None else data
        told = {name.lower(): value for name, value in (headers or {}).items()}
        told.setdefault("content-type", _JSON)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(_CONNECT_S, self._timeout))
        self.sent = True
        try:
            response = await self._carrier.session().post(
                url, data=body, params=params, headers=told, timeout=timeout, allow_redirects=False
            )
            self._open = response
            got = [(name, value) for name, value in response.headers.items() if name.lower() not in _UNDONE]
            if stream and response.status < 300:
                return _Streamed(response, got)
            reply = httpx.Response(response.status, headers=got, content=await response.read(), request=_REQUEST)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise _as_httpx(error) from error
        reply.raise_for_status()
        return reply

    def close(self) -> None:
        """Disconnect, where the reply was not read to its end."""
        if self._open is not None:
            self._open.close()


class _Streamed(httpx.Response):
    """A reply whose lines are read as they come. Of server-sent events, the lines of data alone."""

    def __init__(self, response: aiohttp.ClientResponse, headers: list[tuple[str, str]]) -> None:
        super().__init__(response.status, headers=headers, stream=_Bytes(response), request=_REQUEST)
        self._events = response.content_type == "text/event-stream"

    async def aiter_lines(self) -> AsyncIterator[str]:
        """Whole lines. Those that are Unicode's alone, within a text, end nothing."""
        begun: list[bytes] = []
        async for piece in self.aiter_raw():
            begun.append(piece)
            if b"\n" not in piece:
                # a picture is one long line, which is not to be copied again and again
                continue
            *lines, rest = b"".join(begun).split(b"\n")
            begun = [rest]
            for line in lines:
                if not self._events or line.startswith(b"data:"):
                    yield line.rstrip(b"\r").decode()
        if last := b"".join(begun):
            yield last.decode()


class _Bytes(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except (TimeoutError, aiohttp.ClientError) as error:
            raise _as_httpx(error) from error

    async def aclose(self) -> None:
        self._response.close()


def _encoded(data: object) -> bytes:
    try:
        return orjson.dumps(data)
    except TypeError:
        # integers beyond 64 bits, and keys that are no text
        return stdlib_json.dumps(data, ensure_ascii=False).encode()


def _as_httpx(error: Exception) -> httpx.HTTPError:
    """The error by which LiteLLM's transforms know it."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return httpx.ConnectTimeout("no connection in time", request=_REQUEST)
    if isinstance(error, TimeoutError):
        return httpx.ReadTimeout("no answer in time", request=_REQUEST)
    if isinstance(error, aiohttp.ClientConnectorError):
        return httpx.ConnectError("no connection", request=_REQUEST)
    return httpx.RemoteProtocolError("the connection broke", request=_REQUEST)
