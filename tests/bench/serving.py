"""Servers in processes of their own: the provider, tally, and the other proxies."""

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.types import JSON
from tests.bench.processes import memory_mb
from tests.bench.upstream import Manner
from tests.process import environment

KEY = "sk-acme-0123456789"
MASTER_KEY = "sk-master-0123456789abcdef"
INPUT, CACHED, OUTPUT = 1.0e-7, 1.0e-8, 4.0e-7
"""Dollars a token."""

ROOT = Path(__file__).parent.parent.parent
_START_S = 120.0
_STOP_S = 15.0
_LOOK_S = 0.005
_IDLE_S = 1.0


class NotStarted(Exception):
    """A server ended before it was ready, or was not ready in time; the message is the end of its output."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server: its process, how long it took until it was ready, and its memory a second after that."""

    name: str
    port: int
    pid: int
    ready_s: float = 0.0
    idle_mb: float = 0.0

    def get(self, path: str, key: str = MASTER_KEY) -> bytes:
        """The body of a reply, whatever its status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path, headers={"authorization": f"Bearer {key}"})
        return connection.getresponse().read()

    def metric(self, name: str) -> float | None:
        """The largest value of a Prometheus metric, None where there is no such metric."""
        lines = self.get("/metrics").decode().splitlines()
        values = [float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return max(values, default=None)

    def meter(self) -> dict[str, int]:
        """What the provider has served by now."""
        found: dict[str, int] = json.loads(self.get("/meter"))
        return found


@contextmanager
def upstream() -> Iterator[Running]:
    """The provider of `tests.bench.upstream`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.upstream"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Running("upstream", int(process.stdout.readline()), process.pid)
    finally:
        process.stdin.close()
        process.wait(_STOP_S)
        process.stdout.close()


def entry(name: str, upstream: Running, manner: Manner, *, model: str = "openai/small") -> JSON:
    """One model of a `model_list`, as tally and LiteLLM's proxy both read it."""
    params = {"model": model, "api_base": manner.base(upstream.port), "api_key": "sk-upstream"}
    prices = {"input_cost_per_token": INPUT, "output_cost_per_token": OUTPUT, "cache_read_input_token_cost": CACHED}
    return {"model_name": name, "litellm_params": params | prices, "model_info": {"max_n": manner.most}}


def configuration(entries: Sequence[JSON], folder: Path, **more: Any) -> JSON:
    """A tally with a tenant that has a budget, so that every request goes through the ledger."""
    acme = {"name": "acme", "keys": [KEY], "max_budget": 1_000_000, "budget_duration": "1mo"}
    return {
        "model_list": list(entries),
        "scaling": {"samples": 8, **more.pop("scaling", {})},
        "tenants": more.pop("tenants", [acme]),
        "general_settings": {"master_key": MASTER_KEY, "database_url": f"sqlite:///{folder / 'tally.db'}"},
        **more,
    }


@contextmanager
def tally(config: JSON, folder: Path, name: str = "tally", *, settle: bool = True) -> Iterator[Running]:
    """`tally serve` with one worker."""
    file = folder / "tally.json"
    file.write_text(json.dumps(config))
    words = [sys.executable, "-m", "proxy", "serve", "--config", str(file)]
    with _started(name, words, folder, "/health/readiness", environment(), settle=settle) as running:
        yield running


@contextmanager
def relay(base: str, folder: Path) -> Iterator[Running]:
    """The bare relay of `tests.bench.relay`."""
    words = [sys.executable, "-m", "tests.bench.relay", base]
    environ = environment(PYTHONPATH=str(ROOT))
    with _started("relay", words, folder, "/", environ) as running:
        yield running


@contextmanager
def litellm(program: Path, entries: Sequence[JSON], folder: Path) -> Iterator[Running]:
    """LiteLLM's proxy with one worker, without a database."""
    file = folder / "litellm.json"
    general = {"master_key": MASTER_KEY}
    file.write_text(json.dumps({"model_list": list(entries), "general_settings": general}))
    environ = _bare(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_MODE="PRODUCTION", LITELLM_LOG="ERROR")
    words = [str(program), "--config", str(file), "--host", "127.0.0.1"]
    with _started("LiteLLM", words, folder, "/health/liveliness", environ) as running:
        yield running


@contextmanager
def its_hub(program: Path, base_url: str, folder: Path) -> Iterator[Running]:
    """its-hub with self-consistency of eight, told by POST."""
    words = [str(program), "--log-level", "ERROR"]
    told = {
        "endpoint": base_url,
        "api_key": "sk-upstream",
        "model": "small",
        "alg": "self-consistency",
        "budget": 8,
        "regex_patterns": [r"answer is (\d+)"],
    }
    with _started("its-hub", words, folder, "/v1/models", _bare()) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        connection.request("POST", "/configure", json.dumps(told), {"content-type": "application/json"})
        reply = connection.getresponse()
        if reply.status != 200:
            raise NotStarted(reply.read().decode()[-500:])
        yield running


def _bare(**more: str) -> dict[str, str]:
    """Without this repository on the path: another's program has modules of its own."""
    kept = environment(**more)
    return {name: value for name, value in kept.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


@contextmanager
def _started(
    name: str, words: Sequence[str], folder: Path, ready: str, environ: Mapping[str, str], *, settle: bool = True
) -> Iterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    output = folder / f"{name}.log"
    began = time.perf_counter()
    with output.open("w") as written:
        process = subprocess.Popen(
            [*words, "--port", str(port)],
            cwd=folder,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        while not _answers(port, ready):
            if process.poll() is not None or time.perf_counter() > began + _START_S:
                raise NotStarted(f"{name}: {output.read_text()[-500:]}")
            time.sleep(_LOOK_S)
        took = time.perf_counter() - began
        if settle:
            time.sleep(_IDLE_S)
        yield Running(name, port, process.pid, took, memory_mb(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
