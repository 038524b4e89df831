from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.batch import (
    BUDGET,
    CONFIDENT,
    FAILED,
    ROUND_CAP,
    SAMPLE_CAP,
    SPENT,
    Denied,
    Draw,
    Failure,
    Limits,
    Sample,
)
from proxy.core.dynscaling import DynScalingBatch
from proxy.core.ranking import Ranking, priority
from proxy.core.uncertainty import MEASURES, inverse_margin, normalised_entropy, variation_ratio


def batch_of(queries: int = 0, *, close: bool = False, **options: Any) -> DynScalingBatch:
    options.setdefault("limits", Limits())
    batch = DynScalingBatch(rng=np.random.default_rng(1), **options)
    for query in range(queries):
        batch.join(query)
    if close:
        batch.close()
    return batch


def answer(batch: DynScalingBatch, draws: Iterable[Draw], labels: Iterable[str | None]) -> None:
    for draw, label in zip(draws, labels, strict=True):
        batch.tell(Sample(draw.id, label))


def play_unit(batch: DynScalingBatch, labels: dict[int, str]) -> list[Draw]:
    """Plays both halves of a unit of every query in `labels` (its draws' labels in order); returns the draws."""
    todo = {query: iter(letters) for query, letters in labels.items()}
    made: list[Draw] = []
    while sum(map(len, labels.values())) > len(made):
        draws = batch.ask()
        assert draws
        for draw in draws:
            batch.tell(Sample(draw.id, next(todo[draw.query])))
        made += draws
    return made


def counted(draws: Iterable[Draw]) -> dict[int, int]:
    return dict(Counter(draw.query for draw in draws))


def test_the_published_algorithm_step_by_step() -> None:
    """Three queries, units of 4, 27 samples in all; every priority below is worked out by hand.

    B_used 12: u = 1/4, 1/2, 0 at B_i = 4, 4, 4. B_used 16: u = 1/4, 1/4, 0 at 4, 8, 4.
    B_used 20: u = 1/2, 1/4, 0 at 8, 8, 4. B_used 24: u = 1/3, 1/4, 0 at 12, 8, 4.
    """
    batch = batch_of(3, close=True, mode="exact", unit=4, thought_length=2, mean_samples=9)
    first = batch.ask()
    assert [draw.query for draw in first] == [0, 0, 1, 1, 2, 2]
    assert all(draw.given == () and draw.round == 1 for draw in first)
    answer(batch, first, "aaxycc")
    second = batch.ask()
    assert [draw.query for draw in second] == [0, 0, 1, 1, 2, 2]
    for draw in second:
        assert sorted(draw.given) == [other.id for other in first if other.query == draw.query]
        assert draw.round == 2
    answer(batch, second, "bazxcc")

    hand = [(0.25, 4, 12, 0.44704), (0.5, 4, 12, 0.69704), (0.0, 4, 12, 0.19704)]
    hand += [(0.25, 4, 16, 0.45814), (0.25, 8, 16, 0.39718), (0.0, 4, 16, 0.20814)]
    hand += [(0.5, 8, 20, 0.65299), (0.25, 8, 20, 0.40299), (0.0, 4, 20, 0.21635)]
    hand += [(1 / 3, 12, 24, 0.46199), (0.25, 8, 24, 0.40757), (0.0, 4, 24, 0.22284)]
    for uncertainty, drawn, used, expected in hand:
        assert priority(uncertainty, drawn, used, 0.25) == pytest.approx(expected, abs=1e-5)

    assert counted(play_unit(batch, {1: "xxxx"})) == {1: 4}
    assert counted(play_unit(batch, {0: "bbba"})) == {0: 4}
    assert counted(play_unit(batch, {0: "aaaa"})) == {0: 4}
    assert batch.decided() == ()
    rest = batch.ask()
    assert (counted(rest), rest[0].given) == ({0: 2}, ())
    answer(batch, rest, "ab")
    (last,) = batch.ask()
    assert (last.query, sorted(last.given)) == (0, [draw.id for draw in rest])
    assert batch.decided() == ()
    answer(batch, [last], "a")
    assert batch.ask() == ()
    assert (batch.started, batch.unallotted) == (27, 0)
    assert batch.decided() == (0, 1, 2)
    assert [batch.reason(query) for query in range(3)] == [None, None, None]
    assert batch.done


