"""The numbers of an evaluation: intervals, tests, grades, summaries, axes."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from proxy.evaluation.asking import Failed, Result, shared
from proxy.evaluation.chart import chart
from proxy.evaluation.questions import grade
from proxy.evaluation.reliability import calibrations, reliability
from proxy.evaluation.stats import quantile, sign_test, wilson
from proxy.evaluation.summary import Paired, summarise
from proxy.types import AnswerKind, Choice


@pytest.mark.parametrize(
    ("right", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_as_published(right: int, trials: int, low: float, high: float) -> None:
    """Newcombe 1998, table I, method 3."""
    assert wilson(right, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_the_share_and_is_mirrored(counts: tuple[int, int]) -> None:
    right, trials = counts
    low, high = wilson(right, trials)
    assert 0.0 <= low <= high <= 1.0
    if trials:
        assert low <= right / trials <= high
    assert wilson(trials - right, trials) == pytest.approx((1 - high, 1 - low))


def test_the_sign_test_is_exact() -> None:
    assert sign_test(9, 1) == sign_test(1, 9) == float(Fraction(22, 1024))
    assert sign_test(0, 0) == sign_test(5, 5) == 1.0
    assert sign_test(6, 0) == 0.03125


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_sign_test_is_the_binomial_one(better: int, worse: int) -> None:
    known = binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert sign_test(better, worse) == pytest.approx(known, rel=1e-9)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0, 1))
def test_quantiles_are_linear_between_neighbours(values: list[float], q: float) -> None:
    assert quantile(values, q) == pytest.approx(float(np.quantile(values, q)), rel=1e-9, abs=1e-6)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 500), max_size=20))
def test_the_providers_tokens_are_shared_out_whole(total: int, counts: list[int]) -> None:
    found = shared(total, counts)
    assert len(found) == len(counts)
    assert min(found, default=0) >= 0
    assert sum(found) == (total if total and sum(counts) else sum(counts))


@pytest.mark.parametrize(
    ("reply", "gold", "kind", "correct"),
    [
        ("so \\boxed{42}", "42", "auto", True),
        ("so \\boxed{42.0}", "42", "auto", True),
        ("so \\boxed{\\frac{1}{2}}", "0.5", "auto", True),
        ("so \\boxed{41}", "42", "auto", False),
        ("The answer is 70000.", "70,000", "auto", True),
        ("thinking " * 60, "42", "auto", False),
        ("thinking " * 60 + "it is 18", "$18$", "math", True),
        ("\\boxed{18 dollars}", "18", "number", True),
        ("The answer is (D).", "D", "choice", True),
        ("The answer is (C).", "D", "choice", False),
        ('{"b": 1, "a": 2}', '{"a": 2, "b": 1.0}', "json", True),
        ("I cannot help with that.", "42", "auto", False),
    ],
)
def test_a_reply_is_right_where_its_answer_has_golds_label(
    reply: str, gold: str, kind: AnswerKind, correct: bool
) -> None:
    assert grade(Choice(0, {"content": reply}, "stop"), gold, kind)[1] is correct


def result(name: str, strategy: str, *, correct: bool = True, **more: object) -> Result:
    given = {"served": strategy, "reason": None, "samples": 2, "prompt_tokens": 10, "completion_tokens": 30}
    rest = {"cost_nano": 5000, "latency_s": 0.5, "draws": (), "answer": "42"}
    return Result.model_validate({"strategy": strategy, "id": name, "correct": correct, **given, **rest, **more})


def test_strategies_are_compared_on_the_questions_that_both_answered() -> None:
    off = [result(name, "off", correct=name in "ab") for name in "abcd"]
    voted = [result(name, "adaptive", correct=name in "bcde", latency_s=2.0) for name in "bcde"]
    failed = [Failed(strategy="adaptive", id="a", why="HTTP 503")]
    first, second = summarise(5, {"adaptive": voted, "off": off}, failed)
    assert (first.answered, first.failed, first.right, first.p50_s) == (4, 1, 4, 2.0)
    assert first.paired == Paired("off", 3, better=2, worse=0)
    assert first.paired.difference == pytest.approx(2 / 3)
    assert first.paired.p == 0.5
    assert (second.accuracy, second.tokens, second.cost_usd, second.paired) == (0.5, 40.0, 5e-6, None)


def test_without_off_the_first_strategy_is_what_others_are_compared_with() -> None:
    found = summarise(1, {"adaptive": [result("a", "adaptive")], "pets": [result("a", "pets")]}, [])
    assert [row.paired and row.paired.versus for row in found] == [None, "adaptive"]


def test_a_strategy_that_answered_nothing_has_a_summary() -> None:
    (found,) = summarise(3, {"off": []}, [])
    assert (found.answered, found.accuracy, found.interval) == (0, 0.0, (0.0, 1.0))
    assert chart([found]) is None


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10**9)), min_size=1, max_size=6))
def test_every_point_and_tick_is_inside_the_axes(rows: list[tuple[int, int]]) -> None:
    answers = {
        str(place): [result(str(i), "off", correct=i < right, cost_nano=cost) for i in range(40)]
        for place, (right, cost) in enumerate(rows)
    }
    found = chart(summarise(40, answers, []))
    assert found is not None
    for point in found.points:
        assert all(0 <= found.y.place(value) <= 1 for value in (point.low, point.y, point.high))
        assert 0 <= found.x.place(point.x) <= 1
    for axis in (found.x, found.y):
        assert len(axis.ticks) >= 2
        assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value, _ in axis.ticks)
        assert len({text for _, text in axis.ticks}) == len(axis.ticks)
    assert found.x.title == ("cost of 1,000 questions, USD" if any(cost for _, cost in rows) else "tokens a question")


def judged(*outcomes: tuple[float | None, bool], served: str = "adaptive") -> list[Result]:
    return [
        result(str(place), "adaptive", correct=correct, confidence=confidence, served=served)
        for place, (confidence, correct) in enumerate(outcomes)
    ]


def test_bins_hold_their_lower_edge_and_the_last_one_both() -> None:
    found = reliability(
        "adaptive", judged((0.5, True), (0.59, False), (0.6, True), (0.99, True), (1.0, True), (0.0, False))
    )
    assert found is not None
    assert [(each.low, each.high, each.questions, each.right) for each in found.bins] == [
        (0.0, 0.5, 1, 0),
        (0.5, 0.6, 2, 1),
        (0.6, 0.7, 1, 1),
        (0.99, 1.0, 2, 2),
    ]
    assert (found.whole.questions, found.whole.right) == (6, 4)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_every_answer_is_in_one_bin_and_the_error_is_the_mean_distance(outcomes: list[tuple[float, bool]]) -> None:
    found = reliability("adaptive", judged(*outcomes))
    assert found is not None
    assert sum(each.questions for each in found.bins) == len(outcomes) == found.whole.questions
    assert sum(each.right for each in found.bins) == found.whole.right
    assert abs(found.whole.gap) - 1e-9 <= found.error <= 1
    assert found.error == pytest.approx(
        sum(abs(each.right - each.confidence * each.questions) for each in found.bins) / len(outcomes)
    )


def test_answers_that_were_not_voted_on_have_no_reliability() -> None:
    assert reliability("adaptive", judged((None, True), (None, False))) is None
    found = reliability("adaptive", judged((None, True), (0.7, False)))
    assert found is not None
    assert found.whole.questions == 1


def test_answers_teach_of_the_strategy_that_served_them() -> None:
    outcomes: list[tuple[float | None, bool]] = [(0.8, place % 2 == 0) for place in range(30)]
    assert list(calibrations("small", judged(*outcomes))) == [("small", "adaptive")]
    assert list(calibrations("small", judged(*outcomes, served="pets"))) == [("small", "pets")]
    assert calibrations("small", judged(*outcomes[1:])) == {}
