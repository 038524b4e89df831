"""While the store is gone nothing is sold and nobody waits; when it is back everything goes on by itself."""

import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import httpx
import pytest

from proxy.ledger.checking import check
from proxy.ledger.opening import read_books
from proxy.ledger.store import wall_clock
from tests import postgres
from tests.fake_upstream import FakeUpstream
from tests.process import serving
from tests.served import KEY, RATES, configuration

GONE_S = float(os.environ.get("TALLY_TEST_GONE_S", "2"))
CLIENTS = 4


@dataclass
class Store:
    url: str
    gone: Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        yield Store(f"sqlite:///{tmp_path / 'tally.db'}", lambda: _locked(tmp_path / "tally.db"))
        return
    if os.environ.get("TALLY_TEST_POSTGRES"):
        pytest.skip("a server that others use is not stopped")
    # the server runs as a user of its own, who may not look into pytest's folders
    data = Path(mkdtemp(prefix="tally-pg-"))
    with postgres.server(data) as address:
        yield Store(address, lambda: _stopped(data))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def _stopped(data: Path) -> Iterator[None]:
    """The whole server stands still; connections are neither refused nor answered."""
    master = int((data / "postmaster.pid").read_text().splitlines()[0])
    os.kill(master, signal.SIGSTOP)
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(master)], capture_output=True, text=True, check=False)
    all_of_them = [master, *(int(pid) for pid in done.stdout.split())]
    for pid in all_of_them:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in all_of_them:
            os.kill(pid, signal.SIGCONT)


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
            with store.gone():
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
