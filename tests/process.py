"""The program in processes of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def children(parent: int) -> list[int]:
    """The processes that a process has started and that live, the first one first."""
    # by their starts, for numbers may begin anew
    done = subprocess.run(
        ["ps", "-o", "pid=,stat=", "--ppid", str(parent), "--sort", "start_time,pid"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line.split() for line in done.stdout.splitlines()]
    return [int(pid) for pid, state in found if not state.startswith("Z")]


def lives(pid: int) -> bool:
    try:
        # whoever adopted it may be slow to bury it
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def connected(pid: int, port: int) -> bool:
    """Whether a process has a connection to this port of this machine."""
    own = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        # it may be closed by now
        with suppress(FileNotFoundError):
            own.add(str(entry.readlink()))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(line[2].endswith(f":{port:04X}") and f"socket:[{line[9]}]" in own for line in lines)


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
    port = free_port()
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
