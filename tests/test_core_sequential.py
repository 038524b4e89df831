"""Chains of answers that are revised step by step, within the caps."""

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.batch import (
    BUDGET,
    FAILED,
    ROUND_CAP,
    SAMPLE_CAP,
    Batch,
    Denied,
    Draw,
    Failure,
    Limits,
    Sample,
    Step,
)
from proxy.core.sequential import Method, SequentialBatch
from tests.test_core_batch import Play, Trouble, limits_, queries_, seeds, troubles

METHODS: tuple[Method, ...] = ("sp1", "sp2", "sp3", "multi_round")
methods = st.sampled_from(METHODS)


def batch_of(method: Method, *, chains: int = 2, samples: int = 32, rounds: int = 6) -> SequentialBatch:
    batch = SequentialBatch(method, chains=chains, limits=Limits(samples, rounds))
    batch.join(0)
    batch.close()
    return batch


def answer(batch: Batch, draws: Iterable[Draw], label: str | None = "a") -> None:
    for draw in draws:
        batch.tell(Sample(draw.id, None if draw.step in {"feedback", "grade"} else label))


def rounds(batch: Batch) -> list[list[Draw]]:
    """Plays the one query of a batch to its end: the draws of each round."""
    made: list[list[Draw]] = []
    while draws := batch.ask():
        assert {draw.round for draw in draws} == {len(made) + 1}
        made.append(list(draws))
        answer(batch, draws)
    assert batch.done
    return made


def shape(made: list[list[Draw]]) -> list[tuple[Step, int]]:
    """The step of each round, and how many draws it had."""
    assert all(len({draw.step for draw in draws}) == 1 for draws in made)
    return [(draws[0].step, len(draws)) for draws in made]


def test_sp1_waits_with_all_of_its_chain_before_it() -> None:
    made = rounds(batch_of("sp1", rounds=3))
    assert shape(made) == [("answer", 2), ("continue", 2), ("continue", 2)]
    one, other, again, _, *_ = [draw for draws in made for draw in draws]
    assert [draw.given for draw in made[1]] == [(one.id,), (other.id,)]
    assert made[2][0].given == (one.id, again.id)


def test_sp2_refines_each_answer_by_its_own_feedback() -> None:
    made = rounds(batch_of("sp2", rounds=5))
    assert shape(made) == [("answer", 2), ("feedback", 2), ("refine", 2), ("feedback", 2), ("refine", 2)]
    for first, feedback, refined, again, last in zip(*made, strict=True):
        assert feedback.given == (first.id,)
        assert refined.given == (first.id, feedback.id)
        assert again.given == (refined.id,)
        assert last.given == (refined.id, again.id)


def test_sp3_grades_the_last_answers_in_the_last_round() -> None:
    made = rounds(batch_of("sp3"))
    steps = ["answer", "feedback", "refine", "feedback", "refine", "grade"]
    assert shape(made) == [(step, 2) for step in steps]
    assert [draw.given for draw in made[5]] == [(draw.id,) for draw in made[4]]


def test_multi_round_rethinks_its_last_answer_alone() -> None:
    made = rounds(batch_of("multi_round", rounds=3))
    assert shape(made) == [("answer", 2), ("rethink", 2), ("rethink", 2)]
    assert [draw.given for draw in made[2]] == [(draw.id,) for draw in made[1]]


@pytest.mark.parametrize(
    ("method", "samples", "rounds_", "expected"),
    [
        ("sp1", 7, 6, [("answer", 3), ("continue", 3), ("continue", 1)]),
        ("sp1", 1, 6, [("answer", 1)]),
        ("multi_round", 2, 6, [("answer", 1), ("rethink", 1)]),
        ("sp2", 6, 6, [("answer", 2), ("feedback", 2), ("refine", 2)]),
        ("sp2", 9, 2, [("answer", 3)]),
        ("sp2", 8, 6, [("answer", 2), ("feedback", 2), ("refine", 2), ("feedback", 1), ("refine", 1)]),
        ("sp3", 3, 6, [("answer", 1), ("grade", 1)]),
        ("sp3", 11, 6, [("answer", 2), ("feedback", 2), ("refine", 2), ("feedback", 1), ("refine", 1), ("grade", 2)]),
        ("sp3", 32, 3, [("answer", 3), ("grade", 3)]),
        ("sp3", 32, 1, [("answer", 3)]),
    ],
)
def test_no_revision_is_begun_that_a_cap_would_cut_or_leave_without_its_grade(
    method: Method, samples: int, rounds_: int, expected: list[tuple[Step, int]]
) -> None:
    assert shape(rounds(batch_of(method, chains=3, samples=samples, rounds=rounds_))) == expected


