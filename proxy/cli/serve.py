"""`tally serve`: run the proxy."""

import ipaddress
import os
import socket
import sys
from contextlib import suppress
from functools import cache
from math import ceil
from pathlib import Path

import click

from proxy.cli.books import clear_errors
from proxy.errors import ConfigError, Problem

_NOT_STARTED = 3
"""The exit status of a server that could not listen; its log says why."""


@click.command()
@click.option("--config", "config_path", type=click.Path(dir_okay=False, path_type=Path), help="tally.yaml, or JSON.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
@clear_errors
def serve(config_path: Path | None, host: str, port: int) -> None:
    """Serve the OpenAI API. Without a configuration every LiteLLM model name works, on this machine alone."""
    # a server pays for its imports, `tally --help` does not
    import structlog
    import uvicorn

    from proxy.app import Tally
    from proxy.cli.guard import guarded
    from proxy.cli.server import Server
    from proxy.config import load_config
    from proxy.telemetry import configure_logging
    from proxy.upstream.checking import check_models
    from proxy.upstream.prices import PriceMap

    config = load_config(config_path)
    configure_logging(config.general_settings.log_level)
    source = str(config_path or "serve")
    for note in check_models(config, source, environ=os.environ, prices=cache(PriceMap)):
        structlog.get_logger("tally").warning("configuration", file=note.file, key=note.key, reason=note.reason)
    tally = Tally(config)
    if tally.open_to_all and not _loopback(host):
        raise ConfigError(
            [
                Problem(
                    source,
                    "--host",
                    f"{host} is reachable from other machines, and nobody has a key: "
                    "configure tenants with keys or a master_key, or listen on 127.0.0.1",
                )
            ]
        )
    settings = uvicorn.Config(
        tally.application(),
        host=host,
        port=port,
        loop="uvloop",
        http=guarded(config.general_settings.max_header_bytes, config.general_settings.read_s),
        access_log=False,
        server_header=False,
        log_config=None,
        log_level="warning",
        timeout_keep_alive=75,
        # a request that began just now has its whole deadline, and a moment to be answered
        timeout_graceful_shutdown=min(ceil(config.scaling.deadline_s) + 5, config.general_settings.shutdown_s),
    )
    server = Server(settings, tally.stopping)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(_NOT_STARTED)


def _loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None)
    except socket.gaierror:
        return False
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)