def test_exploration_turns_to_a_query_that_is_sure_but_was_sampled_less() -> None:
    """u = 1/8 at B_i = 16 against 0 at 2, B_used 18: 0.125 + c * 0.425 < c * 1.202 from c = 0.161 on."""
    assert priority(0.125, 16, 18, 0.25) < priority(0.0, 2, 18, 0.25)
    assert priority(0.125, 16, 18, 0.15) > priority(0.0, 2, 18, 0.15)
    assert priority(0.3, 4, 1, 0.25) == 0.3


def test_exact_waits_for_all_chosen_queries_before_it_ranks_again() -> None:
    batch = batch_of(3, close=True, mode="exact", unit=2, mean_samples=6, subset=2)
    play_unit(batch, {0: "ab", 1: "cd", 2: "ee"})
    one, other = batch.ask()
    assert (one.query, other.query) == (0, 1)
    answer(batch, [one], "a")
    (conditioned,) = batch.ask()
    answer(batch, [conditioned], "b")
    assert batch.ask() == ()
    answer(batch, [other], "c")
    answer(batch, batch.ask(), "d")
    assert counted(batch.ask()) == {0: 1, 1: 1}


def test_exact_allocates_nothing_before_the_close() -> None:
    batch = batch_of(2, mode="exact", unit=2, mean_samples=4)
    play_unit(batch, {0: "ab", 1: "cd"})
    assert batch.ask() == ()
    batch.close()
    assert counted(batch.ask()) == {0: 1}


def test_exact_gives_the_share_of_a_query_that_left_to_the_others() -> None:
    batch = batch_of(2, close=True, mode="exact", unit=2, mean_samples=4)
    play_unit(batch, {0: "ab", 1: "cc"})
    batch.ask()
    batch.leave(0)
    assert batch.decided() == ()
    play_unit(batch, {1: "cc"})
    answer(batch, batch.ask(), "c")
    assert batch.decided() == (1,)
    assert (batch.started, batch.unallotted) == (8, 0)


def test_draws_that_were_planned_and_not_handed_out_go_back_to_the_budget() -> None:
    batch = batch_of(2, close=True)
    assert batch.decided() == ()
    assert (batch.started, batch.unallotted) == (8, 16)
    batch.leave(0)
    assert (batch.started, batch.unallotted) == (4, 24)


def test_a_wider_subset_is_cut_so_that_the_budget_is_not_passed() -> None:
    batch = batch_of(4, close=True, mode="exact", unit=2, mean_samples=3, subset=3)
    play_unit(batch, {0: "ab", 1: "cd", 2: "ef", 3: "gh"})
    assert counted(play_unit(batch, {0: "ab", 1: "cd"})) == {0: 2, 1: 2}
    assert batch.done


def test_a_conditioned_draw_sees_some_of_the_first_half_when_the_thought_length_is_shorter() -> None:
    batch = batch_of(1, thought_length=2)
    first = batch.ask()
    answer(batch, first, "abcd")
    for draw in batch.ask():
        assert len(set(draw.given)) == 2
        assert set(draw.given) <= {other.id for other in first}


def test_a_conditioned_draw_sees_only_what_survived_of_the_first_half() -> None:
    batch = batch_of(1)
    lost, *kept = batch.ask()
    batch.tell(Failure(lost.id))
    answer(batch, kept, "abc")
    second = batch.ask()
    assert len(second) == 4
    assert all(sorted(draw.given) == [other.id for other in kept] for draw in second)


def test_a_second_half_is_independent_when_the_first_was_lost() -> None:
    batch = batch_of(1, close=True, unit=4, mean_samples=8)
    play_unit(batch, {0: "abcd"})
    for draw in batch.ask():
        batch.tell(Failure(draw.id))
    assert [draw.given for draw in batch.ask()] == [(), ()]


def test_a_probing_query_makes_the_rest_of_its_first_half_once_the_probe_is_back() -> None:
    batch = batch_of(0)
    batch.join(5, probe=True)
    sizes = []
    for _ in range(3):
        draws = batch.ask()
        sizes.append(len(draws))
        assert batch.ask() == ()
        answer(batch, draws, ["a"] * len(draws))
    assert sizes == [1, 3, 4]
    assert draws[0].round == 3


def test_a_confident_query_is_decided_before_the_close() -> None:
    batch = batch_of(1)
    answer(batch, batch.ask(), "aaaa")
    assert batch.decided() == ()
    answer(batch, batch.ask(), "aaaa")
    assert batch.decided() == (0,)
    assert batch.reason(0) == CONFIDENT


