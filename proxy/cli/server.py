"""uvicorn's server, which tells when it begins to stop, and how it is set up."""

import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from math import ceil

import uvicorn

from proxy.app import Tally
from proxy.cli.guard import guarded


class Server(uvicorn.Server):
    """Runs an application; `stopping` is called once, before the requests in flight are waited for."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the requests in flight, and for the application."""
        self._stopping()
        await super().shutdown(sockets)


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
