"""The ledger: tenants, keys, windows, reports, and the SQLite writer under load, locks and a full disk."""

import multiprocessing
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import ConfigError, LedgerUnavailable, NotFound, RequestInvalid
from proxy.ledger import Amount, Ballot, DrawRow, Ledger, RequestRow, Reservation, Settlement, Texts
from proxy.ledger.books import Books
from proxy.ledger.checking import check
from proxy.ledger.counters import affordable
from proxy.ledger.feedback import recent_outcomes, tell_feedback
from proxy.ledger.reports import draw_columns, draws, key_sheets, sheets, verdicts
from proxy.ledger.reserving import PART
from proxy.ledger.schema import MIGRATIONS, migrate, version
from proxy.ledger.scores import recent_scores
from proxy.ledger.sqlite import SqliteLedger
from proxy.ledger.store import database_path
from proxy.types import Account, Budget, Limits, Tenant
from tests.stores import books_on

NOON = 1_773_835_200.0
"""18 March 2026, 12:00 UTC, a Wednesday."""


def row(name: str = "d0", *, nano: int = 5, prompt: int = 3, completion: int = 4, model: str = "small") -> DrawRow:
    return DrawRow(
        id=name,
        purpose="sample",
        round=1,
        index=0,
        status="ok",
        model=model,
        deployment="local",
        prompt_tokens=prompt,
        cached_tokens=1,
        completion_tokens=completion,
        reasoning_tokens=2,
        cost_nano=nano,
        estimated=False,
        finish_reason="stop",
        latency_ms=12,
    )


def wish(
    attempt: str,
    nano: int = 0,
    *,
    tokens: int = 0,
    samples: int = 0,
    tenant: str = "acme",
    key: str | None = None,
    base: Amount | None = None,
    choices: int = 1,
    lifetime: float = 60.0,
    request: str = "req_1",
) -> Reservation:
    account = Account(tenant, key, request)
    return Reservation(attempt, account, base or Amount(), Amount(nano, tokens, samples), choices, lifetime)


def end(attempt: str, *rows: DrawRow, tenant: str = "acme", request: str = "req_1") -> Settlement:
    return Settlement(attempt, Account(tenant, None, request), rows)


def verdict(request: str = "req_1", *ballots: Ballot, tenant: str = "acme") -> RequestRow:
    return RequestRow(
        account=Account(tenant, "key_1", request),
        model="small",
        strategy="self_consistency",
        status=200,
        samples=2,
        abstained=0,
        rounds=1,
        winner=0,
        answer="42",
        first_answer="41",
        confidence=0.75,
        cost_nano=10,
        reason=None,
        latency_ms=34,
        ballots=ballots,
        texts=Texts(30, ()),
    )


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=NOON)


@pytest.fixture(params=["sqlite", "postgres"])
def books(clock: SimpleNamespace, request: pytest.FixtureRequest) -> Iterator[Books]:
    """Empty books on each of the stores: what is asked of one holds for both."""
    with books_on(request, lambda: float(clock.now)) as opened:
        yield opened


def acme(books: Books, **limits: object) -> None:
    books.add_tenant(Tenant("acme", **limits))  # type: ignore[arg-type]  # the limits of each test


def sheet(books: Books) -> tuple[Amount, Amount, Amount]:
    """Spent in the window, reserved, and spent ever."""
    only = sheets(books)[0]
    return only.window_spent, only.reserved, only.spent


