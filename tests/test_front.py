"""What stands between uvicorn and the endpoints: the frequent paths, limits of time, one write a turn of the loop."""

import asyncio
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from proxy.api.front import Front
from proxy.api.patience import Patience
from proxy.api.presence import EXTENSION, while_there
from proxy.api.sending import Sending
from proxy.cli.gathering import Gathering
from proxy.errors import ClientGone
from tests.process import environment

pytestmark = pytest.mark.anyio


async def asked(method: str, path: str, endpoints: dict[str, Callable[[Request], Awaitable[Response]]]) -> list[Any]:
    """What a front with these endpoints says, or the scope that it hands on."""
    said: list[Any] = []

    async def rest(scope: Any, _receive: Any, _send: Any) -> None:
        said.append(scope)

    async def send(message: Any) -> None:
        said.append(message.get("body", message.get("status")))

    scope = {"type": "http", "method": method, "path": path, "headers": []}
    await Front(rest, endpoints=endpoints)(scope, None, send)  # type: ignore[arg-type]  # nothing is received
    return said


async def strategy(request: Request) -> Response:
    return Response(str(request.path_params.get("strategy")))


@pytest.mark.parametrize(
    ("path", "said"),
    [("/v1/a", b"None"), ("/off/v1/a", b"off"), ("/v1/v1/a", b"v1")],
)
async def test_a_frequent_path_is_answered_with_or_without_a_strategy_before_it(path: str, said: bytes) -> None:
    assert await asked("POST", path, {"/v1/a": strategy}) == [200, said]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/a"), ("POST", "/v1/b"), ("POST", "//v1/a"), ("POST", "/x/y/v1/a"), ("POST", "/v1/a/"), ("POST", "")],
)
async def test_all_else_is_handed_on_as_it_came(method: str, path: str) -> None:
    (scope,) = await asked(method, path, {"/v1/a": strategy})
    assert scope == {"type": "http", "method": method, "path": path, "headers": []}


async def test_what_takes_longer_than_its_patience_is_a_timeout() -> None:
    with pytest.raises(TimeoutError), Patience(0.01):
        await asyncio.sleep(5)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_is_done_in_time_is_left_alone_and_a_cancellation_is_no_timeout() -> None:
    with Patience(0.01):
        pass
    await asyncio.sleep(0.03)

    async def held() -> None:
        with Patience(5):
            await asyncio.sleep(5)

    task = asyncio.get_running_loop().create_task(held())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_client_that_takes_nothing_is_gone_and_one_that_is_slow_is_not() -> None:
    taken = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "slow":
            await asyncio.sleep(0.06)
        elif message["type"] == "stuck":
            await taken.wait()

    sending = Sending(send, 0.1)
    for kind in ("quick", "slow", "slow", "slow", "quick"):
        await sending({"type": kind})
    with pytest.raises(ClientGone):
        await sending({"type": "stuck"})
    sending.close()


class Line:
    """A client's connection."""

    def __init__(self) -> None:
        self.watching: set[Callable[[], None]] = set()

    def watch(self, lost: Callable[[], None]) -> None:
        self.watching.add(lost)

    def unwatch(self, lost: Callable[[], None]) -> None:
        self.watching.discard(lost)


async def test_work_is_cancelled_when_its_client_goes_and_nothing_of_that_stays() -> None:
    line, ended = Line(), list[str]()

    async def work() -> None:
        try:
            asyncio.get_running_loop().call_later(0.01, lambda: [lost() for lost in set(line.watching)])
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    scope = {"type": "http", "extensions": {EXTENSION: line}}
    assert not await while_there(scope, None, work)  # type: ignore[arg-type]  # it is not asked
    await asyncio.sleep(0.01)
    assert ended == ["cancelled"]
    assert line.watching == set()


async def test_a_server_that_stops_cancels_the_work_and_is_told_so() -> None:
    line = Line()
    scope = {"type": "http", "extensions": {EXTENSION: line}}

    async def work() -> None:
        await asyncio.sleep(5)

    async def served() -> None:
        await while_there(scope, None, work)  # type: ignore[arg-type]  # it is not asked

    task = asyncio.get_running_loop().create_task(served())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert line.watching == set()


class Sent(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def test_what_is_written_in_one_turn_of_the_loop_goes_out_together_and_in_order() -> None:
    sent = Sent()
    gathering = Gathering(sent, asyncio.get_running_loop())
    for part in (b"a", b"b", b"c"):
        gathering.write(part)
    assert sent.writes == []
    await asyncio.sleep(0)
    gathering.write(b"d")
    gathering.close()
    await asyncio.sleep(0)
    assert (sent.writes, sent.closed) == ([b"abc", b"d"], True)


IMPORTED = """
import sys
from proxy.app import Tally
from proxy.config import parse_config
model = {"model": "openai/small", "api_base": "http://127.0.0.1:9/v1"}
model |= {"input_cost_per_token": 1, "output_cost_per_token": 1}
config = {"model_list": [{"model_name": "small", "litellm_params": model}]}
config["general_settings"] = {"database_url": sys.argv[1]}
Tally(parse_config(config, "test", {}), environ={}).application()
import proxy.cli.server
HEAVY = "aiohttp asyncpg httpx litellm math_verify matplotlib numpy openai rapidfuzz scipy sklearn sympy"
print(*[name for name in HEAVY.split() if name in sys.modules])
"""


def test_a_server_on_the_direct_lane_imports_nothing_heavy(tmp_path: Any) -> None:
    command = [sys.executable, "-c", IMPORTED, f"sqlite:///{tmp_path}/tally.db"]
    runs = [
        subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
        # the first one makes the tables
        for _ in range(2)
    ]
    assert runs[1].stdout.strip() == ""


COMMANDS = """
import sys
from click.testing import CliRunner
from proxy.cli import main
result = CliRunner().invoke(main, sys.argv[1:])
assert result.exit_code == 0, result.output
HEAVY = "aiohttp asyncpg fastapi httpx litellm matplotlib numpy openai scipy sklearn starlette sympy uvicorn"
print(*[name for name in HEAVY.split() if name in sys.modules])
"""


@pytest.mark.parametrize(
    "command", [["serve", "--help"], ["tenant", "--help"], ["key", "--help"], ["ledger", "--help"]]
)
def test_a_command_that_serves_nothing_imports_no_server(command: list[str]) -> None:
    program = [sys.executable, "-c", COMMANDS, *command]
    done = subprocess.run(program, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_a_served_process_may_open_as_many_descriptors_as_the_system_allows(tmp_path: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limited = "import os, resource, sys; _, most = resource.getrlimit(resource.RLIMIT_NOFILE);"
    limited += (
        "resource.setrlimit(resource.RLIMIT_NOFILE, (min(128, most), most)); os.execv(sys.executable, sys.argv[1:])"
    )
    command = [sys.executable, "-c", limited, sys.executable, "-m", "proxy", "serve", "--port", str(port)]
    server = subprocess.Popen(command, env=environment(), cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health/liveliness").status_code == 200:
                    break
            except httpx.ConnectError:
                time.sleep(0.05)
        soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        assert soft == hard != 128
    finally:
        server.terminate()
        server.wait(20)
