"""Every strategy, driven to its end by a caller that does everything at random moments."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.batch import (
    BUDGET,
    CONFIDENT,
    FAILED,
    NO_SCORES,
    PRICED,
    QUALITY,
    ROUND_CAP,
    SAMPLE_CAP,
    SPENT,
    Batch,
    Cancelled,
    Denied,
    Draw,
    Failure,
    Limits,
    Outcome,
    Sample,
)
from proxy.core.dynscaling import DynScalingBatch, Mode
from proxy.core.fixed import FixedBatch
from proxy.core.optscale import OptScaleBatch

REASONS = {None, BUDGET, CONFIDENT, FAILED, NO_SCORES, PRICED, QUALITY, ROUND_CAP, SAMPLE_CAP, SPENT}


@dataclass(frozen=True)
class Trouble:
    """How likely a draw is lost in each way, and a query is to leave at a given moment."""

    failure: float = 0.0
    denial: float = 0.0
    cancel: float = 0.0
    leave: float = 0.0


@dataclass
class Play:
    """Plays a batch to its end, checks it at every step, and keeps what was asked and told."""

    batch: Batch
    random: Random
    trouble: Trouble
    queries: int
    draws: dict[int, Draw] = field(default_factory=dict)
    seen: dict[int, set[int]] = field(default_factory=dict)
    told: dict[int, Outcome] = field(default_factory=dict)
    reasons: dict[int, str | None] = field(default_factory=dict)
    joined: int = 0
    live: list[Draw] = field(default_factory=list)
    present: list[int] = field(default_factory=list)

    def run(self) -> "Play":
        while True:
            self.look()
            moves = self.moves()
            if not moves:
                break
            self.random.choice(moves)()
        assert set(self.reasons) >= set(self.present), "a query starves"
        assert self.batch.done
        assert self.batch.outstanding == 0
        self.account()
        return self

    def moves(self) -> list[Callable[[], None]]:
        moves: list[Callable[[], None]] = []
        if self.joined < self.queries:
            moves.append(self.join)
        elif not self.batch.closed:
            moves.append(self.batch.close)
        if self.live:
            moves += [self.tell] * 4
        if self.present and self.random.random() < self.trouble.leave:
            moves.append(self.leave)
        return moves

    def join(self) -> None:
        self.batch.join(self.joined, probe=self.random.random() < 0.3)
        self.present.append(self.joined)
        self.joined += 1

    def leave(self) -> None:
        query = self.present.pop(self.random.randrange(len(self.present)))
        self.batch.leave(query)

    def look(self) -> None:
        # decided and done come before ask at times, as they plan draws that may be taken back
        if self.random.random() < 0.5:
            self.collect()
            if self.present and self.random.random() < self.trouble.leave:
                self.leave()
        for draw in self.batch.ask():
            self.check(draw)
            self.live.append(draw)
        assert self.batch.outstanding == len(self.live)
        self.collect()

    def collect(self) -> None:
        for query in self.batch.decided():
            reason = self.batch.reason(query)
            assert reason in REASONS
            assert self.reasons.setdefault(query, reason) == reason
            if self.random.random() < 0.5:
                self.batch.leave(query)
                self.present.remove(query)

    def check(self, draw: Draw) -> None:
        assert draw.id not in self.draws
        assert draw.query in self.present
        assert draw.query not in self.reasons, "a decided query draws on"
        finished = {
            told
            for told, outcome in self.told.items()
            if isinstance(outcome, Sample) and self.draws[told].query == draw.query
        }
        assert finished >= set(draw.given)
        self.seen[draw.id] = finished
        self.draws[draw.id] = draw

    def tell(self) -> None:
        draw = self.live.pop(self.random.randrange(len(self.live)))
        outcome = self.outcome(draw.id)
        self.batch.tell(outcome)
        self.told[draw.id] = outcome
        with pytest.raises(ValueError, match="told already"):
            self.batch.tell(Failure(draw.id))

    def outcome(self, draw: int) -> Outcome:
        chance = self.random.random()
        losses: list[tuple[Outcome, float]] = [
            (Failure(draw), self.trouble.failure),
            (Denied(draw), self.trouble.denial),
            (Cancelled(draw, cost=self.random.randrange(5)), self.trouble.cancel),
        ]
        for loss, likely in losses:
            if chance < likely:
                return loss
            chance -= likely
        label = self.random.choice(["a", "a", "b", "c", None])
        score = self.random.choice([None, self.random.random(), self.random.uniform(0.9, 1.0)])
        return Sample(draw, label, score, self.random.randrange(100), self.random.randrange(100))

    def account(self) -> None:
        samples = [outcome for outcome in self.told.values() if isinstance(outcome, Sample)]
        stopped = [outcome for outcome in self.told.values() if isinstance(outcome, Cancelled)]
        assert self.batch.started == len(self.draws) == len(self.told)
        assert self.batch.tokens == sum(sample.tokens for sample in samples)
        assert self.batch.cost == sum(sample.cost for sample in samples) + sum(outcome.cost for outcome in stopped)

    def by_query(self) -> dict[int, list[Draw]]:
        grouped: dict[int, list[Draw]] = defaultdict(list)
        for draw in self.draws.values():
            grouped[draw.query].append(draw)
        return grouped

    def within(self, limits: Limits) -> None:
        for draws in self.by_query().values():
            assert len(draws) <= limits.max_samples
            assert {draw.round for draw in draws} == set(range(1, draws[-1].round + 1))
            assert draws[-1].round <= limits.max_rounds


chances = st.sampled_from([0.0, 0.0, 0.1, 0.4])
troubles = st.builds(Trouble, failure=chances, denial=chances, cancel=st.sampled_from([0.0, 0.1]), leave=chances)
limits_ = st.builds(Limits, max_samples=st.integers(1, 24), max_rounds=st.integers(1, 8))
seeds = st.integers(0, 2**32)
queries_ = st.integers(0, 8)


@dataclass(frozen=True)
class Shape:
    """The options of a DynScaling batch that shape its allocation; `more` is what a query credits beyond one unit."""

    unit: int
    more: int
    thought_length: int
    subset: int | None

    def budget(self, queries: int) -> int:
        return (self.unit + self.more) * queries

    def batch(self, mode: Mode, seed: int, limits: Limits | None = None) -> DynScalingBatch:
        return DynScalingBatch(
            unit=self.unit,
            mean_samples=self.unit + self.more,
            thought_length=self.thought_length,
            subset=self.subset,
            mode=mode,
            limits=limits,
            rng=np.random.default_rng(seed),
        )


shapes = st.builds(
    Shape,
    unit=st.integers(1, 9),
    more=st.integers(0, 12),
    thought_length=st.integers(0, 5),
    subset=st.none() | st.integers(1, 4),
)


def check_units(play: Play, shape: Shape) -> None:
    """Second halves see what their own unit's first half brought, and nothing else sees anything."""
    unit = shape.unit
    for draws in play.by_query().values():
        for start in range(0, len(draws), unit):
            own = draws[start : start + unit]
            half = (
                -(-unit // 2) if len(own) == unit else next((i for i, draw in enumerate(own) if draw.given), len(own))
            )
            first = {draw.id for draw in own[:half]}
            assert not any(draw.given for draw in own[:half])
            for draw in own[half:]:
                finished = first & play.seen[draw.id]
                assert len(set(draw.given)) == len(draw.given) == min(shape.thought_length, len(finished))
                assert set(draw.given) <= finished


@settings(deadline=None)
@given(seeds, queries_, troubles, limits_, st.integers(1, 12))
def test_a_fixed_batch_ends_within_its_caps(
    seed: int, queries: int, trouble: Trouble, limits: Limits, samples: int
) -> None:
    play = Play(FixedBatch(samples, limits), Random(seed), trouble, queries).run()
    play.within(limits)
    assert all(len(draws) <= samples for draws in play.by_query().values())


@given(seeds, queries_, troubles, limits_, st.floats(0.5, 1.0))
@settings(max_examples=60, deadline=None)
def test_an_optscale_batch_ends_within_its_caps(
    seed: int, queries: int, trouble: Trouble, limits: Limits, s_min: float
) -> None:
    Play(OptScaleBatch(s_min=s_min, limits=limits), Random(seed), trouble, queries).run().within(limits)


@given(seeds, queries_, troubles, limits_, shapes)
@settings(max_examples=200, deadline=None)
def test_a_live_dynscaling_batch_ends_within_its_caps_and_its_budget(
    seed: int, queries: int, trouble: Trouble, limits: Limits, shape: Shape
) -> None:
    play = Play(shape.batch("live", seed, limits), Random(seed), trouble, queries).run()
    play.within(limits)
    assert len(play.draws) <= shape.budget(queries)


@given(seeds, queries_, troubles, shapes, st.none() | st.builds(Limits, max_samples=st.integers(1, 24)))
@settings(max_examples=200, deadline=None)
def test_an_exact_dynscaling_batch_ends_and_never_passes_its_budget_nor_its_sample_cap(
    seed: int, queries: int, trouble: Trouble, shape: Shape, limits: Limits | None
) -> None:
    play = Play(shape.batch("exact", seed, limits), Random(seed), trouble, queries).run()
    assert len(play.draws) <= shape.budget(queries)
    assert limits is None or all(len(draws) <= limits.max_samples for draws in play.by_query().values())


@settings(deadline=None)
@given(seeds, queries_, shapes)
def test_an_exact_dynscaling_batch_that_loses_nothing_spends_its_whole_budget_in_whole_units(
    seed: int, queries: int, shape: Shape
) -> None:
    play = Play(shape.batch("exact", seed), Random(seed), Trouble(), queries).run()
    assert len(play.draws) == shape.budget(queries)
    assert set(play.reasons.values()) <= {None}
    partial = [len(draws) % shape.unit for draws in play.by_query().values() if len(draws) % shape.unit]
    assert partial == [rest for rest in [shape.budget(queries) % shape.unit] if rest]
    check_units(play, shape)


@settings(deadline=None)
@given(seeds, queries_, st.sampled_from([0.1, 0.4]), shapes)
def test_conditioned_draws_see_only_the_finished_draws_of_their_own_unit(
    seed: int, queries: int, failure: float, shape: Shape
) -> None:
    play = Play(shape.batch("exact", seed, Limits()), Random(seed), Trouble(failure=failure), queries).run()
    check_units(play, shape)


@given(seeds, queries_, troubles)
@settings(max_examples=40, deadline=None)
def test_the_same_seed_and_the_same_outcomes_give_the_same_draws(seed: int, queries: int, trouble: Trouble) -> None:
    def play() -> list[Draw]:
        batch = DynScalingBatch(limits=Limits(), rng=np.random.default_rng(seed))
        return list(Play(batch, Random(seed), trouble, queries).run().draws.values())

    assert play() == play()


def test_another_seed_shows_the_finished_draws_in_another_order() -> None:
    def given_(seed: int) -> list[tuple[int, ...]]:
        play = Play(Shape(8, 8, 4, None).batch("exact", seed, Limits()), Random(0), Trouble(), 4).run()
        return [draw.given for draw in play.draws.values()]

    assert given_(1) != given_(2)


def test_a_query_joins_once_and_not_after_the_close() -> None:
    batch = FixedBatch(1, Limits())
    batch.join(7)
    with pytest.raises(ValueError, match="joined already"):
        batch.join(7)
    batch.close()
    with pytest.raises(ValueError, match="closed"):
        batch.join(8)


def test_a_draw_that_was_never_asked_cannot_be_told() -> None:
    with pytest.raises(ValueError, match="never asked"):
        FixedBatch(1, Limits()).tell(Failure(0))


def test_a_cap_below_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Limits(max_samples=0)
    with pytest.raises(ValueError, match="at least 1"):
        Limits(max_rounds=0)


def test_draws_of_a_query_that_left_are_accounted_and_help_no_later_query_of_the_same_id() -> None:
    batch = FixedBatch(1, Limits())
    batch.join(0)
    (old,) = batch.ask()
    batch.leave(0)
    batch.join(0)
    (new,) = batch.ask()
    batch.tell(Sample(old.id, "a", tokens=5, cost=7))
    assert (batch.tokens, batch.cost) == (5, 7)
    assert batch.decided() == ()
    batch.tell(Sample(new.id, "b"))
    assert batch.decided() == (0,)


def test_draws_that_were_planned_and_not_handed_out_are_taken_back_when_their_query_leaves() -> None:
    batch = FixedBatch(3, Limits())
    batch.join(0)
    batch.join(1)
    assert batch.decided() == ()
    batch.leave(0)
    assert [draw.query for draw in batch.ask()] == [1, 1, 1]
    assert batch.started == batch.outstanding == 3


def test_a_denied_query_waits_for_its_other_draws_and_keeps_what_they_brought() -> None:
    batch = FixedBatch(2, Limits())
    batch.join(0)
    one, other = batch.ask()
    batch.tell(Denied(one.id))
    assert batch.decided() == ()
    batch.tell(Sample(other.id, "a"))
    assert batch.decided() == (0,)
    assert batch.reason(0) == BUDGET


def test_a_query_whose_every_draw_failed_is_decided_as_failed() -> None:
    batch = FixedBatch(2, Limits())
    batch.join(0)
    for draw in batch.ask():
        batch.tell(Failure(draw.id))
    assert batch.decided() == (0,)
    assert batch.reason(0) == FAILED


def test_a_probing_query_makes_one_draw_and_the_rest_once_it_is_back() -> None:
    batch = FixedBatch(4, Limits())
    batch.join(0, probe=True)
    (probe,) = batch.ask()
    assert batch.ask() == ()
    batch.tell(Sample(probe.id, "a"))
    assert [draw.round for draw in batch.ask()] == [2, 2, 2]


@pytest.mark.parametrize(
    ("limits", "probe", "reason"),
    [(Limits(4, 2), False, None), (Limits(3, 2), False, SAMPLE_CAP), (Limits(4, 1), True, ROUND_CAP)],
)
def test_a_fixed_batch_says_which_cap_cut_it(limits: Limits, probe: bool, reason: str | None) -> None:
    batch = FixedBatch(4, limits)
    batch.join(0, probe=probe)
    for draw in batch.ask():
        batch.tell(Sample(draw.id, "a"))
    assert batch.decided() == (0,)
    assert batch.reason(0) == reason


def test_a_fixed_batch_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FixedBatch(0, Limits())
