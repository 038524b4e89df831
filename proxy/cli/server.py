"""uvicorn's server, which tells when it begins to stop, and how it is set up."""

import asyncio
import os
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from math import ceil

import uvicorn

from proxy.app import Tally
from proxy.cli.guard import GuardedProtocol, guarded

_HEARD_S = 0.2
"""How long a connection has to send its next request."""

_LOOKS = 10
"""How often that one that has sent none yet, as on a busy machine, has to send its first."""


class Server(uvicorn.Server):
    """Runs an application; `stopping` is called once, before the requests in flight are waited for."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new connections, and wait for the requests in flight, and for the application."""
        clock = asyncio.get_running_loop().time
        began, most = clock(), self.config.timeout_graceful_shutdown or 0
        self._stopping()
        await self._close(min(_LOOKS, int(most / _HEARD_S / 2)))
        # what was waited for by then is a part of it
        self.config.timeout_graceful_shutdown = max(0.0, most - (clock() - began))  # type: ignore[assignment]  # a number
        await super().shutdown(sockets)

    async def _close(self, looks: int) -> None:
        """Stop listening. Who is connected by then is let in, and served if a request comes at once."""
        listeners = [_again(listener) for server in self.servers for listener in server.sockets]
        for server in self.servers:
            server.close()
        accepted = [connection for listener in listeners for connection in _last(listener)]
        loop = asyncio.get_running_loop()
        for connection in accepted:
            # who is gone meanwhile needs no answer
            with suppress(OSError):
                await loop.connect_accepted_socket(self._protocol, connection)
        await asyncio.sleep(_HEARD_S)
        for _ in range(looks):
            # a second interrupt breaks off
            if self.force_exit or not any(map(_unheard, self.server_state.connections)):
                return
            await asyncio.sleep(_HEARD_S)

    def _protocol(self) -> asyncio.Protocol:
        kind: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def _unheard(connection: asyncio.Protocol) -> bool:
    return isinstance(connection, GuardedProtocol) and connection.unheard


def _again(listener: socket.socket) -> socket.socket:
    """The same socket for our own use: the loop has no `dup` for those that it listens to."""
    return socket.socket(listener.family, listener.type, listener.proto, os.dup(listener.fileno()))


def _last(listener: socket.socket) -> list[socket.socket]:
    """Close a listener; returns those who had connected, whom the system would cut."""
    accepted = []
    listener.setblocking(False)
    # the others may have closed it, or there is nobody more
    with listener, suppress(OSError):
        while True:
            accepted.append(listener.accept()[0])
    return accepted


def raise_limits() -> None:
    """Let this process, and those that it starts, have as many files and connections open as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # some systems name a most that they do not give
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def settings(tally: Tally, host: str, port: int) -> uvicorn.Config:
    """How uvicorn serves it."""
    general = tally.config.general_settings
    return uvicorn.Config(
        tally.application(),
        host=host,
        port=port,
        loop="uvloop",
        http=guarded(general.max_header_bytes, general.read_s),
        access_log=False,
        # nobody asks where a request came from
        proxy_headers=False,
        server_header=False,
        log_config=None,
        log_level="warning",
        timeout_keep_alive=75,
        # a request that began just now has its whole deadline, and a moment to be answered
        timeout_graceful_shutdown=min(ceil(tally.config.scaling.deadline_s) + 5, general.shutdown_s),
    )
