"""`tally serve`: run the proxy."""

import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from proxy.cli.books import clear_errors
from proxy.cli.folder import private_folder
from proxy.cli.uncollected import uncollected
from proxy.errors import ConfigError, Problem

if TYPE_CHECKING:
    from proxy.cli.server import Server

NOT_STARTED = 3
"""The exit status of a server that could not listen; its log says why."""


@click.command()
@click.option("--config", "config_path", type=click.Path(dir_okay=False, path_type=Path), help="tally.yaml, or JSON.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256), help="Processes that serve.")
@clear_errors
def serve(config_path: Path | None, host: str, port: int, workers: int) -> None:
    """Serve the OpenAI API. Without a configuration every LiteLLM model name works, on this machine alone."""
    # as the first process of a container it would not hear of it otherwise before it serves
    signal.signal(signal.SIGTERM, _leave)
    with ExitStack() as folders:
        folder = None
        if workers > 1:
            folder = folders.enter_context(private_folder())
            # the metrics' library looks for it when it is imported
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        _serve(config_path, host, port, workers, folder)


def _serve(config_path: Path | None, host: str, port: int, workers: int, folder: Path | None) -> None:
    with uncollected():
        run = _made(config_path, host, port, workers, folder)
    run()


def _made(config_path: Path | None, host: str, port: int, workers: int, folder: Path | None) -> Callable[[], None]:
    """What serves until it is stopped."""
    # a server pays for its imports, `tally --help` does not
    import structlog

    from proxy.app import Tally
    from proxy.cli.server import Server, raise_limits, settings
    from proxy.cli.workers import Crew
    from proxy.config import load_config
    from proxy.ledger.store import wall_clock
    from proxy.telemetry import configure_logging
    from proxy.upstream.checking import check_models
    from proxy.upstream.prices import PriceMap

    raise_limits()
    config = load_config(config_path)
    configure_logging(config.general_settings.log_level)
    source = str(config_path or "serve")
    for note in check_models(config, source, environ=os.environ, prices=cache(PriceMap), now=wall_clock()):
        structlog.get_logger("tally").warning("configuration", file=note.file, key=note.key, reason=note.reason)
    if folder is not None:
        crew = Crew(config, workers, folder)
        _keyed(source, host, open_to_all=crew.open_to_all)
        return partial(crew.run, host, port)
    tally = Tally(config)
    _keyed(source, host, open_to_all=tally.open_to_all)
    return partial(_run, Server(settings(tally, host, port), tally.stopping))


def _run(server: "Server") -> None:
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(NOT_STARTED)


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _keyed(source: str, host: str, *, open_to_all: bool) -> None:
    if open_to_all and not _loopback(host):
        reason = (
            f"{host} is reachable from other machines, and nobody has a key: "
            "configure tenants with keys or a master_key, or listen on 127.0.0.1"
        )
        raise ConfigError([Problem(source, "--host", reason)])


def _loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None)
    except socket.gaierror:
        return False
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)
