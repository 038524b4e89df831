"""Votes by scores, through the official client: each kind of score, what it costs, and what becomes of its failure."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError

from proxy.conditioning import CRITICISE
from proxy.types import JSON
from tests.fake.script import Step
from tests.fake_upstream import Call, Drop, Fault, InOrder, Malformed, Plain, Reply
from tests.served import RATES
from tests.staged import ASK, Stage, staged, told

QUESTION = ASK[0]["content"]
GOOD, BAD = 0.9, 0.05

JUDGE: JSON = {"kind": "judge", "model": "verifier"}
REWARD: JSON = {"kind": "reward", "model": "verifier"}


def scoring(folder: Path, scorer: JSON, **scaling: Any) -> AbstractContextManager[Stage]:
    """A stage whose scores come from `scorer`; `verifier` is another name of its one server."""
    return staged(folder, aliases=["verifier"], scaling={"samples": 4, "scorer": scorer, **scaling})


def verified(how: Callable[[float], Step], **answering: Any) -> Callable[[Call], Step]:
    """The wrong answer thrice and the right one once; to a verifier's call what `how` makes of the answer's worth.

    `answering` is how the answers come, as of `Reply`.
    """
    answers = InOrder([f"The answer is {answer}." for answer in (41, 41, 42, 41)], Reply(**answering))

    def script(call: Call) -> Step:
        if call.messages and call.question == QUESTION and len(call.messages) == 1:
            return answers(call)
        shown = str(call.messages[-1]["content"]) if call.messages else call.texts[-1]
        return how(GOOD if "answer is 42" in shown else BAD)

    return script


def sure(numbers: Iterator[int]) -> Callable[[Call], Step]:
    """A choice a call; the right answer, which comes third, has much likelier tokens than the others."""

    def script(call: Call) -> Step:
        good = next(numbers) == 2
        # where the likelier token is all but certain, its alternatives are far off
        top = {"a": -9.0, "b": -9.0} if good else {"a": -1.5, "b": -1.6}
        return Reply([f"The answer is {42 if good else 41}."], n="ignore", logprobs=[-0.1 if good else -1.8], top=top)

    return script


KINDS: list[tuple[JSON, Callable[[], Callable[[Call], Step]]]] = [
    (JUDGE, lambda: verified(lambda worth: Reply([str(round(9 * worth))], logprobs=False))),
    (JUDGE, lambda: verified(lambda worth: Reply([str(round(9 * worth))], logprobs=[-0.01]))),
    (REWARD, lambda: verified(lambda worth: Plain([{"score": worth}]))),
    (REWARD | {"api": "classify"}, lambda: verified(lambda worth: Plain([{"probs": [1 - worth, worth]}]))),
    (
        REWARD | {"api": "pooling", "reduce": "min"},
        lambda: verified(lambda worth: Plain([{"data": [[0.0, 1.0], [1 - worth, worth]]}])),
    ),
    ({"kind": "logprobs"}, lambda: sure(count())),
    ({"kind": "logprobs", "confidence": "lowest_group", "window": 2}, lambda: sure(count())),
]


@pytest.mark.parametrize(("scorer", "script"), KINDS)
def test_scores_of_every_kind_overrule_the_majority_and_are_charged_to_the_nano(
    tmp_path: Path, scorer: JSON, script: Callable[[], Callable[[Call], Step]]
) -> None:
    with scoring(tmp_path, scorer) as stage:
        for strategy, body in (("best_of_n", {}), ("self_consistency", {"verdict": "best"})):
            stage.says(script())
            reply = stage.ask(strategy, extra_body={"tally": {"detail": True, **body}})
            tally = told(reply)
            assert reply.choices[0].message.content == "The answer is 42."
            assert tally["votes"] == [{"answer": "42", "count": 1}, {"answer": "41", "count": 3}]
            assert all(0 <= draw["score"] <= 1 for draw in tally["draws"])
            assert tally["cost_usd"] == pytest.approx(stage.cost_nano / 1e9)
        stage.upstream.wait(lambda: stage.tally.balance().reserved.nano == 0)
        balance = stage.tally.balance()
        assert balance.ok
        assert balance.spent.nano == balance.ledger.nano == stage.upstream.meter.cost_nano(RATES)


def test_a_weighted_vote_adds_up_scores_and_a_plain_one_asks_for_none(tmp_path: Path) -> None:
    with scoring(tmp_path, REWARD) as stage:
        stage.says(verified(lambda worth: Plain([{"score": worth}])))
        assert told(stage.ask(extra_body={"tally": {}}))["answer"] == "41"
        assert [made.path for made in stage.calls] == ["/v1/chat/completions"]
        stage.says(verified(lambda worth: Plain([{"score": worth}])))
        assert told(stage.ask(extra_body={"tally": {"verdict": "weighted"}}))["answer"] == "42"
        assert sorted(made.path for made in stage.calls) == ["/score"] * 4 + ["/v1/chat/completions"]
        # three that are half as good are better than one
        stage.says(verified(lambda worth: Plain([{"score": max(worth, 0.45)}])))
        assert told(stage.ask(extra_body={"tally": {"verdict": "weighted"}}))["answer"] == "41"


def test_the_vote_may_be_configured_for_all_and_a_request_may_go_back(tmp_path: Path) -> None:
    with scoring(tmp_path, REWARD, verdict="weighted") as stage:
        for wish, answer in (({}, "42"), ({"verdict": "majority"}, "41")):
            stage.says(verified(lambda worth: Plain([{"score": worth}])))
            assert told(stage.ask(extra_body={"tally": wish}))["answer"] == answer
        stage.says("The answer is 41.")
        assert told(stage.ask("off", extra_body={"tally": {}}))["samples"] == 1
        assert len(stage.calls) == 1


@pytest.mark.parametrize("strategy", ["adaptive", "dynscaling", "early_stopping", "adaptive_consistency", "sp1"])
def test_every_strategy_votes_as_it_is_told(tmp_path: Path, strategy: str) -> None:
    def script(call: Call) -> Step:
        if call.texts:
            return Plain([{"score": GOOD if "42" in call.texts[-1] else BAD}])
        return answers(call)

    with scoring(tmp_path, REWARD, max_samples=8, unit=8) as stage:
        answers = InOrder([f"The answer is {answer}." for answer in (41, 42, 41)])
        stage.says(script)
        tally = told(stage.ask(strategy, extra_body={"tally": {"verdict": "weighted"}}))
        counts = {vote["answer"]: vote["count"] for vote in tally["votes"]}
        heavier = counts.get("42", 0) * GOOD > counts.get("41", 0) * BAD
        assert tally["answer"] == ("42" if heavier else "41")
        assert heavier


@pytest.mark.parametrize("failure", [Fault(500), Fault(401), Drop(), Malformed("{oops"), Plain(), Reply(("well",))])
@pytest.mark.parametrize("scorer", [JUDGE, REWARD])
def test_a_verifier_that_fails_leaves_it_to_the_majority(tmp_path: Path, scorer: JSON, failure: Step) -> None:
    with scoring(tmp_path, scorer) as stage:
        stage.says(verified(lambda _: failure))
        tally = told(stage.ask(extra_body={"tally": {"verdict": "weighted"}}))
        assert (tally["answer"], tally["samples"]) == ("41", 4)
        assert stage.tally.balance().ok


@pytest.mark.parametrize("scorer", [JUDGE, REWARD])
def test_a_verifier_that_the_budget_does_not_hold_is_not_asked(tmp_path: Path, scorer: JSON) -> None:
    with scoring(tmp_path, scorer) as stage:
        stage.says(verified(lambda _: Reply(("9",)), prompt_tokens=100))
        # four answers fit, and what is left does not hold what a verifier's prompt may have at most
        wish = {"verdict": "weighted", "max_cost_usd": 0.000_024}
        tally = told(stage.ask(max_tokens=5, extra_body={"tally": wish}))
        assert (tally["answer"], tally["samples"]) == ("41", 4)
        assert [made.path for made in stage.calls] == ["/v1/chat/completions"]


@pytest.mark.parametrize("strategy", ["self_consistency", "adaptive", "best_of_n"])
def test_a_vote_by_scores_that_nobody_told_goes_by_the_majority_and_says_so(tmp_path: Path, strategy: str) -> None:
    with staged(tmp_path, scaling={"samples": 4}) as stage:
        stage.says(Reply(["The answer is 42."], logprobs=False))
        tally = told(stage.ask(strategy, extra_body={"tally": {"verdict": "weighted"}}))
        assert (tally["answer"], tally["reason"]) == ("42", "no scores")
        stage.says(Reply(["The answer is 42."]))
        assert told(stage.ask(strategy, extra_body={"tally": {"verdict": "weighted"}}))["reason"] != "no scores"


def test_agreement_costs_nothing_and_goes_with_the_majority(tmp_path: Path) -> None:
    with scoring(tmp_path, {"kind": "agreement"}) as stage:
        for strategy in ("best_of_n", "self_consistency"):
            stage.says(verified(lambda _: Fault(500)))
            tally = told(stage.ask(strategy, extra_body={"tally": {"verdict": "weighted", "detail": True}}))
            assert tally["answer"] == "41"
            shares = {vote["answer"]: vote["count"] / 4 for vote in tally["votes"]}
            assert shares["41"] > 0.5
            assert all(draw["score"] == shares[draw["answer"]] for draw in tally["draws"])
            (call,) = stage.calls
            assert "logprobs" not in call.body


def test_alternatives_are_asked_for_by_the_lowest_group_alone_and_not_shown(tmp_path: Path) -> None:
    for confidence, top in (("mean", None), ("lowest_group", 5)):
        folder = tmp_path / confidence
        folder.mkdir()
        with scoring(folder, {"confidence": confidence}) as stage:
            stage.says("The answer is 42.")
            reply = stage.ask(extra_body={"tally": {"verdict": "weighted"}})
            assert all((made.body["logprobs"], made.body.get("top_logprobs")) == (True, top) for made in stage.calls)
            assert reply.choices[0].logprobs is None
            stage.says("The answer is 42.")
            shown = stage.ask(logprobs=True, extra_body={"tally": {"verdict": "weighted"}})
            assert all("top_logprobs" not in made.body for made in stage.calls)
            assert shown.choices[0].logprobs is not None


def test_where_the_model_tells_no_log_probabilities_the_judge_grades(tmp_path: Path) -> None:
    with staged(tmp_path, aliases=["verifier"], scaling={"samples": 4, "judge_model": "verifier"}) as stage:
        stage.says(verified(lambda worth: Reply([str(round(9 * worth))], logprobs=False)))
        # the fake's own answers tell them: only a model that never does is judged
        told(stage.ask("best_of_n", extra_body={"tally": {}}))
        assert len(stage.calls) == 1
        script = verified(lambda worth: Reply([str(round(9 * worth))], logprobs=False))
        stage.says(lambda call: Fault(400, "no logprobs") if call.body.get("logprobs") else script(call))
        assert told(stage.ask("best_of_n", extra_body={"tally": {}}))["answer"] == "42"


def test_feedback_has_no_ballot_and_so_no_score(tmp_path: Path) -> None:
    def script(call: Call) -> Step:
        if call.texts:
            return Plain([{"score": 0.5}])
        criticised = call.messages[-1]["content"] == CRITICISE
        return Reply(["Nothing is wrong." if criticised else "The answer is 42."] * call.n)

    with scoring(tmp_path, REWARD) as stage:
        stage.says(script)
        tally = told(stage.ask("sp2", extra_body={"tally": {"max_samples": 6, "verdict": "weighted"}}))
        assert (tally["answer"], tally["samples"]) == ("42", 6)
        assert len([made for made in stage.calls if made.path == "/score"]) == 4


def test_an_unknown_vote_is_refused(tmp_path: Path) -> None:
    with staged(tmp_path) as stage, pytest.raises(BadRequestError, match=r"tally\.verdict"):
        stage.ask(extra_body={"tally": {"verdict": "loudest"}})
