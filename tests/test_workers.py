"""Worker processes of one server: how they start and stop, and what they count together."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fake_upstream import FakeUpstream, Reply
from tests.process import Server, children, environment, free_port, lives, serving
from tests.served import KEY, configuration

STOPS = int(os.environ.get("TALLY_TEST_STOPS", "4"))
CLIENT = httpx.Client(limits=httpx.Limits(max_connections=None), timeout=30)


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream("The answer is 42.") as started:
        yield started


@pytest.fixture
def slow() -> Iterator[FakeUpstream]:
    with FakeUpstream(lambda _: Reply(("The answer is 42.",), latency=2)) as started:
        yield started


def configured(upstream: FakeUpstream, folder: Path, **tenant: object) -> tuple[str, str]:
    (folder / "tally.json").write_text(json.dumps(configuration(upstream.base_url, folder, tenant=tenant)))
    return "--config", "tally.json"


def ask(url: str) -> int | None:
    """The status of a request on a connection of its own; None where it was cut."""
    status = _asked(url)
    return status if isinstance(status, int) else None


def test_workers_let_in_together_as_many_requests_a_minute_as_one_process(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    words = configured(upstream, tmp_path, rpm_limit=5)
    with serving(upstream, tmp_path, *words, "--workers", "4", environ={}) as server:
        with ThreadPoolExecutor(40) as clients:
            statuses = list(clients.map(ask, [server.url] * 40))
        assert (statuses.count(200), statuses.count(429)) == (5, 35)


def test_workers_count_requests_at_once_together_and_a_killed_one_s_are_free_again(tmp_path: Path) -> None:
    endless = Reply(("The answer is 42.",), latency=60)
    with FakeUpstream(lambda _: endless) as upstream, ThreadPoolExecutor(48) as clients:
        words = configured(upstream, tmp_path, max_parallel_requests=8)
        with serving(upstream, tmp_path, *words, "--workers", "3", environ={}) as server:

            def eight_at_once() -> list["Future[int | None]"]:
                asked = [clients.submit(ask, server.url) for _ in range(24)]
                upstream.wait(lambda: sum(one.done() for one in asked) == 16 and upstream.in_flight == 8, timeout=30)
                assert all(one.result() == 429 for one in asked if one.done())
                return [one for one in asked if not one.done()]

            inside = eight_at_once()
            dead = children(server.process.pid)[1:]
            for pid in dead:
                os.kill(pid, signal.SIGKILL)
            assert [one.result() for one in inside] == [None] * 8
            upstream.wait(lambda: upstream.in_flight == 0 and not any(map(lives, dead)), timeout=30)
            upstream.wait(lambda: len(children(server.process.pid)) == 4, timeout=30)
            eight_at_once()


@pytest.mark.parametrize("turn", range(STOPS))
def test_a_server_that_is_stopped_while_it_starts_ends_soon_and_leaves_nothing(
    upstream: FakeUpstream, tmp_path: Path, turn: int
) -> None:
    words = configured(upstream, tmp_path)
    command = [sys.executable, "-m", "proxy", "serve", "--port", str(free_port()), *words, "--workers", "4"]
    (tmp_path / "tmp").mkdir()
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(TMPDIR=str(tmp_path / "tmp")), stdout=output, stderr=output
        )
    try:
        # it has been told of the signal from the time on when its folder is there
        upstream.wait(lambda: any((tmp_path / "tmp").iterdir()), timeout=20)
        time.sleep(random.Random(turn).uniform(0, 2.5))
        pids = children(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert not any(lives(pid) for pid in pids)
    assert not any((tmp_path / "tmp").iterdir())
    assert "Traceback" not in (tmp_path / "output.txt").read_text()


SUPERVISED = """
import sys, time
from proxy.cli.supervisor import Role, Supervisor

def sleep():
    time.sleep(60)
    return 0