@given(
    st.builds(Amount, st.integers(-2, 9), st.integers(-2, 9), st.integers(-2, 9)),
    st.builds(Amount, st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    st.builds(Amount, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    st.integers(1, 5),
)
@example(room=Amount(4), base=Amount(5), each=Amount(1), choices=1)
@example(room=Amount(4), base=Amount(5), each=Amount(0), choices=1)
def test_the_grant_is_the_largest_that_fits(room: Amount, base: Amount, each: Amount, choices: int) -> None:
    def fits(k: int) -> bool:
        wanted = base + each.times(k)
        pairs = [(wanted.nano, room.nano), (wanted.tokens, room.tokens), (wanted.samples, room.samples)]
        return all(amount == 0 or amount <= free for amount, free in pairs)

    assert affordable(room, base, each, choices) == max((k for k in range(1, choices + 1) if fits(k)), default=0)


def test_a_budget_that_is_short_grants_fewer_choices(books: Books) -> None:
    acme(books, max_nano=1000)
    assert books.reserve(wish("a", 300, base=Amount(50, 0), choices=8)) == 3
    assert books.reserve(wish("b", 300)) == 0
    assert sheet(books)[1] == Amount(950)


def test_tokens_are_a_limit_of_their_own(books: Books) -> None:
    acme(books, max_tokens=100)
    assert books.reserve(wish("a", 10**12, tokens=30, choices=8)) == 3


def test_what_costs_nothing_is_never_held_back_by_a_money_limit(books: Books) -> None:
    acme(books, max_nano=10)
    assert books.reserve(wish("a", 10)) == 1
    books.settle(end("a", row(nano=50)))
    assert books.reserve(wish("b", 1)) == 0
    assert books.reserve(wish("c", 0, tokens=10**6, choices=4)) == 4


def test_without_a_limit_only_what_sqlite_cannot_count_is_refused(books: Books) -> None:
    acme(books)
    assert books.reserve(wish("a", 10**15, tokens=10**9, choices=32)) == 32
    assert books.reserve(wish("b", 10**30)) == 0


def test_an_unknown_tenant_reserves_nothing(books: Books) -> None:
    with pytest.raises(NotFound, match="no tenant 'nobody'"):
        books.reserve(wish("a", tenant="nobody"))


def test_an_attempt_is_reserved_once(books: Books) -> None:
    acme(books)
    books.reserve(wish("a", 5))
    with pytest.raises(ValueError, match="'a' is reserved already"):
        books.reserve(wish("a", 5))
    assert sheet(books)[1] == Amount(5)


def test_a_blocked_tenant_reserves_nothing_more_and_settles_what_it_has(books: Books) -> None:
    acme(books)
    books.reserve(wish("a", 5))
    books.block("acme")
    assert books.reserve(wish("b", 5)) == 0
    assert not books.extend("a", Amount(1))
    books.settle(end("a", row(nano=4)))
    assert sheet(books) == (Amount(4, 7), Amount(), Amount(4, 7))


def test_an_extension_is_all_or_nothing(books: Books) -> None:
    acme(books, max_nano=100)
    books.reserve(wish("a", 60))
    assert books.extend("a", Amount(40))
    assert not books.extend("a", Amount(1))
    assert not books.extend("unknown", Amount(0))
    assert sheet(books)[1] == Amount(100)


def test_an_extension_keeps_the_reservation_alive(books: Books, clock: SimpleNamespace) -> None:
    acme(books)
    books.reserve(wish("a", 5, lifetime=60))
    clock.now += 50
    assert books.extend("a", Amount(5))
    clock.now += 50
    assert books.sweep() == 0
    clock.now += 10
    assert books.sweep() == 1


def test_settling_charges_the_rows_and_frees_the_rest(books: Books) -> None:
    acme(books, max_nano=1000)
    books.reserve(wish("a", 900, tokens=50))
    assert books.settle(end("a", row("d0", nano=10), row("d1", nano=20)))
    assert sheet(books) == (Amount(30, 14), Amount(), Amount(30, 14))


def test_settling_without_rows_releases(books: Books) -> None:
    acme(books)
    books.reserve(wish("a", 900))
    assert books.settle(end("a"))
    assert sheet(books) == (Amount(), Amount(), Amount())
    assert not list(draws(books))


def test_settling_twice_charges_once(books: Books) -> None:
    acme(books)
    books.reserve(wish("a", 900))
    assert books.settle(end("a", row(nano=10)))
    assert not books.settle(end("a", row(nano=10)))
    assert sheet(books)[2] == Amount(10, 7)


def test_a_settlement_beyond_the_limit_is_charged_and_ends_all_spending(books: Books) -> None:
    acme(books, max_nano=100)
    books.reserve(wish("a", 90))
    books.settle(end("a", row(nano=150)))
    assert sheet(books)[0].nano == 150
    assert books.reserve(wish("b", 1)) == 0


def test_an_expired_reservation_is_charged_whole_as_lost(books: Books, clock: SimpleNamespace) -> None:
    acme(books)
    books.reserve(wish("a", 40, tokens=10, base=Amount(5, 3), choices=2, lifetime=60))
    assert books.sweep() == 0
    clock.now += 60
    assert books.sweep() == 1
    (line,) = draws(books)
    assert (line["id"], line["status"], line["estimated"], line["cost_nano"]) == ("a", "lost", 1, 85)
    assert (line["prompt_tokens"], line["completion_tokens"], line["request"], line["key"]) == (3, 20, "req_1", None)
    assert not books.settle(end("a", row(nano=10)))
    assert sheet(books) == (Amount(85, 23), Amount(), Amount(85, 23))


def test_a_leaked_reservation_does_not_narrow_the_windows_to_come(books: Books, clock: SimpleNamespace) -> None:
    acme(books, max_nano=100, duration="60s")
    books.reserve(wish("leak", 100, lifetime=10))
    clock.now += 61
    assert books.reserve(wish("a", 50)) == 0
    clock.now += 61
    assert books.reserve(wish("b", 100)) == 1


def test_the_reservations_of_a_dead_server_are_charged(books: Books) -> None:
    acme(books)
    books.reserve(wish("a", 5))
    books.reserve(wish("b", 6))
    assert books.sweep_all() == 2
    assert sheet(books) == (Amount(11), Amount(), Amount(11))


def test_a_new_window_is_empty_and_keeps_what_is_reserved(books: Books, clock: SimpleNamespace) -> None:
    acme(books, max_nano=100, duration="1d")
    books.reserve(wish("a", 40))
    books.settle(end("a", row(nano=40)))
    books.reserve(wish("across", 50, lifetime=10**6))
    clock.now += 86_400
    assert sheet(books) == (Amount(), Amount(50), Amount(40, 7))
    assert books.reserve(wish("b", 51)) == 0
    assert books.reserve(wish("c", 50)) == 1
    books.settle(end("across", row(nano=45)))
    assert sheet(books) == (Amount(45, 7), Amount(50), Amount(85, 14))
    assert all(one.ok for one in check(books))


def test_a_clock_that_was_put_back_finds_its_earlier_window_as_it_was(books: Books, clock: SimpleNamespace) -> None:
    acme(books, max_nano=100, duration="1d")
    books.reserve(wish("a", 100))
    books.settle(end("a", row(nano=100)))
    clock.now += 86_400
    assert books.reserve(wish("b", 30)) == 1
    books.settle(end("b", row(nano=30)))
    clock.now -= 86_400
    assert books.reserve(wish("c", 1)) == 0
    assert all(one.ok for one in check(books))


@pytest.mark.parametrize(("duration", "spent"), [("1d", 20), ("1w", 30), ("1mo", 30), (None, 30), ("30s", 0)])
def test_a_change_of_the_window_counts_what_was_spent_in_the_new_one(
    books: Books, clock: SimpleNamespace, duration: str | None, spent: int
) -> None:
    acme(books, max_nano=100, duration="24h")
    for attempt, nano in [("a", 10), ("b", 20)]:
        books.reserve(wish(attempt, nano))
        books.settle(end(attempt, row(nano=nano)))
        clock.now += 86_400
    clock.now -= 80_000
    books.update_tenant("acme", duration=duration)
    assert sheet(books)[0].nano == spent
    assert all(one.ok for one in check(books))


def test_a_record_puts_ballots_beside_the_draws(books: Books) -> None:
    acme(books)
    books.reserve(wish("a", 100))
    books.settle(end("a", row("d0"), row("d1")))
    books.record(verdict("req_1", Ballot("d0", "42", 0.5, -0.25), Ballot("d1", None, None, None)))
    first, second = draws(books)
    assert (first["label"], first["score"], first["mean_logprob"]) == ("42", 0.5, -0.25)
    assert (second["label"], second["score"], second["mean_logprob"]) == (None, None, None)
    assert (first["answer"], first["first_answer"], first["confidence"], first["request_status"]) == (
        "42",
        "41",
        0.75,
        200,
    )
    assert list(first) == draw_columns(books)


def test_a_question_is_kept_where_a_verdict_has_one(books: Books) -> None:
    acme(books)
    books.record(verdict("req_1"))
    books.record(replace(verdict("req_2"), question="What is 6 x 7? \ud83d"))
    kept = [row["question"] for row in books.rows("SELECT question FROM requests ORDER BY id")]
    assert kept == [None, "What is 6 x 7? ?"]
    assert "question" not in draw_columns(books)


def test_text_that_is_no_unicode_is_kept_as_well_as_can_be(books: Books) -> None:
    acme(books)
    books.reserve(wish("a", 100))
    books.settle(end("a", row("d0", model="half \ud83d")))
    books.record(verdict("req_1", Ballot("d0", "\udc00", None, None)))
    (line,) = draws(books)
    assert (line["model"], line["label"], line["cost_nano"]) == ("half ?", "?", 5)


def test_requests_of_two_tenants_with_one_name_are_two(books: Books, clock: SimpleNamespace) -> None:
    acme(books)
    books.add_tenant(Tenant("other"))
    books.record(verdict("same"))
    clock.now += 1
    books.record(verdict("same", tenant="other"))
    assert [(one.tenant, one.request) for one in verdicts(books)] == [("other", "same"), ("acme", "same")]
    assert [one.recorded_at for one in verdicts(books, "acme")] == [NOON]
    assert len(verdicts(books, limit=1)) == 1


def test_what_a_group_settles_as_a_window_begins_is_spent_in_that_window(clock: SimpleNamespace) -> None:
    def tick() -> float:
        clock.now += 1e-6
        return float(clock.now)

    books = Books.open(None, clock=tick)
    acme(books, max_nano=1000, duration="30s")
    for attempt in "ab":
        assert books.reserve(wish(attempt, 500)) == 1
    clock.now += 31
    assert books.together([end(attempt, row(nano=500)) for attempt in "ab"], [None, None]) == [True, True]
    assert sheet(books)[0].nano == 1000
    assert books.reserve(wish("c", 1)) == 0
    books.close()


def test_all_that_one_transaction_does_is_done_at_one_moment(clock: SimpleNamespace) -> None:
    books = Books.open(None, clock=lambda: float(clock.now))
    with books.transaction():
        clock.now += 5
        with books.transaction():
            assert books.now() == NOON
    assert books.now() == NOON + 5
    books.close()


def test_a_group_charges_a_part_of_what_has_expired(clock: SimpleNamespace) -> None:
    books = Books.open(None, clock=lambda: float(clock.now))
    acme(books, max_nano=PART + 1)
    with books.transaction():
        for number in range(PART + 1):
            books.reserve(wish(f"old{number}", 1))
    clock.now += 60
    assert books.together([wish("a", 1), wish("b", 1)], [None, None]) == [0, 0]
    assert sheet(books)[1] == Amount(1)
    books.close()


def test_words_with_a_nul_ask_for_nothing_that_is_there(books: Books) -> None:
    acme(books)
    books.record(verdict())
    for odd in ("req_1\x00", "req_1\ud800"):
        assert not tell_feedback(books, "acme", odd, correct=True)
        assert not recent_outcomes(books, "acme", odd, 5)
        assert not recent_scores(books, "acme", odd, 5)


def test_a_key_has_limits_of_its_own_beside_its_tenant_s(books: Books) -> None:
    acme(books, max_nano=100)
    narrow = books.key_id(books.create_key("acme", limits=Limits(max_nano=30)))
    wide = books.key_id(books.create_key("acme", limits=Limits(max_nano=500)))
    assert books.reserve(wish("a", 10, key=narrow, choices=5)) == 3
    assert books.reserve(wish("b", 10, key=narrow)) == 0
    assert books.reserve(wish("c", 10, key=wide, choices=9)) == 7
    books.settle(end("a", row(nano=12)))
    books.settle(end("c", row(nano=60)))
    assert {one.limits.id: one.spent.nano for one in key_sheets(books)} == {narrow: 12, wide: 60}
    assert sheet(books)[0].nano == 72
    assert books.reserve(wish("d", 10, key=narrow, choices=5)) == 1
    assert all(one.ok for one in check(books))


def test_a_blocked_key_reserves_nothing_and_its_neighbour_goes_on(books: Books) -> None:
    acme(books)
    one, other = (books.key_id(books.create_key("acme")) for _ in range(2))
    books.block_key(one)
    assert (books.reserve(wish("a", 1, key=one)), books.reserve(wish("b", 1, key=other))) == (0, 1)
    books.block_key(one, blocked=False)
    assert books.reserve(wish("c", 1, key=one)) == 1


def test_samples_are_a_limit_of_their_own(books: Books) -> None:
    acme(books, max_drawn=3)
    assert books.reserve(wish("a", 10, samples=1, choices=8)) == 3
    assert books.reserve(wish("b", 10)) == 1
    books.settle(end("a", replace(row(), samples=1)))
    assert sheet(books)[0].samples == 1
    assert books.reserve(wish("c", 10, samples=1, choices=8)) == 2


def test_several_windows_hold_at_once_and_reset_each_at_its_time(books: Books, clock: SimpleNamespace) -> None:
    acme(books, max_nano=100, duration="1mo", budgets=(Budget("60s", 10), Budget("1d", 30)))
    spent = []
    for minute in range(5):
        granted = books.reserve(wish(f"a{minute}", 5, choices=9))
        spent.append(granted)
        if granted:
            books.settle(end(f"a{minute}", row(nano=5 * granted)))
        clock.now += 60
    assert spent == [2, 2, 2, 0, 0]
    clock.now += 86_400
    assert books.reserve(wish("next day", 5, choices=9)) == 2
    assert all(one.ok for one in check(books))


def test_a_limit_below_what_is_spent_grants_nothing_until_the_window_ends(books: Books, clock: SimpleNamespace) -> None:
    acme(books, max_nano=100, duration="1d")
    books.reserve(wish("a", 60))
    books.settle(end("a", row(nano=60)))
    books.update_tenant("acme", max_nano=50)
    assert books.reserve(wish("b", 1)) == 0
    clock.now += 86_400
    assert books.reserve(wish("c", 50)) == 1
    assert all(one.ok for one in check(books))


def test_windows_that_are_added_count_what_was_spent_before(books: Books, clock: SimpleNamespace) -> None:
    acme(books)
    books.reserve(wish("a", 60))
    books.settle(end("a", row(nano=60)))
    clock.now += 60
    books.update_tenant("acme", budgets=(Budget("1d", 70), Budget("30s", 70)))
    assert [one.spent.nano for one in sheets(books)[0].standing.windows] == [60, 60, 0]
    assert books.reserve(wish("b", 11)) == 0
    books.update_tenant("acme", budgets=())
    assert books.reserve(wish("c", 11)) == 1
    assert all(one.ok for one in check(books))


def test_a_deleted_tenant_settles_what_is_in_flight_and_is_gone(books: Books) -> None:
    acme(books)
    key = books.create_key("acme")
    books.reserve(wish("a", 40, key=books.key_id(key)))
    books.delete_tenant("acme")
    assert books.authenticate(key) is None
    assert books.tenants() == []
    assert books.reserve(wish("b", 1)) == 0
    books.settle(end("a", row(nano=7)))
    assert [one.ok for one in check(books)] == [True, True]
    assert check(books)[0].spent.nano == 7
    with pytest.raises(RequestInvalid, match="that was deleted"):
        acme(books)
    with pytest.raises(NotFound, match="no tenant 'acme'"):
        books.update_tenant("acme", max_nano=1)


def test_two_tenants_may_have_one_alias(books: Books) -> None:
    for name in ("a", "b"):
        books.add_tenant(Tenant(name, alias="Acme", max_nano=10))
    assert books.reserve(wish("x", 10, tenant="a")) == 1
    assert books.reserve(wish("y", 10, tenant="b")) == 1


@pytest.mark.parametrize(
    ("counter", "wrong"),
    [
        ("spent_nano", "spent"),
        ("tokens", "window"),
        ("samples", "window"),
        ("reserved_samples", "reserved"),
        ("reserved_nano", "reserved"),
        ("reserved_tokens", "reserved"),
    ],
)
def test_the_check_names_a_counter_that_is_off_by_one(books: Books, counter: str, wrong: str) -> None:
    acme(books)
    books.reserve(wish("a", 5))
    assert check(books)[0].ok
    table = "budgets" if wrong == "window" else "scopes"
    books.rows(f"UPDATE {table} SET {counter} = {counter} + 1")
    assert check(books)[0].disagreements == (wrong,)
    assert check(books)[0].as_json()["ok"] is False


def test_the_check_misses_a_row_that_was_removed(books: Books) -> None:
    acme(books)
    books.reserve(wish("a", 5))
    books.settle(end("a", row(nano=5)))
    books.rows("DELETE FROM draws")
    only = check(books)[0]
    assert only.disagreements == ("spent", "window")
    assert (only.as_json()["spent_nano_usd"], only.as_json()["ledger_nano_usd"]) == (5, 0)


def test_a_tenant_is_kept_with_all_its_limits(books: Books) -> None:
    full = Tenant(
        "full",
        alias="The full one",
        max_nano=1,
        max_tokens=2,
        max_drawn=3,
        duration="1mo",
        soft_nano=1,
        budgets=(Budget("1d", 4), Budget("60s", None, 5, 6)),
        rpm_limit=3,
        tpm_limit=7,
        max_parallel=8,
        models=("a", "b"),
        strategies=("off", "dynscaling"),
        strategy="dynscaling",
        max_samples=4,
        max_rounds=9,
        max_request_nano=5,
        scale_until="soft",
        on_exhausted="refuse",
        blocked=True,
    )
    books.add_tenant(full)
    books.add_tenant(Tenant("bare"))
    assert books.tenants() == [Tenant("bare"), full]


@pytest.mark.parametrize(
    ("tenant", "reason"),
    [
        (Tenant("acme"), "already"),
        (Tenant(""), "name must be"),
        (Tenant("a\nb"), "name must be"),
        (Tenant("b", max_nano=-1), "max_budget must be"),
        (Tenant("b", max_tokens=2**63), "token_budget must be"),
        (Tenant("b", rpm_limit=0), "rpm_limit must be"),
        (Tenant("b", duration="soon"), "'soon' is not a duration"),
        (Tenant("b", budgets=(Budget("1y"),)), "'1y' is not a duration"),
        (Tenant("b", budgets=(Budget("1d", -1),)), "budgets must have"),
        (Tenant("b", budgets=(Budget("1d"),) * 17), "budgets are at most 16"),
        (Tenant("b", strategies=("off",), strategy="adaptive"), "adaptive is not among"),
        (Tenant("b", strategy="best"), "strategy must be one of"),  # type: ignore[arg-type]  # what a client may send
    ],
)
def test_a_tenant_that_makes_no_sense_is_refused(books: Books, tenant: Tenant, reason: str) -> None:
    acme(books)
    with pytest.raises(RequestInvalid, match=reason):
        books.add_tenant(tenant)
    assert len(books.tenants()) == 1


def test_limits_change_and_counters_stay(books: Books) -> None:
    acme(books, max_nano=10)
    books.reserve(wish("a", 10))
    books.settle(end("a", row(nano=10)))
    assert books.update_tenant("acme", max_nano=15).max_nano == 15
    assert books.reserve(wish("b", 5)) == 1
    assert books.reserve(wish("c", 1)) == 0
    with pytest.raises(RequestInvalid, match="rpm_limit must be"):
        books.update_tenant("acme", rpm_limit=0)
    with pytest.raises(NotFound):
        books.update_tenant("nobody", max_nano=1)


def test_a_key_is_shown_once_and_kept_as_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "tally.db"
    books = Books.open(path, clock=lambda: NOON)
    acme(books)
    key = books.create_key("acme")
    assert key.startswith("sk-tally-")
    assert len(key) == len("sk-tally-") + 43
    (kept,) = books.keys("acme")
    assert (kept.hint, kept.managed, kept.created_at) == (key[-4:], False, NOON)
    assert books.authenticate(key) == (Tenant("acme"), kept)
    books.close()
    assert key.removeprefix("sk-tally-").encode() not in path.read_bytes()
    again = Books.open(path, clock=lambda: NOON)
    assert again.authenticate(key) == (Tenant("acme"), kept)
    again.close()


def test_a_ledger_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    Books.open(tmp_path / "tally.db", clock=lambda: NOON).close()
    assert (tmp_path / "tally.db").stat().st_mode & 0o077 == 0


def test_a_key_means_nothing_under_another_pepper(tmp_path: Path) -> None:
    first = Books.open(tmp_path / "tally.db", clock=lambda: NOON, pepper=b"one")
    acme(first)
    key = first.create_key("acme")
    second = Books.open(tmp_path / "tally.db", clock=lambda: NOON, pepper=b"two")
    assert first.authenticate(key) is not None
    assert second.authenticate(key) is None
    first.close()
    second.close()


@pytest.mark.parametrize("key", ["", "sk-tally-", "sk-tally-unknown", "\udcff", "k" * 10_000])
def test_an_unknown_key_is_nobody(books: Books, key: str) -> None:
    acme(books)
    books.create_key("acme")
    assert books.authenticate(key) is None


def test_a_revoked_key_is_nobody(books: Books) -> None:
    acme(books)
    key, other = books.create_key("acme"), books.create_key("acme")
    found = books.authenticate(key)
    assert found is not None
    books.revoke_key(found[1].id)
    assert books.authenticate(key) is None
    assert books.authenticate(other) is not None
    with pytest.raises(NotFound):
        books.revoke_key("key_unknown")


def test_a_key_expires_at_its_time(books: Books, clock: SimpleNamespace) -> None:
    acme(books)
    key = books.create_key("acme", expires_at=NOON + 10)
    clock.now += 9.9
    assert books.authenticate(key) is not None
    clock.now += 0.1
    assert books.authenticate(key) is None
    with pytest.raises(RequestInvalid, match="expired already"):
        books.create_key("acme", expires_at=NOON)


def test_a_rotated_key_keeps_its_limits_and_its_old_one_is_good_for_a_while(
    books: Books, clock: SimpleNamespace
) -> None:
    acme(books)
    old = books.create_key("acme", limits=Limits(max_nano=30, models=("small",)), alias="laptop")
    new = books.rotate_key(books.key_id(old), grace_s=60)
    found = books.authenticate(new)
    assert found is not None
    assert (found[1].max_nano, found[1].models, found[1].alias) == (30, ("small",), "laptop")
    assert books.authenticate(old) is not None
    clock.now += 60
    assert books.authenticate(old) is None
    assert books.authenticate(new) is not None


def test_a_new_pepper_takes_over_keys_as_they_are_used(books: Books) -> None:
    acme(books)
    used, unused = books.create_key("acme"), books.create_key("acme")
    ids = [books.key_id(key) for key in (used, unused)]
    books.rotate_pepper()
    found = books.authenticate(used)
    assert found is not None
    assert found[1].id == ids[0]
    books.rotate_pepper()
    assert books.authenticate(used) is not None
    assert books.authenticate(unused) is None


def test_a_pepper_from_outside_is_not_changed_here(tmp_path: Path) -> None:
    books = Books.open(tmp_path / "tally.db", clock=lambda: NOON, pepper=b"of the environment")
    with pytest.raises(RequestInvalid, match="given from outside"):
        books.rotate_pepper()
    books.close()


def test_limits_of_a_key_change_and_are_checked(books: Books) -> None:
    acme(books)
    key = books.key_id(books.create_key("acme"))
    assert books.update_key(key, max_nano=5, alias="laptop").max_nano == 5
    assert books.key(key).alias == "laptop"
    with pytest.raises(RequestInvalid, match="max_rounds must be"):
        books.update_key(key, max_rounds=0)
    with pytest.raises(RequestInvalid, match="would have expired"):
        books.update_key(key, expires_at=NOON - 1)
    with pytest.raises(RequestInvalid, match="rpm_limit must be"):
        books.create_key("acme", limits=Limits(rpm_limit=0))
    assert len(books.keys()) == 1


def test_a_key_needs_a_tenant(books: Books) -> None:
    with pytest.raises(NotFound, match="no tenant 'nobody'"):
        books.create_key("nobody")
    with pytest.raises(NotFound):
        books.keys("nobody")


def test_a_blocked_tenant_is_known_by_its_key(books: Books) -> None:
    acme(books)
    key = books.create_key("acme")
    books.block("acme")
    found = books.authenticate(key)
    assert found is not None
    assert found[0].blocked
    books.unblock("acme")
    assert books.authenticate(key) == (Tenant("acme"), found[1])


def test_configured_tenants_take_over_and_counters_stay(books: Books) -> None:
    acme(books, max_nano=10, rpm_limit=3)
    books.reserve(wish("a", 10))
    books.settle(end("a", row(nano=10)))
    books.adopt([Tenant("acme", max_nano=12)], {"acme": ["sk-from-the-file-1"]})
    assert books.tenants() == [Tenant("acme", max_nano=12, managed=True)]
    assert sheet(books)[2].nano == 10
    assert books.reserve(wish("b", 3)) == 0
    found = books.authenticate("sk-from-the-file-1")
    assert found is not None
    assert found[0].managed


def test_configured_keys_are_replaced_and_made_ones_stay(books: Books) -> None:
    tenants = [Tenant("acme"), Tenant("other")]
    books.adopt(tenants, {"acme": ["sk-from-the-file-1", "sk-from-the-file-2"]})
    made = books.create_key("acme")
    books.adopt(tenants, {"acme": ["sk-from-the-file-1"], "other": ["sk-from-the-file-3"]})
    keys = ["sk-from-the-file-1", "sk-from-the-file-2", "sk-from-the-file-3", made]
    found = [books.authenticate(key) for key in keys]
    assert [one and one[0].name for one in found] == ["acme", None, "other", "acme"]
    books.adopt(tenants, {"other": ["sk-from-the-file-1", "sk-from-the-file-2"]})
    found = [books.authenticate(key) for key in keys]
    assert [one and one[0].name for one in found] == ["other", "other", None, "acme"]


def test_a_tenant_that_left_the_file_is_blocked_with_its_keys_and_free_to_edit(books: Books) -> None:
    books.adopt([Tenant("acme")], {"acme": ["sk-from-the-file-1"]})
    books.adopt([], {})
    assert books.tenants() == [Tenant("acme", blocked=True)]
    assert books.authenticate("sk-from-the-file-1") is None
    books.unblock("acme")
    books.adopt([Tenant("acme")], {"acme": ["sk-from-the-file-1"]})
    assert books.authenticate("sk-from-the-file-1") is not None


def test_what_the_file_says_is_not_edited_elsewhere(books: Books) -> None:
    books.adopt([Tenant("acme")], {"acme": ["sk-from-the-file-1"]})
    with pytest.raises(RequestInvalid, match="configuration file"):
        books.update_tenant("acme", max_nano=1)
    with pytest.raises(RequestInvalid, match="configuration file"):
        books.block("acme")
    with pytest.raises(RequestInvalid, match="configuration file"):
        books.revoke_key(books.keys()[0].id)


def test_a_short_key_of_the_file_has_no_hint(books: Books) -> None:
    books.adopt([Tenant("acme")], {"acme": ["abcdef"]})
    assert books.keys()[0].hint == ""


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///tally.db", Path("tally.db")),
        ("sqlite:///data/tally.db", Path("data/tally.db")),
        ("sqlite:////var/tally.db", Path("/var/tally.db")),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
    ],
)
def test_a_url_names_a_file_or_memory(url: str, path: Path | None) -> None:
    assert database_path(url) == path


