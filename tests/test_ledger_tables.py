"""The tables of a ledger on Postgres: made, brought forward, and the same as SQLite's."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from proxy.errors import ConfigError
from proxy.ledger import Amount, Reservation
from proxy.ledger.books import Books
from proxy.ledger.checking import check
from proxy.ledger.database import StoreLost
from proxy.ledger.migrating import TABLES
from proxy.ledger.opening import open_books, read_books
from proxy.ledger.pg import PostgresDatabase
from proxy.ledger.pg_schema import migrate, version
from proxy.ledger.postgres import PostgresBooks
from proxy.ledger.schema import MIGRATIONS
from proxy.types import Account, Tenant
from tests.postgres import NewDatabase

NOON = 1_773_835_200.0
FIRST = 10

OLD = """
INSERT INTO tenants (name, managed, created_at) VALUES ('acme', 0, 1.0);
INSERT INTO scopes (id, spent_nano, spent_tokens, spent_samples, reserved_nano) VALUES ('tenant:acme', 7, 5, 1, 20);
INSERT INTO budgets (scope, place, max_nano, window_start, nano, tokens, samples)
VALUES ('tenant:acme', 0, 100, 0.0, 7, 5, 1);
INSERT INTO reservations (attempt, tenant, request, nano, tokens, prompt_tokens, lifetime, expires_at, owner)
VALUES ('held', 'acme', 'r', 20, 0, 0, 600.0, 1e12, '-5');
INSERT INTO draws (tenant, request, attempt, settled_at, id, purpose, round, "index", status, model, deployment,
    prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, cost_nano, estimated, latency_ms, samples)
VALUES ('acme', 'r', 'a', 2.0, 'd', 'draw', 1, 0, 'ok', 'm', 'd', 2, 0, 3, 0, 7, 0, 1, 1)
"""


@pytest.fixture
def database(postgres: NewDatabase) -> Iterator[PostgresDatabase]:
    with closing(PostgresDatabase(postgres(), timeout=10.0)) as opened:
        yield opened


def books(database: PostgresDatabase) -> PostgresBooks:
    return PostgresBooks.open_url(database._url, clock=lambda: NOON)


@pytest.mark.parametrize("number", range(FIRST, len(MIGRATIONS) + 1))
def test_a_ledger_of_an_earlier_version_comes_forward_with_all_that_it_holds(
    database: PostgresDatabase, number: int
) -> None:
    migrate(database, number)
    assert version(database) == number
    database.script(OLD)
    with closing(books(database)) as opened:
        assert version(database) == len(MIGRATIONS)
        assert opened.tenants() == [Tenant("acme", max_nano=100)]
        assert opened.reserve(Reservation("b", Account("acme", None, "r"), Amount(), Amount(73), 1, 60.0)) == 1
        assert opened.reserve(Reservation("c", Account("acme", None, "r"), Amount(), Amount(1), 1, 60.0)) == 0
        (only,) = check(opened)
        assert (only.ok, only.spent.nano, only.reserved.nano) == (True, 7, 93)
    names = [row["name"] for row in database.execute("SELECT name FROM migrations ORDER BY number")]
    assert names == [change.__name__.lstrip("_") for change in MIGRATIONS]


def test_answers_that_were_kept_for_ever_run_out_after_a_month_and_not_all_at_once(database: PostgresDatabase) -> None:
    migrate(database, FIRST)
    for day in (0, 20, 50, 60):
        database.execute(
            """INSERT INTO requests
            (tenant, id, recorded_at, model, strategy, status, samples, abstained, rounds, cost_nano, latency_ms)
            VALUES ('acme', ?, ?, 'm', 'off', 200, 1, 0, 1, 0, 0)""",
            (str(day), day * 86400.0),
        )
    migrate(database)
    found = database.execute("SELECT CAST(expires_at / 86400 AS BIGINT) AS day FROM requests ORDER BY recorded_at")
    assert [row["day"] for row in found] == [61, 61, 80, 90]


def test_a_large_ledger_may_take_longer_to_come_forward_than_any_statement_else(database: PostgresDatabase) -> None:
    migrate(database, FIRST)
    # as slow as very many rows are
    database.script(
        """CREATE FUNCTION slow() RETURNS TRIGGER LANGUAGE plpgsql AS $$
            BEGIN PERFORM pg_sleep(0.8); RETURN NEW; END
        $$;
        INSERT INTO requests
            (tenant, id, recorded_at, model, strategy, status, samples, abstained, rounds, cost_nano, latency_ms)
            VALUES ('acme', 'r', 0.0, 'm', 'off', 200, 1, 0, 1, 0, 0);
        CREATE TRIGGER slow BEFORE UPDATE ON requests FOR EACH ROW EXECUTE FUNCTION slow()"""
    )
    database.timeout = 0.5
    migrate(database)
    assert version(database) == len(MIGRATIONS)
    with pytest.raises(StoreLost, match="statement timeout"):
        database.execute("SELECT pg_sleep(0.8)")


def test_a_ledger_of_a_later_version_is_refused_and_both_versions_are_named(database: PostgresDatabase) -> None:
    migrate(database)
    database.execute("INSERT INTO migrations (number, name) VALUES (99, 'm099')")
    for open_ in (open_books, read_books):
        with pytest.raises(ConfigError, match=f"database_url: is a ledger of version 99, .* version {len(MIGRATIONS)}"):
            open_(database._url, clock=lambda: NOON)


def test_a_ledger_of_an_earlier_version_is_not_read_before_it_is_brought_forward(database: PostgresDatabase) -> None:
    migrate(database, FIRST)
    if len(MIGRATIONS) > FIRST:
        with pytest.raises(ConfigError, match=f"is a ledger of version {FIRST}"):
            read_books(database._url, clock=lambda: NOON)


def test_functions_are_made_anew_when_their_file_is_another_one(database: PostgresDatabase) -> None:
    books(database).close()
    broken = """CREATE OR REPLACE FUNCTION tally_reserve(
        a_attempt TEXT, a_tenant TEXT, a_key TEXT, a_request TEXT, a_base BIGINT[], a_each BIGINT[], a_choices BIGINT,
        a_lifetime DOUBLE PRECISION, a_owner TEXT, a_now DOUBLE PRECISION
    ) RETURNS BIGINT LANGUAGE sql AS 'SELECT 5::BIGINT'"""
    database.script(broken)
    wish = Reservation("a", Account("acme", None, "r"), Amount(), Amount(1), 1, 60.0)
    with closing(books(database)) as same:
        same.add_tenant(Tenant("acme"))
        assert same.reserve(wish) == 5
    database.execute("UPDATE meta SET value = ? WHERE name = 'functions'", (b"another",))
    with closing(books(database)) as anew:
        assert anew.reserve(wish) == 1
        assert [(one.ok, one.reserved.nano) for one in check(anew)] == [(True, 1)]


def test_both_stores_have_the_same_tables_with_the_same_columns(database: PostgresDatabase) -> None:
    with closing(books(database)) as there, closing(Books.open(None, clock=lambda: NOON)) as here:
        for table in (*TABLES, "migrations"):
            everything = f"SELECT * FROM {table}"
            assert sorted(there.columns(everything)) == sorted(here.columns(everything)), table
        listed = "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = current_schema()"
        own = {row["name"] for row in here.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert {row["name"] for row in there.rows(listed)} == own == {*TABLES, "migrations"}
