"""Several replicas on one Postgres: what one does while another does the same."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from queue import SimpleQueue
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from proxy.errors import ConfigError, LedgerUnavailable
from proxy.ledger import Amount, DrawRow, Reservation, Settlement
from proxy.ledger.address import scrubbed, shown
from proxy.ledger.admin.reporting import Reader
from proxy.ledger.books import Books
from proxy.ledger.checking import check
from proxy.ledger.database import StoreLost
from proxy.ledger.keys import NewKey
from proxy.ledger.opening import open_books, read_books
from proxy.ledger.pg import PostgresDatabase
from proxy.ledger.postgres import PostgresBooks, PostgresLedger
from proxy.ledger.process import Process, this_process
from proxy.ledger.writer import Operation, Writer, reserving, settling
from proxy.types import Account, Limits, Tenant
from tests.postgres import Network, NewDatabase

NOON = 1_773_835_200.0
ACME = Account("acme", None, "req_1")


@pytest.fixture
def clock() -> SimpleNamespace:
    """The wall clock, and a count of seconds."""
    return SimpleNamespace(now=NOON, seconds=0.0)


@pytest.fixture
def replicas(postgres: NewDatabase, clock: SimpleNamespace) -> Iterator[list[PostgresBooks]]:
    url = postgres()
    with ExitStack() as closers:
        opened = []
        for _ in range(2):
            books = PostgresBooks.open_url(
                url, clock=lambda: float(clock.now), timeout=10.0, monotonic=lambda: float(clock.seconds)
            )
            closers.callback(books.close)
            books.take_part()
            opened.append(books)
        yield opened


def wish(attempt: str, nano: int, *, lifetime: float = 60.0, account: Account = ACME) -> Reservation:
    return Reservation(attempt, account, Amount(), Amount(nano, 1), 1, lifetime)


def at_once(*works: Callable[[], object]) -> None:
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        barrier.wait()
        work()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_what_two_replicas_sweep_at_once_is_charged_once(replicas: list[PostgresBooks], clock: SimpleNamespace) -> None:
    first, second = replicas
    # of a process that is no replica
    first.owner = ""
    first.add_tenant(Tenant("acme", max_nano=200))
    for number in range(20):
        first.update_tenant("acme", max_nano=100 * (number + 1))
        assert first.reserve(wish(f"a{number}", 100, lifetime=5.0)) == 1
        clock.now += 10
        at_once(first.sweep, second.sweep)
        (only,) = check(first)
        assert only.ok
        assert (only.spent.nano, only.reserved.nano) == (100 * (number + 1), 0)


def test_a_settlement_beside_a_sweep_charges_one_of_the_two(
    replicas: list[PostgresBooks], clock: SimpleNamespace
) -> None:
    first, second = replicas
    # of a process that is no replica
    first.owner = ""
    first.add_tenant(Tenant("acme"))
    row = DrawRow("d", "draw", 1, 0, "ok", "m", "d", 1, 0, 1, 0, 60, False, "stop", 1, 1)
    spent = 0
    for number in range(20):
        name = f"a{number}"
        first.reserve(wish(name, 100, lifetime=5.0))
        clock.now += 10
        at_once(partial(first.settle, Settlement(name, ACME, (row,))), second.sweep)
        (only,) = check(first)
        assert only.ok
        assert only.reserved.nano == 0
        assert only.spent.nano - spent in (60, 100)
        spent = only.spent.nano


def test_a_transaction_whose_connection_is_lost_is_lost_as_a_whole(replicas: list[PostgresBooks]) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme"))
    pid = first.rows("SELECT pg_backend_pid() AS pid").fetchone()["pid"]

    def torn() -> None:
        with first.transaction():
            first.reserve(wish("a", 10))
            second.rows("SELECT pg_terminate_backend(?::int)", pid)
            first.reserve(wish("b", 10))

    with pytest.raises(StoreLost):
        torn()
    assert first.rows("SELECT attempt FROM reservations").fetchall() == []
    assert first.reserve(wish("c", 10)) == 1
    assert all(one.ok for one in check(first))


def test_groups_that_extend_lock_tenants_in_one_order(replicas: list[PostgresBooks]) -> None:
    first, second = replicas
    names = ["a", "b", "c", "d"]
    for name in names:
        first.add_tenant(Tenant(name))
        for books, mark in ((first, 1), (second, 2)):
            books.reserve(wish(f"{name}{mark}", 10, account=Account(name, None, "r")))
    numbers = count()

    def extend(books: PostgresBooks, order: list[str]) -> None:
        for _ in range(30):
            with books.transaction():
                books.lock(set(), set(order))
                for attempt in order:
                    assert books.extend(attempt, Amount(1, 1))
                    next(numbers)

    at_once(
        lambda: extend(first, [f"{name}1" for name in names]),
        lambda: extend(second, [f"{name}2" for name in reversed(names)]),
    )
    assert next(numbers) == 2 * 30 * len(names)
    assert all(one.ok for one in check(first))


def charged(books: PostgresBooks) -> tuple[int, int]:
    """What the tenant has spent and what it has reserved, in nano-USD."""
    (only,) = check(books)
    assert only.ok
    return only.spent.nano, only.reserved.nano


def backends(books: PostgresBooks, name: str) -> int:
    row = books.row("SELECT count(*) AS number FROM pg_stat_activity WHERE application_name = ?", name)
    assert row is not None
    return int(row["number"])


def own_name(books: PostgresBooks) -> str:
    return str(books.rows("SELECT current_setting('application_name') AS name").fetchone()["name"])


def lose_connection(books: PostgresBooks, by: PostgresBooks) -> None:
    pid = books.rows("SELECT pg_backend_pid() AS pid").fetchone()["pid"]
    by.rows("SELECT pg_terminate_backend(?::int)", pid)
    while by.rows("SELECT 1 FROM pg_stat_activity WHERE pid = ?", pid).fetchall():
        time.sleep(0.01)


def reserved(replicas: list[PostgresBooks]) -> list[PostgresBooks]:
    """The two of them, the first with a reservation of 10 for `acme`."""
    replicas[0].add_tenant(Tenant("acme"))
    assert replicas[0].reserve(wish("a", 10)) == 1
    return replicas


def test_a_replica_that_has_just_lost_its_connection_is_not_taken_for_dead(
    replicas: list[PostgresBooks], clock: SimpleNamespace
) -> None:
    first, second = reserved(replicas)
    for _ in range(5):
        with suppress(StoreLost):
            lose_connection(first, second)
        second.tend()
        clock.seconds += 2
        second.tend()
        clock.seconds += 2
        with suppress(StoreLost):
            first.tend()
        first.tend()
        second.tend()
        clock.seconds += 2
    assert charged(second) == (0, 10)
    assert first.settle(Settlement("a", ACME, ()))


def test_a_lock_that_was_free_for_some_seconds_is_that_of_a_dead_replica(
    replicas: list[PostgresBooks], clock: SimpleNamespace
) -> None:
    first, second = reserved(replicas)
    first.close()
    for _ in range(3):
        second.tend()
        assert charged(second) == (0, 10)
        clock.seconds += 2
    second.tend()
    assert charged(second) == (10, 0)


def test_one_who_could_not_look_for_a_while_begins_to_look_anew(
    replicas: list[PostgresBooks], clock: SimpleNamespace
) -> None:
    """Whatever kept it from looking may have kept the others from making their connections."""
    first, second = reserved(replicas)
    first.close()
    for _ in range(3):
        second.tend()
        clock.seconds += 60
    assert charged(second) == (0, 10)


DYING = """
import sys
from proxy.ledger import Amount, Reservation
from proxy.ledger.postgres import PostgresBooks
from proxy.types import Account
books = PostgresBooks.open_url(sys.argv[1], clock=lambda: 1_773_835_200.0)
books.take_part()
books.reserve(Reservation("a", Account("acme", None, "r"), Amount(), Amount(10, 1), 1, 600.0))
print("reserved", flush=True)
sys.stdin.read()
"""


def test_a_restarted_server_charges_at_once_what_its_predecessor_had_reserved(
    postgres: NewDatabase, clock: SimpleNamespace
) -> None:
    url = postgres()
    with closing(PostgresBooks.open_url(url, clock=lambda: float(clock.now))) as books:
        books.add_tenant(Tenant("acme"))
        with subprocess.Popen(
            [sys.executable, "-c", DYING, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as dying:
            assert dying.stdout is not None
            assert dying.stdout.readline() == "reserved\n"
            with closing(PostgresBooks.open_url(url, clock=lambda: float(clock.now))) as beside:
                beside.take_part()
            assert charged(books) == (0, 10)
            dying.kill()
        gone = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"
        while books.rows(gone).fetchall():
            time.sleep(0.01)
        books.take_part()
        assert charged(books) == (10, 0)


def test_what_a_process_elsewhere_has_reserved_is_not_charged_at_once(
    postgres: NewDatabase, clock: SimpleNamespace
) -> None:
    url = postgres()
    with closing(PostgresBooks.open_url(url, clock=lambda: float(clock.now))) as books:
        with closing(PostgresBooks.open_url(url, clock=lambda: float(clock.now))) as other:
            other.take_part(Process("feed", 2**22 + 1, "1"))
            other.add_tenant(Tenant("acme"))
            other.reserve(wish("a", 10))
        books.take_part()
        assert charged(books) == (0, 10)


def test_what_was_copied_from_another_store_is_charged_at_once(replicas: list[PostgresBooks]) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme"))
    first.owner = "5f2e"
    first.reserve(wish("a", 10))
    second.tend()
    assert charged(second) == (10, 0)


def test_a_process_is_gone_only_where_that_is_sure() -> None:
    mine = this_process()
    with subprocess.Popen(["sleep", "60"]) as other:
        theirs = replace(mine, pid=other.pid, born="")
        assert not theirs.gone
        other.kill()
    assert theirs.gone == bool(mine.host)
    assert not replace(theirs, host="feed").gone
    assert not replace(theirs, host="").gone
    assert not mine.gone
    # the number is another process' by now
    assert replace(mine, born="1").gone == bool(mine.born)
    # nothing forbids to look for the first process, whoever has it
    assert not replace(mine, pid=1, born="").gone


def test_where_nothing_tells_machines_apart_no_process_is_known_to_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert this_process().host == ""


def test_what_thousands_have_left_is_charged_in_parts(replicas: list[PostgresBooks], clock: SimpleNamespace) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme", max_nano=10**6, duration="1d"))
    for start in range(0, 1200, 200):
        first.reserve(wish(f"begin{start}", 1))
        assert first.together([wish(f"a{start + n}", 10) for n in range(200)]) == [1] * 200
    first.close()
    # in a new window, which nobody has begun
    clock.now += 86_400
    for _ in range(4):
        second.sweep_dead()
        clock.seconds += 2
    assert charged(second) == (12_006, 0)
    parts = second.row("SELECT count(DISTINCT xmin::text) AS number FROM draws")
    assert parts is not None
    assert parts["number"] == 3


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_what_has_expired_is_charged_a_part_at_a_time_whoever_s_it_is(
    store: str, request: pytest.FixtureRequest, clock: SimpleNamespace
) -> None:
    books: Books
    if store == "sqlite":
        books = Books.open(None, clock=lambda: float(clock.now))
    else:
        books = PostgresBooks.open_url(request.getfixturevalue("postgres")(), clock=lambda: float(clock.now))
    with closing(books):
        books.add_tenant(Tenant("acme"))
        for start in range(0, 600, 200):
            asked = [wish(f"a{start + n}", 10, lifetime=5.0) for n in range(200)]
            assert books.together(asked, [None] * 200) in ([1] * 200, None)
            for each in asked:
                with suppress(ValueError):
                    books.reserve(each)
        clock.now += 10
        books.tend()
        (only,) = check(books)
        assert (only.ok, only.spent.nano, only.reserved.nano) == (True, 5000, 1000)
        books.tend()
        assert [(one.ok, one.reserved.nano) for one in check(books)] == [(True, 0)]


def test_whether_the_store_takes_a_row_is_tried_without_waiting_for_another_replica(
    replicas: list[PostgresBooks],
) -> None:
    first, second = replicas
    second._database.timeout = 0.5
    with first.transaction():
        first.probe()
        second.probe()
    assert first.row("SELECT 1 FROM meta WHERE name LIKE 'probed%'") is None


@contextmanager
def behind_a_network(url: str, clock: SimpleNamespace) -> Iterator[tuple[Network, PostgresBooks, PostgresBooks]]:
    """A network that can be cut, books that reach their server through it alone, and others that need it not."""
    network = Network(url)
    with (
        closing(network),
        closing(PostgresBooks.open_url(network.url, clock=lambda: float(clock.now), timeout=0.5)) as cut,
        closing(PostgresBooks.open_url(url, clock=lambda: float(clock.now), timeout=5.0)) as other,
    ):
        yield network, cut, other


def test_a_replica_whose_network_was_cut_goes_on_at_once_and_holds_up_nobody(
    postgres: NewDatabase, clock: SimpleNamespace
) -> None:
    with behind_a_network(postgres(), clock) as (network, cut, other):
        cut.take_part()
        other.take_part()
        cut.add_tenant(Tenant("acme"))
        name = own_name(cut)

        def torn() -> None:
            with cut.transaction():
                cut.reserve(wish("a", 10))
                network.cut()
                cut.reserve(wish("b", 10))

        with pytest.raises(StoreLost):
            torn()
        # the server still believes in the connection, and in its locks
        assert backends(other, name) == 1
        assert cut.reserve(wish("c", 10)) == 1
        assert backends(other, name) == 1
        assert other.reserve(wish("d", 10)) == 1
        other.tend()
        assert charged(other) == (0, 20)


def test_a_statement_that_takes_too_long_is_ended_by_the_server_and_costs_no_connection(
    replicas: list[PostgresBooks],
) -> None:
    first, _ = replicas
    first._database.timeout = 0.5
    pid = first.rows("SELECT pg_backend_pid() AS pid").fetchone()["pid"]
    with pytest.raises(StoreLost, match="statement timeout"):
        first.rows("SELECT pg_sleep(5)")
    assert first.rows("SELECT pg_backend_pid() AS pid").fetchone()["pid"] == pid


def test_a_transaction_that_stands_still_is_ended_by_the_server(replicas: list[PostgresBooks]) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme"))
    first._database.idle = 0.2

    def hang() -> None:
        with first.transaction():
            first.reserve(wish("a", 10))
            time.sleep(0.6)
            first.reserve(wish("b", 10))

    with pytest.raises(StoreLost):
        hang()
    assert second.reserve(wish("c", 10)) == 1
    assert first.reserve(wish("d", 10)) == 1
    assert charged(first) == (0, 20)


def test_columns_that_a_newer_replica_adds_are_no_trouble(replicas: list[PostgresBooks]) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme"))
    assert first.tenants() == [Tenant("acme")]
    second.rows("ALTER TABLE tenants ADD COLUMN later BIGINT")
    with suppress(StoreLost):
        first.tenants()
    assert first.tenants() == [Tenant("acme")]


def test_two_changes_of_a_tenant_at_once_are_both_made(replicas: list[PostgresBooks]) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme"))
    key = first.key_id(first.create_key("acme"))

    for mine, theirs in (
        (lambda: first.update_tenant("acme", rpm_limit=5), lambda: second.update_tenant("acme", tpm_limit=7)),
        (lambda: first.update_key(key, rpm_limit=6), lambda: second.update_key(key, tpm_limit=8)),
    ):
        thread = threading.Thread(target=theirs)
        with first.transaction():
            mine()
            thread.start()
            time.sleep(0.3)
        thread.join()
    tenant, changed = first.tenant("acme"), first.key(key)
    assert (tenant.rpm_limit, tenant.tpm_limit) == (5, 7)
    assert (changed.rpm_limit, changed.tpm_limit) == (6, 8)


def test_books_whose_connection_is_lost_are_closed_without_an_error(
    replicas: list[PostgresBooks], clock: SimpleNamespace, postgres: NewDatabase
) -> None:
    first, second = replicas
    lose_connection(first, second)
    first.close()
    first.close()
    network = Network(postgres())
    with closing(network):
        cut = PostgresBooks.open_url(network.url, clock=lambda: float(clock.now), timeout=0.3)
        network.cut()
        cut.close()


def test_a_server_beside_a_busy_one_starts_and_waits_for_its_turn(
    replicas: list[PostgresBooks], clock: SimpleNamespace
) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme"))
    url = second._database._url

    def busy() -> None:
        with first.transaction():
            first.update_tenant("acme", rpm_limit=5)
            held.set()
            time.sleep(1.2)

    held = threading.Event()
    thread = threading.Thread(target=busy)
    thread.start()
    held.wait()

    ledger = PostgresLedger.open(url, clock=lambda: float(clock.now), prepare=lambda books: books.block("acme"))
    asyncio.run(ledger.close())
    thread.join()
    assert (first.tenant("acme").rpm_limit, first.tenant("acme").blocked) == (5, True)


def test_tenants_are_adopted_in_whatever_order_beside_groups_that_lock_them_in_one(
    replicas: list[PostgresBooks],
) -> None:
    first, second = replicas
    names = ["a", "b", "c", "d"]
    second.prepare(lambda books: books.adopt([Tenant(name) for name in names], {}))
    done = count()

    def reserve() -> None:
        for number in range(30):
            with first.transaction():
                first.lock(set(names))
                for name in names:
                    first.reserve(wish(f"{name}{number}", 1, account=Account(name, None, "r")))
            next(done)

    def adopt() -> None:
        for number in range(30):
            tenants = [Tenant(name, rpm_limit=number + 1) for name in reversed(names)]
            second.prepare(lambda books: books.adopt(tenants, {}))  # noqa: B023 - called at once
            next(done)

    at_once(reserve, adopt)
    assert next(done) == 60


def test_a_server_that_loses_the_store_while_it_starts_says_why(replicas: list[PostgresBooks]) -> None:
    first, _ = replicas

    def prepare(books: Books) -> None:
        books.rows("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(ConfigError, match=r"database_url: cannot be prepared as a ledger: .*terminat"):
        first.prepare(prepare)


def test_a_server_without_requests_makes_its_connections_anew(
    replicas: list[PostgresBooks], clock: SimpleNamespace
) -> None:
    first, second = replicas
    url = second._database._url
    second.close()
    held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
    ledger = PostgresLedger.open(url, clock=lambda: float(clock.now))
    before = {row["pid"] for row in first.rows(held)}
    assert len(before) == 2
    first.rows("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()")
    give_up = time.monotonic() + 10
    while not {row["pid"] for row in first.rows(held)} - before:
        assert time.monotonic() < give_up
        time.sleep(0.05)
    asyncio.run(ledger.close())


def test_a_lost_connection_is_made_anew_only_once_the_server_has_let_go_of_it(
    postgres: NewDatabase, clock: SimpleNamespace
) -> None:
    """Else the server may commit, later, what was given up."""
    with behind_a_network(postgres(), clock) as (network, cut, other), stopped(cut) as go_on:
        network.cut()
        for _ in range(2):
            with pytest.raises(StoreLost):
                cut.tenants()
        go_on()
        assert cut.tenants() == []
        assert backends(other, own_name(cut)) == 1


@contextmanager
def stopped(books: PostgresBooks) -> Iterator[Callable[[], None]]:
    """A connection whose process on the server does nothing until it may go on."""
    pid = books.rows("SELECT pg_backend_pid() AS pid").fetchone()["pid"]
    if os.environ.get("TALLY_TEST_POSTGRES"):
        pytest.skip("the server's processes may be elsewhere")

    def go_on() -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGSTOP)
    try:
        yield go_on
    finally:
        go_on()


def test_a_replica_that_starts_waits_for_nobody_where_nothing_has_changed(replicas: list[PostgresBooks]) -> None:
    first, second = replicas
    tenants = [Tenant("acme", max_nano=100, duration="1d", models=("m",)), Tenant("other")]
    keys: dict[str, list[str | NewKey]] = {"acme": [NewKey("sk-acme-0123456789", limits=Limits(max_nano=5)), "sk-0123"]}
    first.prepare(lambda books: books.adopt(tenants, keys))
    adopted = first.tenants(), first.keys()
    account = Account("acme", first.key_id("sk-0123"), "r")
    row = "SELECT xmin::text FROM scopes UNION ALL SELECT xmin::text FROM keys UNION ALL SELECT xmin::text FROM tenants"
    with first.transaction():
        assert first.reserve(wish("a", 1, account=account)) == 1
        before = second.rows(row).fetchall()
        second.prepare(lambda books: books.adopt(tenants, keys))
        assert second.rows(row).fetchall() == before
    assert (second.tenants(), second.keys()) == adopted
    second.prepare(lambda books: books.adopt(tenants[1:], {}))
    assert [(tenant.managed, tenant.blocked) for tenant in first.tenants()] == [(False, True), (True, False)]
    assert all(key.revoked_at is not None for key in first.keys())  # noqa: SIM118 - not a dict


def test_a_key_is_changed_beside_its_own_reservation_without_waiting_for_each_other(
    replicas: list[PostgresBooks],
) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme"))
    key = first.key_id(first.create_key("acme"))
    account = Account("acme", key, "r")
    failed: list[Exception] = []
    answers: SimpleQueue[Exception | None] = SimpleQueue()
    stop = threading.Event()

    def reserve() -> None:
        number = 0
        while not stop.is_set():
            try:
                second.reserve(wish(f"o{number}", 1, account=account))
            except StoreLost as error:
                failed.append(error)
            number += 1

    beside = threading.Thread(target=reserve)
    beside.start()
    writer = Writer(first)
    for number in range(40):
        for operation in (
            Operation(lambda books: books.update_key(key, rpm_limit=5)),
            reserving(wish(f"a{number}", 1, account=account)),
        ):
            operation.answer = lambda _, error: answers.put(error)
            writer.submit(operation)
        failed += [error for _ in range(2) if (error := answers.get(timeout=30)) is not None]
    stop.set()
    beside.join()
    writer.stop()
    writer.join()
    assert failed == []


def test_what_has_expired_by_the_clock_of_another_replica_is_left_to_the_one_that_lives(
    replicas: list[PostgresBooks], clock: SimpleNamespace
) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme", max_nano=10))
    first.reserve(wish("a", 10, lifetime=5.0))
    clock.now += 10
    second.tend()
    assert second.reserve(wish("b", 10)) == 0
    assert charged(second) == (0, 10)
    first.tend()
    assert charged(second) == (10, 0)


def test_what_a_replica_left_that_no_longer_lives_expires_by_any_clock(
    replicas: list[PostgresBooks], clock: SimpleNamespace
) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme", max_nano=10))
    first.reserve(wish("a", 10, lifetime=5.0))
    first.close()
    clock.now += 10
    assert second.sweep("acme") == 1
    assert charged(second) == (10, 0)


@pytest.mark.parametrize(
    ("away", "back"),
    [
        ("ALTER DATABASE {0} ALLOW_CONNECTIONS false", "ALTER DATABASE {0} ALLOW_CONNECTIONS true"),
        ("ALTER DATABASE {0} RENAME TO {0}_away", "ALTER DATABASE {0}_away RENAME TO {0}"),
    ],
)
def test_a_server_goes_on_once_a_database_that_was_taken_away_is_back(
    postgres: NewDatabase, away: str, back: str
) -> None:
    url, beside = postgres(), postgres()
    name = urlsplit(url).path.lstrip("/")
    ledger = PostgresLedger.open(url, clock=lambda: NOON, prepare=lambda books: books.add_tenant(Tenant("acme")))
    reader = Reader(partial(read_books, url, clock=lambda: NOON))

    async def ask() -> tuple[object, object]:
        try:
            granted: object = await ledger.reserve(wish(f"a{next(numbers)}", 1))
        except LedgerUnavailable:
            granted = None
        try:
            found: object = [tenant.name for tenant in await reader.run(lambda books: books.tenants())]
        except LedgerUnavailable:
            found = None
        return granted, found

    async def serve(database: PostgresDatabase) -> None:
        assert await ask() == (1, ["acme"])
        await asyncio.to_thread(take_away, database, name, away)
        async with asyncio.timeout(20):
            for _ in range(3):
                assert await ask() == (None, None)
        await asyncio.to_thread(database.script, back.format(name))
        for _ in range(40):
            if (told := await ask()) != (None, None):
                break
        await ledger.flush()
        assert await ask() == (1, ["acme"]), told
        await ledger.close()
        await reader.close()

    numbers = count()
    with closing(PostgresDatabase(beside, timeout=10.0)) as database:
        asyncio.run(serve(database))


def take_away(database: PostgresDatabase, name: str, away: str) -> None:
    """Do what a restore does to a database; nobody may be connected to it."""
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ?"
    give_up = time.monotonic() + 10
    while True:
        database.execute(end, (name,))
        try:
            database.script(away.format(name))
        except database.error:
            # the ledger makes its connections anew
            assert time.monotonic() < give_up
        else:
            database.execute(end, (name,))
            return


def test_the_writer_outlives_an_error_that_nobody_foresaw() -> None:
    class Broken(Books):
        times = 0

        def lock(self, tenants: Collection[str], attempts: Collection[str] = (), *, others: bool = False) -> None:
            self.times += 1
            if self.times in (2, 3):
                raise TypeError("nobody thought of this")
            super().lock(tenants, attempts, others=others)

    answers: SimpleQueue[tuple[object, Exception | None]] = SimpleQueue()
    books = Broken.open(None, clock=lambda: NOON)
    books.add_tenant(Tenant("acme"))
    writer = Writer(books)

    def told(operation: Operation) -> tuple[object, Exception | None]:
        operation.answer = lambda result, error: answers.put((result, error))
        writer.submit(operation)
        return answers.get(timeout=10)

    assert told(reserving(wish("a", 1))) == (1, None)
    _, error = told(reserving(wish("b", 1)))
    assert isinstance(error, LedgerUnavailable)
    # what must not be lost is tried again
    assert told(settling(Settlement("a", ACME, ()))) == (True, None)
    assert books.times == 4
    writer.stop()
    writer.join()


def test_a_check_beside_a_working_server_finds_nothing_wrong(replicas: list[PostgresBooks]) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme"))
    row = DrawRow("d", "draw", 1, 0, "ok", "m", "d", 1, 0, 1, 0, 60, False, "stop", 1, 1)
    with closing(read_books(second._database._url, clock=lambda: NOON)) as reader:

        def work(stop: threading.Event) -> None:
            number = 0
            while not stop.is_set():
                name = f"a{number}"
                first.reserve(wish(name, 100))
                first.settle(Settlement(name, ACME, (row,)))
                first.add_tenant(Tenant(name))
                first.create_key(name)
                number += 1

        stop = threading.Event()
        worker = threading.Thread(target=work, args=(stop,))
        worker.start()
        try:
            for _ in range(30):
                assert all(one.ok for one in check(reader))
                reader.tenants()
                reader.keys()
        finally:
            stop.set()
            worker.join()


def test_what_is_read_together_is_of_one_moment_and_changes_nothing(replicas: list[PostgresBooks]) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme"))
    with second.reading():
        assert second.tenants() == [Tenant("acme")]
        first.update_tenant("acme", rpm_limit=5)
        assert second.tenants() == [Tenant("acme")]
        with pytest.raises(StoreLost, match="read-only"):
            second.rows("DELETE FROM keys")


def test_a_new_window_is_added_up_with_patience_however_short_the_time_of_a_request(
    replicas: list[PostgresBooks],
) -> None:
    first, _ = replicas
    first.add_tenant(Tenant("acme"))
    first._database.timeout = 0.3
    # as slow as very many rows are
    first._database.script(
        """ALTER TABLE draws RENAME TO drawn;
        CREATE VIEW draws AS SELECT drawn.* FROM drawn, (SELECT pg_sleep(0.6)) AS slow"""
    )
    first.rows(
        """INSERT INTO drawn (tenant, request, attempt, settled_at, id, purpose, round, "index", status, model,
        deployment, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, cost_nano, estimated, latency_ms)
        VALUES ('acme', 'r', 'a', ?, 'd', 'draw', 1, 0, 'ok', 'm', 'd', 1, 0, 1, 0, 60, 0, 1)""",
        NOON,
    )
    first.update_tenant("acme", duration="1d")
    assert first.glance("tenant:acme").windows[0].spent.nano == 60
    with pytest.raises(StoreLost, match="statement timeout"):
        first.rows("SELECT pg_sleep(0.6)")


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("postgresql://tally:hunter2@localhost:nonsense/db", ["hunter2"]),
        ("postgresql://tally:hun/ter2@localhost/db", ["hun", "ter2"]),
        ("postgresql://tally@localhost:99999/db?password=hunter2", ["hunter2"]),
        ("postgresql://tally:hunter2@[::1/db", ["hunter2"]),
    ],
)
def test_an_address_that_makes_no_sense_is_a_configuration_error_without_the_password(
    url: str, secrets: list[str]
) -> None:
    with pytest.raises(ConfigError, match="database_url") as caught:
        open_books(url, clock=lambda: NOON)
    assert not any(secret in str(caught.value) for secret in secrets)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tally:hunter2@h/db",
        "postgresql://h/db?user=tally&password=hunter2",
        "postgresql://tally:hun%74er2@h/db?sslpassword=hunter2",
        "postgresql://tally:x@hunter2@h/db",
    ],
)
def test_a_password_is_neither_shown_nor_told(url: str) -> None:
    assert "hun" not in shown(url)
    assert "h/db" in shown(url)
    assert scrubbed("no hunter2 for tally", url) == "no *** for tally"


def test_an_address_without_a_password_is_shown_as_it_is() -> None:
    for url in ("postgresql://tally@h:1/db?host=/run/postgresql", "sqlite:///tally.db"):
        assert shown(url) == url
        assert scrubbed("it is not there", url) == "it is not there"
