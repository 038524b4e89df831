"""What is decided about a request: winner, votes, usage, and the error where there is nothing to decide."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.batch import Draw, Step
from proxy.errors import (
    BudgetExceeded,
    ClientGone,
    LedgerUnavailable,
    TallyError,
    UpstreamError,
    UpstreamTimeout,
)
from proxy.purse import Purse
from proxy.query import Query
from proxy.types import JSON, Account, AnswerSpec, Choice, Plan, Strategy, StrategyName, Tenant, Usage
from proxy.upstream import Endpoint
from proxy.upstream.deployment import Deployment
from proxy.upstream.direct import DirectLane
from proxy.upstream.group import Group
from proxy.upstream.routing import Route
from proxy.verdict import failed_row, failure, request_row, verdict


def query(
    *said: str, strategy: StrategyName = "self_consistency", finish: str = "stop", show_tally: bool = False
) -> Query:
    """A query with finished samples in draw order; those that end in "…" were cut."""
    tenant = Tenant("acme")
    purse = Purse(tenant, Account("acme", None, "r1"))
    deployment = Deployment("small", Endpoint("openai", "small", None, None, {}), DirectLane())
    route = Route("small", [Group((deployment,))], clock=lambda: 0.0)
    request = {"messages": [{"role": "user", "content": "What is 6 x 7?"}]}
    made = Query(1, Plan(tenant, "small", Strategy(strategy), show_tally=show_tally), request, route, purse, 0.0, 1.0)
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
    found = verdict(query("Answer: 42", strategy="off", show_tally=True), None)
    assert (found.confidence, found.answer) == (None, "42")


def test_what_is_passed_through_is_not_read_where_nobody_asks_what_it_says() -> None:
    found = verdict(query("Answer: 41…", "Answer: 42", strategy="off"), None)
    assert (found.answer, found.first_answer, found.votes, found.ballots) == (None, None, (), ())
    assert (found.choice.message["content"], found.samples, found.abstained) == ("Answer: 42", 2, 0)


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


# data and tools ------------------------------------------------------------------------------------------------------

TOOLS = {"tools": [{"type": "function", "function": {"name": name}} for name in ("add", "sub")]}
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0}, "s": {"type": "string"}},
    "required": ["n"],
    "additionalProperties": False,
}
ASKED = {"response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}}
PROSE = "It was a bright cold day in April, and the clocks were striking thirteen. " * 6


def answered(request: JSON, *messages: JSON | str, answer: AnswerSpec | None = None) -> Query:
    """A query for `request` with samples that say these; texts that end in "…" were cut."""
    made = query()
    plan = replace(made.plan, answer=answer or AnswerSpec())
    made = Query(1, plan, made.request | request, made.route, made.purse, 0.0, 1.0)
    for place, message in enumerate(messages):
        text = message if isinstance(message, str) else None
        body = message if isinstance(message, dict) else {"content": str(text).removesuffix("…")}
        finish = "length" if text is not None and text.endswith("…") else "stop"
        made.keep(Draw(place, 1), place, f"r1.0:{place}", Choice(0, {"role": "assistant", **body}, finish))
    return made


def calls(*made: tuple[str, str]) -> JSON:
    return {"content": None, "tool_calls": [{"function": {"name": name, "arguments": given}} for name, given in made]}


def test_text_wins_against_calls_that_together_are_fewer() -> None:
    found = verdict(
        answered(TOOLS, calls(("add", "{}")), PROSE, calls(("add", "{}")), f"{PROSE}So?", "It is 42."), None
    )
    assert found.choice.content == PROSE
    assert [count for _, count in found.votes] == [2, 1, 2]
    assert found.votes[-1][0] == "add({})"


def test_calls_of_one_tool_stay_together_before_their_arguments_are_looked_at() -> None:
    said = [calls(("sub", "{}")), calls(("add", '{"a":1}')), calls(("sub", "{}")), calls(("add", '{"a":2}'))]
    found = verdict(answered(TOOLS, *said, calls(("add", '{"a":3}')), PROSE), None)
    assert (found.winner, found.answer) == (1, 'add({"a":1})')


@pytest.mark.parametrize(("answers", "refusals", "refuses"), [(5, 4, False), (1, 7, True)])
def test_whether_to_refuse_is_decided_before_what_to_answer(answers: int, refusals: int, refuses: bool) -> None:
    said = [f"Answer: {number}" for number in range(answers)]
    found = verdict(answered({}, *["I'm sorry, but I can't help with that."] * refusals, *said), None)
    assert found.choice.content.startswith("I'm sorry") is refuses
    assert found.winner == (0 if refuses else refusals)


def test_of_equals_one_that_a_client_can_parse_is_returned() -> None:
    wrapped = '```json\n{"n": 1}\n```'
    found = verdict(answered(ASKED, wrapped, wrapped, '{"n": 1}', '{"n": 2}'), None)
    assert (found.winner, found.votes[0][1]) == (2, 3)


def test_where_no_sample_fits_the_first_complete_one_is_returned_with_the_reason() -> None:
    found = verdict(answered(ASKED, '{"n": -1…', '{"n": -1}', '{"n": -1}'), None)
    assert (found.winner, found.answer, found.reason, found.abstained) == (1, None, "no votes", 3)


documents = st.one_of(
    st.builds(lambda n, s: json.dumps({"n": n, "s": s}), st.integers(-1, 2), st.sampled_from(["x", "y", 1])),
    st.sampled_from(["", "42", '{"n": 1, "m": 2}', '{"n": 1', '{"n": 1}…', '```json\n{"n": 1}\n```', PROSE]),
)


@given(st.lists(documents, min_size=1, max_size=8), st.booleans())
def test_what_is_returned_fits_the_schema_whenever_any_sample_does(said: list[str], per_field: bool) -> None:
    made = answered(ASKED, *said, answer=AnswerSpec(per_field=per_field))
    fits = [made.reader.read(sample.choice) is not None for sample in made.in_order()]
    whole = [fit and not sample.truncated for fit, sample in zip(fits, made.in_order(), strict=True)]
    found = verdict(made, None)
    assert (made.reader.read(found.choice) is not None) is any(fits)
    assert (found.choice.finish_reason == "stop") or not any(whole)


def test_where_fields_vote_the_answer_is_what_they_say() -> None:
    said = ['{"n": 1, "s": "a"}', '{"n": 1, "s": "b"}', '{"n": 2, "s": "b"}']
    found = verdict(answered(ASKED, *said, answer=AnswerSpec(per_field=True)), None)
    assert (found.winner, found.answer, found.composed) == (1, said[1], False)
    assert "composed" not in found.tally()
    said = ['{"n": 1, "s": "a"}', '{"n": 2, "s": "b"}', '{"n": 1}', '{"n": 3, "s": "b"}']
    found = verdict(answered(ASKED, *said, answer=AnswerSpec(per_field=True)), None)
    assert (found.answer, found.tally()["composed"]) == ('{"n": 1, "s": "b"}', True)
    assert found.choice.content == '{"n": 1, "s": "b"}'
    assert [answer for answer, _ in found.votes] == said


def test_refusals_that_are_most_are_not_composed_over() -> None:
    refusal = "I'm sorry, but I can't help with that."
    found = verdict(answered(ASKED, '{"n": 1}', refusal, refusal, answer=AnswerSpec(per_field=True)), None)
    assert (found.winner, found.composed) == (1, False)
