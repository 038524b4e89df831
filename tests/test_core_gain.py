"""The look-ahead gain against its definition, in exact fractions."""

from fractions import Fraction
from functools import cache
from itertools import accumulate, pairwise
from math import comb

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.core.gain import AHEAD, gain, steps, worth

counts = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda pair: (max(pair), min(pair)))


@cache
def sure(one: int, other: int) -> Fraction:
    """The chance that the leader of two counts is the likelier label: the mass of its beta posterior above one half."""
    first, second = max(one, other), min(one, other)
    trials = first + second + 1
    return 1 - Fraction(sum(comb(trials, k) for k in range(second + 1)), 2**trials)


@cache
def expected(first: int, second: int, ahead: int) -> Fraction:
    """What `sure` will be in the mean, ballot by ballot: the next is the leader's as often as Laplace's rule says."""
    if not ahead:
        return sure(first, second)
    chance = Fraction(first + 1, first + second + 2)
    return chance * expected(first + 1, second, ahead - 1) + (1 - chance) * expected(first, second + 1, ahead - 1)


@given(counts, st.integers(0, 12))
def test_the_gain_is_what_the_leaders_chance_rises_by_in_the_mean_over_all_further_ballots(
    pair: tuple[int, int], ahead: int
) -> None:
    exact = expected(*pair, ahead) - sure(*pair)
    assert exact >= 0
    assert gain(*pair, ahead) == pytest.approx(float(exact), abs=1e-12)


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from(AHEAD))
def test_no_gain_is_negative_and_none_is_more_than_the_doubt_that_is_left(one: int, other: int, ahead: int) -> None:
    first, second = max(one, other), min(one, other)
    found = gain(first, second, ahead)
    assert 0 <= found <= float(1 - sure(first, second)) + 1e-12


@given(counts, st.integers(0, 40))
def test_more_ballots_never_gain_less(pair: tuple[int, int], ahead: int) -> None:
    assert gain(*pair, ahead + 1) >= gain(*pair, ahead) - 1e-12


@given(st.integers(0, 60), st.integers(0, 60))
def test_steps_are_the_least_concave_line_above_the_gains(one: int, other: int) -> None:
    first, second = max(one, other), min(one, other)
    found = steps(first, second)
    assert all(steep > flat > 0 for (_, steep), (_, flat) in pairwise(found))
    ends = list(accumulate((count for count, _ in found), initial=0))
    heights = list(accumulate((count * slope for count, slope in found), initial=0.0))
    # it touches the gains at the end of every step, so no lower line would do
    assert set(ends) <= {0, *AHEAD}
    assert heights == pytest.approx([gain(first, second, end) for end in ends], abs=1e-12)
    for ahead in AHEAD:
        step = next((i for i, end in enumerate(ends[1:]) if ahead <= end), None)
        line = heights[-1] if step is None else heights[step] + (ahead - ends[step]) * found[step][1]
        assert gain(first, second, ahead) <= line + 1e-12


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_worth_of_a_query_is_its_best_mean_gain(one: int, other: int) -> None:
    first, second = max(one, other), min(one, other)
    best = max(gain(first, second, ahead) / ahead for ahead in AHEAD)
    assert worth(first, second) == pytest.approx(best, abs=1e-12)


@given(st.integers(2, 40), st.data())
def test_of_as_many_ballots_the_larger_lead_is_worth_less(total: int, data: st.DataObject) -> None:
    second = data.draw(st.integers(0, (total - 2) // 2))
    first = total - second
    closer = worth(first - 1, second + 1)
    # what is left of a huge lead is below what floating point can tell from nothing
    assume(closer > 1e-12)
    assert worth(first, second) < closer


@given(st.integers(0, 60))
def test_of_equal_leads_the_one_over_more_ballots_is_worth_less(tied: int) -> None:
    assert worth(tied + 1, tied + 1) < worth(tied, tied)


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        # nothing known: 1/2 becomes 3/4 with the first ballot, whoever gets it
        (0, 0, 1 / 4),
        # one ballot turns nothing; of two, 2:0 comes with 1/2, 1:1 after a fall, 1:2 with 1/6: 13/16 in the mean
        (1, 0, 1 / 32),
        # a tie becomes 2:1 at once: 1/2 to 11/16
        (1, 1, 3 / 16),
    ],
)
def test_the_worth_of_the_first_counts_by_hand(first: int, second: int, value: float) -> None:
    assert worth(first, second) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("lead", [1, 2, 3, 4])
def test_ballots_that_cannot_turn_a_lead_gain_nothing_and_the_first_that_can_do(lead: int) -> None:
    assert gain(1 + lead, 1, lead) == pytest.approx(0, abs=1e-12)
    assert gain(1 + lead, 1, lead + 1) > 1e-3
    assert steps(1 + lead, 1)[0][0] > lead


def test_a_lead_that_no_ballot_can_turn_is_worth_nothing() -> None:
    assert worth(2000, 0) < 1e-12
