"""What a killed server owes is charged by the next one."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from proxy.ledger.books import Books
from proxy.ledger.checking import TenantCheck, check
from tests.fake_upstream import FakeUpstream, Reply
from tests.process import serving
from tests.served import KEY, RATES, configuration

CLIENTS = 12


def test_after_a_kill_the_next_server_charges_what_was_reserved_and_the_books_balance(tmp_path: Path) -> None:
    """Nothing is left reserved, and the account is never below what the upstream served."""
    slow = Reply(("The answer is 42.",), per_token=0.05)
    with FakeUpstream(lambda _: slow) as upstream, ThreadPoolExecutor(CLIENTS) as clients:
        config = configuration(upstream.base_url, tmp_path, tenant={"max_budget": 1.0})
        (tmp_path / "tally.json").write_text(json.dumps(config))
        words = ("--config", "tally.json")
        with serving(upstream, tmp_path, *words, environ={}) as server:
            asked = [clients.submit(_ask, server.url) for _ in range(CLIENTS)]
            upstream.wait(lambda: upstream.in_flight == CLIENTS)
            server.process.kill()
            server.process.wait()
            assert [one.result() for one in asked] == [None] * CLIENTS
        upstream.wait(lambda: upstream.in_flight == 0)
        assert _balance(tmp_path).reserved.nano > 0
        with serving(upstream, tmp_path, *words, environ={}):
            balance = _balance(tmp_path)
        assert balance.ok
        assert (balance.reserved.nano, balance.reserved.tokens) == (0, 0)
        assert balance.spent.nano >= upstream.meter.cost_nano(RATES) > 0


def _ask(url: str) -> int | None:
    body = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
    try:
        reply = httpx.post(
            f"{url}/self_consistency/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}
        )
    except httpx.TransportError:
        return None
    return reply.status_code


def _balance(folder: Path) -> TenantCheck:
    books = Books.open_read_only(folder / "tally.db", clock=lambda: 0.0)
    try:
        return next(found for found in check(books) if found.tenant == "acme")
    finally:
        books.close()
