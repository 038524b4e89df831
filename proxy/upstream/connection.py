"""One HTTP/1.1 connection of a client: a request out, its response in, one at a time."""

import asyncio
import zlib
from typing import NamedTuple, Protocol, cast

import httptools

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable

_MOST_WAITING = 256 * 1024
_INFLATED = {b"gzip": 31, b"x-gzip": 31, b"deflate": 47}
"""Window bits by content-encoding, as zlib wants them."""


class _Inflate(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...  # a decompressobj of zlib


class Origin(NamedTuple):
    """A server, as connections to it are told from others."""

    tls: bool
    host: str
    port: int


class Connection(asyncio.Protocol):
    """A connection that is open. `send` a request, wait until the response is `headed`, and `read` it; or `whole`.

    Then it can be used again, where it is `reusable`. A response that is read in pieces comes no further ahead of its
    reader than some 256 KB. Waiting raises UpstreamUnreachable where the connection breaks, and UpstreamTimeout after
    `expire`.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self.lost = False
        self.status = 0
        self.ended = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        # what other clients put up with; what tells two lengths stays an error
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._raw: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._headed = True
        self._busy = False
        self._paused = False
        self._inflate: _Inflate | None = None
        self._error: UpstreamError | None = None
        self._whole = False
        self._waiter: asyncio.Future[None] | None = None

    def send(self, data: bytes, *, whole: bool) -> None:
        """Send a request; `whole`: its response will be read in one piece."""
        self.status, self.ended, self._headed, self._busy, self._whole = 0, False, False, True, whole
        self._raw, self._parts, self._size, self._inflate = [], [], 0, None
        if self._transport is not None and not self.lost:
            self._transport.write(data)

    async def headed(self) -> None:
        """Return once the response has begun, with its `status` and `headers`."""
        while not self._headed:
            await self._wait()

    async def read(self) -> bytes:
        """What has come of the body since the last call; b"" where it has ended."""
        while not (self._parts or self.ended):
            await self._wait()
        return self._taken()

    async def whole(self) -> bytes:
        """The whole body."""
        self._whole = True
        self._go_on()
        while not self.ended:
            await self._wait()
        return self._taken()

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers, their names in lower case."""
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._raw}

    @property
    def reusable(self) -> bool:
        """Whether another request can be sent."""
        idle = self.ended and not self.lost and not self._busy and self._error is None
        # a reply may come before all of its request has gone out
        return idle and self._transport is not None and not self._transport.get_write_buffer_size()

    def expire(self) -> None:
        """Take it that the response comes too late."""
        self._fail(UpstreamTimeout("the provider did not answer in time"))

    def close(self) -> None:
        """Hang up."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take in what has come."""
        if not self._busy:
            # nobody has asked for it
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, zlib.error):
            # one of the callbacks' own errors is wrapped in the parser's
            self._fail(_broken())

    def eof_received(self) -> None:
        """Let the transport close."""
        if not self._busy:
            # what was sent now would be dropped without a word
            self.lost = True

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was read, well or not."""
        hung_up, self.lost = self.lost, True
        if self._headed and not self.ended and exc is None and not hung_up and self._until_closed():
            self.on_message_complete()
        elif not self.ended:
            self._error = self._error or _broken()
            self._wake()

    # httptools calls these

    def on_message_begin(self) -> None:
        """A response begins."""
        if self.ended:
            # a second one, to no request: nothing of it is looked at
            self._error = _broken()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, whole."""
        if not self.ended:
            self._raw.append((name, value))

    def on_headers_complete(self) -> None:
        """The response's head is whole."""
        if self.ended:
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:
            return
        self._headed = True
        for name, value in self._raw:
            if len(name) == 16 and name.lower() == b"content-encoding":
                bits = _INFLATED.get(value.strip().lower())
                self._inflate = None if bits is None else zlib.decompressobj(bits)
        if not self._whole:
            self._wake()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        piece = body if self._inflate is None else self._inflate.decompress(body)
        if not piece or self.ended:
            return
        self._parts.append(piece)
        if self._whole:
            return
        self._size += len(piece)
        if self._size > _MOST_WAITING and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        """The response is whole."""
        if self.ended:
            return
        if not self._headed:
            # it was only told to go on
            self._raw, self.status = [], 0
            return
        self.ended, self._busy = True, False
        # the next call must be heard, whoever stopped listening to this one
        self._go_on()
        if not self.lost and not self._parser.should_keep_alive():
            self.close()
        self._wake()

    def _until_closed(self) -> bool:
        """Whether the body lasts until the connection is closed: nobody has told how long it is."""
        told = {name.lower(): value for name, value in self._raw}
        return b"content-length" not in told and b"chunked" not in told.get(b"transfer-encoding", b"").lower()

    def _taken(self) -> bytes:
        parts, self._parts, self._size = self._parts, [], 0
        self._go_on()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _go_on(self) -> None:
        if self._paused and self._transport is not None and not self.lost:
            self._paused = False
            self._transport.resume_reading()

    def _fail(self, error: UpstreamError) -> None:
        self._error = self._error or error
        self.close()
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        if self._error is None and self.lost:
            self._error = _broken()
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None and not self.ended:
            raise self._error


def _broken() -> UpstreamError:
    return UpstreamUnreachable("the connection to the provider broke", sent=True)