@pytest.mark.parametrize("url", ["postgres://host/db", "tally.db", "sqlite:tally.db", "sqlite://host/tally.db"])
def test_a_url_of_anything_else_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is not a database"):
        database_path(url)


def test_migrations_run_once_and_are_numbered(tmp_path: Path) -> None:
    for _ in range(2):
        books = Books.open(tmp_path / "tally.db", clock=lambda: NOON)
        numbers = [row["number"] for row in books.rows("SELECT number FROM migrations")]
        assert numbers == list(range(1, len(MIGRATIONS) + 1))
        books.close()


def test_a_ledger_from_before_metadata_keeps_its_tenants_and_keys(tmp_path: Path) -> None:
    earlier = sqlite3.connect(tmp_path / "tally.db", isolation_level=None)
    migrate(earlier, 9)
    earlier.execute("INSERT INTO tenants (name, managed, created_at) VALUES ('acme', 0, 1)")
    earlier.execute("INSERT INTO keys VALUES ('key_1', x'01', 'acme', 'abcd', 1, NULL, NULL, 0, 'the key')")
    for scope in ("tenant:acme", "key:key_1"):
        earlier.execute("INSERT INTO scopes (id, rpm_limit) VALUES (?, 3)", (scope,))
        earlier.execute("INSERT INTO budgets (scope, place, max_nano) VALUES (?, 0, 100)", (scope,))
    earlier.close()
    books = Books.open(tmp_path / "tally.db", clock=lambda: NOON)
    assert books.tenant("acme") == Tenant("acme", max_nano=100, rpm_limit=3)
    assert (books.key("key_1").alias, books.key("key_1").metadata) == ("the key", None)
    assert books.update_tenant("acme", metadata="{}").metadata == "{}"
    books.close()