@pytest.mark.parametrize(("samples", "rounds_", "reason"), [(8, 9, SAMPLE_CAP), (32, 3, ROUND_CAP)])
@pytest.mark.parametrize("method", METHODS)
def test_the_cap_that_ended_it_is_named(method: Method, samples: int, rounds_: int, reason: str) -> None:
    batch = batch_of(method, samples=samples, rounds=rounds_)
    rounds(batch)
    assert batch.reason(0) == reason


def test_a_chain_ends_where_a_draw_of_it_is_lost_and_the_others_go_on() -> None:
    batch = batch_of("sp2", chains=3)
    lost, *kept = batch.ask()
    batch.tell(Failure(lost.id))
    answer(batch, kept)
    one, other = batch.ask()
    assert [one.given, other.given] == [(draw.id,) for draw in kept]
    batch.tell(Failure(one.id))
    answer(batch, [other])
    (refined,) = batch.ask()
    assert refined.given == (kept[1].id, other.id)
    batch.tell(Failure(refined.id))
    assert batch.ask() == ()
    assert (batch.decided(), batch.reason(0)) == ((0,), None)


def test_a_chain_that_ended_is_graded_for_its_last_answer_and_one_without_a_label_is_not() -> None:
    batch = batch_of("sp3", chains=3)
    first = batch.ask()
    answer(batch, first)
    one, two, three = batch.ask()
    batch.tell(Failure(one.id))
    answer(batch, [two, three])
    refined = batch.ask()
    batch.tell(Sample(refined[0].id, "a"))
    batch.tell(Sample(refined[1].id, None))
    answer(batch, batch.ask())
    last = batch.ask()
    answer(batch, last, None)
    assert [draw.given for draw in batch.ask()] == [(first[0].id,), (refined[0].id,), (first[2].id,)]
    mute = batch_of("sp3", rounds=2)
    answer(mute, mute.ask(), None)
    assert mute.ask() == ()


def test_where_every_first_answer_is_lost_the_query_has_failed() -> None:
    batch = batch_of("sp1")
    for draw in batch.ask():
        batch.tell(Failure(draw.id))
    assert (batch.decided(), batch.reason(0)) == ((0,), FAILED)


def test_a_denied_draw_ends_the_query_with_what_it_has() -> None:
    batch = batch_of("sp1")
    answer(batch, batch.ask())
    one, other = batch.ask()
    batch.tell(Denied(one.id))
    answer(batch, [other])
    assert (batch.decided(), batch.reason(0)) == ((0,), BUDGET)


def test_a_probing_query_starts_its_other_chains_once_the_probe_is_back() -> None:
    batch = SequentialBatch("multi_round", chains=3, limits=Limits(32, 3))
    batch.join(0, probe=True)
    batch.close()
    assert shape(rounds(batch)) == [("answer", 1), ("answer", 2), ("rethink", 3)]


def test_no_chains_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SequentialBatch("sp1", chains=0, limits=Limits())


@given(seeds, queries_, troubles, limits_, st.tuples(methods, st.integers(1, 6)))
@settings(max_examples=200)
def test_a_sequential_batch_ends_within_its_caps(
    seed: int, queries: int, trouble: Trouble, limits: Limits, kind: tuple[Method, int]
) -> None:
    method, chains = kind
    play = Play(SequentialBatch(method, chains=chains, limits=limits), Random(seed), trouble, queries).run()
    play.within(limits)
    for draws in play.by_query().values():
        check_steps(play, draws, chains)


def check_steps(play: Play, draws: list[Draw], chains: int) -> None:
    """What each step is shown: finished draws of one chain, of the kinds that the step is about."""
    assert sum(draw.step == "answer" for draw in draws) <= chains
    kinds = {draw.id: draw.step for draw in draws}
    followed = [draw.given for draw in draws if draw.step != "grade" and draw.given]
    assert len(followed) == len(set(followed)), "two draws continue the same one"
    for draw in draws:
        shown = [kinds[given] for given in draw.given]
        match draw.step:
            case "answer":
                assert shown == []
            case "continue":
                assert shown == ["answer", *["continue"] * (len(shown) - 1)]
            case "refine":
                assert shown in (["answer", "feedback"], ["refine", "feedback"])
            case "grade":
                graded = play.told[draw.given[0]]
                assert shown in (["answer"], ["refine"])
                assert isinstance(graded, Sample)
                assert graded.label is not None
            case "feedback":
                assert shown in (["answer"], ["refine"])
            case "rethink":
                assert shown in (["answer"], ["rethink"])
