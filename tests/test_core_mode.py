"""How sure a vote is: the posterior chance that a label is the mode."""

import random
import subprocess
import sys
from fractions import Fraction
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import gamma

from proxy.core.mode import chance_of_mode
from proxy.core.vote import confidence

ballots = st.integers(0, 40)
several = st.lists(ballots, min_size=3, max_size=7)
NEARLY = 1e-7


def by_quadrature(counts: list[int], place: int) -> float:
    """The same by scipy: P(G > max G_i) of independent gammas of shapes 1 + counts."""
    own, rivals = counts[place] + 1, [count + 1 for at, count in enumerate(counts) if at != place]

    def density(x: float) -> float:
        return float(gamma.pdf(x, own) * np.prod(gamma.cdf(x, rivals)))

    most = max(own, *rivals)
    far = most + 12 * most**0.5 + 40
    found, _ = quad(density, 0, far, points=sorted({own, *rivals}), limit=400, epsabs=1e-11)
    return float(found)


@pytest.mark.parametrize(
    ("counts", "place"),
    [
        ([0, 0, 0], 0),
        ([3, 1, 1], 0),
        ([3, 1, 1], 2),
        ([8, 7, 1, 0], 0),
        ([30, 2, 1, 1, 1, 1], 0),
        ([10, 11, 12, 13, 14], 1),
        ([340, 342, 341], 0),
        ([512, 511, 1], 0),
        ([600, 5, 4, 3, 2, 1], 0),
        ([60, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4], 3),
    ],
)
def test_it_is_scipys_integral(counts: list[int], place: int) -> None:
    assert chance_of_mode(counts, place) == pytest.approx(by_quadrature(counts, place), abs=NEARLY)


@given(several, st.data())
def test_it_is_scipys_integral_for_any_counts(counts: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(counts) - 1))
    assert chance_of_mode(counts, place) == pytest.approx(by_quadrature(counts, place), abs=NEARLY)


def exactly(own: int, one: int, other: int) -> Fraction:
    """P(G > both) in rationals: of each rival P(G_k < x) = 1 - e^-x sum_{j<k} x^j / j!, multiplied out."""

    def term(times: int, power: int) -> Fraction:
        """The integral of x^power e^(-times x) under G's density."""
        return Fraction(factorial(own + power), factorial(own) * (times + 1) ** (own + 1 + power))

    ones, others = ([Fraction(1, factorial(j)) for j in range(rival + 1)] for rival in (one, other))
    found = Fraction(1)
    found -= sum(weight * term(1, j) for each in (ones, others) for j, weight in enumerate(each))
    found += sum(a * b * term(2, i + j) for i, a in enumerate(ones) for j, b in enumerate(others))
    return found


@given(st.integers(0, 15), st.integers(0, 15), st.integers(0, 15))
def test_of_three_labels_it_is_the_exact_rational(own: int, one: int, other: int) -> None:
    assert chance_of_mode([own, one, other]) == pytest.approx(float(exactly(own, one, other)), abs=NEARLY)


@given(ballots, ballots)
def test_of_two_labels_it_is_the_closed_form_exactly(first: int, second: int) -> None:
    assert chance_of_mode([first, second]) == confidence(first, second)
    assert chance_of_mode([first, second], 1) == confidence(second, first)


@given(ballots)
def test_a_label_alone_is_held_against_an_unseen_rival(count: int) -> None:
    assert chance_of_mode([count]) == confidence(count, 0)


@given(several)
def test_one_of_the_labels_is_the_mode(counts: list[int]) -> None:
    assert sum(chance_of_mode(counts, place) for place in range(len(counts))) == pytest.approx(1, abs=NEARLY)


def test_a_thousand_labels_share_what_they_cannot_be_told_apart_by() -> None:
    assert chance_of_mode([1] * 1024) == pytest.approx(1 / 1024, abs=NEARLY)
    assert chance_of_mode([2] + [1] * 1000) + 1000 * chance_of_mode([2] + [1] * 1000, 1) == pytest.approx(1, abs=1e-6)


@given(several, st.integers(0, 6), st.integers(1, 5))
def test_a_ballot_more_never_makes_its_label_less_likely_nor_another_more(
    counts: list[int], place: int, more: int
) -> None:
    place %= len(counts)
    grown = [count + more * (at == place) for at, count in enumerate(counts)]
    assert chance_of_mode(grown, place) >= chance_of_mode(counts, place) - NEARLY
    for other in range(len(counts)):
        if other != place:
            assert chance_of_mode(grown, other) <= chance_of_mode(counts, other) + NEARLY


@given(several, ballots)
def test_one_more_rival_never_makes_a_label_likelier_and_none_makes_it_surer_than_against_one_alone(
    counts: list[int], rival: int
) -> None:
    found = chance_of_mode([*counts, rival])
    assert found <= chance_of_mode(counts) + NEARLY
    assert all(found <= confidence(counts[0], other) + NEARLY for other in [*counts[1:], rival])


@given(several, st.randoms(use_true_random=False))
def test_the_order_of_the_rivals_says_nothing(counts: list[int], rng: random.Random) -> None:
    others = counts[1:]
    rng.shuffle(others)
    assert chance_of_mode([counts[0], *others]) == chance_of_mode(counts)


def test_three_labels_are_less_sure_than_two() -> None:
    assert chance_of_mode([4, 3, 3]) < 0.6 < confidence(4, 3)


def test_it_is_told_without_scipy() -> None:
    lines = "import sys", "from proxy.core.mode import chance_of_mode", "chance_of_mode([5, 3, 2])"
    program = "\n".join([*lines, "print('scipy' in sys.modules)"])
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