@pytest.mark.parametrize("old", range(1, 9))
def test_a_ledger_of_every_earlier_version_is_brought_up_to_date_with_what_it_holds(tmp_path: Path, old: int) -> None:
    earlier = sqlite3.connect(tmp_path / "tally.db", isolation_level=None)
    migrate(earlier, old)
    earlier.execute(
        "INSERT INTO tenants (name, max_nano, duration, blocked, managed, created_at, spent_nano, spent_tokens, "
        "window_start, window_nano, window_tokens) VALUES ('acme', 100, '1d', 0, 0, 1, 30, 12, ?, 20, 7)",
        (NOON - 43_200,),
    )
    if old >= 4:
        earlier.execute("INSERT INTO keys VALUES ('key_1', x'01', 'acme', 'abcd', 1, NULL, NULL, 0)")
        earlier.execute(
            "INSERT INTO reservations VALUES ('held', 'acme', 'key_1', 'req_1', 40, 5, 2, 60, ?)", (NOON + 60,)
        )
        earlier.execute("UPDATE tenants SET reserved_nano = 40, reserved_tokens = 5")
        for name, day, nano, tokens in [("d0", 1, 10, 5), ("d1", 0, 20, 7)]:
            start = NOON - 43_200 - day * 86_400
            earlier.execute(
                """INSERT INTO draws (tenant, key, request, attempt, settled_at, window_start, id, purpose, round,
                "index", status, model, deployment, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens,
                cost_nano, estimated, latency_ms) VALUES
                ('acme', 'key_1', 'req_1', ?, ?, ?, ?, 'draw', 1, 0, 'ok', 'm', 'd', ?, 0, 0, 0, ?, 0, 1)""",
                (name, start + 10, start, name, tokens, nano),
            )
    earlier.close()
    books = Books.open(tmp_path / "tally.db", clock=lambda: NOON)
    assert books.tenant("acme") == Tenant("acme", max_nano=100, duration="1d")
    if old >= 4:
        assert [one.disagreements for one in check(books)] == [(), ()]
        assert sheets(books)[0].window_spent == Amount(20, 7, 1)
        assert sheets(books)[0].spent == Amount(30, 12, 2)
        assert key_sheets(books)[0].spent == Amount(30, 12, 2)
        assert key_sheets(books)[0].reserved == Amount(40, 5)
        books.settle(Settlement("held", Account("acme", "key_1", "req_1"), (row(nano=15),)))
        assert sheets(books)[0].window_spent == Amount(35, 14, 1)
        assert all(one.ok for one in check(books))
    books.close()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, only some words that are long enough for a header" * 20)
    with pytest.raises(ConfigError, match="cannot be opened as a ledger"):
        Books.open(path, clock=lambda: NOON)
    with pytest.raises(ConfigError, match="cannot be read as a ledger"):
        Books.open_read_only(path, clock=lambda: NOON)
    assert path.read_text().startswith("not a database")


