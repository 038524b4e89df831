"""The published stopping and allocation rules of the baselines, and their conduct under a caller that does anything."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import fsum
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.adaptive_consistency import AdaptiveConsistencyBatch
from proxy.core.batch import (
    BUDGET,
    CONFIDENT,
    FAILED,
    ROUND_CAP,
    SAMPLE_CAP,
    SPENT,
    Batch,
    Cancelled,
    Denied,
    Draw,
    Failure,
    Limits,
    Sample,
)
from proxy.core.early_stopping import EarlyStoppingBatch
from proxy.core.pets import PetsBatch, gain, leads
from proxy.core.strategies import batch_for
from proxy.core.vote import confidence
from proxy.types import Strategy, StrategyName
from tests.test_core_batch import Play, Trouble, limits_, queries_, seeds, troubles

FREE = Limits(10**6, 10**6)


def feed(batch: Batch, labels: str) -> str | None:
    """Answer one query's draws with the letters of `labels` (`-` abstains, `x` is lost) until it is decided.

    Returns its reason. Every letter must be wanted, and more than them must not be.
    """
    batch.join(0)
    batch.close()
    letters = iter(labels)
    while not batch.decided():
        for draw in batch.ask():
            letter = next(letters)
            batch.tell(Failure(draw.id) if letter == "x" else Sample(draw.id, None if letter == "-" else letter))
            if batch.decided():
                break
    assert next(letters, None) is None
    return batch.reason(0)


@pytest.mark.parametrize(
    "labels",
    [
        "aaaa",  # 1 - 1/32 = 0.969, where aaa has 1 - 1/16 = 0.938
        "abaaaaa",  # 5 to 1 is 1 - 8/128 = 0.938, 6 to 1 is 1 - 9/256 = 0.965
        "abcaaaaa",  # the third answer is not looked at
        "-a-aaa",  # abstentions are no ballots
        "axaaa",  # nor are lost draws
    ],
)
def test_adaptive_consistency_stops_at_the_first_sample_that_makes_the_leader_sure(labels: str) -> None:
    assert feed(AdaptiveConsistencyBatch(limits=FREE), labels) == CONFIDENT


@pytest.mark.parametrize(("threshold", "labels"), [(0.9374, "aaa"), (0.9375, "aaaa"), (0.5, "a"), (0.999, "a" * 9)])
def test_adaptive_consistency_goes_on_while_the_chance_is_not_above_the_threshold(
    threshold: float, labels: str
) -> None:
    assert feed(AdaptiveConsistencyBatch(threshold=threshold, limits=FREE), labels) == CONFIDENT


@pytest.mark.parametrize(
    ("limits", "width", "labels", "reason"),
    [
        (Limits(5, 9), 1, "abcde", SAMPLE_CAP),
        (Limits(9, 3), 1, "aaa", ROUND_CAP),
        (Limits(9, 2), 3, "abcabc", ROUND_CAP),
        (Limits(5, 9), 3, "abcde", SAMPLE_CAP),
        (Limits(9, 9), 1, "x", FAILED),
    ],
)
def test_adaptive_consistency_stops_at_its_caps(limits: Limits, width: int, labels: str, reason: str) -> None:
    assert feed(AdaptiveConsistencyBatch(width=width, limits=limits), labels) == reason


def test_adaptive_consistency_decides_in_the_middle_of_a_round_and_leaves_the_rest_to_be_cancelled() -> None:
    batch = AdaptiveConsistencyBatch(width=6, limits=Limits())
    batch.join(0)
    draws = batch.ask()
    assert len(draws) == 6
    for draw in draws[:4]:
        assert batch.decided() == ()
        batch.tell(Sample(draw.id, "a"))
    assert batch.decided() == (0,)
    assert batch.ask() == ()
    for draw in draws[4:]:
        batch.tell(Cancelled(draw.id, 1))
    assert (batch.reason(0), batch.cost) == (CONFIDENT, 2)


@pytest.mark.parametrize(
    "labels",
    [
        "aaa",
        "abaccc",  # a later window agrees, on another answer than the first ones
        "aabbaabbb",  # three in a row that straddle windows are no window
        "aa-aaa",  # an abstention is not unanimous
        "---aaa",  # nor are nothing but abstentions
        "aaxaaa",  # nor is a window that lost a draw
        "abxxaaaaa",
    ],
)
def test_early_stopping_stops_at_the_first_window_of_one_answer(labels: str) -> None:
    assert feed(EarlyStoppingBatch(window=3, limits=FREE), labels) == CONFIDENT


@pytest.mark.parametrize(
    ("limits", "labels", "reason"),
    [
        (Limits(6, 9), "abaaab", SAMPLE_CAP),
        (Limits(5, 9), "abaaa", SAMPLE_CAP),  # two that agree are no window of three
        (Limits(9, 2), "abaaab", ROUND_CAP),
        (Limits(2, 9), "aa", SAMPLE_CAP),
        (Limits(9, 9), "xxx", FAILED),
    ],
)
def test_early_stopping_goes_on_to_its_caps(limits: Limits, labels: str, reason: str) -> None:
    assert feed(EarlyStoppingBatch(window=3, limits=limits), labels) == reason


def test_a_probe_is_the_first_draw_of_the_first_window() -> None:
    batch = EarlyStoppingBatch(limits=Limits())
    batch.join(0, probe=True)
    (probe,) = batch.ask()
    batch.tell(Sample(probe.id, "a"))
    rest = batch.ask()
    assert [draw.round for draw in rest] == [2] * 4
    for draw in rest:
        assert batch.decided() == ()
        batch.tell(Sample(draw.id, "a"))
    assert batch.decided() == (0,)


def test_an_early_stopped_query_that_joins_again_starts_with_a_fresh_window() -> None:
    batch = EarlyStoppingBatch(window=2, limits=Limits())
    batch.join(0)
    for draw, label in zip(batch.ask(), "ab", strict=True):
        batch.tell(Sample(draw.id, label))
    assert len(batch.ask()) == 2
    batch.leave(0)
    batch.join(0)
    for draw in batch.ask():
        batch.tell(Sample(draw.id, "a"))
    assert batch.decided() == (0,)


counts_ = st.lists(st.integers(1, 40), max_size=6).map(lambda counts: tuple(sorted(counts, reverse=True)))


@given(counts_, st.integers(2, 40))
@settings(max_examples=60)
def test_the_leader_leads_as_often_as_in_draws_from_the_posterior(counts: tuple[int, ...], options: int) -> None:
    options = max(options, len(counts))
    alphas = np.array([*counts, *[0] * (options - len(counts))]) + 1
    drawn = np.random.default_rng(0).standard_gamma(alphas, (4000, options)).argmax(axis=1)
    assert leads(counts, options) == pytest.approx(np.mean(drawn == 0), abs=0.04)


@given(st.integers(0, 400), st.integers(0, 400))
def test_of_two_labels_the_first_leads_with_the_chance_of_the_beta_posterior(one: int, other: int) -> None:
    first, second = max(one, other), min(one, other)
    counts = tuple(count for count in (first, second) if count)
    assert leads(counts, 2) == pytest.approx(confidence(first, second), abs=1e-6)


@pytest.mark.parametrize("options", [2, 3, 4, 32])
def test_one_vote_among_m_labels_leads_with_the_mean_of_the_first_m_reciprocals(options: int) -> None:
    # E[(1 - exp(-X))^(m-1)] for X ~ Gamma(2)
    harmonic = fsum(1 / n for n in range(1, options + 1))
    assert leads((1,), options) == pytest.approx(harmonic / options, abs=1e-6)


@given(counts_, st.integers(2, 8))
@settings(max_examples=60)
def test_no_label_but_the_leader_gains_the_most_from_one_more_vote(counts: tuple[int, ...], options: int) -> None:
    room = [*counts, 0] if len(counts) < options else list(counts)
    after = []
    for label in range(len(room)):
        votes = [count + (place == label) for place, count in enumerate(room)]
        after.append(leads(tuple(sorted(filter(None, votes), reverse=True)), options))
    assert gain(counts, options) == pytest.approx(max(after) - leads(counts, options), abs=1e-9)


def told(batch: Batch, labels: dict[int, str]) -> list[int]:
    """Answer each draw with its query's next letter, until the batch is done; the queries in the order of the draws."""
    letters = {query: iter(text) for query, text in labels.items()}
    order: list[int] = []
    while not batch.done:
        draws = batch.ask()
        order += [draw.query for draw in draws]
        for draw in draws:
            letter = next(letters[draw.query])
            batch.tell(Sample(draw.id, None if letter == "-" else letter))
    return order


