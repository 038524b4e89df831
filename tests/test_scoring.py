"""Scores of samples: from their log-probabilities, else from a judge."""

import time
from math import exp

import pytest

from proxy.errors import NotFound
from proxy.scoring.judge import JudgeScorer
from proxy.scoring.logprobs import LogprobScorer
from proxy.types import JSON, Choice, Tenant
from proxy.upstream.deployment import Deployment
from tests.bench import Bench, bench
from tests.fake.script import Script
from tests.fake_upstream import Drop, FakeUpstream, Fault, Malformed, Reply
from tests.served import RATES

pytestmark = pytest.mark.anyio

ASK: JSON = {"messages": [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "What is 6 x 7?"}]}
SAID = Choice(0, {"role": "assistant", "content": "It is 42."}, "stop")


def judge(made: Bench) -> JudgeScorer:
    return JudgeScorer(made.meter, lambda: made.deployment, clock=time.monotonic)


async def grade(made: Bench, *, seconds: float = 10.0, ask: JSON = ASK) -> float | None:
    return await judge(made).score(made.purse(), ask, SAID, time.monotonic() + seconds)


@pytest.mark.parametrize(
    ("values", "score"), [([-0.1, -0.3], exp(-0.2)), ([0.0], 1.0), ([0.5], 1.0), ([-50.0], exp(-50))]
)
async def test_the_score_by_log_probabilities_is_their_geometric_mean_and_one_at_most(
    values: list[float], score: float
) -> None:
    choice = Choice(0, {}, "stop", {"content": [{"logprob": value} for value in values]})
    async with bench() as made:
        assert await LogprobScorer().score(made.purse(), ASK, choice, time.monotonic() + 1) == pytest.approx(score)


async def test_log_probabilities_score_without_asking_anybody() -> None:
    choice = Choice(0, {}, "stop", {"content": [{"logprob": -0.1}, {"logprob": -0.3}]})
    with FakeUpstream("70") as upstream:
        async with bench(upstream.base_url) as made:
            scorer = LogprobScorer(judge(made))
            assert await scorer.score(made.purse(), ASK, choice, time.monotonic() + 1) == pytest.approx(exp(-0.2))
    assert upstream.calls == []


async def test_without_log_probabilities_the_judge_is_asked_and_without_a_judge_there_is_no_score() -> None:
    with FakeUpstream("70") as upstream:
        async with bench(upstream.base_url) as made:
            later = time.monotonic() + 5
            assert await LogprobScorer(judge(made)).score(made.purse(), ASK, SAID, later) == 0.7
            assert await LogprobScorer().score(made.purse(), ASK, SAID, later) is None


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("85", 0.85),
        ("Grade: 100", 1.0),
        ("0", 0.0),
        ("I would say 7.", 0.07),
        ("great", None),
        ("", None),
        ("1000", None),
    ],
)
async def test_a_grade_is_the_first_number_up_to_a_hundred(said: str, score: float | None) -> None:
    with FakeUpstream(said) as upstream:
        async with bench(upstream.base_url) as made:
            assert await grade(made) == score


async def test_a_judge_sees_question_and_answer_and_is_charged_apart_from_draws() -> None:
    with FakeUpstream("85") as upstream:
        async with bench(upstream.base_url) as made:
            await grade(made)
            standing = await made.standing()
            (row,) = await made.rows()
        (call,) = upstream.calls
    assert "What is 6 x 7?" in call.question
    assert "It is 42." in call.question
    assert (call.max_tokens, call.body["temperature"], row["purpose"]) == (16, 0, "judge")
    assert standing.spent.nano == upstream.meter.cost_nano(RATES)


async def test_braces_in_an_answer_are_no_places_to_fill_in() -> None:
    with FakeUpstream("85") as upstream:
        async with bench(upstream.base_url) as made:
            odd = Choice(0, {"content": r"\boxed{answer} {question} {0}"}, "stop")
            assert await judge(made).score(made.purse(), ASK, odd, time.monotonic() + 5) == 0.85
        assert r"\boxed{answer} {question} {0}" in upstream.calls[0].question


@pytest.mark.parametrize("step", [Fault(500), Fault(401), Drop(), Malformed("{oops")])
async def test_a_judge_that_fails_gives_no_score(step: Script) -> None:
    with FakeUpstream(step) as upstream:
        async with bench(upstream.base_url) as made:
            assert await grade(made) is None
            assert (await made.standing()).reserved.nano == 0


async def test_a_judge_that_is_too_slow_gives_no_score() -> None:
    with FakeUpstream(Reply(latency=30)) as upstream:
        async with bench(upstream.base_url) as made:
            assert await grade(made, seconds=0.1) is None


async def test_a_judge_that_the_budget_does_not_hold_is_not_asked() -> None:
    with FakeUpstream("85") as upstream:
        async with bench(upstream.base_url, tenants=(Tenant("acme", max_nano=10),)) as made:
            assert await grade(made) is None
    assert upstream.calls == []


async def test_a_judge_without_a_price_gives_no_score_to_a_budget_in_money() -> None:
    with FakeUpstream("85") as upstream:
        async with bench(upstream.base_url, rates=None, tenants=(Tenant("acme", max_nano=10**9),)) as made:
            assert await grade(made) is None


async def test_a_judge_that_does_not_exist_gives_no_score() -> None:
    def nobody() -> Deployment:
        raise NotFound("no such model")

    async with bench() as made:
        scorer = JudgeScorer(made.meter, nobody, clock=time.monotonic)
        assert await scorer.score(made.purse(), ASK, SAID, time.monotonic() + 1) is None