def test_reading_never_makes_a_file_nor_migrates_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such ledger"):
        Books.open_read_only(tmp_path / "none.db", clock=lambda: NOON)
    sqlite3.connect(tmp_path / "empty.db").close()
    (tmp_path / "empty.db").touch()
    with pytest.raises(ConfigError, match="version 0"):
        Books.open_read_only(tmp_path / "empty.db", clock=lambda: NOON)
    assert version(sqlite3.connect(tmp_path / "empty.db")) == 0


def test_a_reader_sees_one_moment_while_a_writer_goes_on(tmp_path: Path) -> None:
    writer = Books.open(tmp_path / "tally.db", clock=lambda: NOON)
    acme(writer)
    reader = Books.open_read_only(tmp_path / "tally.db", clock=lambda: NOON)
    with reader.reading():
        assert sheet(reader)[1] == Amount()
        writer.reserve(wish("a", 5))
        assert sheet(reader)[1] == Amount()
    assert sheet(reader)[1] == Amount(5)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.block("acme")
    reader.close()
    writer.close()


def test_what_a_transaction_has_read_no_other_writer_changes_before_it_ends(tmp_path: Path) -> None:
    first = Books.open(tmp_path / "tally.db", clock=lambda: NOON)
    acme(first, max_nano=10)
    first.standing("tenant:acme")  # begins the window, so that below it is only read
    second = Books.open(tmp_path / "tally.db", clock=lambda: NOON, busy_s=0)
    with first.transaction():
        assert first.standing("tenant:acme").room.nano == 10
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            second.reserve(wish("b", 10))
        assert first.reserve(wish("a", 10)) == 1
    assert second.reserve(wish("b", 10)) == 0
    first.close()
    second.close()


