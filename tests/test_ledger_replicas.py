"""Several replicas on one Postgres: what one does while another does the same."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest

from proxy.ledger import Amount, DrawRow, Reservation, Settlement
from proxy.ledger.checking import check
from proxy.ledger.database import StoreLost
from proxy.ledger.postgres import PostgresBooks
from proxy.types import Account, Tenant
from tests.postgres import NewDatabase

NOON = 1_773_835_200.0
ACME = Account("acme", None, "req_1")


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=NOON)


@pytest.fixture
def replicas(postgres: NewDatabase, clock: SimpleNamespace) -> Iterator[list[PostgresBooks]]:
    url = postgres()
    with ExitStack() as closing:
        opened = []
        for _ in range(2):
            books = PostgresBooks.open_url(url, clock=lambda: float(clock.now), timeout=10.0)
            closing.callback(books.close)
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
