"""Why a budget refused something: the right limit is named, in words and in fields, and when it has room again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.api.refusing import explained
from proxy.errors import BudgetExceeded, LedgerUnavailable
from proxy.ledger import Amount, DrawRow, Refused, Reservation, Settlement, Shortage
from proxy.ledger.books import Books
from proxy.ledger.postgres import PostgresBooks
from proxy.ledger.shortage import shortage
from proxy.purse import Purse
from proxy.types import Account, Budget, Limits, Tenant
from tests.test_ledger_processes import remote, served

NOON = 1_773_835_200.0
"""18 March 2026, 12:00 UTC."""

MIDNIGHT = NOON + 43_200
ACME = Account("acme", None, "r")
CENT = 10_000_000


@pytest.fixture(params=["sqlite", "postgres"])
def books(request: pytest.FixtureRequest) -> Iterator[Books]:
    if request.param == "sqlite":
        opened = Books.open(None, clock=lambda: NOON)
    else:
        opened = PostgresBooks.open_url(request.getfixturevalue("postgres")(), clock=lambda: NOON)
        opened.take_part()
    yield opened
    opened.close()


def hold(books: Books, amount: Amount, account: Account = ACME) -> None:
    assert books.reserve(Reservation(f"a{amount}", account, Amount(), amount, 1, 60.0)) == 1


def overspend(books: Books, nano: int) -> None:
    assert books.reserve(Reservation("over", ACME, Amount(), Amount(), 1, 60.0)) == 1
    row = DrawRow("over", "draw", 1, 0, "ok", "m", "d", 1, 0, 1, 0, nano, False, "stop", 1)
    assert books.settle(Settlement("over", ACME, (row,)))


def test_the_limit_with_least_room_is_named_with_its_window(books: Books) -> None:
    books.add_tenant(Tenant("acme", max_nano=10 * CENT, max_tokens=1000, duration="1d", budgets=(Budget("1mo", 5000),)))
    hold(books, Amount(4000, 100))
    assert shortage(books, Refused(ACME, Amount(500, 10), Amount(600, 10), 8)) == Shortage(
        "acme", None, "money", "1mo", 5000, 1000, 1100, 1_775_001_600.0, 1_775_001_600.0 - NOON
    )
    assert shortage(books, Refused(ACME, Amount(0, 900), Amount(0, 10), 1)) == Shortage(
        "acme", None, "tokens", "1d", 1000, 900, 910, MIDNIGHT, 43_200.0
    )


def test_the_scope_that_is_short_is_named_and_no_other(books: Books) -> None:
    books.add_tenant(Tenant("acme", max_nano=10 * CENT))
    made = books.create_key("acme", limits=Limits(max_drawn=3, duration="24h"))
    account = Account("acme", books.key_id(made), "r")
    hold(books, Amount(100, 100, 3), account)
    found = shortage(books, Refused(account, Amount(), Amount(100, 10, 1), 8))
    assert found is not None
    assert (found.key, found.limited, found.duration) == (account.key, "samples", "24h")
    assert (found.limit, found.left, found.needed) == (3, 0, 1)
    assert shortage(books, Refused(ACME, Amount(), Amount(100, 10, 1), 8)) is None


def test_a_limit_that_was_passed_has_nothing_left_and_not_less(books: Books) -> None:
    books.add_tenant(Tenant("acme", max_nano=100))
    overspend(books, 250)
    found = shortage(books, Refused(ACME, Amount(), Amount(1)))
    assert found is not None
    assert (found.limit, found.left, found.resets_at, found.resets_in) == (100, 0, None, None)


def test_how_many_choices_a_limit_still_holds_says_which_one_it_was(books: Books) -> None:
    """Two of three choices fit the tokens and all of them the money."""
    books.add_tenant(Tenant("acme", max_nano=10 * CENT, max_tokens=100))
    found = shortage(books, Refused(ACME, Amount(10, 10), Amount(1, 40), 3))
    assert found is not None
    assert (found.limited, found.needed) == ("tokens", 130)


def test_where_there_is_room_by_now_nothing_is_short(books: Books) -> None:
    books.add_tenant(Tenant("acme", max_nano=100))
    assert shortage(books, Refused(ACME, Amount(), Amount(100))) is None
    books.add_tenant(Tenant("free"))
    assert shortage(books, Refused(Account("free", None, "r"))) is None


def test_a_blocked_scope_is_named_before_its_budget(books: Books) -> None:
    books.add_tenant(Tenant("acme", max_nano=0))
    account = Account("acme", books.key_id(books.create_key("acme")), "r")
    books.block_key(str(account.key))
    assert shortage(books, Refused(account, Amount(), Amount(1))) == Shortage("acme", account.key, "blocked")
    books.block("acme")
    assert shortage(books, Refused(account, Amount(), Amount(1))) == Shortage("acme", None, "blocked")


def test_a_vote_is_refused_by_a_soft_budget_that_ends_scaling_or_by_the_shortest_window(books: Books) -> None:
    soft = Limits(max_nano=1000, soft_nano=800, scale_until="soft", duration="1d")
    books.add_tenant(Tenant("acme", max_nano=1000, max_tokens=1000, soft_nano=10))
    account = Account("acme", books.key_id(books.create_key("acme", limits=soft)), "r")
    hold(books, Amount(700, 990), account)
    shortest = shortage(books, Refused(account))
    assert shortest is not None
    assert (shortest.key, shortest.limited, shortest.left, shortest.needed) == (None, "tokens", 10, 0)
    hold(books, Amount(100, 1), account)
    passed = shortage(books, Refused(account))
    assert passed == Shortage("acme", account.key, "soft budget", "1d", 800, 0, 0, MIDNIGHT, 43_200.0)
    unpaid = shortage(books, Refused(account, free=True))
    assert unpaid is not None
    assert unpaid.limited == "tokens"


@pytest.mark.anyio
async def test_a_worker_asks_the_process_that_writes(tmp_path: Path) -> None:
    async with served(tmp_path, max_nano=1000) as path:
        ledger = remote(path)
        wish = Refused(ACME, Amount(600), Amount(500, 10, 1), 2)
        assert await ledger.shortage(wish) == Shortage("acme", None, "money", None, 1000, 1000, 1100)
        assert await ledger.shortage(Refused(ACME, Amount(), Amount(1))) is None
        # what no ledger can count it is not asked
        assert await ledger.shortage(Refused(ACME, Amount(10**30))) is None
        await ledger.close()


TOLD = Shortage("acme", None, "money", "1d", 10 * CENT, 1500, 6_553_600, MIDNIGHT, 43_200.0)


async def told(found: Shortage | None, purse: Purse | None = None) -> BudgetExceeded:
    async def ask(_: Refused) -> Shortage | None:
        return found

    return await explained(BudgetExceeded("No."), purse or Purse(Tenant("acme"), ACME), ask)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            TOLD,
            "No. The tenant 'acme' may spend 0.1 USD in each window of 1d, and 0.0000015 USD of it is left; this has "
            "to reserve 0.0065536 USD. The window ends at 2026-03-19T00:00:00Z.",
        ),
        (
            Shortage("acme", "key_1", "tokens", None, 1000, 0, 40),
            "No. The key 'key_1' may use 1000 tokens in all, and 0 of it is left; this has to reserve 40.",
        ),
        (
            Shortage("acme", "key_1", "samples", "30s", 5, 0, 0, NOON + 7.5, 7.5),
            "No. The key 'key_1' may draw 5 samples in each window of 30s, and 0 of it is left. "
            "The window ends at 2026-03-18T12:00:07Z.",
        ),
        (
            Shortage("acme", None, "soft budget", "1d", 8 * CENT, 0, 0, MIDNIGHT, 43_200.0),
            "No. The tenant 'acme' has used up its soft budget of 0.08 USD in each window of 1d. "
            "The window ends at 2026-03-19T00:00:00Z.",
        ),
        (Shortage("acme", None, "blocked"), "No. The tenant 'acme' is blocked."),
        (None, "No."),
    ],
)
async def test_a_refusal_says_whose_limit_it_is_on_what_in_which_window_and_until_when(
    found: Shortage | None, message: str
) -> None:
    assert (await told(found)).message == message


@pytest.mark.anyio
async def test_a_refusal_tells_the_same_in_fields() -> None:
    assert (await told(TOLD)).budget == {
        "tenant": "acme",
        "key": None,
        "limited": "money",
        "limit": "0.1",
        "left": "0.0000015",
        "needed": "0.0065536",
        "budget_duration": "1d",
        "resets_at": "2026-03-19T00:00:00Z",
    }


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("found", "retry_after", "should_retry"),
    [
        (TOLD, 43_200.0, False),
        (Shortage("acme", None, "samples", "30s", 5, 0, 1, NOON + 7.5, 7.5), 7.5, True),
        # larger than any window: waiting does not help
        (Shortage("acme", None, "samples", "30s", 5, 0, 6, NOON + 7.5, 7.5), None, False),
        (Shortage("acme", None, "samples", None, 5, 0, 1), None, False),
        (Shortage("acme", None, "blocked"), None, False),
        (None, None, False),
    ],
)
async def test_who_may_come_back_is_told_when_and_an_sdk_only_where_it_would_wait_so_long(
    found: Shortage | None, retry_after: float | None, should_retry: bool
) -> None:
    error = await told(found)
    assert (error.retry_after, error.should_retry) == (retry_after, should_retry)


@pytest.mark.anyio
async def test_a_requests_own_limit_is_named_as_such() -> None:
    purse = Purse(Tenant("acme"), ACME, limit=1000, refused=Refused(ACME, Amount(400), Amount(700), 8))
    error = await told(TOLD, purse)
    assert (
        error.message == "No. It may cost at most 0.000001 USD (max_cost_usd), and this has to reserve 0.0000011 USD."
    )
    assert error.retry_after is None
    # all three choices are wanted, and the budget holds them
    purse.refused = Refused(ACME, Amount(), Amount(400), 3)
    assert "reserve 0.0000012 USD" in (await told(None, purse)).message


@pytest.mark.anyio
async def test_while_the_ledger_does_not_answer_the_refusal_stands_as_it_is() -> None:
    async def gone(_: Refused) -> Shortage | None:
        raise LedgerUnavailable("gone")

    error = BudgetExceeded("No.")
    assert await explained(error, Purse(Tenant("acme"), ACME), gone) is error
