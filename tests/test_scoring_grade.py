"""Grades in a model's words, and the digit that a judge's log-probabilities mean."""

from math import log

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.scoring.digits import expected_digit
from proxy.scoring.grade import grade
from proxy.types import JSON, Choice

HUNDRED = st.integers(0, 100)


def graded(text: str, most: int = 100) -> float | None:
    return grade(Choice(0, {"content": text}, "stop"), most)


@given(
    value=HUNDRED,
    words=st.sampled_from(
        [
            "{}",
            "{}.",
            "**{}**",
            "\\boxed{{{}}}",
            "{}%",
            "{} / 100",
            "{}/100",
            "{} out of 100",
            "I'd give it {} out of a possible 100.",
            "Out of 100, I'd say {}",
            "On a scale of 0 to 100: {}",
            "On a scale from 0 (certainly wrong) to 100 (certainly right), {}",
            "Score (0-100): {}",
            "Score out of 100: {}",
            "/100: {}",
            "My grade is {}, out of 100.",
            "The score is: {}/100",
            "**Score:** {} / 100",
            "Score: **{}**/100, for 2 of its 3 steps are right",
            "There are 3 slips.\n\n**{}**\n",
            "The answer says 42. I'd grade it {}",
            "<think>Score: 3? No: 4/100.</think>{}",
            "It got 5 wrong: {}/100",
            "First I thought of 10/100, but no: {}/100",
            "I see no error. Likelihood: {}",
            "1/2 of the text is beside the point. Rating of {}",
            "Between 0 and 100 I pick {}",
        ]
    ),
)
def test_a_grade_is_found_and_its_scale_is_not_taken_for_it(value: int, words: str) -> None:
    assert graded(words.format(value)) == pytest.approx(value / 100)


@pytest.mark.parametrize(
    ("said", "share"),
    [
        ("I would say 7.", 0.07),
        ("85.5", 0.855),
        ("8/10", 0.8),
        ("rating: 3/4", 0.75),
        ("great", None),
        ("", None),
        ("1000", None),
        ("101", None),
        ("200/100", None),
        ("-5", None),
        ("0.85", None),
        ("1,000", None),
        ("From 0 to 100.", None),
        ("Out of 100", None),
        ("v2", None),
    ],
)
def test_odd_grades_count_for_what_they_say_or_for_nothing(said: str, share: float | None) -> None:
    assert graded(said) == share


@pytest.mark.parametrize(
    ("said", "share"),
    [("9", 1.0), ("Grade: 3", 3 / 9), ("6/9", 6 / 9), ("Out of 9: 6", 6 / 9), ("80%", 0.8), ("85", None)],
)
def test_a_grade_may_have_another_highest(said: str, share: float | None) -> None:
    assert graded(said, 9) == (None if share is None else pytest.approx(share))


@given(st.text(st.characters() | st.sampled_from("0123456789/%. -(score)"), max_size=200))
@example("score " * 30 + "1" * 100)
def test_no_text_breaks_the_reading_of_grades_and_every_grade_is_a_share(text: str) -> None:
    found = graded(text)
    assert found is None or 0 <= found <= 1


def test_a_grade_in_a_very_long_reply_is_read_in_no_time() -> None:
    for filler in ("score ", "0 to ", "*", "1/", "99 ", "(" * 40):
        assert graded(filler * 20_000 + "\nScore: 85") == 0.85


def entry(token: str, probability: float, **others: float) -> JSON:
    top = [{"token": token, "logprob": log(probability)}]
    top += [{"token": name.strip("_"), "logprob": log(value)} for name, value in others.items()]
    return {"token": token, "logprob": log(probability), "top_logprobs": top}


def mean(*entries: JSON) -> float | None:
    content = "".join(str(each["token"]) for each in entries)
    return expected_digit(Choice(0, {"content": content}, "stop", {"content": list(entries)}))


def test_the_digit_is_the_mean_of_the_digits_that_might_have_been_said() -> None:
    assert mean(entry("8", 0.6, _9=0.3, _0=0.1)) == pytest.approx(8 * 0.6 + 9 * 0.3)
    assert mean(entry("8", 0.5, _9=0.25, well=0.25)) == pytest.approx((8 * 0.5 + 9 * 0.25) / 0.75)


def test_a_digit_with_a_space_before_it_is_the_same_digit() -> None:
    spaced = entry("8", 0.5)
    spaced["top_logprobs"] += [{"token": " 8", "logprob": log(0.25)}, {"token": "\u01202", "logprob": log(0.25)}]
    assert mean(spaced) == pytest.approx(8 * 0.75 + 2 * 0.25)


def test_digits_that_are_told_twice_count_once() -> None:
    twice = entry("8", 0.5, _2=0.5)
    twice["top_logprobs"].append(twice["top_logprobs"][0])
    assert mean(twice) == pytest.approx(5)


def test_what_comes_before_the_digit_is_passed_over() -> None:
    assert mean(entry("**", 0.9), entry("Grade", 0.9), entry(": ", 0.9), entry("7", 1.0), entry("**", 0.9)) == 7


@pytest.mark.parametrize(
    "tokens",
    [
        ["85"],
        ["8", "5"],
        ["8", "/", "9"],
        ["8", " out of ", "9"],
        ["0", "-", "9", ": ", "7"],
        ["8", ".", "5"],
        ["-", "8"],
        ["8", "%"],
        ["<think>", "8", "</think>", "3"],
        ["none"],
        [],
    ],
)
def test_a_digit_that_is_part_of_something_longer_has_no_mean(tokens: list[str]) -> None:
    assert mean(*(entry(token, 1.0) for token in tokens)) is None


def test_digits_with_less_than_half_of_the_probability_have_no_mean() -> None:
    assert mean(entry("8", 0.3, _7=0.19, well=0.51)) is None
    assert mean(entry("8", 0.3, _7=0.21, well=0.49)) is not None


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": [None]}, {"content": [{"token": None}]}])
def test_malformed_log_probabilities_have_no_mean(logprobs: JSON | None) -> None:
    assert expected_digit(Choice(0, {"content": "8"}, "stop", logprobs)) is None


def test_one_malformed_alternative_takes_nothing_from_the_others() -> None:
    odd = entry("8", 0.5, _2=0.5)
    odd["top_logprobs"] += [None, {"token": "3"}, {"token": "4", "logprob": "x"}, {"logprob": -1.0}]
    assert mean(odd) == pytest.approx(5)


@given(st.lists(st.tuples(st.sampled_from("0123456789"), st.floats(-50, 0)), min_size=1, max_size=12))
def test_the_mean_lies_between_the_digits_told(told: list[tuple[str, float]]) -> None:
    top = [{"token": token, "logprob": value} for token, value in dict(told).items()]
    found = expected_digit(
        Choice(0, {"content": top[0]["token"]}, "stop", {"content": [{**top[0], "top_logprobs": top}]})
    )
    digits = [int(str(each["token"])) for each in top]
    assert found is None or min(digits) - 1e-9 <= found <= max(digits) + 1e-9
