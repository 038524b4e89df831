"""Keys in the ledger, on both stores: their secrets change and they stay the same; many are read at once."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxy.errors import NotFound, RequestInvalid
from proxy.ledger import Amount
from proxy.ledger.books import Books
from proxy.ledger.checking import check
from proxy.ledger.counters import key_scope
from proxy.ledger.keys import NewKey
from proxy.ledger.listing import KeysWanted, count_keys, key_rows, key_standings, tenant_standings
from proxy.types import Limits, Tenant
from tests.stores import books_on
from tests.test_ledger import NOON, end, row, wish

FILED = "sk-filed-0123456789"


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=NOON)


@pytest.fixture(params=["sqlite", "postgres"])
def books(clock: SimpleNamespace, request: pytest.FixtureRequest) -> Iterator[Books]:
    with books_on(request, lambda: float(clock.now)) as opened:
        opened.add_tenant(Tenant("acme"))
        yield opened


def spend(books: Books, key_id: str, attempt: str, nano: int) -> None:
    assert books.reserve(wish(attempt, nano, key=key_id)) == 1
    assert books.settle(end(attempt, row(f"d-{attempt}", nano=nano)))


def who(books: Books, secret: str) -> str | None:
    found = books.authenticate(secret)
    return None if found is None else found[1].id


def test_a_rotated_key_goes_on_with_what_was_spent_and_the_old_secret_spends_of_the_same(books: Books) -> None:
    old = books.create_key("acme", limits=Limits(max_nano=30, duration="1d"))
    key_id = books.key_id(old)
    spend(books, key_id, "before", 12)
    assert books.reserve(wish("in-flight", 5, key=key_id)) == 1
    new = books.rotate_key(key_id, grace_s=60)
    assert who(books, old) == who(books, new) == key_id
    assert books.reserve(wish("too-much", 14, key=key_id)) == 0
    spend(books, key_id, "after", 13)
    assert books.settle(end("in-flight", row("d-in-flight", nano=5)))
    assert books.glance(key_scope(key_id)).room.nano == 0
    assert all(each.ok for each in check(books))


def test_an_old_secret_is_nobodys_after_its_grace(books: Books, clock: SimpleNamespace) -> None:
    old = books.create_key("acme")
    new = books.rotate_key(books.key_id(old), grace_s=60)
    assert books.key_id(old) == books.key_id(new)
    clock.now += 60
    assert who(books, old) is None
    assert who(books, new) is not None
    with pytest.raises(NotFound):
        books.key_id(old)


def test_a_later_rotation_ends_what_its_grace_does_not_hold(books: Books, clock: SimpleNamespace) -> None:
    first = books.create_key("acme")
    other = books.create_key("acme")
    key_id, other_id = books.key_id(first), books.key_id(other)
    books.rotate_key(other_id, grace_s=500)
    second = books.rotate_key(key_id, grace_s=600)
    third = books.rotate_key(key_id, grace_s=60)
    assert {who(books, secret) for secret in (first, second, third)} == {key_id}
    clock.now += 60
    assert [who(books, secret) for secret in (first, second, third)] == [None, None, key_id]
    fourth = books.rotate_key(key_id)
    assert [who(books, secret) for secret in (third, fourth)] == [None, key_id]
    assert who(books, other) == other_id


def test_a_revoked_key_ends_with_all_its_secrets_and_is_not_rotated(books: Books) -> None:
    old = books.create_key("acme")
    key_id = books.key_id(old)
    new = books.rotate_key(key_id, grace_s=60)
    books.revoke_key(key_id)
    assert [who(books, secret) for secret in (old, new)] == [None, None]
    with pytest.raises(RequestInvalid, match="revoked"):
        books.rotate_key(key_id)


def test_an_expired_key_is_not_rotated(books: Books, clock: SimpleNamespace) -> None:
    key_id = books.key_id(books.create_key("acme", expires_at=NOON + 10))
    clock.now += 10
    with pytest.raises(RequestInvalid, match="expired"):
        books.rotate_key(key_id)


def test_an_old_secret_stays_good_in_its_grace_under_a_new_pepper(books: Books) -> None:
    old = books.create_key("acme")
    key_id = books.key_id(old)
    new = books.rotate_key(key_id, grace_s=60)
    books.rotate_pepper()
    assert who(books, old) == who(books, new) == key_id


def test_an_old_secret_that_is_used_outlives_any_number_of_peppers_in_its_grace(
    books: Books, clock: SimpleNamespace
) -> None:
    old = books.create_key("acme")
    key_id = books.key_id(old)
    books.rotate_key(key_id, grace_s=60)
    for _ in range(3):
        books.rotate_pepper()
        assert who(books, old) == key_id
    assert books.former_until(key_id) == NOON + 60
    clock.now += 60
    assert who(books, old) is None


def test_an_old_secret_that_the_file_names_is_a_key_of_its_own(books: Books) -> None:
    old = books.create_key("acme")
    key_id = books.key_id(old)
    new = books.rotate_key(key_id, grace_s=60)
    books.adopt([Tenant("filed")], {"filed": [old]})
    assert who(books, new) == key_id
    assert who(books, old) not in (None, key_id)
    assert books.key(key_id).tenant == "acme"


def test_a_key_of_the_file_stays_itself_over_any_number_of_peppers(books: Books) -> None:
    limited = NewKey(FILED, limits=Limits(max_nano=30))
    books.adopt([Tenant("filed")], {"filed": [limited]})
    key_id = books.key_id(FILED)
    books.reserve(wish("a", 30, tenant="filed", key=key_id))
    books.settle(end("a", row("d", nano=30), tenant="filed"))
    for _ in range(2):
        books.rotate_pepper([FILED])
    assert who(books, FILED) == key_id
    for _ in range(2):
        books.rotate_pepper()
        books.adopt([Tenant("filed")], {"filed": [limited]})
    assert who(books, FILED) == key_id
    assert books.glance(key_scope(key_id)).room.nano == 0
    assert [one.id for one in books.keys("filed")] == [key_id]


def test_a_ledger_that_is_open_to_read_alone_tells_whose_a_secret_is(tmp_path: Path) -> None:
    path = tmp_path / "tally.db"
    writing = Books.open(path, clock=lambda: NOON, synchronous="OFF")
    reading = Books.open_read_only(path, clock=lambda: NOON)
    with pytest.raises(NotFound):
        reading.key_id(FILED)
    writing.add_tenant(Tenant("acme"))
    secret = writing.create_key("acme")
    writing.rotate_pepper()
    assert reading.key_id(secret) == writing.key_id(secret)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reading.authenticate(secret)
    writing.close()
    reading.close()


def test_keys_are_read_page_by_page_oldest_first(books: Books, clock: SimpleNamespace) -> None:
    books.add_tenant(Tenant("other"))
    for place in range(7):
        clock.now += 1
        limits = Limits(max_nano=place + 1, duration="1d", rpm_limit=place + 1)
        books.create_key("acme" if place % 3 else "other", limits=limits, alias=f"k{place % 2}")
    known = books.keys()
    books.revoke_key(known[1].id)
    spend(books, known[2].id, "a", 2)

    def pages(wanted: KeysWanted, size: int) -> list[str]:
        told = [key_rows(books, wanted, size, place) for place in range(0, 10, size)]
        return [each["id"] for page in told for each in page]

    living = KeysWanted(living_at=clock.now)
    assert pages(KeysWanted(), 3) == [each.id for each in known]
    assert pages(living, 2) == [each.id for each in known if each.id != known[1].id]
    assert pages(KeysWanted("acme", "k0"), 1) == [known[2].id, known[4].id]
    assert (count_keys(books, KeysWanted()), count_keys(books, living), count_keys(books, KeysWanted("x"))) == (7, 6, 0)
    told = key_standings(books, key_rows(books, KeysWanted()))
    assert [one for one, _ in told] == books.keys()
    assert [standing for _, standing in told] == [books.glance(key_scope(each.id)) for each in known]
    assert told[2][1].spent == Amount(2, 7)


@pytest.mark.parametrize("number", [0, 1, 100, 101])
def test_keys_and_tenants_cost_few_statements_however_many_they_are(number: int) -> None:
    opened = Books.open(None, clock=lambda: NOON)
    with opened.transaction():
        for place in range(number):
            opened.add_tenant(Tenant(f"t{place:03}", max_nano=place + 1))
            opened.create_key(f"t{place:03}", limits=Limits(max_nano=place + 1))
    asked: list[str] = []
    opened._db.set_trace_callback(asked.append)  # type: ignore[attr-defined]  # it is SQLite's own
    keys, tenants = key_standings(opened, key_rows(opened, KeysWanted())), tenant_standings(opened)
    assert [each.max_nano for each, _ in tenants] == [*range(1, number + 1)]
    assert {each.tenant: each.max_nano for each, _ in keys} == {each.name: each.max_nano for each, _ in tenants}
    assert len(asked) <= 2 + 4 * -(-number // 100)
    opened.close()