def _spend(path: Path, name: str, start: Barrier, granted: "Queue[int]") -> None:
    books = Books.open(path, clock=lambda: NOON, synchronous="OFF")
    start.wait()
    granted.put(sum(books.reserve(wish(f"{name}{number}", 333)) for number in range(100)))
    books.close()


def test_two_processes_share_one_limit(tmp_path: Path) -> None:
    path = tmp_path / "tally.db"
    books = Books.open(path, clock=lambda: NOON)
    acme(books, max_nano=10_000)
    context = multiprocessing.get_context("spawn")
    start, granted = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_spend, args=(path, name, start, granted)) for name in "ab"]
    for worker in workers:
        worker.start()
    assert sum(granted.get(timeout=30) for _ in workers) == 30
    for worker in workers:
        worker.join()
    assert sheet(books)[1] == Amount(30 * 333)
    assert all(one.ok for one in check(books))
    books.close()


@asynccontextmanager
async def opened(url: str = "sqlite://") -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger.open(url, clock=lambda: NOON)
    try:
        yield ledger
    finally:
        await ledger.close()


def url_of(path: Path) -> str:
    return f"sqlite:///{path / 'tally.db'}"


@asynccontextmanager
async def held_up(ledger: SqliteLedger) -> AsyncIterator[None]:
    """What is asked in the block reaches the writer all at once, when the block ends."""
    begun, go = threading.Event(), threading.Event()

    def wait(_: Books) -> None:
        begun.set()
        go.wait(10)

    async with anyio.create_task_group() as group:
        group.start_soon(ledger.run, wait)
        await anyio.to_thread.run_sync(begun.wait)
        try:
            yield
        finally:
            go.set()


