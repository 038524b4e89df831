"""While the store is gone nothing is sold and nobody waits; when it is back everything goes on by itself."""

import json
import os
import resource
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import httpx
import pytest

from proxy.ledger.checking import check
from proxy.ledger.opening import read_books
from proxy.ledger.store import wall_clock
from tests import postgres
from tests.fake_upstream import FakeUpstream
from tests.process import children, lives, serving
from tests.served import KEY, RATES, configuration

GONE_S = float(os.environ.get("TALLY_TEST_GONE_S", "2"))
CLIENTS = 4


@dataclass
class Store:
    """`gone` takes it away from a server, which is given by its process' number."""

    url: str
    gone: Callable[[int], AbstractContextManager[None]]


@pytest.fixture(params=["sqlite-locked", "sqlite-full", "postgres-still", "postgres-stopped"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    kind, how = request.param.split("-")
    if kind == "sqlite":
        path = tmp_path / "tally.db"
        yield Store(f"sqlite:///{path}", partial(_locked, path) if how == "locked" else _full)
        return
    if os.environ.get("TALLY_TEST_POSTGRES"):
        pytest.skip("a server that others use is not stopped")
    # the server runs as a user of its own, who may not look into pytest's folders
    data = Path(mkdtemp(prefix="tally-pg-"))
    with postgres.server(data) as address, ExitStack() as again:
        yield Store(address, partial(_still, data) if how == "still" else partial(_stopped, data, again))


@contextmanager
def _locked(path: Path, _server: int) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def _full(server: int) -> Iterator[None]:
    """The system takes no more from the server than the first page of any file, as a full disk takes nothing."""
    if sys.platform != "linux":
        pytest.skip("no limit can be put on another process")
    pids = [server, *children(server)]
    before = [resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids]
    for pid, (_, hard) in zip(pids, before, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, hard))
    yield
    for pid, limits in zip(pids, before, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@contextmanager
def _still(data: Path, _server: int) -> Iterator[None]:
    """The whole server stands still; connections are neither refused nor answered."""
    master = _postmaster(data)
    os.kill(master, signal.SIGSTOP)
    all_of_them = [master, *children(master)]
    for pid in all_of_them:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in all_of_them:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _stopped(data: Path, again: ExitStack, _server: int) -> Iterator[None]:
    """The server is shut down, its connections are cut and new ones refused; `again` ends the one that follows."""
    command, owner = shlex.split((data / "postmaster.opts").read_text()), data.stat()
    _end(_postmaster(data))
    yield
    follower = subprocess.Popen(
        command, user=owner.st_uid, group=owner.st_gid, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    again.callback(follower.wait)
    again.callback(follower.send_signal, signal.SIGINT)


def _postmaster(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().splitlines()[0])


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGINT)
    give_up = time.monotonic() + 20
    while lives(pid):
        assert time.monotonic() < give_up
        time.sleep(0.02)


@dataclass
class Client:
    """Asks one thing after another, and keeps what became of it: when it was asked, how long it took, its status."""

    url: str
    stop: threading.Event
    seen: list[tuple[float, float, int]] = field(default_factory=list)

    def run(self) -> None:
        body = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
        with httpx.Client(timeout=30) as client:
            while not self.stop.is_set():
                begun = time.monotonic()
                reply = client.post(
                    f"{self.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}
                )
                self.seen.append((begun, time.monotonic() - begun, reply.status_code))
                self.stop.wait(0.02)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_store_that_is_gone_for_a_while_sells_nothing_and_comes_back_by_itself(
    store: Store, tmp_path: Path, workers: str
) -> None:
    settings = {"database_url": store.url, "log_level": "error"}
    with FakeUpstream("The answer is 42.") as upstream:
        data = configuration(upstream.base_url, tmp_path, tenant={"max_budget": 1.0}, general_settings=settings)
        (tmp_path / "tally.json").write_text(json.dumps(data))
        stop = threading.Event()
        with serving(upstream, tmp_path, "--config", "tally.json", "--workers", workers, environ={}) as server:
            clients = [Client(server.url, stop) for _ in range(CLIENTS)]
            threads = [threading.Thread(target=client.run) for client in clients]
            for thread in threads:
                thread.start()
            upstream.wait(lambda: all(client.seen for client in clients), timeout=20)
            with store.gone(server.process.pid):
                gone = time.monotonic()
                time.sleep(0.5)
                # what was reserved just before is drawn; from here on nothing more is
                calls = len(upstream.calls)
                time.sleep(GONE_S)
                assert len(upstream.calls) == calls
                back = time.monotonic()
            upstream.wait(lambda: all(client.seen[-1][0] > back and client.seen[-1][2] == 200 for client in clients))
            stop.set()
            for thread in threads:
                thread.join()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(20)
        seen = [one for client in clients for one in client.seen]
        assert {status for *_, status in seen} == {200, 503}
        refused = [took for begun, took, status in seen if gone + 0.1 < begun < back - 1 and status == 503]
        assert refused
        # the second that is promised, and what a machine that others use takes away
        assert sorted(refused)[len(refused) // 2] < 1.2
        assert max(refused) < 2
        with closing(read_books(store.url, clock=wall_clock)) as books:
            only = next(one for one in check(books) if one.tenant == "acme")
        assert (only.ok, only.reserved.nano) == (True, 0)
        assert only.spent.nano >= upstream.meter.cost_nano(RATES)