def joined(batch: Batch, queries: int) -> Batch:
    for query in range(queries):
        batch.join(query)
    batch.close()
    return batch


def test_pets_gives_each_sample_to_the_query_with_the_largest_gain() -> None:
    # of three options: no vote gains 0.278, 1 to 0 0.176, 2 to 0 0.100, 1 to 1 0.201, 2 to 1 0.142
    batch = joined(PetsBatch(mean_samples=3, options=3, limits=FREE), 3)
    # warm-up; the one that abstained; of three with 1 to 0 the first, which becomes 1 to 1; the others; 2 to 1
    assert told(batch, {0: "abab", 1: "aa", 2: "-aa"}) == [0, 1, 2, 2, 0, 0, 1, 2, 0]
    assert {batch.reason(query) for query in batch.decided()} == {SPENT}


def test_pets_as_published_picks_only_when_every_draw_is_back() -> None:
    batch = joined(PetsBatch(mean_samples=3, subset=2, limits=FREE), 3)
    first = batch.ask()
    assert [draw.query for draw in first] == [0, 1, 2]
    for draw in first[1:]:
        batch.tell(Sample(draw.id, "a"))
        assert batch.ask() == ()
    batch.tell(Sample(first[0].id, "a"))
    assert [draw.query for draw in batch.ask()] == [0, 1]