async def sheet_of(ledger: SqliteLedger) -> tuple[Amount, Amount, Amount]:
    return await ledger.run(sheet)


@pytest.mark.anyio
@pytest.mark.parametrize("memory", [True, False])
async def test_two_hundred_reservations_at_once_stay_within_the_limit(tmp_path: Path, memory: bool) -> None:
    async with opened("sqlite://" if memory else url_of(tmp_path)) as ledger:
        await ledger.run(lambda books: books.add_tenant(Tenant("acme", max_nano=10_000)))
        granted: dict[str, int] = {}
        protocol: Ledger = ledger

        async def ask(attempt: str) -> None:
            granted[attempt] = await protocol.reserve(wish(attempt, 333))

        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(ask, f"a{number}")
        assert sum(granted.values()) == 30
        for attempt, choices in granted.items():
            if choices:
                ledger.settle(end(attempt, row(nano=100)))
        await ledger.flush()
        assert await sheet_of(ledger) == (Amount(3000, 210), Amount(), Amount(3000, 210))
        assert all(one.ok for one in await ledger.run(check))


@pytest.mark.anyio
async def test_a_verdict_that_was_just_recorded_is_there_for_what_comes_after_it_and_has_its_ballots() -> None:
    async with opened("sqlite://") as ledger:
        await ledger.run(lambda books: books.add_tenant(Tenant("acme")))
        await ledger.reserve(wish("a", 1))
        # all of it in one turn, and so in one group
        ledger.settle(end("a", row("d0")))
        ledger.record(verdict("req_1", Ballot("d0", "42", 0.5, None)))
        ledger.record(verdict("req_2"))
        judged = [ledger.feedback("acme", request, correct=True) for request in ("req_1", "req_2", "req_3")]
        found: list[bool] = []

        async def tell(one: Awaitable[bool]) -> None:
            found.append(await one)

        async with anyio.create_task_group() as group:
            for one in judged:
                group.start_soon(tell, one)
        assert found == [True, True, False]
        (drawn,) = await ledger.run(lambda books: books.rows("SELECT label, score FROM draws").fetchall())
        assert tuple(drawn) == ("42", 0.5)


@pytest.mark.anyio
async def test_an_operation_that_fails_takes_back_its_own_and_harms_no_neighbour(tmp_path: Path) -> None:
    async with opened(url_of(tmp_path)) as ledger:
        await ledger.run(lambda books: books.add_tenant(Tenant("acme")))
        seen: list[object] = []

        async def ask(attempt: str, tenant: str) -> None:
            try:
                seen.append(await ledger.reserve(wish(attempt, 5, tenant=tenant)))
            except NotFound as error:
                seen.append(error.status)

        def half(books: Books) -> None:
            books.add_tenant(Tenant("half"))
            raise RuntimeError("on the way")

        async def fail() -> None:
            with pytest.raises(RuntimeError, match="on the way"):
                await ledger.run(half)

        async with anyio.create_task_group() as group, held_up(ledger):
            group.start_soon(ask, "a", "acme")
            group.start_soon(fail)
            group.start_soon(ask, "b", "nobody")
            group.start_soon(ask, "c", "acme")
            await anyio.wait_all_tasks_blocked()
        assert seen == [1, 404, 1]
        assert [tenant.name for tenant in await ledger.run(lambda books: books.tenants())] == ["acme"]


