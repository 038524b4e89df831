"""Open connections to servers, kept for the next call."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from functools import partial

from aiohappyeyeballs import start_connection
from aiohappyeyeballs.types import AddrInfoType

from proxy.errors import UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.connection import Connection, Origin

IDLE_S = 15.0
"""How long a connection is kept that nobody uses."""

CONNECT_S = 10.0
"""How long a connection may take to be made, TLS included."""

_RESOLVED_S = 60.0
_NEXT_ADDRESS_S = 0.25


class Connections:
    """Connections by their server. Whoever takes one gives it back; what cannot be used again is closed.

    How many there are is for those to bound who make calls: at most one for each call that was ever made at once. A
    call that finds its connection closed is not made anew, for it may have been served, and billed.
    """

    def __init__(self) -> None:
        self._idle: dict[Origin, list[Connection]] = {}
        self._used: set[Connection] = set()
        self._addresses: dict[Origin, tuple[float, Sequence[AddrInfoType]]] = {}
        self._tls: ssl.SSLContext | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, origin: Origin, timeout: float) -> Connection:
        """A connection to `origin`, in at most `timeout` seconds. Raises UpstreamUnreachable or UpstreamTimeout."""
        idle = self._idle.get(origin)
        while idle:
            # the last one that was used is the least likely to be closed just now
            found = idle.pop()
            if found.reusable:
                self._used.add(found)
                return found
        try:
            async with asyncio.timeout(min(CONNECT_S, timeout)):
                made = await self._open(origin)
        except TimeoutError:
            raise UpstreamTimeout("the provider did not answer in time", sent=False) from None
        except (OSError, UnicodeError, ssl.CertificateError) as error:
            raise UpstreamUnreachable("the provider cannot be reached") from error
        self._used.add(made)
        return made

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose call is over, or close it where something of that is still to come."""
        self._used.discard(connection)
        if not connection.reusable:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._timer is None:
            self._timer = loop.call_later(IDLE_S, self._sweep)

    def close(self) -> None:
        """Close all of them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in [*self._used, *(each for idle in self._idle.values() for each in idle)]:
            connection.close()
        self._idle.clear()
        self._used.clear()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time() - IDLE_S
        for origin, idle in list(self._idle.items()):
            kept = [each for each in idle if each.reusable and each.idle_since > before]
            for each in set(idle) - set(kept):
                each.close()
            if kept:
                self._idle[origin] = kept
            else:
                del self._idle[origin]
        self._timer = loop.call_later(IDLE_S, self._sweep) if self._idle else None

    async def _open(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        sock = await start_connection(await self._resolved(origin), happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made = False
        try:
            _, connection = await loop.create_connection(
                partial(Connection, origin),
                sock=sock,
                ssl=self._context() if origin.tls else None,
                server_hostname=origin.host if origin.tls else None,
            )
            made = True
        finally:
            if not made:
                sock.close()
        return connection

    async def _resolved(self, origin: Origin) -> Sequence[AddrInfoType]:
        loop = asyncio.get_running_loop()
        until, addresses = self._addresses.get(origin, (0.0, ()))
        if until <= loop.time():
            addresses = await loop.getaddrinfo(
                origin.host, origin.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
            self._addresses[origin] = loop.time() + _RESOLVED_S, addresses
        return addresses

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            # it reads all authorities that the system trusts
            self._tls = ssl.create_default_context()
        return self._tls