def test_live_pets_waits_for_no_straggler_and_bounds_its_picks_in_flight() -> None:
    # of 4 x 4 draws 8 are left, which are 4 picks of 2; over the 2 rounds that are left, 2 at a time
    batch = joined(PetsBatch(mean_samples=4, width=2, subset=None, limits=Limits(8, 3)), 4)
    first = batch.ask()
    assert [draw.query for draw in first] == [0, 0, 1, 1, 2, 2, 3, 3]
    for draw in first[2:]:
        batch.tell(Sample(draw.id, "a"))
    picked = batch.ask()
    assert [draw.query for draw in picked] == [1, 1, 2, 2]
    batch.tell(Sample(picked[0].id, "a"))
    assert batch.ask() == ()
    batch.tell(Sample(picked[1].id, "b"))
    # 2 to 0 gains more than 3 to 1
    assert [draw.query for draw in batch.ask()] == [3, 3]


def test_pets_allots_nothing_before_the_batch_is_closed() -> None:
    batch = PetsBatch(mean_samples=4, limits=FREE)
    batch.join(0)
    (draw,) = batch.ask()
    batch.tell(Sample(draw.id, "a"))
    assert batch.ask() == ()
    assert batch.decided() == ()
    batch.close()
    assert len(batch.ask()) == 1


@pytest.mark.parametrize(
    ("limits", "reasons", "started"),
    [(Limits(3, 99), {SAMPLE_CAP}, 6), (Limits(99, 3), {ROUND_CAP}, 6), (Limits(5, 99), {SAMPLE_CAP, SPENT}, 8)],
)
def test_a_query_of_pets_that_meets_a_cap_leaves_its_samples_to_the_others(
    limits: Limits, reasons: set[str], started: int
) -> None:
    batch = joined(PetsBatch(mean_samples=4, limits=limits), 2)
    told(batch, {0: "abcde", 1: "aaaaa"})
    assert {batch.reason(query) for query in batch.decided()} == reasons
    assert batch.started == started


def test_a_query_that_leaves_pets_leaves_what_it_did_not_draw_to_the_others() -> None:
    batch = PetsBatch(mean_samples=4, width=3, limits=FREE)
    batch.join(0, probe=True)
    batch.join(1)
    batch.close()
    assert [draw.query for draw in batch.ask()] == [0, 1, 1, 1]
    batch.leave(0)
    assert batch.unallotted == 4
    batch.leave(1)
    assert batch.done


def test_pets_goes_on_when_a_query_leaves_that_stood_ready() -> None:
    batch = PetsBatch(mean_samples=2, limits=FREE)
    batch.join(0)
    batch.join(1)
    one, other = batch.ask()
    batch.tell(Sample(one.id, "a"))
    assert batch.ask() == ()
    batch.leave(0)
    batch.close()
    assert batch.ask() == ()
    batch.tell(Sample(other.id, "a"))
    assert [draw.query for draw in batch.ask()] == [1]


def test_a_denied_query_of_pets_is_decided_and_the_rest_of_the_budget_goes_on() -> None:
    batch = joined(PetsBatch(mean_samples=3, limits=FREE), 2)
    denied, other = batch.ask()
    batch.tell(Denied(denied.id))
    assert batch.decided() == (0,)
    assert batch.reason(0) == BUDGET
    batch.tell(Sample(other.id, "a"))
    assert [draw.query for draw in batch.ask()] == [1]


