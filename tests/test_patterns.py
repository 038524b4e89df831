"""Patterns that users write: what is refused, which match counts, and what a hostile one costs."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.patterns import last_match, path, pattern


@pytest.mark.parametrize("text", ["(", "a{2,1}", r"(?=a)", r"(a)\1", "[z-a]", "x" * 1_001])
def test_a_pattern_that_re2_cannot_read_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        pattern(text)


@pytest.mark.parametrize("text", ["$..a", "$[?(@.a)]", "$[1:2]", "$[", "x" * 1_001])
def test_a_path_that_may_cost_much_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        path(text)


@pytest.mark.parametrize(
    ("text", "said", "found"),
    [
        (r"\d+", "1 then 22 then 333", "333"),
        (r"\d+", "none", None),
        ("", "", ""),
        (r"^\w+", "first last", "first"),
        (r"^\w+", "first\n" + "and so on\n" * 1_000, "first"),
        (r"(?m)^\w+", "first\nlast one", "last"),
        (r"\w+$", "first last", "last"),
        ("é.", "éa éb", "éb"),
        (r"\*\*.*?\*\*", "**a** b **c** d\n" * 1_000, "**c**"),
        ("begin(?s:.*)end", "begin" + "\n" * 50_000 + "end", "begin" + "\n" * 50_000 + "end"),
    ],
)
def test_the_last_match_of_a_text_is_found(text: str, said: str, found: str | None) -> None:
    match = last_match(pattern(text), said)
    assert (None if match is None else match.group()) == found


@given(st.lists(st.sampled_from(["a", "b", "\n", " ", "ab", "é"]), max_size=60).map("".join))
def test_the_last_match_is_the_last_of_all(text: str) -> None:
    compiled = pattern(r"ab+|é")
    every = [match.group() for match in compiled.finditer(text)]
    match = last_match(compiled, text)
    assert (None if match is None else match.group()) == (every[-1] if every else None)


def test_groups_are_numbered_and_named() -> None:
    compiled = pattern(r"(\w)=(?P<answer>\d)|x")
    match = last_match(compiled, "a=1")
    assert match is not None
    assert (compiled.groups, dict(compiled.groupindex)) == (2, {"answer": 2})
    assert (match.group(1), match.group("answer"), match.start(), match.end()) == ("a", "1", 0, 3)
    other = last_match(compiled, "x")
    assert other is not None
    assert other.group("answer") is None


def test_a_pattern_whose_matches_cost_the_square_of_the_text_costs_little() -> None:
    compiled = pattern("a[^b]*b|a")
    begun = time.process_time()
    assert last_match(compiled, "a" * 200_000) is not None
    # all of them would take minutes
    assert time.process_time() - begun < 1.0
