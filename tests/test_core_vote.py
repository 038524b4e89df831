from collections import Counter
from itertools import groupby
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc

from proxy.core.batch import Draw, Step
from proxy.core.vote import Ballot, Rule, Votes, confidence, plurality, poll, voices

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


def test_without_a_rule_the_poll_is_the_plurality() -> None:
    said = ["b", None, "a", "a", "b"]
    assert poll([Ballot(label) for label in said], Rule()) == plurality(said)


def test_weighted_votes_add_up_scores() -> None:
    ballots = [Ballot("a", 0.2), Ballot("a", 0.0), Ballot("a", 0.2), Ballot("b", 0.5)]
    votes = poll(ballots, Rule(by="weighted"))
    assert votes.counts == (("b", 1), ("a", 3))
    assert poll([Ballot("a"), Ballot("b"), Ballot("b")], Rule(by="weighted")).leader == "b"


def test_the_best_score_beats_a_majority() -> None:
    assert poll([Ballot("a", 0.6), Ballot("a", 0.6), Ballot("b", 0.7)], Rule(by="best")).leader == "b"


def test_of_equal_weights_the_label_with_more_ballots_leads_and_then_the_earliest() -> None:
    nothing = [Ballot("a", 0.0), Ballot("b", 0.0), Ballot("b", 0.0)]
    assert poll(nothing, Rule(by="weighted")).leader == "b"
    assert poll([Ballot("a"), Ballot("b"), Ballot("b"), Ballot("a")], Rule()).leader == "a"


def test_a_tie_of_few_ballots_goes_to_the_shorter_samples_where_the_rule_says_so() -> None:
    ballots = [Ballot("a", tokens=90), Ballot("b", tokens=10), Ballot("a", tokens=80), Ballot("b", tokens=20)]
    assert [poll(ballots, Rule(shorter=most)).leader for most in (0, 1, 2)] == ["a", "a", "b"]


def test_samples_that_saw_others_vote_alone_while_one_of_them_has_an_answer() -> None:
    rule = Rule(conditioned=True)
    first = [Ballot("a"), Ballot("a")]
    assert poll([*first, Ballot("b", conditioned=True)], rule).counts == (("b", 1),)
    assert poll([*first, Ballot(None, conditioned=True)], rule).counts == (("a", 2),)


def heard(*made: tuple[Step, tuple[int, ...], str | None]) -> list[bool]:
    draws = [Draw(number, 0, given, step=step) for number, (step, given, _) in enumerate(made)]
    return voices(draws, [label for *_, label in made])


def test_independent_and_conditioned_answers_all_vote() -> None:
    assert heard(("answer", (), "a"), ("answer", (), "b"), ("answer", (0, 1), "a")) == [True, True, True]


def test_of_a_chain_the_last_answer_with_a_label_votes() -> None:
    assert heard(("answer", (), "a"), ("continue", (0,), "b"), ("continue", (0, 1), None)) == [False, True, True]
    assert heard(("answer", (), "a"), ("rethink", (0,), None), ("rethink", (1,), "b")) == [False, False, True]
    assert heard(("answer", (), "a"), ("rethink", (0,), None), ("rethink", (1,), None)) == [True, True, True]


def test_feedback_and_grades_never_vote() -> None:
    chain: list[tuple[Step, tuple[int, ...], str | None]] = [
        ("answer", (), "a"),
        ("feedback", (0,), None),
        ("refine", (0, 1), "b"),
        ("grade", (2,), None),
    ]
    assert heard(*chain) == [False, False, True, False]
    assert heard(*chain[:2]) == [True, False]


def test_where_nobody_has_a_label_the_last_answer_of_each_chain_speaks_for_it() -> None:
    assert heard(("answer", (), None), ("answer", (), None), ("rethink", (0,), None)) == [False, True, True]