def test_a_query_in_doubt_waits_for_the_close() -> None:
    batch = batch_of(1)
    play_unit(batch, {0: "abcdabcd"})
    assert batch.ask() == ()
    assert batch.decided() == ()
    batch.close()
    assert len(batch.ask()) == 4


def test_what_a_decided_query_leaves_goes_to_the_others() -> None:
    batch = batch_of(2, close=True)
    play_unit(batch, {0: "aaaaaaaa", 1: "abcdabcd"})
    play_unit(batch, {1: "abcdabcd"})
    play_unit(batch, {1: "abcdabcd"})
    assert batch.decided() == (0, 1)
    assert batch.started == 32


def test_the_budget_of_a_batch_ends_it() -> None:
    batch = batch_of(1, close=True)
    play_unit(batch, {0: "abcdabcd"})
    play_unit(batch, {0: "abcdabcd"})
    assert batch.decided() == (0,)
    assert batch.reason(0) == SPENT


def test_a_remainder_smaller_than_a_unit_is_spent_too() -> None:
    batch = batch_of(1, close=True, mean_samples=11)
    play_unit(batch, {0: "abcdabcd"})
    assert len(batch.ask()) == 2
    assert batch.unallotted == 0


def test_queries_without_a_slot_are_decided_once_the_budget_is_given_out() -> None:
    batch = batch_of(2, close=True, mean_samples=12)
    play_unit(batch, {0: "abcdabcd", 1: "aabbaaba"})
    assert counted(batch.ask()) == {0: 4}
    assert batch.decided() == (1,)
    assert batch.reason(1) == SPENT


def test_the_sample_cap_cuts_the_last_unit_and_then_decides() -> None:
    batch = batch_of(1, close=True, mean_samples=32, limits=Limits(max_samples=11))
    play_unit(batch, {0: "abcdabcd"})
    assert len(batch.ask()) == 2
    batch = batch_of(1, limits=Limits(max_samples=5))
    play_unit(batch, {0: "abcde"})
    assert batch.decided() == (0,)
    assert batch.reason(0) == SAMPLE_CAP


@pytest.mark.parametrize(("probe", "max_rounds"), [(False, 1), (True, 2)])
def test_a_second_half_that_the_round_cap_forbids_makes_no_draw(probe: bool, max_rounds: int) -> None:
    batch = batch_of(0, limits=Limits(max_rounds=max_rounds))
    batch.join(0, probe=probe)
    for _ in range(max_rounds):
        draws = batch.ask()
        answer(batch, draws, ["a", "b", "c", "d"][: len(draws)])
    assert batch.ask() == ()
    assert (batch.decided(), batch.reason(0)) == ((0,), ROUND_CAP)
    assert (batch.started, batch.unallotted) == (4, 12)


def test_no_unit_is_started_that_the_round_cap_would_cut() -> None:
    batch = batch_of(1, close=True, mean_samples=32, limits=Limits(max_rounds=5))
    play_unit(batch, {0: "abcdabcd"})
    play_unit(batch, {0: "abcdabcd"})
    assert batch.decided() == (0,)
    assert batch.reason(0) == ROUND_CAP


def test_a_straggler_does_not_block_the_complete_queries() -> None:
    batch = batch_of(3, close=True)
    first = batch.ask()
    answer(batch, first[:8], "abcdabcd")
    second = batch.ask()
    answer(batch, second, "abcdabcd")
    assert counted(batch.ask()) == {0: 4, 1: 4}
    assert batch.decided() == ()


def test_as_many_units_are_in_flight_as_the_rounds_left_ask_for() -> None:
    """Five queries with eight samples more each: five units over the two that six rounds still allow make three."""
    batch = batch_of(5, close=True)
    play_unit(batch, dict.fromkeys(range(5), "abcdabcd"))
    draws = batch.ask()
    assert counted(draws) == {0: 4, 1: 4, 2: 4}
    answer(batch, draws[:4], "aaaa")
    assert counted(batch.ask()) == {0: 4}


def test_a_slot_that_falls_free_goes_to_the_query_in_most_doubt() -> None:
    batch = batch_of(3, close=True, subset=1)
    play_unit(batch, {0: "aabbaabb", 1: "aaaaabbb", 2: "abcdefgh"})
    assert counted(play_unit(batch, {2: "aaaaaaaa"})) == {2: 8}
    assert counted(batch.ask()) == {0: 4}


