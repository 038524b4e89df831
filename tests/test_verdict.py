"""What is decided about a request: winner, votes, usage, and the error where there is nothing to decide."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.batch import Draw, Step
from proxy.drawing import Query
from proxy.errors import (
    BudgetExceeded,
    ClientGone,
    LedgerUnavailable,
    TallyError,
    UpstreamError,
    UpstreamTimeout,
)
from proxy.purse import Purse
from proxy.types import Account, Choice, Plan, Strategy, StrategyName, Tenant, Usage
from proxy.upstream import Endpoint
from proxy.upstream.deployment import Deployment
from proxy.upstream.direct import DirectLane
from proxy.verdict import failed_row, failure, request_row, verdict


def query(*said: str, strategy: StrategyName = "self_consistency", finish: str = "stop") -> Query:
    """A query with finished samples in draw order; those that end in "…" were cut."""
    tenant = Tenant("acme")
    purse = Purse(tenant, Account("acme", None, "r1"))
    deployment = Deployment("small", Endpoint("openai", "small", None, None, {}), DirectLane())
    request = {"messages": [{"role": "user", "content": "What is 6 x 7?"}]}
    made = Query(1, Plan(tenant, "small", Strategy(strategy)), request, deployment, purse, 0.0, 1.0)
    for place, text in enumerate(said):
        cut = "length" if text.endswith("…") else finish
        message = {"role": "assistant", "content": text.removesuffix("…")}
        made.keep(Draw(place, 1), place, f"r1.0:{place}", Choice(0, message, cut))
    return made


def test_the_majority_wins_and_what_one_sample_would_have_said_is_kept() -> None:
    found = verdict(query("Answer: 41", "Answer: 42", "", "Answer: 42"), None)
    assert (found.answer, found.winner, found.first_answer) == ("42", 1, "41")
    assert found.votes == (("42", 2), ("41", 1))
    assert (found.samples, found.reason) == (4, None)
    assert found.confidence is not None
    assert 0.5 < found.confidence < 1


def test_what_came_in_whatever_order_is_voted_on_in_draw_order() -> None:
    late = query()
    for place, text in ((1, "Answer: 42"), (0, "Answer: 41")):
        late.keep(Draw(place, 1), place, f"r1.0:{place}", Choice(0, {"content": text}, "stop"))
    found = verdict(late, None)
    assert (found.first_answer, found.winner, found.answer) == ("41", 0, "41")


def test_truncated_samples_abstain_while_another_has_a_ballot() -> None:
    found = verdict(query("Answer: 41…", "Answer: 41…", "Answer: 42"), None)
    assert (found.answer, found.winner, found.abstained) == ("42", 2, 2)


def test_truncated_samples_vote_among_themselves() -> None:
    found = verdict(query("Answer: 41…", "Answer: 42…", "Answer: 42…"), None)
    assert (found.answer, found.abstained) == ("42", 0)


def test_without_a_vote_there_is_no_confidence() -> None:
    found = verdict(query("Answer: 42", strategy="off"), None)
    assert (found.confidence, found.answer) == (None, "42")


def test_every_sample_has_a_ballot_in_the_ledger_labels_as_first_said() -> None:
    found = verdict(query("**42**", "42.0", "Answer: 42"), None)
    row = request_row(query().plan, found, 5)
    assert [ballot.draw for ballot in row.ballots] == ["r1.0:0", "r1.0:1", "r1.0:2"]
    assert len({ballot.label for ballot in row.ballots}) == 1
    assert (row.samples, row.status, row.winner) == (3, 200, found.winner)


def test_usage_tells_one_prompt_and_the_completions_of_all_draws_and_the_tally_what_was_paid() -> None:
    made = query("42", "42")
    made.purse.pay(Usage(10, 5), 100, drawn=True, bound=40)
    made.purse.pay(Usage(11, 6, estimated=True), 200, drawn=True, bound=40)
    made.purse.pay(Usage(50, 2), 300, drawn=False, bound=90)
    found = verdict(made, "deadline")
    assert found.usage == {"prompt_tokens": 10, "completion_tokens": 11, "total_tokens": 21}
    told = found.tally()
    assert told["paid"] == {"prompt_tokens": 71, "completion_tokens": 13, "estimated": True}
    assert (told["cost_usd"], told["reason"]) == (6e-07, "deadline")


@given(st.lists(st.sampled_from([400, 404, 429, 500]), min_size=1, max_size=9))
def test_the_most_frequent_status_answers_and_ties_go_to_the_lowest(statuses: list[int]) -> None:
    errors = [UpstreamError(f"{place}", status=status) for place, status in enumerate(statuses)]
    error = failure(errors, None)
    most = max(statuses.count(status) for status in statuses)
    assert error.status == min(status for status in statuses if statuses.count(status) == most)
    assert error.message == str(statuses.index(error.status))


@pytest.mark.parametrize(
    ("errors", "reason", "kind"),
    [
        ([], "deadline", UpstreamTimeout),
        ([], "budget", BudgetExceeded),
        ([], "client gone", ClientGone),
        ([], None, UpstreamError),
        ([LedgerUnavailable("locked")], "deadline", LedgerUnavailable),
        ([UpstreamError("no", status=500)], "client gone", ClientGone),
    ],
)
def test_without_samples_the_error_says_why(
    errors: list[TallyError], reason: str | None, kind: type[TallyError]
) -> None:
    assert type(failure(errors, reason)) is kind
    made = query()
    made.errors += errors
    with pytest.raises(kind):
        verdict(made, reason)


def test_the_ledgers_line_of_a_failure_has_its_status_and_what_it_cost() -> None:
    made = query()
    made.purse.pay(Usage(10, 5), 100, drawn=True, bound=40)
    row = failed_row(made.plan, made.purse, UpstreamError("no", status=418, code="teapot"), 5)
    assert (row.status, row.reason, row.cost_nano, row.samples, row.winner) == (418, "teapot", 100, 0, None)


def chained(strategy: StrategyName, *made: tuple[Step, tuple[int, ...], str]) -> Query:
    """A query with draws of these steps, each shown others; those that end in "…" were cut."""
    kept = query(strategy=strategy)
    for number, (step, given_, text) in enumerate(made):
        choice = Choice(0, {"content": text.removesuffix("…")}, "length" if text.endswith("…") else "stop")
        kept.keep(Draw(number, 1, given_, step=step), number, f"r1.0:{number}", choice)
    return kept


def scored(kept: Query, *scores: float | None) -> Query:
    for draw, score in enumerate(scores):
        kept.drawn[draw] = replace(kept.drawn[draw], score=score)
    return kept


def test_the_last_answer_of_a_chain_votes_and_wins_and_feedback_does_neither() -> None:
    found = verdict(
        chained(
            "sp2",
            ("answer", (), "Answer: 42"),
            ("answer", (), "Answer: 41"),
            ("feedback", (0,), "Answer: 7"),
            ("feedback", (1,), "Answer: 7"),
            ("refine", (0, 2), "Still, the answer is 42"),
            ("refine", (1, 3), "Answer: 42"),
        ),
        None,
    )
    assert (found.votes, found.winner, found.first_answer) == ((("42", 2),), 4, "42")
    assert (found.samples, found.abstained) == (6, 4)
    assert [ballot.label for ballot in found.ballots] == ["42", "41", None, None, "42", "42"]


def test_a_revision_that_was_cut_leaves_the_answer_before_it_in_force() -> None:
    found = verdict(chained("sp1", ("answer", (), "Answer: 42"), ("continue", (0,), "Wait, answer: 41…")), None)
    assert (found.answer, found.winner) == ("42", 0)


def test_where_nothing_can_be_voted_on_the_last_revision_is_returned_and_never_feedback() -> None:
    prose = "It was a bright cold day in April, and the clocks were striking thirteen. " * 6
    made = chained("sp2", ("answer", (), prose), ("feedback", (0,), prose), ("refine", (0, 1), prose))
    found = verdict(made, None)
    assert (found.winner, found.answer, found.reason) == (2, None, "no votes")
    found = verdict(chained("sp2", ("answer", (), f"{prose}…"), ("feedback", (0,), prose)), None)
    assert found.winner == 0


def test_self_assigned_scores_weigh_the_vote_of_sp3() -> None:
    answers: list[tuple[Step, tuple[int, ...], str]] = [
        ("answer", (), f"Answer: {answer}") for answer in ("41", "42", "41")
    ]
    grades: list[tuple[Step, tuple[int, ...], str]] = [("grade", (draw,), "50") for draw in range(3)]
    found = verdict(scored(chained("sp3", *answers, *grades), 0.2, 0.9, 0.3), None)
    assert (found.answer, found.votes, found.winner) == ("42", (("42", 1), ("41", 2)), 1)
    assert found.confidence is not None
    assert found.confidence < 0.5


def test_best_of_n_returns_the_best_scored_sample_and_without_scores_the_majoritys() -> None:
    said = ("Answer: 41", "Answer: 42", "Answer: 41", "Answer: 42")
    found = verdict(scored(query(*said, strategy="best_of_n"), 0.8, 0.4, 0.5, 0.9), None)
    assert (found.answer, found.winner) == ("42", 3)
    assert verdict(query("Answer: 41", "Answer: 42", "Answer: 42", strategy="best_of_n"), None).answer == "42"


def test_where_only_conditioned_draws_vote_they_alone_are_counted() -> None:
    made = chained(
        "dynscaling",
        ("answer", (), "Answer: 41"),
        ("answer", (), "Answer: 41"),
        ("answer", (0, 1), "Answer: 42"),
    )
    assert verdict(made, None).answer == "41"
    made.plan = replace(made.plan, strategy=replace(made.plan.strategy, votes="conditioned"))
    found = verdict(made, None)
    assert (found.votes, found.winner, found.abstained) == ((("42", 1),), 2, 2)


def test_where_only_conditioned_draws_vote_one_of_them_is_returned() -> None:
    made = scored(
        chained("dynscaling", ("answer", (), "Answer: 42"), ("answer", (0,), "Answer: 42")),
        0.9,
        0.1,
    )
    assert verdict(made, None).winner == 0
    made.plan = replace(made.plan, strategy=replace(made.plan.strategy, votes="conditioned"))
    assert verdict(made, None).winner == 1


def test_best_of_n_returns_the_best_scored_sample_where_there_is_nothing_to_vote_on() -> None:
    prose = "It was a bright cold day in April, and the clocks were striking thirteen. " * 6
    made = scored(query(prose, f"{prose}…", prose, strategy="best_of_n"), 0.2, 0.9, 0.8)
    assert verdict(made, None).winner == 2
