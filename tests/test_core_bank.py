"""The balance that queries share, and the price that follows it."""

from collections.abc import Callable
from itertools import pairwise
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.core.bank import Bank, Banks

CHEAPEST, DEAREST = 1e-6, 0.25


def test_at_a_credit_of_eight_samples_the_price_starts_at_two_hundredths() -> None:
    assert Bank(8).price == pytest.approx(0.02)
    assert Bank(32).price == pytest.approx(0.02 / 8)


@given(st.floats(0.01, 10_000), st.floats(0.01, 10_000))
def test_who_brings_more_starts_at_no_higher_a_price(one: float, other: float) -> None:
    assert Bank(max(one, other)).price <= Bank(min(one, other)).price


def passing(bank: Bank, spent: float, queries: int) -> list[float]:
    """The price after each of some queries, one after the other, that spend so many samples each."""
    prices = [bank.price]
    for _ in range(queries):
        bank.open()
        bank.take(spent)
        bank.settle(spent)
        prices.append(bank.price)
    return prices


def test_the_price_falls_while_queries_spend_less_than_they_bring_and_stops_at_the_cheapest() -> None:
    prices = passing(Bank(8), 2, 200)
    assert all(later < earlier or later == pytest.approx(CHEAPEST) for earlier, later in pairwise(prices))
    assert prices[-1] == pytest.approx(CHEAPEST)


def test_the_price_rises_while_queries_spend_more_than_they_bring_and_stops_at_the_dearest() -> None:
    prices = passing(Bank(8), 16, 200)
    assert all(later > earlier or later == pytest.approx(DEAREST) for earlier, later in pairwise(prices))
    assert prices[-1] == pytest.approx(DEAREST)


def test_the_price_stands_while_queries_spend_what_they_bring() -> None:
    assert passing(Bank(8), 8, 20) == pytest.approx([0.02] * 21)


def test_savings_lower_the_price_to_next_to_nothing_at_the_bound_and_a_debt_leaves_it() -> None:
    bank = Bank(8)
    bank.open()
    assert bank.price == pytest.approx(0.02)
    bank.take(-8)
    assert bank.price == pytest.approx(0.02 * exp(-0.1) * 15 / 16)
    bank.take(-8 * 15)
    assert bank.price == pytest.approx(CHEAPEST)
    bank.take(228)
    assert bank.price == pytest.approx(0.02)


def test_a_price_recovers_as_fast_from_its_bounds_as_if_it_had_just_met_them() -> None:
    once, long = Bank(8, proportional=0), Bank(8, proportional=0)
    passing(once, 800, 1)
    passing(long, 800, 100)
    assert passing(once, 0, 1)[-1] == pytest.approx(passing(long, 0, 1)[-1])


def test_a_query_that_comes_finds_no_more_saved_than_the_bound() -> None:
    bank = Bank(8, bound=2)
    passing(bank, 0, 100)
    bank.open()
    assert bank.balance == 8 * (2 + 1)
    bank.open()
    assert bank.balance == 8 * (2 + 2)


def test_the_credits_of_queries_side_by_side_are_no_savings() -> None:
    bank = Bank(8, bound=1)
    for _ in range(50):
        bank.open()
    assert bank.balance == 8 * 50
    assert bank.price == pytest.approx(0.02)


def test_what_a_settled_query_turns_out_to_have_spent_counts_like_what_it_spent_before() -> None:
    early, late = Bank(8), Bank(8)
    early.open()
    early.take(5)
    early.settle(5)
    late.open()
    late.take(3)
    late.settle(3)
    late.correct(2)
    assert late.balance == early.balance
    assert late.price == pytest.approx(early.price)


def test_costs_are_told_in_samples_of_the_mean_length_that_queries_open_with() -> None:
    bank = Bank(8)
    for tokens in (100, 0, 200):
        bank.learn(tokens)
    assert bank.cost(250) == pytest.approx(2.5)
    assert bank.cost(0) == 0


def test_a_mean_length_that_is_known_is_not_learned_again() -> None:
    bank = Bank(8, sample_tokens=50)
    bank.learn(1000)
    assert bank.cost(100) == 2


@pytest.mark.parametrize("sample_tokens", [None, 0])
def test_while_no_sample_had_a_length_every_sample_costs_the_same(sample_tokens: float | None) -> None:
    bank = Bank(8, sample_tokens=sample_tokens)
    bank.learn(0)
    assert bank.cost(0) == bank.cost(10**6) == 1
    assert bank.cost(0, samples=3) == 3


def test_an_owner_has_one_bank_for_each_credit() -> None:
    banks = Banks()
    assert banks.of("acme", 8) is banks.of("acme", 8)
    others = [banks.of("acme", 8), banks.of("acme", 4), banks.of("zeta", 8), banks.of(("acme", "small"), 8)]
    assert len({id(bank) for bank in others}) == 4
    assert [bank.credit for bank in others] == [8, 4, 8, 8]


def test_beyond_so_many_owners_the_bank_that_was_used_longest_ago_is_forgotten() -> None:
    banks = Banks(most=2)
    first, second = banks.of("first", 8), banks.of("second", 8)
    assert banks.of("first", 8) is first
    third = banks.of("third", 8)
    assert banks.of("first", 8) is first
    assert banks.of("third", 8) is third
    assert banks.of("second", 8) is not second


@pytest.mark.parametrize("build", [lambda: Bank(0), lambda: Bank(-1), lambda: Bank(8, bound=0.5)])
def test_a_bank_without_credit_or_room_is_an_error(build: Callable[[], Bank]) -> None:
    with pytest.raises(ValueError, match="credit"):
        build()


class Accounts(RuleBasedStateMachine):
    """A bank under queries that open, take, give back and settle in any order, beside a second book."""

    @initialize(credit=st.floats(0.01, 200), bound=st.floats(1, 20))
    def begin(self, credit: float, bound: float) -> None:
        self.bank = Bank(credit, bound=bound)
        self.bound = bound
        self.queries: list[float] = []
        self.book = 0.0

    @rule()
    def open(self) -> None:
        self.bank.open()
        self.queries.append(0.0)
        most = (self.bound + len(self.queries)) * self.bank.credit
        self.book = min(self.book + self.bank.credit, most)
        assert self.bank.balance <= most + 1e-9

    @precondition(lambda self: self.queries)
    @rule(data=st.data(), samples=st.floats(0, 100), given_back=st.floats(0, 1))
    def draw(self, data: st.DataObject, samples: float, given_back: float) -> None:
        query = data.draw(st.integers(0, len(self.queries) - 1))
        self.bank.take(samples)
        self.bank.take(-samples * given_back)
        self.queries[query] += samples * (1 - given_back)
        self.book -= samples * (1 - given_back)

    @precondition(lambda self: self.queries)
    @rule(data=st.data(), late=st.floats(-5, 5))
    def settle(self, data: st.DataObject, late: float) -> None:
        spent = self.queries.pop(data.draw(st.integers(0, len(self.queries) - 1)))
        self.bank.settle(spent)
        self.bank.correct(late)
        self.book -= late

    @invariant()
    def the_price_stays_within_its_bounds(self) -> None:
        assert CHEAPEST <= self.bank.price <= DEAREST

    @invariant()
    def the_balance_is_what_came_in_less_what_was_spent(self) -> None:
        assert self.bank.balance == pytest.approx(self.book, abs=1e-6)


TestAccounts = Accounts.TestCase