@pytest.mark.anyio
async def test_an_entry_that_cannot_be_written_is_logged_and_harms_no_neighbour(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened() as ledger:
        await ledger.run(lambda books: books.add_tenant(Tenant("acme")))
        await ledger.reserve(wish("a", 5))
        await ledger.reserve(wish("b", 5))
        ledger.settle(end("a", row(nano=2**70)))
        ledger.settle(end("b", row(nano=3)))
        await ledger.flush()
        assert await sheet_of(ledger) == (Amount(3, 7), Amount(5), Amount(3, 7))
    assert "was not written" in caplog.text


@pytest.mark.anyio
async def test_a_cancelled_reservation_is_released() -> None:
    async with opened() as ledger:
        await ledger.run(lambda books: books.add_tenant(Tenant("acme", max_nano=10)))
        async with anyio.create_task_group() as group, held_up(ledger):
            group.start_soon(ledger.reserve, wish("a", 10))
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        await ledger.flush()
        assert await sheet_of(ledger) == (Amount(), Amount(), Amount())


@pytest.mark.anyio
async def test_a_cancelled_task_can_settle_and_record() -> None:
    async with opened() as ledger:
        await ledger.run(lambda books: books.add_tenant(Tenant("acme")))
        await ledger.reserve(wish("a", 10))
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await anyio.sleep(1)
            finally:
                ledger.settle(end("a", row("d0", nano=7)))
                ledger.record(verdict("req_1", Ballot("d0", "42", None, None)))
        await ledger.flush()
        assert [line["label"] for line in await ledger.run(lambda books: list(draws(books)))] == ["42"]


@pytest.mark.anyio
async def test_a_locked_file_refuses_reservations_and_keeps_settlements(tmp_path: Path) -> None:
    async with opened(url_of(tmp_path)) as ledger:
        await ledger.run(lambda books: books.add_tenant(Tenant("acme", max_nano=100)))
        await ledger.reserve(wish("a", 10))
        other = sqlite3.connect(tmp_path / "tally.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        ledger.settle(end("a", row(nano=7)))
        for attempt in "bc":
            begun = time.monotonic()
            with pytest.raises(LedgerUnavailable, match="locked") as caught:
                await ledger.reserve(wish(attempt, 10))
            assert time.monotonic() - begun < 1.5
            assert caught.value.retry_after == 1.0
        with pytest.raises(LedgerUnavailable):
            await ledger.authenticate("key")
        other.execute("ROLLBACK")
        other.close()
        await ledger.flush()
        assert await sheet_of(ledger) == (Amount(7, 7), Amount(), Amount(7, 7))
        assert await ledger.reserve(wish("d", 93)) == 1


@pytest.mark.anyio
async def test_a_full_disk_refuses_reservations_and_keeps_settlements_in_order(tmp_path: Path) -> None:
    books = Books.open(tmp_path / "tally.db", clock=lambda: NOON)
    ledger = SqliteLedger(books)
    await ledger.run(lambda books: books.add_tenant(Tenant("acme")))
    for attempt in "ab":
        await ledger.reserve(wish(attempt, 10))
    books.rows("PRAGMA max_page_count = 1").fetchall()
    ledger.settle(end("a", row("large", nano=1, model="m" * 100_000)))
    ledger.settle(end("b", row("small", nano=2)))
    with pytest.raises(LedgerUnavailable, match="full"):
        await ledger.reserve(wish("c", 10))
    other = Books.open_read_only(tmp_path / "tally.db", clock=lambda: NOON)
    assert sheet(other) == (Amount(), Amount(20), Amount())
    books.rows("PRAGMA max_page_count = 1000000").fetchall()
    await ledger.flush()
    assert [line["id"] for line in draws(other)] == ["large", "small"]
    assert sheet(other)[1] == Amount()
    other.close()
    await ledger.close()


@pytest.mark.anyio
async def test_what_was_settled_before_closing_is_on_disk(tmp_path: Path) -> None:
    async with opened(url_of(tmp_path)) as ledger:
        await ledger.run(lambda books: books.add_tenant(Tenant("acme")))
        for number in range(300):
            await ledger.reserve(wish(f"a{number}", 2))
        for number in range(300):
            ledger.settle(end(f"a{number}", row(nano=1)))
    with pytest.raises(LedgerUnavailable, match="closed"):
        ledger.settle(end("late"))
    books = Books.open_read_only(tmp_path / "tally.db", clock=lambda: NOON)
    assert sheet(books) == (Amount(300, 2100), Amount(), Amount(300, 2100))
    books.close()


@pytest.mark.anyio
async def test_a_second_server_on_the_same_file_is_refused(tmp_path: Path) -> None:
    async with opened(url_of(tmp_path)):
        with pytest.raises(ConfigError, match="another tally server uses this ledger"):
            SqliteLedger.open(url_of(tmp_path), clock=lambda: NOON)
    async with opened(url_of(tmp_path)):
        pass


@pytest.mark.anyio
async def test_a_server_charges_what_its_dead_predecessor_left_reserved(tmp_path: Path) -> None:
    dead = Books.open(tmp_path / "tally.db", clock=lambda: NOON)
    acme(dead)
    dead.reserve(wish("a", 10, lifetime=10**6))
    dead.close()
    async with opened(url_of(tmp_path)) as ledger:
        assert await sheet_of(ledger) == (Amount(10), Amount(), Amount(10))


@pytest.mark.anyio
async def test_a_server_that_cannot_open_its_file_lets_go_of_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "tally.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match="cannot be opened"):
        SqliteLedger.open(url_of(tmp_path), clock=lambda: NOON)
    path.unlink()
    async with opened(url_of(tmp_path)):
        pass