def test_a_query_whose_samples_all_abstain_is_in_most_doubt() -> None:
    batch = batch_of(2, close=True, subset=1)
    made: list[Draw] = []
    for _ in range(2):
        draws = batch.ask()
        answer(batch, draws, [None if draw.query == 1 else "abcdefgh"[draw.id % 8] for draw in draws])
        made += draws
    assert counted(made) == {0: 8, 1: 8}
    assert counted(batch.ask()) == {1: 4}


def test_equal_doubt_goes_to_the_query_that_joined_first() -> None:
    batch = batch_of(0, subset=1)
    for query in (9, 3, 6):
        batch.join(query)
    batch.close()
    first = batch.ask()
    answer(batch, reversed(first), ["ab"[draw.id % 2] for draw in reversed(first)])
    second = batch.ask()
    answer(batch, reversed(second), ["ab"[draw.id % 2] for draw in reversed(second)])
    assert counted(batch.ask()) == {9: 4}


def test_a_denied_query_stops_and_its_credit_goes_on() -> None:
    batch = batch_of(2, close=True)
    draws = batch.ask()
    batch.tell(Denied(draws[0].id))
    answer(batch, draws[1:], "aaaabcd")
    assert batch.decided() == (0,)
    assert batch.reason(0) == BUDGET
    # 32 of budget, 4 drawn by the first query, 8 due to the second
    assert batch.unallotted == 20


@pytest.mark.parametrize("mode", ["live", "exact"])
def test_a_query_whose_first_draws_all_failed_is_decided_and_harms_no_neighbour(mode: str) -> None:
    batch = batch_of(2, close=True, mode=mode)
    draws = batch.ask()
    for draw in draws[:4]:
        batch.tell(Failure(draw.id))
    assert batch.decided() == (0,)
    assert batch.reason(0) == FAILED
    answer(batch, draws[4:], "abcd")
    assert counted(batch.ask()) == {1: 4}


@pytest.mark.parametrize(
    "wrong", [{"unit": 0}, {"mean_samples": 7}, {"thought_length": -1}, {"subset": 0}, {"unit": 9, "mean_samples": 8}]
)
def test_options_that_make_no_sense_are_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least"):
        batch_of(**wrong)


def test_a_query_stops_early_only_when_its_confidence_meets_the_target() -> None:
    """Six against two is 1 - 46/512 = 0.9102 sure."""
    for target, decided in ((0.9101, (0,)), (0.9103, ())):
        batch = batch_of(1, target=target)
        play_unit(batch, {0: "aaaaaabb"})
        assert batch.decided() == decided


def test_the_three_measures_of_doubt_by_hand() -> None:
    assert variation_ratio([6, 1, 1]) == 0.25
    # (8 ln 8 - 6 ln 6) / (8 ln 8)
    assert normalised_entropy([6, 1, 1]) == pytest.approx(0.353759, abs=1e-6)
    assert normalised_entropy([4, 4]) == pytest.approx(1 / 3)
    assert inverse_margin([1, 6, 1]) == 0.375
    assert inverse_margin([4, 4]) == 1.0


@given(st.lists(st.integers(1, 60), max_size=12))
def test_every_measure_is_none_where_all_agree_whole_where_nobody_says_anything_and_between_them_otherwise(
    counts: list[int],
) -> None:
    for measure in MEASURES.values():
        assert 0.0 <= measure(counts) <= 1.0
        assert measure(counts) == pytest.approx(measure(counts[::-1]))
        assert measure(counts[:1]) == (0.0 if counts else 1.0)


@given(st.integers(2, 40), st.integers(1, 39))
def test_of_two_answers_every_measure_doubts_the_closer_race_more(ballots: int, second: int) -> None:
    if 2 * second < ballots:
        for measure in MEASURES.values():
            assert measure([ballots - second, second]) > measure(
                [ballots - second + 1, second - 1] if second > 1 else [1]
            )


@given(
    st.lists(st.none() | st.tuples(st.floats(0, 1), st.integers(1, 100)), max_size=150),
    st.integers(1, 4000),
    st.integers(0, 9),
    st.floats(0, 3),
)
def test_the_ranking_is_the_priorities_sorted_and_equal_ones_in_order_of_joining(
    arms: list[tuple[float, int] | None], used: int, count: int, exploration: float
) -> None:
    ranking = Ranking(exploration)
    standing = {}
    for arm in arms:
        place = ranking.add()
        ranking.stand(place, 0.5, 1)
        if arm is None:
            ranking.leave(place)
        else:
            ranking.stand(place, *arm)
            standing[place] = priority(*arm, used, exploration)
    assert len(ranking) == len(standing)
    assert ranking.top(count, used) == sorted(standing, key=lambda place: -standing[place])[:count]


