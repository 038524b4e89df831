"""Who reads the ledger and who writes it do not wait for each other, on both stores."""

import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from proxy.errors import LedgerUnavailable, NotFound
from proxy.ledger.admin import OPERATIONS, administer
from proxy.ledger.admin.reporting import Reader, readable
from proxy.ledger.books import Books
from proxy.ledger.opening import open_books, open_ledger, read_books
from proxy.ledger.store import wall_clock
from proxy.ledger.written import WrittenLedger
from proxy.types import Tenant
from tests.fake_upstream import FakeUpstream
from tests.process import serving
from tests.served import MASTER_KEY, configuration
from tests.staged import staged
from tests.test_ledger import end, row, wish

PATIENCE_S = 20


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[WrittenLedger, Reader]]:
    opening = partial(open_ledger, url, clock=wall_clock, prepare=lambda books: books.add_tenant(Tenant("acme")))
    # Postgres has a loop of its own, which runs in no loop's thread
    ledger = await anyio.to_thread.run_sync(opening)
    reader = Reader(partial(read_books, url, clock=wall_clock))
    try:
        yield ledger, reader
    finally:
        await reader.close()
        await ledger.close()


def holding(books: Books, begun: threading.Event, go: threading.Event) -> int:
    """How many tenants there are, looked up until `go`."""
    with books.reading():
        found = len(books.tenants())
        begun.set()
        assert go.wait(PATIENCE_S)
        return found + len(books.tenants())


@asynccontextmanager
async def meanwhile(
    run: Callable[[Callable[[Books], int]], Awaitable[int]],
    work: Callable[[Books, threading.Event, threading.Event], int],
) -> AsyncIterator[None]:
    """While `work` is at work."""
    begun, go = threading.Event(), threading.Event()

    async def running() -> None:
        await run(lambda books: work(books, begun, go))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(running)
        assert await anyio.to_thread.run_sync(begun.wait, PATIENCE_S)
        try:
            with anyio.fail_after(PATIENCE_S / 2):
                yield
        finally:
            go.set()


@pytest.mark.anyio
async def test_nobody_who_spends_waits_for_one_who_reads(url: str) -> None:
    async with opened(url) as (ledger, reader), meanwhile(reader.run, holding):
        assert await ledger.reserve(wish("a", 5)) == 1
        ledger.settle(end("a", row("d", nano=5)))
        await ledger.flush()
        # nor does one who reads at the same time
        assert await reader.run(lambda books: books.glance("tenant:acme").spent.nano) == 5


@pytest.mark.anyio
async def test_nobody_who_reads_waits_for_the_one_who_writes(url: str) -> None:
    def writing(books: Books, begun: threading.Event, go: threading.Event) -> int:
        books.create_key("acme")
        begun.set()
        return int(go.wait(PATIENCE_S))

    async with opened(url) as (ledger, reader):
        async with meanwhile(ledger.run, writing):
            assert (await reader.run(lambda books: administer(books, "/key/list", {})))["total_count"] == 0
        # what is committed is there at once
        assert (await reader.run(lambda books: administer(books, "/key/list", {})))["total_count"] == 1


@pytest.mark.anyio
async def test_one_who_reads_changes_nothing(url: str) -> None:
    async with opened(url) as (ledger, reader):
        with pytest.raises(LedgerUnavailable):
            await reader.run(lambda books: books.create_key("acme"))
        assert await ledger.run(lambda books: books.keys()) == []


@pytest.mark.anyio
async def test_a_store_that_is_gone_is_told_and_read_again_when_it_is_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'tally.db'}"
    reader = Reader(partial(read_books, url, clock=wall_clock))
    with pytest.raises(LedgerUnavailable):
        await reader.run(lambda books: books.tenants())
    open_books(url, clock=wall_clock).close()
    assert await reader.run(lambda books: books.tenants()) == []
    with pytest.raises(NotFound):
        await reader.run(lambda books: books.tenant("nobody"))
    await reader.close()


def test_a_ledger_in_memory_is_read_by_its_server_alone() -> None:
    assert readable("sqlite:///tally.db")
    assert readable("postgresql://host/tally")
    assert not readable("sqlite://")


def test_all_that_reads_is_told_while_the_file_is_locked(tmp_path: Path) -> None:
    headers = {"authorization": f"Bearer {MASTER_KEY}"}
    with staged(tmp_path) as stage, httpx.Client(base_url=stage.tally.url, headers=headers, timeout=30) as http:
        made = http.post("/key/generate", json={"team_id": "acme"}).json()
        asked = {"/key/info": {"key": made["key"]}, "/team/info": {"team_id": "acme"}}
        url = stage.tally.config.general_settings.database_url
        with closing(open_books(url, clock=wall_clock)) as other, other.transaction():
            other.probe()
            for path in [path for path, each in OPERATIONS.items() if each.reads]:
                assert http.get(path, params=asked.get(path, {})).status_code == 200, path
            assert http.post("/key/generate", json={"team_id": "acme"}).status_code == 503
        assert http.get("/key/list", params={"team_id": "acme"}).json()["total_count"] == 2


def paths(output: Path) -> list[str]:
    """What was asked of the admin API, as the log tells it."""
    lines = [json.loads(line) for line in output.read_text().splitlines() if line.startswith("{")]
    return [line["path"] for line in lines if line["event"] == "admin"]


def test_every_worker_tells_at_once_what_another_has_changed(tmp_path: Path) -> None:
    with FakeUpstream("42") as upstream:
        (tmp_path / "tally.json").write_text(json.dumps(configuration(upstream.base_url, tmp_path)))
        headers = {"authorization": f"Bearer {MASTER_KEY}", "connection": "close"}
        with serving(upstream, tmp_path, "--config", "tally.json", "--workers", "2", environ={}) as server:
            http = httpx.Client(base_url=server.url, headers=headers, timeout=30)
            for place in range(1, 7):
                made = http.post("/key/generate", json={"team_id": "acme", "key_alias": "new"}).json()
                found = [http.get("/key/list", params={"key_alias": "new"}).json() for _ in range(3)]
                assert [each["total_count"] for each in found] == [place] * 3
                new = http.post(f"/key/{made['token']}/regenerate").json()["key"]
                assert http.get("/key/info", params={"key": new}).json()["key"] == made["token"]
                assert http.get("/key/info", params={"key": made["key"]}).status_code == 404
            http.close()
            upstream.wait(lambda: paths(server.output).count("/key/generate") == 6)