widths = st.integers(1, 9)


@dataclass(frozen=True)
class Shape:
    """The options of a PETS batch that shape its allocation."""

    mean: int
    width: int | None
    subset: int | None

    def batch(self, limits: Limits) -> PetsBatch:
        return PetsBatch(mean_samples=self.mean, width=self.width, subset=self.subset, limits=limits)


shapes = st.builds(Shape, st.integers(1, 12), st.none() | widths, st.none() | st.integers(1, 4))


@given(seeds, queries_, troubles, limits_, widths)
@settings(max_examples=120)
def test_an_adaptive_consistency_batch_ends_within_its_caps(
    seed: int, queries: int, trouble: Trouble, limits: Limits, width: int
) -> None:
    play = Play(AdaptiveConsistencyBatch(width=width, limits=limits), Random(seed), trouble, queries).run()
    play.within(limits)
    assert set(play.reasons.values()) <= {CONFIDENT, SAMPLE_CAP, ROUND_CAP, FAILED, BUDGET}


@given(seeds, queries_, troubles, limits_, widths)
@settings(max_examples=120)
def test_an_early_stopping_batch_ends_within_its_caps(
    seed: int, queries: int, trouble: Trouble, limits: Limits, window: int
) -> None:
    play = Play(EarlyStoppingBatch(window=window, limits=limits), Random(seed), trouble, queries).run()
    play.within(limits)
    assert set(play.reasons.values()) <= {CONFIDENT, SAMPLE_CAP, ROUND_CAP, FAILED, BUDGET}


@given(seeds, queries_, troubles, limits_, shapes)
@settings(max_examples=200)
def test_a_pets_batch_ends_within_its_caps_and_its_budget(
    seed: int, queries: int, trouble: Trouble, limits: Limits, shape: Shape
) -> None:
    play = Play(shape.batch(limits), Random(seed), trouble, queries).run()
    play.within(limits)
    assert len(play.draws) <= shape.mean * queries
    assert set(play.reasons.values()) <= {SPENT, SAMPLE_CAP, ROUND_CAP, FAILED, BUDGET}


@given(seeds, queries_, shapes)
def test_a_pets_batch_that_loses_nothing_and_meets_no_cap_spends_its_whole_budget(
    seed: int, queries: int, shape: Shape
) -> None:
    play = Play(shape.batch(FREE), Random(seed), Trouble(), queries).run()
    assert len(play.draws) == shape.mean * queries
    assert set(play.reasons.values()) <= {SPENT}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AdaptiveConsistencyBatch(threshold=1.0, limits=FREE), "threshold"),
        (lambda: AdaptiveConsistencyBatch(threshold=0.0, limits=FREE), "threshold"),
        (lambda: AdaptiveConsistencyBatch(width=0, limits=FREE), "width"),
        (lambda: EarlyStoppingBatch(window=0, limits=FREE), "window"),
        (lambda: PetsBatch(mean_samples=0, limits=FREE), "mean_samples"),
        (lambda: PetsBatch(width=0, limits=FREE), "width"),
        (lambda: PetsBatch(subset=0, limits=FREE), "subset"),
        (lambda: PetsBatch(options=1, limits=FREE), "options"),
    ],
)
def test_parameters_that_make_no_sense_are_an_error(build: Callable[[], Batch], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("name", "first"), [("adaptive_consistency", 6), ("early_stopping", 5), ("pets", 6)])
def test_live_baselines_start_so_many_draws_that_a_query_can_reach_its_sample_cap(
    name: StrategyName, first: int
) -> None:
    def no_lots() -> np.random.Generator:
        raise AssertionError("baselines draw no lots")

    batch = joined(batch_for(Strategy(name), no_lots), 2)
    letters = iter(range(10**6))
    rounds: list[tuple[Draw, ...]] = []
    while not batch.done:
        rounds.append(batch.ask())
        for draw in rounds[-1]:
            batch.tell(Sample(draw.id, next(letters)))
    assert [len([draw for draw in rounds[0] if draw.query == query]) for query in (0, 1)] == [first, first]
    assert max(draw.round for draws in rounds for draw in draws) <= 6
    assert all(one and other for one, other in pairwise(rounds))
