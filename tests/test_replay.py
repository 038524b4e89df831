"""Trials, curves and the search, over small pools."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.vote import Ballot
from proxy.errors import TallyError
from proxy.replay.comparing import averages, costs, curves
from proxy.replay.curves import Point, interval, measure
from proxy.replay.making import REPLAYABLE, Maker, Setting, check_pool, replayable
from proxy.replay.pool import Pool, Question
from proxy.replay.search import reach
from proxy.replay.trial import play, shuffle
from proxy.types import STRATEGIES, Strategy, StrategyName

SAMPLES = Setting("samples")
TOKENS = Setting("tokens")


def question(labels: Sequence[str | None], *, gold: str | None = None, tokens: int = 1, name: str = "q") -> Question:
    return Question(name, gold, tuple(Ballot(label, tokens=tokens) for label in labels))


def doubtful(questions: int, samples: int, seed: int = 0) -> Pool:
    """Questions of many degrees of doubt: the share of their first answer goes from 2/5 to 1."""
    rng = np.random.default_rng(seed)
    shares = np.linspace(0.4, 1.0, questions)
    return Pool(
        "doubtful",
        tuple(
            Question(
                str(place),
                "a",
                tuple(
                    Ballot("a" if first else str(other), tokens=int(tokens))
                    for first, other, tokens in zip(
                        rng.random(samples) < share,
                        rng.integers(3, size=samples),
                        rng.integers(5, 50, samples),
                        strict=True,
                    )
                ),
            )
            for place, share in enumerate(shares)
        ),
    )


def test_a_trial_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    pool = doubtful(8, 8)
    assert shuffle(pool, 3, 1) == shuffle(pool, 3, 1)
    assert len({shuffle(pool, seed, trial) for seed in range(3) for trial in range(3)}) == 9


def test_every_sample_of_every_question_is_dealt_once_in_a_trial() -> None:
    pool = Pool("p", (question("ab"), question(""), question("abcd")))
    deal = shuffle(pool, 0, 0)
    assert sorted(deal.queue) == [0, 1, 2]
    assert [sorted(order) for order in deal.orders] == [[0, 1], [], [0, 1, 2, 3]]


def test_strategies_that_ask_the_same_are_dealt_the_same_samples() -> None:
    pool = doubtful(30, 8)
    deal = shuffle(pool, 0, 0)
    one = play(pool, deal, Strategy("off"), 1, SAMPLES)
    assert one == play(pool, deal, Strategy("self_consistency"), 1, SAMPLES)
    assert one != play(pool, shuffle(pool, 0, 1), Strategy("off"), 1, SAMPLES)


@pytest.mark.parametrize("name", [name for name in REPLAYABLE if name not in {"off", "best_of_n"}])
def test_with_every_sample_drawn_every_strategy_that_votes_says_what_the_pool_says(name: StrategyName) -> None:
    # no ties, so the order of the draws cannot matter; and no window or leader is sure before the last draw
    pool = Pool("p", tuple(Question(own, "a", tuple(Ballot(label, 0.0, 1) for label in own)) for own in ("aba", "bab")))
    found = play(pool, shuffle(pool, 0, 0), Strategy(name, threshold=0.999, window=3), 64, SAMPLES)
    assert (found.agreement, found.accuracy, found.samples) == (1, 0.5, 3)


def test_the_best_score_wins_against_the_majority() -> None:
    own = Question("q", "b", (Ballot("a", 0.2, 1), Ballot("b", 0.9, 1), Ballot("a", 0.3, 1)))
    pool = Pool("p", (own,))
    found = play(pool, shuffle(pool, 0, 0), Strategy("best_of_n"), 3, SAMPLES)
    assert (found.agreement, found.accuracy) == (0, 1)


def test_a_question_without_answers_is_agreed_with_by_no_verdict_alone() -> None:
    silent, loud = question([None, None]), question(["a", "a"])
    for pool, drawn, agreement in [((silent,), 1, 1), ((loud,), 1, 1), ((loud,), 0, 0), ((silent,), 0, 1)]:
        own = Pool("p", pool)
        assert play(own, shuffle(own, 0, 0), Strategy("off"), drawn, SAMPLES).agreement == agreement


def test_accuracy_is_over_the_questions_that_have_a_gold_answer() -> None:
    pool = Pool("p", (question("aa", gold="a"), question("bb", gold="a"), question("cc"), question([None], gold="")))
    assert play(pool, shuffle(pool, 0, 0), Strategy("off"), 1, SAMPLES).accuracy == pytest.approx(1 / 3)
    none = Pool("p", (question("aa"),))
    assert play(none, shuffle(none, 0, 0), Strategy("off"), 1, SAMPLES).accuracy is None


@given(
    st.floats(0, 70),
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
    st.integers(1, 99),
    st.sampled_from(["tokens", "samples"]),
)
def test_the_shares_of_the_batches_add_up_to_the_budget_of_the_run(
    budget: float, sizes: list[int], tokens: int, unit: str
) -> None:
    pool = Pool("p", (question("ab", tokens=tokens),))
    setting = TOKENS if unit == "tokens" else SAMPLES
    maker = Maker(Strategy("self_consistency"), budget, setting, pool, np.random.default_rng(0))
    ends = [sum(sizes[:place]) for place in range(len(sizes) + 1)]
    shares = [maker.purse(*cut).limit for cut in pairwise(ends)]
    whole = Fraction(budget) * sum(sizes) * (tokens if unit == "tokens" else 1)
    assert abs(sum(shares) - whole) <= 1
    assert all(abs(share - whole * size / sum(sizes)) <= 1 for share, size in zip(shares, sizes, strict=True))


def test_a_batch_spends_its_own_share_and_leaves_the_rest_unspent() -> None:
    sure, torn = question("aaaaaaaa"), question("abababab")
    pool = Pool("p", (sure, torn))
    together = play(pool, shuffle(pool, 0, 0), Strategy("early_stopping", window=2), 4, SAMPLES)
    apart = play(pool, shuffle(pool, 0, 0), Strategy("early_stopping", window=2), 4, Setting("samples", batch_size=1))
    assert together.samples >= apart.samples
    assert apart.samples <= 3


def test_one_query_at_a_time_a_fixed_number_of_samples_does_not_depend_on_their_length() -> None:
    pool = Pool("p", (question("aaaaaa", tokens=1), question("bbbbbb", tokens=9)))
    stream = Setting("tokens", arrivals="stream")
    found = play(pool, shuffle(pool, 0, 0), Strategy("self_consistency"), 3, stream)
    assert (found.samples, found.tokens) == (3, 15)
    assert play(pool, shuffle(pool, 0, 0), Strategy("self_consistency"), 2.5, stream).samples == 2.5


def test_the_cap_bounds_every_query() -> None:
    pool = doubtful(6, 20)
    for name in ("self_consistency", "dynscaling", "pets", "adaptive_consistency"):
        assert (
            play(pool, shuffle(pool, 0, 0), Strategy(name, threshold=0.99999), 20, Setting("samples", cap=8)).samples
            <= 8
        )


@pytest.mark.parametrize("name", ["dynscaling", "pets"])
@pytest.mark.parametrize("rounds", [2, 4])
def test_few_rounds_spend_the_whole_budget_all_the_same(name: StrategyName, rounds: int) -> None:
    pool = doubtful(40, 64)
    found = play(pool, shuffle(pool, 0, 0), Strategy(name), 16, Setting("samples", rounds=rounds))
    assert found.samples == 16
    assert found.rounds <= rounds


def test_sharing_a_budget_agrees_more_often_than_spending_it_evenly() -> None:
    pool = doubtful(60, 64)
    deals = [shuffle(pool, 0, trial) for trial in range(5)]
    even, shared = (measure(pool, deals, Strategy(name), 16, TOKENS) for name in ("self_consistency", "dynscaling"))
    assert shared.agreement > even.agreement
    assert even.tokens_x == pytest.approx(16, rel=0.01)
    assert shared.tokens_x == pytest.approx(16, rel=0.01)


@pytest.mark.parametrize("name", [*sorted(set(STRATEGIES) - set(REPLAYABLE)), "no_such"])
def test_what_cannot_be_replayed_is_refused(name: str) -> None:
    with pytest.raises(TallyError, match=name):
        replayable(name)


@pytest.mark.parametrize("name", ["optscale", "best_of_n"])
def test_a_strategy_that_needs_scores_refuses_a_pool_without_them(name: StrategyName) -> None:
    with pytest.raises(TallyError, match="needs scores, and no sample of p has one"):
        check_pool(name, Pool("p", (question("ab"),)), "tokens")
    check_pool(name, Pool("p", (Question("q", None, (Ballot("a", 0.5, 1),)),)), "tokens")


def test_a_budget_of_tokens_wants_a_pool_that_counts_them() -> None:
    pool = Pool("p", (question("ab", tokens=0),))
    with pytest.raises(TallyError, match="use --unit samples"):
        check_pool("self_consistency", pool, "tokens")
    found = measure(pool, [shuffle(pool, 0, 0)], Strategy("self_consistency"), 2, SAMPLES)
    assert (found.tokens_x, found.samples) == (None, 2)


def test_intervals_are_students() -> None:
    # the 97.5th percentile of t with 2 degrees of freedom is 4.30265
    assert interval([0.5, 0.6, 0.7]) == pytest.approx((0.6 - 0.248414, 0.6 + 0.248414), abs=1e-6)
    assert interval([0.5, 0.5]) == (0.5, 0.5)
    assert interval([0.9, 1.0]) == pytest.approx((0.95 - 12.7062 * 0.05, 1.0), abs=1e-5)
    assert interval([0.5]) is None


def test_a_point_has_the_published_keys_and_latency_only_where_tokens_are_time() -> None:
    pool = doubtful(5, 8)
    deals = [shuffle(pool, 0, trial) for trial in range(2)]
    keys = list(Point.__slots__)[:-1]
    plain = measure(pool, deals, Strategy("self_consistency"), 4, TOKENS).as_json()
    assert list(plain) == keys
    assert isinstance(plain["agreement_ci"], list)
    timed = measure(pool, deals, Strategy("self_consistency"), 4, Setting("tokens", durations=True)).as_json()
    assert list(timed) == [*keys, "latency_x"]
    assert timed["latency_x"] > 1


def curve(agreement: float, budget: float) -> Point:
    return Point("p", "off", budget, "tokens", 2 * budget, budget, 1, None, None, agreement, None)


@given(st.floats(0.01, 1.0), st.integers(1, 100))
def test_the_search_finds_where_a_rising_curve_meets_the_target(target: float, most: int) -> None:
    found = reach(lambda budget: curve(min(1.0, budget / most), budget), target, 128)
    assert found.reached
    assert found.budget == pytest.approx(target * most, rel=0.05, abs=0.01)
    assert found.tokens_x == pytest.approx(2 * found.budget)


def test_what_never_gets_there_counts_the_cap() -> None:
    found = reach(lambda budget: curve(min(0.9, budget), budget), 0.95, 48)
    assert (found.budget, found.tokens_x, found.reached) == (48, 48, False)


def test_what_agrees_without_a_sample_costs_nothing() -> None:
    found = reach(lambda budget: curve(1.0, budget), 0.95, 48)
    assert (found.budget, found.tokens_x, found.reached) == (0, 0, True)


def test_a_jump_is_found_where_it_is() -> None:
    found = reach(lambda budget: curve(float(budget >= 11), budget), 0.95, 48)
    assert found.budget == pytest.approx(11, rel=0.05)


def test_costs_stand_over_those_of_the_first_strategy_and_average_over_pools() -> None:
    pools = [doubtful(20, 40), doubtful(20, 40, seed=1)]
    strategies = [Strategy("self_consistency"), Strategy("pets"), Strategy("off")]
    ticks: list[None] = []
    found = list(costs(pools, strategies, 0.9, TOKENS, trials=3, seed=0, tick=lambda: ticks.append(None)))
    assert [line.ratio for line in found if line.strategy == "self_consistency"] == [1, 1]
    assert all(line.reach.tokens_x == 64 for line in found if line.strategy == "off")
    uniform, pets, off = averages(found)
    assert uniform.ratio == 1
    assert pets.ratio is not None
    assert pets.ratio < 1
    assert off.tokens_x == 64
    assert uniform.tokens_x == pytest.approx(sum(line.reach.tokens_x for line in found[::3]) / 2)
    assert pets.mean_ratio == pytest.approx(sum(line.ratio or 0 for line in found[1::3]) / 2)
    assert len(ticks) % 3 == 0


def test_curves_go_pool_by_pool_strategy_by_strategy_budget_by_budget() -> None:
    pool = doubtful(4, 4)
    ticks: list[None] = []
    found = curves(
        [pool],
        [Strategy("off"), Strategy("self_consistency")],
        [1, 2],
        SAMPLES,
        trials=2,
        seed=0,
        tick=lambda: ticks.append(None),
    )
    assert [(point.strategy, point.budget) for point in found] == [
        ("off", 1),
        ("off", 2),
        ("self_consistency", 1),
        ("self_consistency", 2),
    ]
    assert len(ticks) == 8
