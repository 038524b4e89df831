"""The log's line of what the dead had reserved."""

import logging
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxy.ledger import Amount, Reservation
from proxy.ledger.books import Books
from proxy.ledger.opening import prepare_ledger
from proxy.ledger.postgres import PostgresBooks
from proxy.types import Account, Tenant
from tests.postgres import NewDatabase

NOON = 1_773_835_200.0


@pytest.fixture(autouse=True)
def warnings(caplog: pytest.LogCaptureFixture) -> None:
    """Are heard, whatever an earlier test has configured."""
    caplog.set_level(logging.WARNING, logger="proxy")


def leave(books: Books) -> None:
    for tenant in ("acme", "other"):
        books.add_tenant(Tenant(tenant))
    for tenant, nano in (("acme", 5), ("acme", 6), ("other", 7)):
        account = Account(tenant, None, "req_1")
        books.reserve(Reservation(f"a{nano}", account, Amount(), Amount(nano, 1), 1, 60.0))


def swept(caplog: pytest.LogCaptureFixture) -> list[tuple[int, int, int]]:
    """Reservations, nano-USD and tenants of each line so far."""
    lines = [vars(line) for line in caplog.records if line.getMessage() == "swept"]
    return [(line["reservations"], line["nano_usd"], line["tenants"]) for line in lines]


def test_a_server_that_starts_tells_what_its_dead_predecessor_had_reserved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tally.db"
    with closing(Books.open(path, clock=lambda: NOON)) as books:
        leave(books)
    for _ in range(2):
        prepare_ledger(f"sqlite:///{path}", clock=lambda: NOON, prepare=lambda _: None)
    assert swept(caplog) == [(3, 18, 2)]


def test_what_a_worker_left_that_ended_is_told_of_it_alone(caplog: pytest.LogCaptureFixture) -> None:
    with closing(Books.open(None, clock=lambda: NOON)) as books:
        books.owner = "dead"
        leave(books)
        books.sweep_owner("living")
        assert swept(caplog) == []
        books.sweep_owner("dead")
    assert swept(caplog) == [(3, 18, 2)]


def test_a_replica_tells_what_a_dead_one_had_reserved(postgres: NewDatabase, caplog: pytest.LogCaptureFixture) -> None:
    url, clock = postgres(), SimpleNamespace(seconds=0.0)

    def opened() -> PostgresBooks:
        return PostgresBooks.open_url(url, clock=lambda: NOON, timeout=10.0, monotonic=lambda: float(clock.seconds))

    with closing(opened()) as living:
        living.take_part()
        with closing(opened()) as dying:
            dying.take_part()
            leave(dying)
            living.sweep_dead()
        for _ in range(4):
            living.sweep_dead()
            clock.seconds += 2
    assert swept(caplog) == [(3, 18, 2)]
