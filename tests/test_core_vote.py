import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc

from proxy.core.vote import confidence, plurality, variation_ratio

labels = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=12)


def test_a_tie_goes_to_the_earliest_answer() -> None:
    votes = plurality(["b", "a", "a", "b"])
    assert votes.leader == "b"
    assert votes.counts == (("b", 2), ("a", 2))


def test_abstentions_are_counted_and_have_no_vote() -> None:
    votes = plurality([None, "a", None, None])
    assert (votes.leader, votes.abstained) == ("a", 3)


def test_no_ballot_has_no_leader_and_no_confidence() -> None:
    votes = plurality([None, None])
    assert votes.leader is None
    assert votes.confidence is None


@settings(deadline=None)
@given(st.data(), labels)
def test_in_another_order_the_counts_are_the_same_and_so_is_a_leader_that_is_not_tied(
    data: st.DataObject, drawn: list[str | None]
) -> None:
    votes, other = plurality(drawn), plurality(data.draw(st.permutations(drawn)))
    assert dict(votes.counts) == dict(other.counts)
    assert (votes.abstained, votes.confidence) == (other.abstained, other.confidence)
    tied = len(votes.counts) > 1 and votes.counts[0][1] == votes.counts[1][1]
    assert tied or votes.leader == other.leader


@settings(deadline=None)
@given(labels)
def test_the_leader_has_the_most_votes_and_came_first_among_its_equals(drawn: list[str | None]) -> None:
    votes = plurality(drawn)
    cast = [label for label in drawn if label is not None]
    assert sum(count for _, count in votes.counts) + votes.abstained == len(drawn)
    if cast:
        most = max(cast.count(label) for label in cast)
        assert votes.leader == next(label for label in cast if cast.count(label) == most)


@settings(deadline=None)
@given(st.integers(0, 80), st.integers(0, 80))
def test_confidence_is_the_incomplete_beta_at_one_half(first: int, second: int) -> None:
    assert confidence(first, second) == pytest.approx(1 - betainc(first + 1, second + 1, 0.5), abs=1e-12)


def test_confidence_looks_at_the_two_top_counts_only() -> None:
    assert plurality("aaaabbc").confidence == confidence(4, 2)
    assert plurality("aaaa").confidence == confidence(4, 0) == 1 - 1 / 32


def test_the_variation_ratio_is_the_share_of_other_ballots_and_one_without_ballots() -> None:
    assert variation_ratio([6, 1, 1]) == 0.25
    assert variation_ratio([3]) == 0.0
    assert variation_ratio([]) == 1.0
