"""The program in processes of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.fake_upstream import FakeUpstream

ASK = [{"role": "user", "content": "the-word-of-the-prompt"}]


def environment(**more: str) -> dict[str, str]:
    """This process' own without keys and settings of the machine."""
    kept = ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")
    root = str(Path(__file__).parent.parent)
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONPATH": root} | more


def run(*words: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", *words],
        cwd=folder,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@dataclass
class Server:
    url: str
    process: "subprocess.Popen[str]"
    output: Path

    def ask(self, model: str, path: str = "/v1", key: str | None = None, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        body = {"model": model, "messages": ASK, **more}
        return httpx.post(f"{self.url}{path}/chat/completions", json=body, headers=headers, timeout=30)


@contextmanager
def serving(upstream: FakeUpstream, folder: Path, *words: str, environ: Mapping[str, str]) -> Iterator[Server]:
    """`tally serve` in a process of its own, ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    output = folder / "output.txt"
    with output.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve", "--port", str(port), *words],
            cwd=folder,
            env=environment(**environ),
            stdout=written,
            stderr=subprocess.STDOUT,
            text=True,
        )
    server = Server(f"http://127.0.0.1:{port}", process, output)
    try:
        upstream.wait(lambda: ready(server), timeout=30)
        yield server
    finally:
        process.kill()
        process.wait(10)


def ready(server: Server) -> bool:
    assert server.process.poll() is None, server.output.read_text()
    try:
        return httpx.get(f"{server.url}/health/readiness").status_code == 200
    except httpx.TransportError:
        return False
