"""A proxy of a command's own, inside its process: its ledger is in memory and gone with it."""

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from proxy.app import Tally
from proxy.config import Config
from proxy.errors import TallyError
from proxy.telemetry import configure_logging

HOST = "127.0.0.1"
_READY_S = 30.0
_STOP_S = 5


@contextmanager
def private_proxy(config: Config, seed: int | None = None) -> Iterator[tuple[str, str]]:
    """The base URL and a key without limits of a proxy under `config`, on a free port until the block ends.

    `seed` is that of strategies which draw lots. Raises ConfigError, and TallyError where it does not start.
    """
    key = config.general_settings.master_key or f"sk-private-{secrets.token_hex(16)}"
    settings = config.general_settings.model_copy(update={"database_url": "sqlite://", "master_key": key})
    # its log would run through the command's own lines
    configure_logging("error")
    tally = Tally(config.model_copy(update={"general_settings": settings}), seed=seed)
    server = uvicorn.Server(
        uvicorn.Config(
            tally.application(),
            loop="uvloop",
            http="httptools",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_STOP_S,
        )
    )
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), name="tally", daemon=True)
        thread.start()
        try:
            _wait(server, thread)
            yield f"http://{HOST}:{listener.getsockname()[1]}/v1", key
        finally:
            server.should_exit = True
            thread.join(2 * _STOP_S)


def _wait(server: uvicorn.Server, thread: threading.Thread) -> None:
    give_up = time.monotonic() + _READY_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > give_up:
            raise TallyError("The private proxy did not start.")
        time.sleep(0.01)
