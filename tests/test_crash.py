"""What a killed server owes is charged by the next one, or by those that live on."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from proxy.ledger.checking import TenantCheck, check
from proxy.ledger.opening import read_books
from proxy.ledger.store import wall_clock
from tests.fake_upstream import FakeUpstream, Reply
from tests.process import Server, children, connected, lives, serving
from tests.served import KEY, RATES, configuration

CLIENTS = 40
REQUESTS = 200
CLIENT = httpx.Client(verify=False, limits=httpx.Limits(max_connections=None))
TIMES = int(os.environ.get("TALLY_TEST_KILLS", "2"))


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    slow = Reply(("The answer is 42.",), per_token=0.05)
    with FakeUpstream(lambda _: slow) as started:
        yield started


def test_after_a_kill_the_next_server_charges_what_was_reserved_and_the_books_balance(
    upstream: FakeUpstream, url: str, tmp_path: Path
) -> None:
    """Nothing is left reserved, nothing that was settled is lost, and the account is never below the upstream's."""
    words = _configured(upstream, url, tmp_path)
    settled = 0
    for time_ in range(TIMES):
        few = len(upstream.calls) + CLIENTS + 5 * (time_ % 20)
        with serving(upstream, tmp_path, *words, environ={}) as server, ThreadPoolExecutor(CLIENTS) as clients:
            before = _balance(url)
            assert before.ok
            assert (before.reserved.nano, before.reserved.tokens, before.reserved.samples) == (0, 0, 0)
            assert before.spent.nano >= max(settled, upstream.meter.cost_nano(RATES))
            asked = [clients.submit(_ask, server.url) for _ in range(REQUESTS)]
            upstream.wait(partial(_more, upstream, few), timeout=30)
            server.process.kill()
            server.process.wait()
            settled = _balance(url).spent.nano
            assert {one.result() for one in asked} <= {None, 200}
        upstream.wait(lambda: upstream.in_flight == 0, timeout=30)
    with serving(upstream, tmp_path, *words, environ={}):
        after = _balance(url)
    assert after.ok
    assert after.reserved.nano == 0
    assert after.spent.nano >= max(settled, upstream.meter.cost_nano(RATES)) > 0


def test_a_killed_worker_is_replaced_and_charged_while_its_neighbours_go_on(url: str, tmp_path: Path) -> None:
    slow = Reply(("The answer is 42.",), latency=2.0)
    with FakeUpstream(lambda _: slow) as upstream:
        words = _configured(upstream, url, tmp_path)
        with serving(upstream, tmp_path, *words, "--workers", "2", environ={}) as server:
            with ThreadPoolExecutor(CLIENTS) as clients:
                workers = children(server.process.pid)[-2:]
                asked: list[Future[int | None]] = []
                # who takes a connection is the system's choice
                while not all(connected(pid, urlsplit(upstream.base_url).port or 0) for pid in workers):
                    assert len(asked) < REQUESTS
                    asked.append(clients.submit(_ask, server.url))
                    time.sleep(0.1)
                os.kill(workers[-1], signal.SIGKILL)
                assert {one.result() for one in asked} == {200, None}
            upstream.wait(lambda: _settled(url), timeout=30)
            assert _balance(url).spent.nano >= upstream.meter.cost_nano(RATES) > 0
            number = 3 if url.startswith("sqlite") else 2
            upstream.wait(partial(_replaced, server, workers[-1], number), timeout=30)
            assert _ask(server.url) == 200
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0
    assert _balance(url).ok


def test_workers_answer_what_is_in_flight_when_they_are_stopped(
    upstream: FakeUpstream, url: str, tmp_path: Path
) -> None:
    words = _configured(upstream, url, tmp_path)
    with serving(upstream, tmp_path, *words, "--workers", "2", environ={}) as server:
        with ThreadPoolExecutor(CLIENTS) as clients:
            asked = [clients.submit(_ask, server.url) for _ in range(8)]
            upstream.wait(lambda: upstream.in_flight >= 8, timeout=30)
            server.process.send_signal(signal.SIGTERM)
            assert [one.result() for one in asked] == [200] * 8
        assert server.process.wait(20) == 0
    balance = _balance(url)
    assert (balance.ok, balance.reserved.nano) == (True, 0)
    assert balance.spent.nano == upstream.meter.cost_nano(RATES)


def test_workers_end_with_the_process_that_started_them_and_the_next_server_starts_at_once(
    upstream: FakeUpstream, url: str, tmp_path: Path
) -> None:
    words = _configured(upstream, url, tmp_path)
    with serving(upstream, tmp_path, *words, "--workers", "2", environ={}) as server:
        with ThreadPoolExecutor(CLIENTS) as clients:
            asked = [clients.submit(_ask, server.url) for _ in range(8)]
            upstream.wait(lambda: upstream.in_flight >= 8, timeout=30)
            pids = children(server.process.pid)
            server.process.kill()
            assert [one.result() for one in asked] == [None] * 8
        upstream.wait(lambda: not any(map(lives, pids)), timeout=30)
    with serving(upstream, tmp_path, *words, "--workers", "2", environ={}):
        balance = _balance(url)
    assert (balance.ok, balance.reserved.nano) == (True, 0)
    assert balance.spent.nano >= upstream.meter.cost_nano(RATES)


def test_metrics_are_those_of_all_workers_together(upstream: FakeUpstream, url: str, tmp_path: Path) -> None:
    words = _configured(upstream, url, tmp_path)
    with serving(upstream, tmp_path, *words, "--workers", "2", environ={}) as server:
        with ThreadPoolExecutor(8) as clients:
            assert set(clients.map(_ask, [server.url] * 12)) == {200}
        told = httpx.get(f"{server.url}/metrics").text
        (line,) = [line for line in told.splitlines() if 'status="200"' in line and "tally_requests_total" in line]
        assert line.endswith(" 12.0")


def _more(upstream: FakeUpstream, calls: int) -> bool:
    return len(upstream.calls) > calls


def _replaced(server: Server, dead: int, number: int) -> bool:
    now = children(server.process.pid)
    return dead not in now and len(now) == number


def _configured(upstream: FakeUpstream, url: str, folder: Path) -> tuple[str, str]:
    settings = {"database_url": url}
    config = configuration(upstream.base_url, folder, tenant={"max_budget": 100.0}, general_settings=settings)
    (folder / "tally.json").write_text(json.dumps(config))
    return "--config", "tally.json"


def _ask(url: str) -> int | None:
    body = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
    try:
        reply = CLIENT.post(
            f"{url}/self_consistency/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {KEY}", "connection": "close"},
            timeout=30,
        )
    except httpx.TransportError:
        return None
    return reply.status_code


def _balance(url: str) -> TenantCheck:
    with closing(read_books(url, clock=wall_clock)) as books:
        return next(found for found in check(books) if found.tenant == "acme")


def _settled(url: str) -> bool:
    return _balance(url).reserved.nano == 0
