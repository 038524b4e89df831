"""One ledger under many processes: no limit is passed, and what a dead process owes is charged."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest

from proxy.errors import LedgerUnavailable, NotFound
from proxy.ledger import Amount, Ballot, Credentials, Hot
from proxy.ledger.books import Books
from proxy.ledger.checking import check
from proxy.ledger.frames import Frames, framed
from proxy.ledger.postgres import PostgresBooks, PostgresLedger
from proxy.ledger.remote import RemoteLedger
from proxy.ledger.reports import draws
from proxy.ledger.serving import LedgerServer
from proxy.ledger.sqlite import SqliteLedger
from proxy.ledger.store import wall_clock
from proxy.types import Limits, Tenant
from tests.bench.ledger import DRAW, Load, checks, hammer, tenants, writer
from tests.process import environment
from tests.test_ledger import NOON, acme, end, row, sheet, verdict, wish

SECONDS = float(os.environ.get("TALLY_TEST_SECONDS", "3"))


def test_eight_processes_of_thirty_two_tasks_reach_a_limit_and_never_pass_it(url: str, tmp_path: Path) -> None:
    limit = int(400_000 * SECONDS / 3)
    done = hammer(url, Load(8, 32, SECONDS), tmp_path, limit=limit)
    asked = (done.pairs + done.refused) / done.seconds
    sys.stdout.write(f"{url.partition(':')[0]}: {done.pairs:,} granted, {asked:,.0f} asked for a second\n")
    (only,) = checks(url)
    assert only.ok
    assert only.spent.nano == only.window_spent.nano == done.spent
    assert only.reserved == Amount()
    assert limit - DRAW < only.spent.nano <= limit
    assert done.refused > 0


@asynccontextmanager
async def served(folder: Path, **tenant: object) -> AsyncIterator[Path]:
    """A writer in this process, at the socket that is given; the clock stands still."""
    ledger = SqliteLedger.open(f"sqlite:///{folder / 'tally.db'}", clock=lambda: NOON)
    await ledger.run(lambda books: acme(books, **tenant))
    server, path = LedgerServer(ledger), folder / "ledger.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(str(path))
        door.listen()
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, door)
            yield path
            server.stop()


def remote(path: Path, owner: str = "one", replaced: tuple[str, ...] = ()) -> RemoteLedger:
    books = partial(Books.open, path.parent / "tally.db", clock=lambda: NOON)
    return RemoteLedger(path, owner, replaced, books=books)


async def until(folder: Path, condition: Callable[[Books], bool]) -> None:
    with closing(Books.open_read_only(folder / "tally.db", clock=lambda: NOON)) as books, anyio.fail_after(10):
        while not condition(books):  # noqa: ASYNC110 - another process' doing has no event
            await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_a_worker_asks_the_writer_for_everything_that_a_server_asks_its_ledger(tmp_path: Path) -> None:
    async with served(tmp_path, max_nano=1000) as path:
        ledger = remote(path)
        key = await ledger.run(lambda books: books.create_key("acme", limits=Limits(max_nano=900)))
        found = await ledger.authenticate(key)
        assert isinstance(found, Credentials)
        assert (found.tenant, found.key.max_nano) == (Tenant("acme", max_nano=1000), 900)
        assert await ledger.authenticate("unknown") is None
        assert await ledger.authenticate("\udcff") is None
        assert await ledger.reserve(wish("a", 300, base=Amount(50), choices=8)) == 3
        assert await ledger.extend("a", Amount(50))
        assert not await ledger.extend("a", Amount(1))
        assert await ledger.reserve(wish("huge", 10**30)) == 0
        assert not await ledger.extend("a", Amount(10**30))
        ledger.settle(end("a", row("d0", nano=700, model="half \ud83d")))
        ledger.record(verdict("req_1", Ballot("d0", "42", 0.5, None)))
        await ledger.flush()
        assert [line["label"] for line in await ledger.run(lambda books: list(draws(books)))] == ["42"]
        assert await ledger.feedback("acme", "req_1", correct=True)
        assert not await ledger.feedback("acme", "req_2", correct=True)
        assert await ledger.outcomes("acme", "small", 5) == [(0.75, True)]
        assert await ledger.scores("acme", "small", 5) == []
        await ledger.probe()
        assert (await ledger.run(sheet))[:2] == (Amount(700, 7), Amount())
        with pytest.raises(NotFound, match="no tenant 'nobody'"):
            await ledger.reserve(wish("b", tenant="nobody"))
        await ledger.reserve(wish("c", 1))
        with pytest.raises(ValueError, match="'c' is reserved already"):
            await ledger.reserve(wish("c", 1))
        await ledger.close()
        with pytest.raises(LedgerUnavailable, match="closed"):
            ledger.settle(end("late"))


@pytest.mark.anyio
async def test_what_a_worker_has_reserved_is_charged_when_it_goes_and_no_one_else_s(tmp_path: Path) -> None:
    async with served(tmp_path) as path:
        dying, living = remote(path, "dying"), remote(path, "living")
        await dying.reserve(wish("a", 10))
        await living.reserve(wish("b", 20))
        dying._line.close()
        await until(tmp_path, lambda books: sheet(books) == (Amount(10), Amount(20), Amount(10)))
        living.settle(end("b", row(nano=7)))
        await living.close()


@pytest.mark.anyio
async def test_a_worker_that_takes_a_dead_one_s_place_has_its_reservations_charged(tmp_path: Path) -> None:
    async with served(tmp_path) as path:
        with closing(Books.open(tmp_path / "tally.db", clock=lambda: NOON)) as books:
            books.owner = "dead"
            books.reserve(wish("a", 10))
        next_one = remote(path, "next", ("dead",))
        await next_one.probe()
        await until(tmp_path, lambda books: sheet(books) == (Amount(10), Amount(), Amount(10)))
        await next_one.close()


@pytest.mark.anyio
async def test_a_cancelled_reservation_of_a_worker_is_released(tmp_path: Path) -> None:
    async with served(tmp_path, max_nano=10) as path:
        ledger = remote(path)
        async with anyio.create_task_group() as group:
            group.start_soon(ledger.reserve, wish("a", 10))
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        await ledger.flush()
        assert await ledger.reserve(wish("b", 10)) == 1
        await ledger.close()


@pytest.mark.anyio
async def test_a_writer_that_dies_loses_nothing_that_was_settled_and_its_successor_leaves_the_living_alone(
    tmp_path: Path,
) -> None:
    url, path = f"sqlite:///{tmp_path / 'tally.db'}", tmp_path / "ledger.sock"
    tenants(url, ["acme"], None)
    ledger = remote(path)
    with writer(url, path) as first:
        await ledger.reserve(wish("a", 10))
        await ledger.reserve(wish("b", 10))
        os.kill(first.pid or 0, signal.SIGSTOP)
        ledger.settle(end("a", row(nano=7)))
        begun = time.monotonic()
        with pytest.raises(LedgerUnavailable, match="does not answer"):
            await ledger.reserve(wish("c", 10))
        assert time.monotonic() - begun < 1
        first.kill()
        first.join()
    path.unlink()
    with pytest.raises(LedgerUnavailable):
        await ledger.authenticate("key")
    again = SqliteLedger.open(url, clock=lambda: NOON, living=["one"])
    server = LedgerServer(again)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(str(path))
        door.listen()
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, door)
            await ledger.flush()
            assert await ledger.run(sheet) == (Amount(7, 7), Amount(10), Amount(7, 7))
            ledger.settle(end("b", row("d1", nano=5)))
            await ledger.close()
            server.stop()
    with closing(Books.open_read_only(tmp_path / "tally.db", clock=lambda: NOON)) as books:
        assert sheet(books) == (Amount(12, 14), Amount(), Amount(12, 14))
        assert all(one.ok for one in check(books))


@pytest.mark.anyio
async def test_a_worker_that_has_nothing_to_be_written_leaves_at_once_also_where_no_writer_answers(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(str(path))
        door.listen()
        ledger = remote(path)
        with pytest.raises(LedgerUnavailable, match="does not answer"):
            await ledger.authenticate("key")
        with anyio.fail_after(2):
            await ledger.close()


def test_frames_come_out_whole_however_they_are_cut() -> None:
    frames = [framed(number, 1, "x" * number) for number in range(50)]
    whole = b"".join(frames)
    for step in (1, 7, 1000):
        reader = Frames()
        found = [frame for start in range(0, len(whole), step) for frame in reader.feed(whole[start : start + step])]
        assert [len(frame.body) - 2 for frame in found] == list(range(50))


@pytest.fixture(params=["sqlite", "postgres"])
def group(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    clock = SimpleNamespace(now=NOON)
    if request.param == "sqlite":
        books = Books.open(None, clock=lambda: float(clock.now))
    else:
        on_postgres = PostgresBooks.open_url(request.getfixturevalue("postgres")(), clock=lambda: float(clock.now))
        on_postgres.take_part()
        books = on_postgres
    yield SimpleNamespace(books=books, clock=clock)
    books.close()


def together(books: Books, *asked: Hot) -> list[int | bool] | None:
    return books.together(asked, [None] * len(asked))


def test_a_group_is_granted_what_its_wishes_would_have_been_granted_one_by_one(group: SimpleNamespace) -> None:
    books = group.books
    acme(books, max_nano=1000)
    books.add_tenant(Tenant("blocked", blocked=True))
    key = books.key_id(books.create_key("acme", limits=Limits(max_nano=250)))
    books.reserve(wish("old", 100))
    for scope in (f"key:{key}", "tenant:blocked"):
        books.standing(scope)
    asked: list[Hot] = [
        wish("a", 300, base=Amount(50)),
        wish("b", 300),
        end("old", row(nano=40)),
        wish("c", 311),
        wish("d", 0, tokens=10**6, choices=2),
        wish("e", 100, key=key, choices=4),
        wish("f", 1, tenant="blocked"),
    ]
    assert together(books, *asked) == [1, 1, True, 0, 2, 2, 0]
    only = check(books)[0]
    assert (only.window_spent, only.reserved) == (Amount(40, 7), Amount(850, 2 * 10**6))
    assert all(one.ok for one in check(books))


def test_ballots_stand_beside_their_draws_whether_these_were_settled_in_the_same_group_or_before(
    group: SimpleNamespace,
) -> None:
    books = group.books
    acme(books)
    for number in (1, 2):
        books.reserve(wish(f"early{number}", 1, request=f"req_{number}"))
        books.reserve(wish(f"late{number}", 1, request=f"req_{number}"))
        books.settle(end(f"early{number}", row("d0"), request=f"req_{number}"))
    told = books.together(
        [end(f"late{number}", row("d1"), row("d2"), request=f"req_{number}") for number in (1, 2)],
        [None, None],
        [
            verdict("req_1", Ballot("d0", "41", 0.1, None), Ballot("d1", "42", 0.2, -1.0)),
            verdict("req_2", Ballot("d0", "5", 0.3, None), Ballot("d1", None, 0.4, None), Ballot("d9", "5", 1, None)),
        ],
    )
    assert told == [True, True]
    rows = books.rows("SELECT request, id, label, score, mean_logprob FROM draws ORDER BY request, id").fetchall()
    assert [tuple(found) for found in rows] == [
        ("req_1", "d0", "41", 0.1, None),
        ("req_1", "d1", "42", 0.2, -1.0),
        ("req_1", "d2", None, None, None),
        ("req_2", "d0", "5", 0.3, None),
        ("req_2", "d1", None, 0.4, None),
        ("req_2", "d2", None, None, None),
    ]
    kept = books.rows("SELECT id, answer, first_answer FROM requests ORDER BY id").fetchall()
    assert [tuple(found) for found in kept] == [("req_1", "42", "41"), ("req_2", "42", "41")]
    assert all(one.ok for one in check(books))


def test_a_group_of_any_size_is_written_whole_and_in_order(group: SimpleNamespace) -> None:
    books = group.books
    acme(books)
    names = [f"a{number:02}" for number in range(79)]
    assert together(books, *(wish(name, 1) for name in names)) == [1] * 79
    assert together(books, *(end(name, row(f"d{name}")) for name in names)) == [True] * 79
    rows = books.rows("SELECT attempt, id FROM draws ORDER BY number").fetchall()
    assert [tuple(found) for found in rows] == [(name, f"d{name}") for name in names]
    assert sheet(books)[:2] == (Amount(5 * 79, 7 * 79), Amount())


@pytest.mark.parametrize(
    "asked",
    [
        [wish("a", 1), wish("b", 1, tenant="nobody")],
        [wish("a", 1), wish("old", 1)],
        [wish("a", 1), end("a")],
        [wish("a", 1), wish("a", 1)],
    ],
)
def test_a_group_that_cannot_be_done_together_is_left_to_be_asked_singly(
    group: SimpleNamespace, asked: list[Hot]
) -> None:
    acme(group.books)
    group.books.reserve(wish("old", 100))
    assert together(group.books, *asked) is None
    assert sheet(group.books)[1] == Amount(100)


def test_a_group_at_the_edge_of_a_window_is_counted_in_the_new_one(group: SimpleNamespace) -> None:
    books, clock = group.books, group.clock
    acme(books, max_nano=100, duration="1d")
    books.reserve(wish("a", 100))
    books.settle(end("a", row(nano=100)))
    assert together(books, wish("b", 1), wish("c", 1)) == [0, 0]
    clock.now += 86_400
    # Postgres leaves the first group of a window to the slow way, which begins it
    first = together(books, wish("b", 1), wish("c", 1)) or [books.reserve(wish(name, 1)) for name in "bc"]
    assert first == [1, 1]
    assert together(books, wish("d", 60), wish("e", 40), end("b", row(nano=2))) == [1, 0, True]
    assert sheet(books)[:2] == (Amount(2, 7), Amount(61))
    assert all(one.ok for one in check(books))


def test_a_group_that_finds_no_room_charges_what_has_expired(group: SimpleNamespace) -> None:
    books, clock = group.books, group.clock
    acme(books, max_nano=100)
    books.reserve(wish("leak", 100, lifetime=10))
    clock.now += 11
    assert together(books, wish("a", 1), wish("b", 1)) == [0, 0]
    assert sheet(books) == (Amount(100), Amount(), Amount(100))


def test_two_replicas_prepare_one_after_the_other(postgres: Callable[[], str]) -> None:
    url, seen = postgres(), []

    def prepare(_: Books) -> None:
        seen.append("in")
        time.sleep(0.2)
        seen.append("out")

    def replica() -> None:
        with closing(PostgresBooks.open_url(url, clock=lambda: NOON)) as books:
            books.prepare(prepare)

    threads = [threading.Thread(target=replica) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["in", "out"] * 2


def test_a_replica_takes_its_lock_again_before_anything_else(postgres: Callable[[], str]) -> None:
    url = postgres()
    with (
        closing(PostgresBooks.open_url(url, clock=lambda: NOON)) as one,
        closing(PostgresBooks.open_url(url, clock=lambda: NOON)) as other,
    ):
        one.take_part()
        acme(one)
        one.reserve(wish("a", 10))
        one._database._drop()
        assert one.tenants() == [Tenant("acme")]
        assert other.sweep_dead() == 0
        one.settle(end("a", row(nano=7)))
        assert sheet(one) == (Amount(7, 7), Amount(), Amount(7, 7))


REPLICA = """
import sys, time
from proxy.ledger.postgres import PostgresLedger
from proxy.ledger.store import wall_clock
from tests.test_ledger import wish

