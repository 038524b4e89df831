"""Several replicas on one Postgres: what one does while another does the same."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest

from proxy.errors import ConfigError
from proxy.ledger import Amount, DrawRow, Reservation, Settlement
from proxy.ledger.address import scrubbed, shown
from proxy.ledger.books import Books
from proxy.ledger.checking import check
from proxy.ledger.database import StoreLost
from proxy.ledger.opening import open_books
from proxy.ledger.postgres import PostgresBooks, PostgresLedger
from proxy.ledger.process import Process, this_process
from proxy.types import Account, Tenant
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


def test_a_replica_that_has_just_lost_its_connection_is_not_taken_for_dead(
    replicas: list[PostgresBooks], clock: SimpleNamespace
) -> None:
    first, second = replicas
    first.add_tenant(Tenant("acme"))
    first.reserve(wish("a", 10))
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
    first, second = replicas
    first.add_tenant(Tenant("acme"))
    first.reserve(wish("a", 10))
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
    first, second = replicas
    first.add_tenant(Tenant("acme"))
    first.reserve(wish("a", 10))
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
    assert theirs.gone
    assert not replace(theirs, host="feed").gone
    assert not replace(theirs, host="").gone
    assert not mine.gone
    # the number is another process' by now
    assert replace(mine, born="1").gone == bool(mine.born)
    # nothing forbids to look for the first process, whoever has it
    assert not replace(mine, pid=1, born="").gone


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


def test_a_replica_whose_network_was_cut_goes_on_at_once_and_holds_up_nobody(
    postgres: NewDatabase, clock: SimpleNamespace
) -> None:
    url = postgres()
    network = Network(url)
    with (
        closing(network),
        closing(PostgresBooks.open_url(network.url, clock=lambda: float(clock.now), timeout=0.5)) as cut,
        closing(PostgresBooks.open_url(url, clock=lambda: float(clock.now), timeout=5.0)) as other,
    ):
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
    for name in names:
        first.add_tenant(Tenant(name))
    done = count()

    def reserve() -> None:
        for number in range(30):
            with first.transaction():
                first.lock(set(names))
                for name in names:
                    first.reserve(wish(f"{name}{number}", 1, account=Account(name, None, "r")))
            next(done)

    def change(books: Books) -> None:
        for name in reversed(names):
            books.update_tenant(name, rpm_limit=books.tenant(name).rpm_limit or 1)

    def adopt() -> None:
        for _ in range(30):
            second.prepare(change)
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
