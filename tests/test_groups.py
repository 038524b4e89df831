"""Which answers are one group, whatever the order in which they come."""

import asyncio
import re
import time
from collections.abc import Hashable, Sequence
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.answers import Answer, Groups
from proxy.answers.alike import alike
from proxy.types import AnswerSpec

MATH = AnswerSpec("math")
NEAR = AnswerSpec("number", tolerance=0.1)
SUM = re.compile(r"(-?\d+)(?:/(\d+))?(?: \+ (-?\d+)(?:/(\d+))?)?")


class Sums:
    """Algebra of sums of two fractions, exact: `1/2 + 1/3`. Tells nothing of anything else; counts its questions."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def same(self, one: str, other: str) -> bool | None:
        self.asked.append((one, other))
        await asyncio.sleep(0)
        left, right = worth(one), worth(other)
        return None if left is None or right is None else left == right


class Slow(Sums):
    """The same, for which the clock moves by so many seconds a question."""

    def __init__(self, clock: "Clock", seconds: float) -> None:
        super().__init__()
        self._clock = clock
        self._seconds = seconds

    async def same(self, one: str, other: str) -> bool | None:
        self._clock.now += self._seconds
        return await super().same(one, other)


class Silent(Sums):
    """Algebra that never comes back."""

    async def same(self, one: str, other: str) -> bool | None:
        self.asked.append((one, other))
        await asyncio.Event().wait()
        return None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def worth(formula: str) -> Fraction | None:
    match = SUM.fullmatch(formula)
    if match is None:
        return None
    top, bottom, other, under = match.groups()
    return Fraction(int(top), int(bottom or 1)) + Fraction(int(other or 0), int(under or 1))


def formula(text: str) -> Answer:
    return Answer(("text", text), text, marked=True, formula=text)


def number(text: str) -> Answer:
    return Answer(("number", str(Fraction(text))), text, marked=True, formula=text)


def word(text: str) -> Answer:
    return Answer(("text", text), text, marked=True)


def quantity(value: int, unit: str | None) -> Answer:
    return Answer(("quantity", str(value), unit, str(value)), f"{value} {unit}", marked=True)


ROOTS = [formula("1/2 + 1/2"), formula("1/3 + 2/3"), number("1"), formula("x"), word("one"), formula("2/2 + 0")]
fractions = st.builds(lambda top, bottom: f"{top}/{bottom}", st.integers(0, 3), st.integers(1, 3))
answers = st.one_of(
    st.builds(lambda one, other: formula(f"{one} + {other}"), fractions, fractions),
    st.integers(0, 3).map(lambda value: number(str(value))),
    st.sampled_from(["x", "y + 1"]).map(formula),
    st.sampled_from(["paris", "rome"]).map(word),
    st.builds(quantity, st.integers(95, 125), st.sampled_from([None, "m", "s"])),
)
samples = st.lists(st.one_of(answers, st.none()), max_size=12)
specs = st.sampled_from([MATH, NEAR])


def run_in_order(groups: Groups, given: Sequence[Answer | None]) -> list[Hashable | None]:
    return asyncio.run(groups.in_order(given))


def arrive(groups: Groups, given: Sequence[Answer]) -> list[Hashable]:
    """As draws do: at once where that can be told, else all together."""

    async def label(answer: Answer) -> Hashable:
        found = groups.quick(answer)
        return await groups.label(answer) if found is None else found

    async def together() -> list[Hashable]:
        return list(await asyncio.gather(*map(label, given)))

    return asyncio.run(together())


@settings(max_examples=200)
@given(samples, st.randoms(use_true_random=False), specs)
def test_the_same_samples_have_the_same_labels_in_order_however_they_arrived(
    given: list[Answer | None], random: Random, spec: AnswerSpec
) -> None:
    fresh = run_in_order(Groups(spec, Sums()), given)
    arrived = [answer for answer in given if answer is not None]
    random.shuffle(arrived)
    groups = Groups(spec, Sums())
    arrive(groups, arrived)
    assert run_in_order(groups, given) == fresh
    assert run_in_order(groups, given) == fresh


@settings(max_examples=200)
@given(samples, specs)
def test_equal_labels_share_a_group_and_every_member_is_as_the_groups_first(
    given: list[Answer | None], spec: AnswerSpec
) -> None:
    labels = run_in_order(Groups(spec, Sums()), given)
    firsts: dict[Hashable, Answer] = {}
    groups: dict[Hashable, Hashable] = {}
    for answer, label in zip(given, labels, strict=True):
        assert (answer is None) == (label is None)
        if answer is None:
            continue
        first = firsts.setdefault(label, answer)
        assert first.label == label
        assert groups.setdefault(answer.label, label) == label
        assert alike(first, answer, spec) or (worth(first.text), worth(answer.text)) == (worth(answer.text),) * 2


@settings(max_examples=100)
@given(samples, specs)
def test_what_arrives_together_is_in_groups_that_each_have_a_founder(
    given: list[Answer | None], spec: AnswerSpec
) -> None:
    arrived = [answer for answer in given if answer is not None]
    labels = arrive(Groups(spec, Sums()), arrived)
    firsts = {label for answer, label in zip(arrived, labels, strict=True) if answer.label == label}
    assert firsts == set(labels)
    groups = {(answer.label, label) for answer, label in zip(arrived, labels, strict=True)}
    assert len(groups) == len({answer.label for answer in arrived})


def test_formulas_join_by_algebra_and_words_and_unread_formulas_do_not() -> None:
    labels = run_in_order(Groups(MATH, Sums()), ROOTS)
    assert labels == [ROOTS[0].label] * 3 + [ROOTS[3].label, ROOTS[4].label, ROOTS[0].label]


def test_without_algebra_formulas_count_as_they_are_written() -> None:
    assert run_in_order(Groups(MATH), ROOTS) == [answer.label for answer in ROOTS]


def test_a_pair_is_told_once_and_always_the_same_way_round() -> None:
    algebra = Sums()
    groups = Groups(MATH, algebra)
    arrive(groups, ROOTS)
    run_in_order(groups, ROOTS)
    run_in_order(groups, ROOTS[::-1])
    assert len(algebra.asked) == len(set(algebra.asked))
    assert all(one < other for one, other in algebra.asked)


def test_a_pair_that_could_not_be_told_is_not_asked_again() -> None:
    algebra = Sums()
    groups = Groups(MATH, algebra)
    for _ in range(3):
        run_in_order(groups, [formula("x"), formula("y + 1")])
    assert algebra.asked == [("x", "y + 1")]


def test_two_equal_answers_that_come_together_found_one_group() -> None:
    assert len(set(arrive(Groups(MATH, Sums()), ROOTS[:3] * 4))) == 1


def test_an_answer_is_compared_with_twelve_groups_at_most() -> None:
    algebra = Sums()
    given = [formula(f"1/{bottom} + 1") for bottom in range(1, 41)]
    run_in_order(Groups(MATH, algebra), given)
    assert len(algebra.asked) == sum(min(place, 12) for place in range(40))


def test_a_query_spends_five_seconds_on_algebra_and_counts_the_rest_as_written() -> None:
    clock = Clock()
    algebra = Slow(clock, 2.0)
    pairs = [formula(f"{place} + 1/2") for place in range(4)]
    labels = run_in_order(Groups(MATH, algebra, clock=clock), [*pairs, formula("1/2 + 0"), formula("1/2 + 1")])
    assert len(algebra.asked) == 3
    assert len(set(labels)) == 6


@pytest.mark.parametrize(("deadline", "joined"), [(9.9, False), (10.0, False), (10.1, True)])
def test_nothing_is_asked_past_the_deadline_and_what_was_told_still_counts(*, deadline: float, joined: bool) -> None:
    clock = Clock()
    clock.now = 10.0
    groups = Groups(MATH, Sums(), clock=clock, deadline=deadline)
    assert len(set(run_in_order(groups, ROOTS[:2]))) == (1 if joined else 2)
    clock.now = 99.0
    assert len(set(run_in_order(groups, ROOTS[:2]))) == (1 if joined else 2)


def test_algebra_that_does_not_come_back_is_waited_for_no_longer_than_the_deadline() -> None:
    async def main() -> list[Hashable | None]:
        loop = asyncio.get_running_loop()
        groups = Groups(MATH, Silent(), clock=loop.time, deadline=loop.time() + 0.05)
        async with asyncio.timeout(5):
            return await groups.in_order(ROOTS)

    assert asyncio.run(main()) == [answer.label for answer in ROOTS]


def test_many_different_answers_leave_room_for_others() -> None:
    async def main() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(tick())
            await Groups(MATH).in_order([word(f"word {place}") for place in range(320)])
            ticking.cancel()
        return ticks

    assert asyncio.run(main()) >= 20


def test_many_different_quantities_within_a_tolerance_hold_nobody_up() -> None:
    answers = [bare(f"{10**60 + 10**59 * place}/{10**60}") for place in range(512)]

    async def main() -> float:
        longest, last = 0.0, time.perf_counter()

        async def tick() -> None:
            nonlocal longest, last
            while True:
                await asyncio.sleep(0)
                longest, last = max(longest, time.perf_counter() - last), time.perf_counter()

        async with asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(tick())
            await Groups(AnswerSpec("number", tolerance=0.0001)).in_order(answers)
            ticking.cancel()
        return longest

    assert asyncio.run(main()) < 0.1


TOLERANCES = st.sampled_from([1e-17, 1e-9, 0.01, 0.1, 0.5, 0.99])
SIZES = st.sampled_from([-300, -151, -150, -149, 0, 149, 150, 151, 300])


@given(st.integers(-(10**6), 10**6), st.integers(1, 1000), SIZES, st.fractions(-2, 2, max_denominator=20), TOLERANCES)
def test_a_tolerance_is_exact_for_numbers_of_any_size(
    top: int, bottom: int, size: int, share: Fraction, tolerance: float
) -> None:
    exact = Fraction(str(tolerance))
    one = Fraction(top, bottom) * Fraction(10) ** size
    other = one * (1 + exact * share)
    near = abs(one - other) <= exact * max(abs(one), abs(other))
    spec = AnswerSpec("number", tolerance=tolerance)
    assert alike(bare(str(one)), bare(str(other)), spec) is near


def bare(value: str) -> Answer:
    return Answer(("quantity", str(Fraction(value)), None, str(Fraction(value))), value, marked=True)