roles = [Role("last", sleep, last=True), *(Role(str(number), sleep) for number in range(20))]
supervisor = Supervisor(roles, clock=time.monotonic, died=print)
print("ready", flush=True)
supervisor.run()
"""


def test_processes_that_are_stopped_at_any_moment_of_their_start_all_end() -> None:
    moments = random.Random(7)
    command = [sys.executable, "-c", SUPERVISED]
    for _ in range(15):
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moments.uniform(0, 0.04))
            process.send_signal(signal.SIGTERM)
            try:
                # a signal may come before the first of them is heard
                assert process.wait(5) in {0, -signal.SIGTERM}
            finally:
                process.kill()


def test_an_interrupt_at_the_terminal_lets_workers_answer_what_is_in_flight(slow: FakeUpstream, tmp_path: Path) -> None:
    words = configured(slow, tmp_path)
    with serving(slow, tmp_path, *words, "--workers", "2", environ={}) as server, ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(ask, server.url) for _ in range(8)]
        slow.wait(lambda: slow.in_flight == 8, timeout=30)
        for pid in (*children(server.process.pid), server.process.pid):
            os.kill(pid, signal.SIGINT)
        assert [one.result() for one in asked] == [200] * 8
        assert server.process.wait(10) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_is_stopped_refuses_connections_while_it_answers_what_is_in_flight(
    slow: FakeUpstream, tmp_path: Path, workers: int
) -> None:
    words = configured(slow, tmp_path)
    with (
        serving(slow, tmp_path, *words, "--workers", str(workers), environ={}) as server,
        ThreadPoolExecutor(4) as clients,
    ):
        asked = [clients.submit(ask, server.url) for _ in range(4)]
        slow.wait(lambda: slow.in_flight == 4, timeout=30)
        server.process.send_signal(signal.SIGTERM)
        slow.wait(partial(_refused, server.url), timeout=1)
        assert slow.in_flight == 4
        assert [one.result() for one in asked] == [200] * 4
        assert server.process.wait(10) == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_who_is_connected_when_a_busy_server_is_stopped_is_answered(
    upstream: FakeUpstream, tmp_path: Path, workers: int
) -> None:
    words = configured(upstream, tmp_path)
    with serving(upstream, tmp_path, *words, "--workers", str(workers), environ={}) as server:

        def keep_asking(_: int) -> list[int | str]:
            statuses: list[int | str] = []
            while not statuses or statuses[-1] == 200:
                statuses.append(_asked(server.url))
            return statuses

        with ThreadPoolExecutor(12) as clients:
            asking = [clients.submit(keep_asking, number) for number in range(12)]
            time.sleep(1)
            server.process.send_signal(signal.SIGTERM)
            ends = [one.result() for one in asking]
        assert server.process.wait(10) == 0
    assert [statuses[-1] for statuses in ends] == ["refused"] * 12
    assert all(len(statuses) > 1 for statuses in ends)


def test_a_soft_budget_that_several_workers_see_used_up_is_told_once(upstream: FakeUpstream, tmp_path: Path) -> None:
    words = configured(upstream, tmp_path, soft_budget=1e-6)
    with serving(upstream, tmp_path, *words, "--workers", "3", environ={}) as server:
        with ThreadPoolExecutor(12) as clients:
            assert list(clients.map(ask, [server.url] * 60)) == [200] * 60
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
    assert server.output.read_text().count("soft_budget_used") == 1


def test_what_a_killed_worker_had_reserved_is_told(tmp_path: Path) -> None:
    endless = Reply(("The answer is 42.",), latency=60)
    with FakeUpstream(lambda _: endless) as upstream, ThreadPoolExecutor(4) as clients:
        words = configured(upstream, tmp_path)
        with serving(upstream, tmp_path, *words, "--workers", "2", environ={}) as server:
            asked = [clients.submit(ask, server.url) for _ in range(4)]
            upstream.wait(lambda: upstream.in_flight == 4, timeout=30)
            for pid in children(server.process.pid)[1:]:
                os.kill(pid, signal.SIGKILL)
            assert [one.result() for one in asked] == [None] * 4
            upstream.wait(lambda: sum(line["reservations"] for line in _lines(server, "swept")) == 4, timeout=10)
            assert all(line["nano_usd"] > 0 and line["tenants"] == 1 for line in _lines(server, "swept"))


def test_a_killed_server_s_processes_end_and_the_next_one_removes_its_folder(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    words = configured(upstream, tmp_path)
    folders = tmp_path / "tmp"
    folders.mkdir()
    (folders / "tally-of-another").mkdir()
    environ = {"TMPDIR": str(folders)}
    with serving(upstream, tmp_path, *words, "--workers", "3", environ=environ) as server:
        (left,) = folders.glob("tally-*/ledger.sock")
        pids = children(server.process.pid)
        assert len(pids) == 4
        server.process.kill()
        upstream.wait(lambda: not any(map(lives, pids)), timeout=30)
    with serving(upstream, tmp_path, *words, "--workers", "3", environ=environ) as server:
        assert not left.parent.exists()
        assert len(list(folders.glob("tally-*/ledger.sock"))) == 1
        with serving(upstream, tmp_path, *_beside(upstream, tmp_path), "--workers", "2", environ=environ):
            assert len(list(folders.glob("tally-*/ledger.sock"))) == 2
        upstream.wait(partial(_served, server.url))
    assert (folders / "tally-of-another").exists()


def _beside(upstream: FakeUpstream, folder: Path) -> tuple[str, str]:
    data = configuration(
        upstream.base_url, folder, general_settings={"database_url": f"sqlite:///{folder / 'other.db'}"}
    )
    (folder / "other.json").write_text(json.dumps(data))
    return "--config", "other.json"


def _asked(url: str) -> int | str:
    """The status of a request on a connection of its own, or why there is none."""
    body = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
    headers = {"authorization": f"Bearer {KEY}", "connection": "close"}
    try:
        return CLIENT.post(f"{url}/off/v1/chat/completions", json=body, headers=headers).status_code
    except httpx.ConnectError:
        return "refused"
    except httpx.TransportError as error:
        return repr(error)


def _refused(url: str) -> bool:
    address = httpx.URL(url)
    try:
        socket.create_connection((address.host, address.port or 0), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def _lines(server: Server, event: str) -> list[dict[str, Any]]:
    found = (json.loads(line) for line in server.output.read_text().splitlines() if line.endswith("}"))
    return [line for line in found if line["event"] == event]


def _served(url: str) -> bool:
    return ask(url) == 200
