"""The most central of several texts, and which samples may be returned at all."""

from math import isclose, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answers.central import LONGEST, candidates, central, nearest, picks, shortened
from proxy.types import AnswerSpec, Choice

RAIN = [
    "The storm broke at noon and the harbour emptied within the hour.",
    "At noon the storm broke, and within the hour the harbour was empty.",
    "The storm broke at noon; the harbour emptied within an hour.",
    "I would rather talk about bicycles.",
]

words = st.lists(st.sampled_from(["the", "storm", "broke", "at", "noon", "harbour"]), max_size=12).map(" ".join)
vectors = st.integers(1, 5).flatmap(
    lambda size: st.lists(st.lists(st.floats(-1e6, 1e6), min_size=size, max_size=size), min_size=1, max_size=8)
)


def said(content: str, finish: str = "stop", **more: object) -> Choice:
    return Choice(0, {"role": "assistant", "content": content, **more}, finish)


def best(texts: list[str]) -> int:
    scores = central(texts)
    return scores.index(max(scores))


def test_the_text_that_shares_most_with_the_others_scores_highest_and_the_odd_one_lowest() -> None:
    scores = central(RAIN)
    assert scores.index(max(scores)) == 0
    assert scores.index(min(scores)) == 3


def test_the_score_is_twice_the_words_in_common_order_by_the_words_of_both() -> None:
    assert central(["a b c d", "b d e"]) == [4 / 7, 4 / 7]
    assert central(["a b", "b a", "c"]) == [0.25, 0.25, 0.0]


@pytest.mark.parametrize(
    ("texts", "place"),
    [
        (["the cat", "THE CAT SAT", "The cat sat down"], 1),
        (["a dog", "**a** dog!", "no", "a, dog"], 0),
        (["今天天气很好", "今天天气非常好", "明天下雨", "今天的天气很好"], 0),
        (["", "", "said"], 0),
        (["alone"], 0),
    ],
)
def test_case_and_punctuation_do_not_count_and_unspaced_scripts_count_by_the_character(
    texts: list[str], place: int
) -> None:
    assert best(texts) == place


@given(st.lists(words | st.text(max_size=40), max_size=9))
def test_every_text_has_a_score_from_0_to_1_whatever_it_says(texts: list[str]) -> None:
    scores = central(texts)
    assert len(scores) == len(texts)
    assert all(0 <= score <= 1 for score in scores)


@given(st.lists(words, min_size=2, max_size=8).flatmap(lambda texts: st.tuples(st.just(texts), st.permutations(texts))))
def test_a_texts_score_does_not_hang_on_the_order_of_the_texts(pair: tuple[list[str], list[str]]) -> None:
    texts, others = pair
    assert sorted(zip(texts, central(texts), strict=True)) == sorted(zip(others, central(others), strict=True))


@given(words.filter(bool), st.integers(2, 40))
def test_texts_that_are_all_the_same_are_all_wholly_central(text: str, count: int) -> None:
    assert central([text] * count) == [1.0] * count


def test_where_there_are_very_many_texts_the_first_ones_stand_for_all() -> None:
    texts = [f"the harbour was empty by noon {place}" for place in range(60)] + ["bicycles"] * 40
    scores = central(texts)
    assert max(scores[60:]) < min(scores[:60])


@pytest.mark.parametrize("end", ["beginning", "end"])
def test_of_a_long_text_its_beginning_and_its_end_count(end: str) -> None:
    filling = " ".join(f"w{number}" for number in range(5_000))
    texts = {
        "beginning": [f"the storm broke {filling}", "the storm broke", "other words here"],
        "end": [f"{filling} the storm broke", "the storm broke", "other words here"],
    }[end]
    assert central(texts)[0] > central([filling, *texts[1:]])[0] == 0


@given(st.text(max_size=60), st.integers(2, 50))
def test_a_text_is_shortened_to_its_two_ends_and_short_ones_stay_as_they_are(text: str, longest: int) -> None:
    cut = shortened(text, longest)
    if len(text) <= longest:
        assert cut == text
    else:
        assert len(cut) <= longest + 3
        assert cut.startswith(text[: longest // 2])
        assert cut.endswith(text[-(longest // 2) :])
    assert len(shortened("x" * 100_000)) <= LONGEST + 3


@given(vectors)
def test_vectors_score_by_their_mean_cosine_with_the_others(given_: list[list[float]]) -> None:
    def cosine(one: list[float], other: list[float]) -> float:
        lengths = sqrt(sum(x * x for x in one)) * sqrt(sum(x * x for x in other))
        return sum(x * y for x, y in zip(one, other, strict=True)) / lengths if lengths else 0.0

    scaled = [[round(x, 3) for x in vector] for vector in given_]
    scores = nearest(scaled)
    assert scores is not None
    for place, score in enumerate(scores):
        others = [cosine(scaled[place], other) for index, other in enumerate(scaled) if index != place]
        mean = sum(others) / len(others) if others else 0.0
        assert isclose(score, (1 + mean) / 2, abs_tol=1e-6)


@pytest.mark.parametrize("bad", [[], [[1.0], [1.0, 2.0]], [[float("nan")], [1.0]], [[float("inf")], [1.0]]])
def test_what_are_no_vectors_of_one_length_have_no_centre(bad: list[list[float]]) -> None:
    assert nearest(bad) is None


FINE, CUT = said("It rained."), said("It rai", "length")
NO, FILTERED, EMPTY = (
    said("I'm sorry, I can't help with that."),
    said("It", "content_filter"),
    said("<think>hm</think>"),
)
MARKED = Choice(0, {"content": None, "refusal": "I will not."}, "stop")
CALLED = Choice(0, {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, "tool_calls")


@pytest.mark.parametrize(
    ("choices", "places"),
    [
        ([], []),
        ([CUT, FINE, EMPTY, FINE], [1, 3]),
        ([CUT, EMPTY, CUT], [0, 2]),
        ([EMPTY, EMPTY], [0, 1]),
        ([NO, FINE, FILTERED, CUT], [1]),
        ([NO, MARKED, FINE], [0, 1]),
        ([NO, FINE], [1]),
        ([FILTERED, MARKED, FILTERED, FINE], [1]),
        ([FILTERED], [0]),
        ([CALLED, EMPTY], [0]),
    ],
)
def test_cut_empty_and_filtered_samples_come_last_and_refusals_win_only_as_a_majority(
    choices: list[Choice], places: list[int]
) -> None:
    assert candidates(choices) == places


@given(st.lists(st.sampled_from([FINE, CUT, NO, FILTERED, EMPTY, MARKED, CALLED]), min_size=1, max_size=9))
def test_there_is_always_a_candidate_and_never_a_worse_one_beside_a_better(choices: list[Choice]) -> None:
    places = candidates(choices)
    kept = [choices[place] for place in places]
    assert places == sorted(set(places))
    assert kept
    refusing = sum(choice in (NO, FILTERED, MARKED) for choice in choices)
    assert all((choice in (NO, FILTERED, MARKED)) == (2 * refusing > len(choices)) for choice in kept)
    assert not (
        {id(CUT), id(FILTERED), id(EMPTY)} & {id(one) for one in kept} and {id(FINE), id(NO)} & set(map(id, kept))
    )


def test_only_texts_that_are_votable_and_to_be_picked_are_chosen_from() -> None:
    assert picks(AnswerSpec("text", pick="central"))
    assert picks(AnswerSpec("text", "always", pick="universal"))
    assert not picks(AnswerSpec("text"))
    assert not picks(AnswerSpec("text", "never", pick="central"))
    assert not picks(AnswerSpec("auto", pick="central"))