ledger = PostgresLedger.open(sys.argv[1], clock=wall_clock)
ledger._writer._books.reserve(wish("a", 10))
print("reserved", flush=True)
time.sleep(60)
"""
_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.mark.skipif("TALLY_TEST_POSTGRES" in os.environ, reason="the server may be on another machine")
def test_a_dead_replica_is_charged_also_where_its_end_is_seen_only_after_the_next_one_has_started(
    postgres: Callable[[], str],
) -> None:
    url = postgres()
    with closing(PostgresBooks.open_url(url, clock=wall_clock)) as books:
        acme(books)
        with subprocess.Popen(
            [sys.executable, "-c", REPLICA, url], env=environment(), stdout=subprocess.PIPE, text=True
        ) as replica:
            assert replica.stdout is not None
            replica.stdout.readline()
            backends = [row["pid"] for row in books.rows(_BACKENDS)]
            for pid in backends:
                os.kill(pid, signal.SIGSTOP)
            replica.kill()
        try:
            ledger = PostgresLedger.open(url, clock=wall_clock)
        finally:
            for pid in backends:
                os.kill(pid, signal.SIGCONT)
        give_up = time.monotonic() + 15
        while sheet(books) != (Amount(10), Amount(), Amount(10)):
            assert time.monotonic() < give_up
            time.sleep(0.05)
        asyncio.run(ledger.close())
