"""Calls that a plain connection does not do: through a proxy, or to an address of a rare kind. With aiohttp."""

from typing import TYPE_CHECKING

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.connections import CONNECT_S
from proxy.upstream.target import Target

if TYPE_CHECKING:
    import aiohttp


class Session:
    """One pooled session, made when the first call needs it."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def post(self, target: Target, body: bytes, timeout: float) -> "Answered":
        """The response to a POST, once it has begun. Raises UpstreamUnreachable or UpstreamTimeout."""
        # it takes a tenth of a second to import, which few need
        import aiohttp

        if self._session is None:
            # a provider's cookies would go from one tenant's call to the next one's
            jar = aiohttp.DummyCookieJar()
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=jar)
        least = min(CONNECT_S, timeout)
        limits = aiohttp.ClientTimeout(total=timeout, connect=least, sock_connect=least)
        try:
            response = await self._session.post(
                target.url,
                data=body,
                headers=dict(target.headers),
                allow_redirects=False,
                timeout=limits,
                proxy=target.proxy,
            )
        except (TimeoutError, aiohttp.ClientError) as error:
            raise _lost(error) from error
        return Answered(response)

    async def close(self) -> None:
        """Close the pooled connections."""
        if self._session is not None:
            await self._session.close()


class Answered:
    """A response that has begun; read as a `Connection` is."""

    def __init__(self, response: "aiohttp.ClientResponse") -> None:
        self._response = response
        self.status = response.status

    @property
    def headers(self) -> dict[str, str]:
        """Its headers, their names in lower case."""
        return {name.lower(): value for name, value in self._response.headers.items()}

    async def read(self) -> bytes:
        """What has come of the body since the last call; b"" where it has ended."""
        import aiohttp

        try:
            return await self._response.content.readany()
        except (TimeoutError, aiohttp.ClientError) as error:
            raise _lost(error) from error

    async def whole(self) -> bytes:
        """The whole body."""
        import aiohttp

        try:
            return await self._response.read()
        except (TimeoutError, aiohttp.ClientError) as error:
            raise _lost(error) from error

    def done(self) -> None:
        """Let go of it, and of its connection where it was not read to its end."""
        self._response.release() if self._response.content.at_eof() else self._response.close()


def _lost(error: Exception) -> UpstreamError:
    import aiohttp

    # no word of the address: it is the operator's
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamTimeout("the provider did not answer in time", sent=False)
    if isinstance(error, TimeoutError):
        return UpstreamTimeout("the provider did not answer in time")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError | aiohttp.InvalidURL):
        return UpstreamUnreachable("the provider cannot be reached")
    return UpstreamUnreachable("the connection to the provider broke", sent=True)
