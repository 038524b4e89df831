"""uvicorn's server, which tells when it begins to stop."""

import socket
from collections.abc import Callable

import uvicorn


class Server(uvicorn.Server):
    """Runs an application; `stopping` is called once, before the requests in flight are waited for."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the requests in flight, and for the application."""
        self._stopping()
        await super().shutdown(sockets)
