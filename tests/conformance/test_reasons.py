"""Every reason that the documentation names, and how a request comes to it."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.conformance.conftest import TRIAL_KEY, named
from tests.conformance.talk import RATES, SCALED, Heard, Talk, heard, scaled, unscaled
from tests.fake_upstream import Call, Fault, Reply, Script, Turns
from tests.staged import ASK, JSON, Stage, staged

PROSE = "It was a bright cold day in April, and the clocks were striking thirteen. " * 6
ANSWER = "The answer is 42."


def differing() -> Script:
    """Every sample has an answer of its own."""
    numbers = count(100)
    return lambda call: Reply([f"The answer is {next(numbers)}." for _ in range(call.n)])


def losing() -> Script:
    """All samples but the first are lost."""
    return Turns(Reply([ANSWER]), Fault(404, "Gone."))


def asked(stage: Stage, strategy: str | None, *, streamed: bool, key: str, **more: Any) -> Heard:
    """Ask with or without naming a strategy."""
    client = stage.client(strategy).with_options(api_key=key)
    return heard(client, {"model": "small", "messages": ASK, **({"stream": True} if streamed else {}), **more})


@pytest.mark.parametrize("strategy", SCALED)
def test_prose_has_one_sample_where_no_strategy_was_asked_for(stage: Stage, strategy: str, *, streamed: bool) -> None:
    stage.says(PROSE)
    found = asked(stage, None, streamed=streamed, key=named(strategy))
    assert (found.tally["reason"], found.tally["samples"], found.content) == ("prose", 1, PROSE)
    assert found.headers["x-tally-reason"] == "prose"
    assert found.tally["confidence"] is None


@pytest.mark.parametrize("strategy", SCALED)
def test_a_tenant_on_trial_has_one_sample_and_is_told_so(stage: Stage, strategy: str, *, streamed: bool) -> None:
    stage.says(ANSWER)
    found = asked(stage, strategy, streamed=streamed, key=TRIAL_KEY)
    assert (found.headers["x-tally-strategy"], found.headers["x-tally-reason"]) == ("off", "trial")
    assert (found.tally["reason"], found.tally["samples"], len(stage.calls)) == ("trial", 1, 1)


@unscaled("only off is asked for to be unscaled")
def test_off_that_was_asked_for_has_no_reason(talk: Talk) -> None:
    found = talk.hear(extra_body={"tally": {}})
    assert found.tally["reason"] is None
    assert "x-tally-reason" not in found.headers


@scaled("off has no votes")
def test_samples_without_an_answer_leave_no_votes(talk: Talk) -> None:
    talk.says("")
    found = talk.hear().tally
    assert (found["votes"], found["confidence"], found["answer"]) == ([], None, None)
    # where nothing is said there is no log-probability of it either
    assert found["reason"] == ("no scores" if talk.strategy == "optscale" else "no votes")


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Every draw is a call of its own, and rounds are few."""
    with staged(
        tmp_path_factory.mktemp("reasons"),
        model={"model_info": {"max_n": 1}},
        scaling={"samples": 8, "max_samples": 16, "batch_window_ms": 2},
        tenants=[{"name": f"one-{number}", "keys": [key(number)]} for number in range(60)],
    ) as made:
        yield made


@pytest.fixture(scope="module")
def fresh_keys() -> Iterator[str]:
    return (key(number) for number in count())


def key(number: int) -> str:
    return f"sk-one-{number:03}-0123456789"


def alike(_: Call) -> Reply:
    return Reply([ANSWER])


@pytest.mark.parametrize(
    ("strategy", "script", "wish", "reason"),
    [
        ("adaptive", alike, {}, "not worth more"),
        ("adaptive", alike, {"samples": 16}, "confident"),
        ("adaptive", differing, {}, "share spent"),
        ("adaptive", differing, {"max_samples": 2}, "sample cap"),
        ("dynscaling", alike, {}, "confident"),
        ("dynscaling", differing, {}, "sample cap"),
        ("optscale", Reply([ANSWER], logprobs=[-0.01]), {}, "quality reached"),
        ("optscale", Reply([ANSWER], logprobs=False), {}, "no scores"),
        ("best_of_n", Reply([ANSWER], logprobs=False), {}, "no scores"),
        ("adaptive_consistency", alike, {}, "confident"),
        ("adaptive_consistency", differing, {}, "sample cap"),
        ("self_consistency", alike, {}, None),
        ("self_consistency", "", {}, "no votes"),
        ("self_consistency", losing, {}, "failed"),
        ("self_consistency", Reply([""], finish_reason="content_filter"), {}, "content filter"),
        ("dynscaling", Reply([""], finish_reason="content_filter"), {}, "content filter"),
        ("dynscaling", alike, {"answer": {"kind": "text", "pick": "central"}}, "no votes to adapt to"),
    ],
)
def test_why_a_vote_ended(  # noqa: PLR0917 - a table
    apart: Stage,
    fresh_keys: Iterator[str],
    strategy: str,
    script: Any,
    wish: JSON,
    reason: str | None,
    *,
    streamed: bool,
) -> None:
    apart.says(script() if script in (differing, losing) else script)
    found = asked(apart, strategy, streamed=streamed, key=next(fresh_keys), extra_body={"tally": wish})
    assert found.tally["reason"] == reason
    if not streamed:
        assert found.headers.get("x-tally-reason") == reason


def test_the_rounds_ran_out(tmp_path_factory: pytest.TempPathFactory, *, streamed: bool) -> None:
    with staged(tmp_path_factory.mktemp("rounds"), scaling={"max_rounds": 2, "batch_window_ms": 2}) as stage:
        stage.says(differing())
        found = heard(
            stage.client("dynscaling"), {"model": "small", "messages": ASK, **({"stream": True} if streamed else {})}
        )
        assert found.tally["reason"] == "round cap"


@scaled("off that cannot be paid is refused")
def test_the_cost_cap_of_a_request_cuts_its_scaling_and_is_told(talk: Talk) -> None:
    # a sample is reserved by what it may take at most: thirty tokens of it, and the prompt
    one = RATES.cost(0, 30) / 1e9
    talk.says(differing())
    found = talk.hear(max_tokens=30, extra_body={"tally": {"max_cost_usd": round(2.5 * one, 9)}})
    assert found.tally["reason"] == "budget"
    assert found.tally["cost_usd"] <= 2.5 * one
