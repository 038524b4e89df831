"""Batches of every strategy, driven over small pools."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.adaptive_consistency import AdaptiveConsistencyBatch
from proxy.core.batch import Limits
from proxy.core.fixed import FixedBatch
from proxy.core.vote import Ballot, Rule
from proxy.replay.driver import Hand, Purse, drive, drive_timed
from proxy.replay.making import REPLAYABLE, Maker, Setting
from proxy.replay.pool import Pool, Question
from proxy.types import Strategy, StrategyName

LIMITS = Limits(8, 8)
Drive = Callable[..., None]

ballots_ = st.builds(
    Ballot, st.sampled_from(["a", "a", "b", "c", None]), st.none() | st.floats(0, 1), st.integers(0, 9)
)
pools_ = (
    st.lists(st.lists(ballots_, max_size=9), min_size=1, max_size=6)
    .filter(any)
    .map(lambda found: Pool("p", tuple(Question(str(i), "a", tuple(own)) for i, own in enumerate(found))))
)


def hand(*samples: tuple[str | None, int], order: Sequence[int] | None = None) -> Hand:
    ballots = tuple(Ballot(label, tokens=tokens) for label, tokens in samples)
    return Hand(Question("q", None, ballots), range(len(ballots)) if order is None else order)


@pytest.mark.parametrize("run", [drive, drive_timed])
@pytest.mark.parametrize("name", REPLAYABLE)
@settings(max_examples=40)
@given(
    pool=pools_,
    budget=st.sampled_from([0.0, 0.5, 1.0, 2.5, 8.0, 64.0]),
    setting=st.builds(
        Setting, st.sampled_from(["tokens", "samples"]), cap=st.integers(1, 12), rounds=st.integers(0, 4)
    ),
)
def test_every_draw_is_told_once_and_only_the_last_may_pass_the_budget(
    run: Drive, name: StrategyName, pool: Pool, budget: float, setting: Setting
) -> None:
    maker = Maker(Strategy(name), budget, setting, pool, np.random.default_rng(0))
    batch = maker.batch(pool.questions)
    purse = maker.purse(0, len(pool.questions))
    hands = {
        place: Hand(question, range(len(question.samples))[::-1], setting.rounds)
        for place, question in enumerate(pool.questions)
    }
    # a draw told twice, or never asked, is an error of the batch
    run(batch, hands, purse)
    assert batch.done
    assert batch.outstanding == 0
    dealt = sum(own.dealt for own in hands.values())
    paid = sum(own.tokens for own in hands.values())
    assert purse.spent == (paid if setting.unit == "tokens" else dealt)
    last = 1 if setting.unit == "samples" else max(sample.tokens for own in pool.questions for sample in own.samples)
    assert purse.spent < purse.limit + last or not dealt
    for own in hands.values():
        assert own.dealt <= min(setting.cap, len(own.order))
        assert not setting.rounds or own.rounds <= setting.rounds
        told = [own.ballots[draw] for draw in sorted(own.ballots)]
        assert run is drive_timed or told == [own.question.samples[place] for place in own.order[: own.dealt]]
        assert len(told) <= own.dealt
    assert batch.tokens == sum(sample.tokens for own in hands.values() for sample in own.ballots.values())


def test_draws_are_served_round_robin_so_that_a_short_budget_ends_evenly() -> None:
    hands = {place: hand(*[("a", 1)] * 8) for place in range(3)}
    drive(FixedBatch(8, LIMITS), hands, Purse(7, "samples"))
    assert [own.dealt for own in hands.values()] == [3, 2, 2]


def test_a_draw_is_served_while_a_token_is_left_and_denied_when_none_is() -> None:
    own = hand(("a", 5), ("a", 5), ("a", 5))
    drive(FixedBatch(3, LIMITS), {0: own}, Purse(6, "tokens"))
    assert own.tokens == 10


def test_a_query_draws_no_more_samples_than_were_recorded() -> None:
    hands = {0: hand(("a", 1)), 1: hand(*[("b", 1)] * 5)}
    drive(FixedBatch(5, LIMITS), hands, Purse(100, "samples"))
    assert [own.dealt for own in hands.values()] == [1, 5]


def test_samples_are_dealt_in_the_order_of_the_trial() -> None:
    own = hand(("a", 1), ("b", 1), ("c", 1), order=[2, 0, 1])
    drive(FixedBatch(2, LIMITS), {0: own}, Purse(2, "samples"))
    assert [ballot.label for ballot in own.ballots.values()] == ["c", "a"]
    assert own.verdict(Rule()) == "c"


def test_a_query_without_samples_has_no_verdict() -> None:
    own = hand()
    drive(FixedBatch(2, LIMITS), {0: own}, Purse(2, "samples"))
    assert own.verdict(Rule()) is None


def test_with_tokens_as_time_the_shortest_votes_first_and_late_ones_pay_what_they_had_generated() -> None:
    own = hand(("slow", 10), ("quick", 3), ("slow", 7))
    purse = Purse(100, "tokens")
    # one ballot is 3/4 sure
    drive_timed(AdaptiveConsistencyBatch(threshold=0.7, width=3, limits=LIMITS), {0: own}, purse)
    assert own.verdict(Rule()) == "quick"
    assert (own.end, own.tokens, purse.spent, own.dealt) == (3, 9, 9, 3)


def test_without_time_the_first_draw_votes_first_and_a_wave_is_told_whole() -> None:
    own = hand(("slow", 10), ("quick", 3), ("slow", 7))
    drive(AdaptiveConsistencyBatch(threshold=0.7, width=3, limits=LIMITS), {0: own}, Purse(100, "tokens"))
    assert own.verdict(Rule()) == "slow"
    assert own.tokens == 20


def test_a_query_that_waits_for_all_its_draws_ends_with_the_longest() -> None:
    hands = {0: hand(("a", 4), ("b", 9)), 1: hand(("a", 2), ("a", 3))}
    drive_timed(FixedBatch(2, LIMITS), hands, Purse(100, "tokens"))
    assert [own.end for own in hands.values()] == [9, 3]


def test_a_second_wave_starts_when_the_first_has_ended() -> None:
    own = hand(("a", 4), ("b", 9), ("a", 2), ("a", 2))
    drive_timed(AdaptiveConsistencyBatch(threshold=0.8, width=2, limits=LIMITS), {0: own}, Purse(100, "tokens"))
    assert (own.end, own.rounds) == (11, 2)


def test_a_sample_cut_short_gives_no_sample_back_to_a_budget_of_samples() -> None:
    own = hand(("a", 10), ("a", 3))
    purse = Purse(2, "samples")
    drive_timed(AdaptiveConsistencyBatch(threshold=0.7, width=2, limits=LIMITS), {0: own}, purse)
    assert (purse.spent, own.tokens) == (2, 6)