def test_the_measure_decides_which_query_is_in_most_doubt() -> None:
    """Of eight ballots 4-4 leads by inverse margin, 3-1-1-1-1-1 by the two others."""
    for measure, favoured in (("variation_ratio", 1), ("normalised_entropy", 1), ("inverse_margin", 0)):
        batch = batch_of(2, close=True, subset=1, uncertainty=measure)
        play_unit(batch, {0: "aabbaabb", 1: "aaabcdef"})
        assert counted(batch.ask()) == {favoured: 4}


def test_where_only_conditioned_draws_vote_they_alone_make_the_doubt_and_the_confidence() -> None:
    labels = {0: "aaaaabcd", 1: "abcdaabb"}
    for votes, favoured in (("all", 1), ("conditioned", 0)):
        batch = batch_of(2, close=True, subset=1, votes=votes)
        play_unit(batch, labels)
        assert counted(batch.ask()) == {favoured: 4}
    batch = batch_of(1, close=True, votes="conditioned", target=0.96)
    play_unit(batch, {0: "bcdeaaaa"})
    assert (batch.decided(), batch.reason(0)) == ((0,), CONFIDENT)


def test_where_no_conditioned_draw_has_an_answer_all_others_make_the_doubt() -> None:
    batch = batch_of(2, close=True, subset=1, votes="conditioned")
    answer(batch, batch.ask(), "aaababcd")
    answer(batch, batch.ask(), [None] * 8)
    assert counted(batch.ask()) == {1: 4}


def test_without_integrated_sampling_a_unit_is_one_round_of_independent_draws() -> None:
    batch = batch_of(1, close=True, integrated=False, limits=Limits(max_rounds=2))
    for number in (1, 2):
        draws = batch.ask()
        assert [(draw.given, draw.round) for draw in draws] == [((), number)] * 8
        answer(batch, draws, "abcdabcd")
    assert (batch.decided(), batch.reason(0)) == ((0,), ROUND_CAP)


def test_without_dynamic_allocation_every_query_gets_its_own_mean_samples_and_waits_for_nobody() -> None:
    batch = batch_of(2, dynamic=False, mode="exact", unit=4, mean_samples=10)
    made = play_unit(batch, {0: "aaaaaaaaaa", 1: "abcdabcdab"})
    assert counted(made) == {0: 10, 1: 10}
    assert [draw.round for draw in made if draw.query == 0] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 6]
    assert batch.decided() == (0, 1)
    assert (batch.reason(0), batch.unallotted) == (None, 0)


def test_without_dynamic_allocation_what_a_confident_query_leaves_is_nobodys() -> None:
    batch = batch_of(2, close=True, dynamic=False)
    made = play_unit(batch, {0: "aaaaaaaa", 1: "abcdabcdabcdabcd"})
    assert counted(made) == {0: 8, 1: 16}
    assert [batch.reason(query) for query in batch.decided()] == [CONFIDENT, SPENT]


def test_in_exact_a_query_at_its_sample_cap_leaves_the_ranking_and_its_budget_goes_to_the_others() -> None:
    batch = batch_of(2, close=True, mode="exact", unit=4, mean_samples=8, limits=Limits(max_samples=10))
    play_unit(batch, {0: "abcd", 1: "aaaa"})
    assert counted(play_unit(batch, {0: "abcd"})) == {0: 4}
    assert counted(play_unit(batch, {0: "ab"})) == {0: 2}
    assert counted(play_unit(batch, {1: "aa"})) == {1: 2}
    assert (batch.started, batch.unallotted) == (16, 0)
    assert [batch.reason(query) for query in batch.decided()] == [SAMPLE_CAP, None]


def test_in_exact_a_budget_that_the_sample_cap_does_not_let_be_spent_ends_the_batch() -> None:
    batch = batch_of(2, close=True, mode="exact", unit=4, mean_samples=8, limits=Limits(max_samples=4))
    play_unit(batch, {0: "abcd", 1: "aaaa"})
    assert batch.decided() == (0, 1)
    assert batch.unallotted == 8


def test_in_exact_there_is_no_cap_unless_one_is_given() -> None:
    batch = batch_of(2, close=True, mode="exact", unit=50, mean_samples=100, limits=None)
    play_unit(batch, {0: "ab" * 50, 1: "a" * 50})
    assert counted(play_unit(batch, {0: "ab" * 25})) == {0: 50}
