"""The adaptive strategy: where samples go, when a query stops, and that its bank is charged what was drawn."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, cycle
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.adaptive import AdaptiveBatch
from proxy.core.bank import Bank
from proxy.core.batch import (
    BUDGET,
    CONFIDENT,
    FAILED,
    PRICED,
    ROUND_CAP,
    SAMPLE_CAP,
    SPENT,
    Cancelled,
    Denied,
    Draw,
    Failure,
    Limits,
    Outcome,
    Sample,
)
from tests.test_core_batch import Play, Trouble, limits_, queries_, seeds, troubles

FREE = Limits(10**6, 10**6)
LIVE = Limits(32, 6)
PATIENT = Limits(32, 32)
TOKENS = 50
REASONS = {BUDGET, CONFIDENT, FAILED, PRICED, ROUND_CAP, SAMPLE_CAP, SPENT}

Feed = Sequence[str] | Iterator[str]


def told(batch: AdaptiveBatch, feeds: Mapping[int, Feed], tokens: Mapping[int, int] | None = None) -> Counter[int]:
    """Answer every draw with the next letter of its query (`-` abstains), to the end; returns draws by query."""
    letters = {query: cycle(feed) if isinstance(feed, str) else iter(feed) for query, feed in feeds.items()}
    drawn: Counter[int] = Counter()
    while draws := batch.ask():
        for draw in draws:
            letter = next(letters[draw.query])
            length = TOKENS if tokens is None else tokens[draw.query]
            batch.tell(Sample(draw.id, None if letter == "-" else letter, tokens=length))
            drawn[draw.query] += 1
    return drawn


def live(bank: Bank, *, limits: Limits = LIVE, target: float = 0.95, mean: float = 8) -> AdaptiveBatch:
    return AdaptiveBatch(mean_samples=mean, target=target, limits=limits, bank=bank)


def alone(queries: int, mean: float, limits: Limits = FREE, *, by_tokens: bool = True) -> AdaptiveBatch:
    """A closed batch of so many queries, with a budget to itself."""
    batch = AdaptiveBatch(mean_samples=mean, limits=limits, sample_tokens=TOKENS, by_tokens=by_tokens)
    for query in range(queries):
        batch.join(query)
    batch.close()
    return batch


def one(batch: AdaptiveBatch, feed: Feed, query: int = 0) -> tuple[int, str | None]:
    """How many samples one query takes, answered at once, and why it stops."""
    batch.join(query)
    drawn = told(batch, {query: feed})[query]
    (decided,) = batch.decided()
    reason = batch.reason(decided)
    batch.leave(decided)
    return drawn, reason


def distinct() -> Iterator[str]:
    """Answers that never agree."""
    return (str(number) for number in count())


# --- under a caller that does everything at random moments


def plays(seed: int, queries: int, trouble: Trouble, batches: Sequence[AdaptiveBatch]) -> list[Play]:
    """Plays of several batches, their moves mixed at random, each to its end."""
    random = Random(seed)
    made = [Play(batch, random, trouble, queries) for batch in batches]
    running = list(made)
    while running:
        play = random.choice(running)
        play.look()
        moves = play.moves()
        if moves:
            random.choice(moves)()
        else:
            running.remove(play)
    return [play.run() for play in made]


def outcomes(made: Sequence[Play], kind: type[Outcome]) -> list[Outcome]:
    return [outcome for play in made for outcome in play.told.values() if isinstance(outcome, kind)]


@dataclass(frozen=True)
class Shape:
    """The options of a batch."""

    mean: int
    target: float
    by_tokens: bool
    limits: Limits

    def batch(self, bank: Bank | None = None, sample_tokens: float | None = None) -> AdaptiveBatch:
        return AdaptiveBatch(
            mean_samples=self.mean,
            target=self.target,
            limits=self.limits,
            bank=bank,
            sample_tokens=sample_tokens,
            by_tokens=self.by_tokens,
        )


means = st.integers(1, 12)
shapes = st.builds(Shape, means, st.sampled_from([0.6, 0.95, 1.0]), st.booleans(), limits_)


@given(seeds, queries_, troubles, shapes, st.sampled_from([None, TOKENS]))
@settings(max_examples=150)
def test_a_batch_with_a_budget_of_its_own_ends_within_its_caps(
    seed: int, queries: int, trouble: Trouble, shape: Shape, sample_tokens: float | None
) -> None:
    play = Play(shape.batch(sample_tokens=sample_tokens), Random(seed), trouble, queries).run()
    play.within(shape.limits)
    assert set(play.reasons.values()) <= REASONS - {PRICED}


@given(seeds, queries_, troubles, shapes, st.integers(1, 3))
@settings(max_examples=150)
def test_batches_that_share_a_bank_end_within_their_caps(
    seed: int, queries: int, trouble: Trouble, shape: Shape, number: int
) -> None:
    bank = Bank(shape.mean)
    for play in plays(seed, queries, trouble, [shape.batch(bank) for _ in range(number)]):
        play.within(shape.limits)
        assert set(play.reasons.values()) <= REASONS


@given(seeds, queries_, troubles, shapes, st.integers(1, 3))
@settings(max_examples=200)
def test_with_everything_told_the_bank_holds_what_came_in_less_what_was_drawn_and_half_of_what_was_cancelled(
    seed: int, queries: int, trouble: Trouble, shape: Shape, number: int
) -> None:
    bank, counted = Bank(shape.mean, bound=float("inf")), replace(shape, by_tokens=False)
    made = plays(seed, queries, trouble, [counted.batch(bank) for _ in range(number)])
    drawn, cancelled = len(outcomes(made, Sample)), len(outcomes(made, Cancelled))
    assert bank.balance == pytest.approx(shape.mean * queries * number - drawn - cancelled / 2, abs=1e-6)


@given(seeds, queries_, st.builds(Trouble, *[st.sampled_from([0.0, 0.1, 0.4])] * 2, leave=st.sampled_from([0.0, 0.3])))
@settings(max_examples=100)
def test_where_tokens_are_counted_the_bank_is_charged_the_tokens_of_every_sample_that_was_told(
    seed: int, queries: int, trouble: Trouble
) -> None:
    bank = Bank(8, bound=float("inf"), sample_tokens=TOKENS)
    made = plays(seed, queries, trouble, [live(bank), live(bank)])
    tokens = sum(play.batch.tokens for play in made)
    assert bank.balance == pytest.approx(8 * queries * 2 - tokens / TOKENS, abs=1e-6)


@given(seeds, queries_, st.sampled_from([0.0, 0.1, 0.4]), limits_, means)
@settings(max_examples=150)
def test_a_batch_with_a_budget_of_its_own_passes_it_by_less_than_one_draw(
    seed: int, queries: int, failure: float, limits: Limits, mean: int
) -> None:
    batch = AdaptiveBatch(mean_samples=mean + 0.5, limits=limits, by_tokens=False)
    play = Play(batch, Random(seed), Trouble(failure=failure), queries).run()
    assert len(outcomes([play], Sample)) < (mean + 0.5) * queries + 1


@given(seeds, st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 2, 3, 4, 6, 10**6]))
@settings(max_examples=150)
def test_a_batch_that_loses_nothing_and_meets_no_cap_spends_its_whole_budget_in_its_rounds(
    seed: int, queries: int, mean: int, rounds: int
) -> None:
    limits = Limits(10**6 if rounds == 10**6 else 10**5, rounds)
    batch = AdaptiveBatch(mean_samples=mean, limits=limits, by_tokens=False)
    random = Random(seed)
    for query in range(queries):
        batch.join(query)
    batch.close()
    drawn = 0
    while draws := batch.ask():
        for draw in random.sample(draws, len(draws)):
            assert draw.round <= rounds
            batch.tell(Sample(draw.id, random.choice("aabc")))
            drawn += 1
    assert drawn == mean * queries
    assert {batch.reason(query) for query in batch.decided()} <= {SPENT, ROUND_CAP}


@given(seeds, queries_, troubles, st.booleans())
@settings(max_examples=40)
def test_the_same_outcomes_give_the_same_draws(seed: int, queries: int, trouble: Trouble, shared: bool) -> None:
    def play() -> list[Draw]:
        batch = live(Bank(8)) if shared else AdaptiveBatch(mean_samples=8, limits=LIVE)
        return list(Play(batch, Random(seed), trouble, queries).run().draws.values())

    assert play() == play()


# --- where samples go


def test_a_query_opens_with_two_draws_and_with_more_where_rounds_are_few() -> None:
    for rounds, first in [(10**6, 2), (6, 2), (4, 3), (2, 6), (1, 8)]:
        batch = live(Bank(8), limits=Limits(32, rounds))
        batch.join(0)
        assert len(batch.ask()) == first


def test_no_query_opens_with_more_than_it_may_take() -> None:
    for mean, most, first in [(1, 32, 1), (1.9, 32, 1), (8, 1, 1), (8, 5, 5)]:
        batch = live(Bank(mean), limits=Limits(most, 1), mean=mean)
        batch.join(0)
        assert len(batch.ask()) == first


def test_a_probing_query_makes_one_draw_and_its_other_opening_draws_when_that_came_back() -> None:
    batch = live(Bank(8), limits=Limits(32, 4))
    batch.join(0, probe=True)
    (probe,) = batch.ask()
    assert batch.ask() == ()
    batch.tell(Sample(probe.id, "a"))
    assert [draw.round for draw in batch.ask()] == [2, 2]


def test_two_samples_that_agree_end_a_query_and_two_that_differ_do_not() -> None:
    assert one(live(Bank(8), limits=PATIENT), "a") == (2, PRICED)
    assert one(live(Bank(8), limits=PATIENT), distinct()) == (8, SPENT)


@given(st.floats(2, 30), st.sampled_from([0.9, 0.95, 1.0]), st.integers(1, 30))
def test_at_any_price_the_query_whose_samples_agree_takes_no_more_than_the_one_whose_samples_differ(
    credit: float, target: float, passed: int
) -> None:
    def drawn(feed: Feed) -> int:
        bank = Bank(credit)
        for query in range(passed):
            one(live(bank, target=target, mean=credit), "a", query)
        return one(live(bank, target=target, mean=credit), feed, passed)[0]

    assert drawn("a") <= drawn("ab")
    assert drawn("a") <= drawn(distinct())


@pytest.mark.parametrize("limits", [FREE, Limits(64, 4)])
def test_a_batch_gives_most_to_the_most_doubtful(limits: Limits) -> None:
    drawn = told(alone(4, 8, limits), {0: "a", 1: "abaaa", 2: "ab", 3: "a"})
    assert drawn[2] > drawn[1] > max(drawn[0], drawn[3])
    assert drawn.total() == 32


@pytest.mark.parametrize("limits", [FREE, Limits(64, 4)])
def test_of_two_queries_in_equal_doubt_the_one_with_longer_samples_gets_fewer(limits: Limits) -> None:
    feeds, tokens = {0: "ab", 1: "ab"}, {0: 25, 1: 75}
    drawn = told(alone(2, 12, limits), feeds, tokens)
    assert drawn[0] > 1.5 * drawn[1]
    drawn = told(alone(2, 12, limits, by_tokens=False), feeds, tokens)
    assert abs(drawn[0] - drawn[1]) <= 2


def test_of_two_queries_on_a_bank_the_one_with_longer_samples_gets_fewer() -> None:
    drawn = {}
    for length in (25, 100):
        batch = live(Bank(8, sample_tokens=TOKENS))
        batch.join(0)
        drawn[length] = told(batch, {0: "ab"}, {0: length})[0]
    assert drawn[25] > drawn[100] >= 2


def test_one_sample_at_a_time_goes_to_the_best_index_once_a_batch_is_closed() -> None:
    batch = AdaptiveBatch(mean_samples=3, limits=FREE)
    for query in (0, 1):
        batch.join(query)
    for draw, letter in zip(batch.ask(), "aaab", strict=True):
        batch.tell(Sample(draw.id, letter, tokens=TOKENS))
    assert batch.ask() == ()
    batch.close()
    (draw,) = batch.ask()
    assert draw.query == 1
    assert batch.ask() == ()


def test_a_wave_waits_for_every_query_of_the_batch_and_no_longer_for_one_that_left() -> None:
    batch = AdaptiveBatch(mean_samples=4, limits=Limits(64, 3))
    batch.join(0)
    batch.join(1)
    batch.close()
    first, second, third, _ = batch.ask()
    batch.tell(Sample(first.id, "a"))
    batch.tell(Sample(second.id, "b"))
    batch.tell(Sample(third.id, "a"))
    assert batch.ask() == ()
    batch.leave(1)
    assert {draw.query for draw in batch.ask()} == {0}


# --- when it stops


def test_a_query_is_confident_as_soon_as_its_leader_is_sure_also_with_draws_out() -> None:
    batch = live(Bank(8), limits=Limits(32, 1))
    batch.join(0)
    draws = batch.ask()
    assert len(draws) == 8
    for draw in draws[:4]:
        assert batch.decided() == ()
        batch.tell(Sample(draw.id, "a"))
    # 4 to 0: 31/32
    assert batch.decided() == (0,)
    assert batch.reason(0) == CONFIDENT
    assert batch.outstanding == 4


def test_a_target_of_one_is_not_met_while_there_is_any_doubt() -> None:
    assert one(live(Bank(8), limits=Limits(32, 1), target=1.0), "a") == (8, ROUND_CAP)


@pytest.mark.parametrize(
    ("limits", "credit", "feed", "stop"),
    [
        (LIVE, 8, "a", (2, PRICED)),
        (LIVE, 2, "ab", (2, SPENT)),
        (Limits(4, 6), 8, "ab", (4, SAMPLE_CAP)),
        (Limits(32, 2), 8, "ab", (8, ROUND_CAP)),
        (Limits(32, 1), 3, "ab", (3, ROUND_CAP)),
    ],
)
def test_the_price_the_bank_and_the_caps_stop_a_query(
    limits: Limits, credit: float, feed: str, stop: tuple[int, str]
) -> None:
    assert one(live(Bank(credit), limits=limits, mean=credit), feed) == stop


def test_a_dear_price_stops_a_query_that_a_cheap_one_lets_go_on() -> None:
    cheap, dear = Bank(8), Bank(8)
    for bank, spent in ((cheap, 0), (dear, 80)):
        for _ in range(20):
            bank.open()
            bank.settle(spent)
    cheap.take(cheap.balance)
    dear.take(dear.balance)
    assert one(live(cheap), "aab")[0] > one(live(dear), "aab")[0]


def test_samples_that_all_abstain_stop_at_the_budget() -> None:
    assert one(live(Bank(8), limits=PATIENT), "-") == (8, SPENT)
    assert told(alone(2, 5), {0: "-", 1: "-"}).total() == 10


def test_an_abstention_is_no_ballot_of_the_leader() -> None:
    drawn, reason = one(live(Bank(8), limits=Limits(32, 1)), "-aa-aaa")
    assert (drawn, reason) == (8, CONFIDENT)


def test_a_query_whose_opening_is_lost_fails_and_costs_nothing() -> None:
    bank = Bank(8)
    batch = live(bank)
    batch.join(0)
    for draw in batch.ask():
        batch.tell(Failure(draw.id))
    assert batch.decided() == (0,)
    assert batch.reason(0) == FAILED
    assert bank.balance == 8


# --- what the bank is charged


def test_what_easy_queries_leave_a_later_hard_one_of_the_same_bank_uses_and_none_of_another() -> None:
    bank, other = Bank(8), Bank(8)
    for query in range(6):
        assert one(live(bank), "a", query)[0] < 5
    assert one(live(bank, limits=PATIENT), distinct()) == (32, SAMPLE_CAP)
    assert one(live(other, limits=PATIENT), distinct()) == (8, SPENT)
    assert bank.balance > 0 == other.balance


def test_what_one_query_leaves_another_beside_it_in_the_batch_may_use() -> None:
    batch = live(Bank(8), limits=PATIENT)
    batch.join(0)
    batch.join(1)
    assert told(batch, {0: "a", 1: distinct()}) == {0: 2, 1: 14}


def test_what_was_spent_before_is_not_there_for_a_later_query() -> None:
    bank = Bank(8)
    batch = live(bank)
    batch.join(0)
    draws = batch.ask()
    bank.take(10)
    for draw in draws:
        batch.tell(Sample(draw.id, str(draw.id), tokens=TOKENS))
    assert batch.decided() == (0,)
    assert batch.reason(0) == SPENT


def test_draws_that_were_planned_and_never_handed_out_cost_nothing() -> None:
    bank = Bank(8)
    batch = live(bank)
    batch.join(0)
    assert batch.decided() == ()
    assert bank.balance == 6
    batch.leave(0)
    assert bank.balance == 8
    assert batch.started == 0


def test_a_denied_query_costs_what_its_other_draws_took() -> None:
    bank = Bank(8, sample_tokens=TOKENS)
    batch = live(bank, limits=Limits(32, 4))
    batch.join(0)
    first, second, third = batch.ask()
    batch.tell(Denied(second.id))
    batch.tell(Sample(first.id, "a", tokens=2 * TOKENS))
    assert batch.decided() == ()
    batch.tell(Failure(third.id))
    assert batch.decided() == (0,)
    assert batch.reason(0) == BUDGET
    assert bank.balance == pytest.approx(8 - 2)


@pytest.mark.parametrize(
    ("outcome", "spent"),
    [
        (lambda draw: Sample(draw, "a", tokens=3 * TOKENS), 3.0),
        (Failure, 0.0),
        (Denied, 0.0),
        (Cancelled, 0.5),
    ],
)
@pytest.mark.parametrize("leaves", [True, False])
def test_a_draw_that_is_told_after_its_query_ended_costs_what_it_took_and_half_where_it_was_cancelled(
    outcome: type[Failure], spent: float, leaves: bool
) -> None:
    bank = Bank(8, sample_tokens=TOKENS)
    batch = live(bank, limits=Limits(32, 1))
    batch.join(0)
    *draws, late = batch.ask()
    for draw in draws[:4]:
        batch.tell(Sample(draw.id, "a", tokens=TOKENS))
    assert batch.decided() == (0,)
    # four that are told, and four that are held at one half
    assert bank.balance == pytest.approx(8 - 4 - 2)
    if leaves:
        batch.leave(0)
    for draw in draws[4:]:
        batch.tell(Failure(draw.id))
    batch.tell(outcome(late.id))
    assert bank.balance == pytest.approx(8 - 4 - spent)


def test_the_price_follows_late_samples_as_it_follows_those_in_time() -> None:
    prices = []
    for early in (True, False):
        bank = Bank(8)
        batch = live(bank, limits=Limits(32, 1))
        batch.join(0)
        draws = batch.ask()
        if not early:
            batch.leave(0)
        for draw in draws:
            batch.tell(Sample(draw.id, str(draw.id), tokens=TOKENS))
        batch.ask()
        prices.append(bank.price)
    assert prices[0] == pytest.approx(prices[1])


def test_a_query_that_joins_again_under_its_number_is_not_charged_for_its_old_draws_twice() -> None:
    bank = Bank(8, bound=float("inf"), sample_tokens=TOKENS)
    batch = live(bank)
    batch.join(0)
    old = batch.ask()
    batch.leave(0)
    batch.join(0)
    new = batch.ask()
    for draw in (*old, *new):
        batch.tell(Sample(draw.id, "a", tokens=TOKENS))
    assert batch.decided() == (0,)
    assert bank.balance == pytest.approx(2 * 8 - 4)


@pytest.mark.parametrize("feed", ["a", "ab", "-"])
def test_samples_of_no_length_cost_one_each_while_no_length_is_known(feed: str) -> None:
    bank = Bank(8)
    batch = live(bank)
    batch.join(0)
    drawn = told(batch, {0: feed}, {0: 0})[0]
    assert 2 <= drawn <= 8
    assert bank.balance == 8 - drawn


def test_the_first_sample_with_a_length_after_some_with_none_does_not_empty_the_bank() -> None:
    bank = Bank(8)
    batch = live(bank)
    batch.join(0)
    first = batch.ask()
    for draw in first:
        batch.tell(Sample(draw.id, str(draw.id)))
    for draw in batch.ask():
        batch.tell(Sample(draw.id, str(draw.id), tokens=10_000))
    batch.ask()
    assert bank.balance >= 0
    batch.join(1)
    assert {draw.query for draw in batch.ask()} >= {1}


def test_samples_of_no_length_among_others_are_free_in_a_batch_and_end_at_the_cap() -> None:
    drawn = told(alone(2, 4, Limits(20, 10**6)), {0: "ab", 1: "ab"}, {0: 0, 1: TOKENS})
    assert drawn[0] == 20
    assert drawn[1] >= 7


def test_a_mean_below_one_sample_is_an_error() -> None:
    with pytest.raises(ValueError, match="mean_samples"):
        AdaptiveBatch(mean_samples=0.5, limits=FREE)


def test_a_wave_pays_for_its_prompt_and_dear_prompts_make_large_openings() -> None:
    bank = Bank(8, sample_tokens=10)
    batch = AdaptiveBatch(mean_samples=8, limits=Limits(32, 6), bank=bank)
    batch.join(0, overhead=20)
    batch.join(1)
    batch.close()
    draws = batch.ask()
    assert [sum(draw.query == query for draw in draws) for query in (0, 1)] == [6, 2]
    for draw in draws:
        batch.tell(Sample(draw.id, "a", tokens=10, cost=10))
    assert set(batch.decided()) == {0, 1}
    assert bank.balance == pytest.approx(16 - 6 - 2 - 20 / 10)


def test_a_wave_that_is_not_worth_its_prompt_is_not_asked() -> None:
    asked = []
    for overhead in (0.0, 5_000.0):
        batch = AdaptiveBatch(mean_samples=8, limits=Limits(32, 2), bank=Bank(8, sample_tokens=10))
        batch.join(0, overhead=overhead)
        batch.close()
        for label, draw in zip("ab" * 8, batch.ask(), strict=False):
            batch.tell(Sample(draw.id, label, tokens=10, cost=10))
        asked.append(len(batch.ask()))
    assert asked[0] > 0 == asked[1]


def test_few_samples_are_not_drawn_one_by_one_because_rounds_would_allow_it() -> None:
    batch = AdaptiveBatch(mean_samples=8, limits=Limits(6, 6), bank=Bank(8, sample_tokens=10))
    batch.join(0)
    batch.close()
    waves = []
    while draws := batch.ask():
        waves.append(len(draws))
        for draw in draws:
            batch.tell(Sample(draw.id, "ab"[draw.id % 2], tokens=10, cost=10))
    assert waves[:2] == [2, 2]
    assert sum(waves) == 6