@given(st.data())
def test_each_chain_with_a_label_has_exactly_one_voice_that_says_something(data: st.DataObject) -> None:
    """Chains of revisions, each shown the one before it, whose draws come in any order that keeps to the chains."""
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    order = data.draw(st.permutations([chain for chain, length in enumerate(lengths) for _ in range(length)]))
    latest: dict[int, int] = {}
    draws, said = [], data.draw(st.lists(st.sampled_from("ab") | st.none(), min_size=len(order), max_size=len(order)))
    for number, chain in enumerate(order):
        given = (latest[chain],) if chain in latest else ()
        draws.append(Draw(number, 0, given, step="rethink" if given else "answer"))
        latest[chain] = number
    voting = voices(draws, said)
    for chain in range(len(lengths)):
        labelled = [number for number, other in enumerate(order) if other == chain and said[number] is not None]
        assert [number for number in labelled if voting[number]] == labelled[-1:]


# classes of labels ---------------------------------------------------------------------------------------------------


def kindred(*said: str, by: Literal["majority", "weighted", "best"] = "majority", **scores: float) -> Votes:
    """A poll of labels such as `call/add/1`, whose kin is what stands before the last slash, part by part."""
    ballots = [Ballot(each, scores.get(each.rpartition("/")[2]), kin=tuple(each.split("/")[:-1])) for each in said]
    return poll(ballots, Rule(by=by))


def test_the_coarsest_class_is_voted_on_first() -> None:
    refused = ["refusal/no"] * 4
    answers = [f"answer/said/{number}" for number in range(5)]
    votes = kindred(*refused, *answers)
    assert votes.leader == "answer/said/0"
    assert votes.counts[-1] == ("refusal/no", 4)
    assert kindred(*["refusal/no"] * 7, "answer/said/0").leader == "refusal/no"


def test_then_the_next_class_and_last_the_label() -> None:
    votes = kindred("answer/said/x", "answer/said/x", "answer/call/add/1", "answer/call/add/2", "answer/call/sub/3")
    assert [label for label, _ in votes.counts] == [
        "answer/call/add/1",
        "answer/call/add/2",
        "answer/call/sub/3",
        "answer/said/x",
    ]


def test_a_tie_of_classes_goes_to_the_one_that_came_first() -> None:
    assert kindred("b/1", "a/2", "a/2", "b/3").leader == "b/1"
    assert kindred("a/2", "b/1", "b/3", "a/2").leader == "a/2"


def test_scores_weigh_for_classes_as_they_do_for_labels() -> None:
    assert kindred("a/x", "a/y", "b/z", by="weighted", x=0.2, y=0.2, z=0.5).leader == "b/z"
    assert kindred("a/x", "a/y", "b/z", by="weighted", x=0.2, y=0.4, z=0.5).leader == "a/y"
    assert kindred("a/x", "a/y", "b/z", by="best", x=0.2, y=0.4, z=0.5).leader == "b/z"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("cd"), st.sampled_from("123")), min_size=1))
def test_the_leader_is_of_the_largest_class_at_every_level(said: list[tuple[str, str, str]]) -> None:
    votes = poll([Ballot(each, kin=each[:2]) for each in said], Rule())
    assert votes.leader in said
    assert isinstance(votes.leader, tuple)
    for level in range(3):
        inside = [each for each in said if each[:level] == votes.leader[:level]]
        sizes = Counter(each[: level + 1] for each in inside)
        most = max(sizes.values())
        assert votes.leader[: level + 1] == next(
            each[: level + 1] for each in inside if sizes[each[: level + 1]] == most
        )
    assert dict(votes.counts) == Counter(said)
    assert [label for label, _ in groupby(label[:2] for label, _ in votes.counts if isinstance(label, tuple))] == list(
        dict.fromkeys(label[:2] for label, _ in votes.counts if isinstance(label, tuple))
    )


@pytest.mark.parametrize("by", ["weighted", "best"])
def test_a_score_that_never_came_counts_as_the_mean_of_those_that_did(by: Literal["weighted", "best"]) -> None:
    lost = [Ballot("a"), Ballot("b", 0.05), Ballot("a", float("nan")), Ballot("a")]
    assert poll(lost, Rule(by=by)).leader == "a"
    told = [Ballot("a"), Ballot("b", 0.9), Ballot("c", 0.1)]
    assert poll(told, Rule(by=by)).counts == (("b", 1), ("a", 1), ("c", 1))
