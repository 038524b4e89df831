"""A server that stops while connections say nothing, or half of a request."""

import json
import signal
import socket
import time
from pathlib import Path

import httpx

from tests.fake_upstream import FakeUpstream, Reply
from tests.process import Server, serving
from tests.served import configuration
from tests.test_cli_serve import ANSWER, seconds_to_stop

_WHOLE = b"GET /health/liveliness HTTP/1.1\r\nhost: x\r\n\r\n"


def _connect(server: Server) -> socket.socket:
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port or 0), timeout=5)


def _configured(upstream: FakeUpstream, folder: Path, **general: object) -> None:
    (folder / "tally.json").write_text(json.dumps(configuration(upstream.base_url, folder, general_settings=general)))


def test_half_of_a_first_request_has_as_long_as_none_of_it(tmp_path: Path) -> None:
    with FakeUpstream(Reply([ANSWER])) as upstream:
        _configured(upstream, tmp_path)
        with serving(upstream, tmp_path, "--config", "tally.json", environ={}) as server, _connect(server) as client:
            client.sendall(_WHOLE[:20])
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.9)
            client.sendall(_WHOLE[20:])
            assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_a_second_interrupt_does_not_wait_for_who_says_nothing(tmp_path: Path) -> None:
    with FakeUpstream(Reply([ANSWER])) as upstream:
        _configured(upstream, tmp_path)
        with serving(upstream, tmp_path, "--config", "tally.json", environ={}) as server, _connect(server):
            time.sleep(0.3)
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.4)
            again = time.monotonic()
            server.process.send_signal(signal.SIGINT)
            server.process.wait(20)
            assert time.monotonic() - again < 1.5


def test_who_says_nothing_takes_nothing_on_top_of_what_a_stop_may_take(tmp_path: Path) -> None:
    with FakeUpstream(Reply([ANSWER], latency=60)) as upstream:
        _configured(upstream, tmp_path, shutdown_s=3)
        with serving(upstream, tmp_path, "--config", "tally.json", environ={}) as server, _connect(server):
            assert seconds_to_stop(server, upstream) < 4.8
