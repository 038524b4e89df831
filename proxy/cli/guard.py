"""uvicorn's HTTP protocol with a bound on a request's headers: on their size, and on the time that they take.

uvicorn has neither for httptools: a connection that sends a byte now and then is kept for ever, and headers of any size
are read. What a body may take is the application's own to say.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from proxy.api.presence import EXTENSION
from proxy.api.wire import envelope
from proxy.cli.gathering import Gathering
from proxy.errors import RequestInvalid


class GuardedProtocol(HttpToolsProtocol):
    """One connection. A request whose headers are larger than `max_bytes` is refused with 431, one whose headers take
    longer than `seconds` with 408, and the connection is closed; without a word where no request has begun.

    Between two requests of a connection uvicorn's own `timeout_keep_alive` holds.
    """

    max_bytes = 65_536
    seconds = 60.0

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timer: asyncio.TimerHandle | None = None
        self._watching: set[Callable[[], None]] = set()
        self._lost = False
        self._reading = False
        self._heard = False
        self._refused = False
        self._parsed = 0
        self._unparsed = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
        """Give the first request its time."""
        super().connection_made(Gathering(transport, self.loop))
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time, and tell those who watch."""
        self._disarm()
        self._lost = True
        super().connection_lost(exc)
        for lost in list(self._watching):
            lost()

    def watch(self, lost: Callable[[], None]) -> None:
        """Have `lost` called when the client goes, soon where it has gone already."""
        self._watching.add(lost)
        # after a large body uvicorn hears nothing more, not even that the client goes
        self.flow.resume_reading()
        if self._lost:
            self.loop.call_soon(self._tell, lost)

    def unwatch(self, lost: Callable[[], None]) -> None:
        """Call it no more."""
        self._watching.discard(lost)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the connection was refused."""
        if self._refused:
            return
        reading = self._reading
        super().data_received(data)
        if reading and self._reading:
            # a header that has not ended yet is nowhere but in the parser
            self._unparsed += len(data)
            self._check()
        if not (self._reading or self._answering or self._refused) and self._timer is None:
            # uvicorn has just forgotten its own time, and what came began no request
            self._arm()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._reading, self._parsed, self._unparsed = True, 0, 0
        self._disarm()
        self._arm()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the first line."""
        self._parsed += len(url)
        self._check()
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One whole header."""
        self._parsed += len(name) + len(value)
        self._check()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request on, where its headers are within the bounds."""
        self._reading, self._heard = False, True
        self._disarm()
        if not self._refused:
            self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]  # the key is tally's own
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has come whole."""
        if not self._refused:
            super().on_message_complete()

    @property
    def unheard(self) -> bool:
        """Whether it is open, and no request of it has come as far as its headers' end."""
        return not (self._heard or self._lost or self._refused)

    @property
    def _answering(self) -> bool:
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete  # type: ignore[redundant-expr]  # it begins with None

    def _tell(self, lost: Callable[[], None]) -> None:
        if lost in self._watching:
            lost()

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self.seconds, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self._reading:
            self._refuse(408, "request_timeout", f"The headers did not come within {self.seconds:g} seconds.")
        else:
            self._close()

    def _check(self) -> None:
        if max(self._parsed, self._unparsed) > self.max_bytes and not self._refused:
            self._refuse(431, "headers_too_large", f"The headers are larger than {self.max_bytes} bytes.")

    def _refuse(self, status: int, code: str, message: str) -> None:
        # amid the answer to an earlier request there is no room for another
        if not self._answering:
            body = orjson.dumps(envelope(RequestInvalid(message, code=code)))
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self._close()

    def _close(self) -> None:
        self._refused = True
        self._disarm()
        self.transport.close()


def guarded(max_bytes: int, seconds: float) -> type[GuardedProtocol]:
    """The protocol with its bounds, as uvicorn takes it."""
    return type("Guarded", (GuardedProtocol,), {"max_bytes": max_bytes, "seconds": seconds})
