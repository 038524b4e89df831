"""Scores by reward-model servers: each interface, each reduction, what it costs, and every way to fail."""

import time
from math import exp
from typing import Any

import pytest

from proxy.scoring.reward import RewardScorer
from proxy.types import JSON, Activation, Choice, Reduction, RewardApi, Tenant
from tests.fake.script import Script
from tests.fake_upstream import Drop, FakeUpstream, Fault, Malformed, Plain, Turns
from tests.served import RATES
from tests.wired import SECRET, Bench, bench

pytestmark = pytest.mark.anyio

ASK: JSON = {"messages": [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "What is 6 x 7?"}]}
SAID = Choice(0, {"content": "<think>Hm.</think>6 x 7 is 42.\n\nSo 42."}, "stop")
QUESTION = "Be exact.\n\nWhat is 6 x 7?"
ANSWER = "6 x 7 is 42.\n\nSo 42."


def scorer(made: Bench, **settings: Any) -> RewardScorer:
    return RewardScorer(made.meter, lambda: made.route, clock=time.monotonic, **settings)


async def reward(made: Bench, *, seconds: float = 10.0, said: Choice = SAID, **settings: Any) -> float | None:
    return await scorer(made, **settings).score(made.purse(), ASK, said, time.monotonic() + seconds)


@pytest.mark.parametrize(
    ("api", "item", "sent", "score"),
    [
        ("score", {"object": "score", "score": 0.8}, {"text_1": QUESTION, "text_2": ANSWER}, 0.8),
        ("classify", {"label": "LABEL_0", "probs": [0.7]}, {"input": f"{QUESTION}\n\n{ANSWER}"}, 0.7),
        ("classify", {"label": "good", "probs": [0.1, 0.9]}, {"input": f"{QUESTION}\n\n{ANSWER}"}, 0.9),
        (
            "pooling",
            {"object": "pooling", "data": [[0.1, 0.9], [0.4, 0.6]]},
            {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]},
            0.6,
        ),
    ],
)
async def test_each_interface_is_asked_in_its_own_words_at_the_servers_root_and_charged_to_the_nano(
    api: RewardApi, item: JSON, sent: JSON, score: float
) -> None:
    with FakeUpstream(Plain([item])) as upstream:
        async with bench(upstream.base_url) as made:
            assert await reward(made, api=api) == pytest.approx(score)
            standing = await made.standing()
            (row,) = await made.rows()
        (call,) = upstream.calls
    assert (call.path, call.body) == (f"/{api}", {"model": "small", **sent})
    assert call.headers["authorization"] == f"Bearer {SECRET}"
    assert row["cost_nano"] == standing.spent.nano == upstream.meter.cost_nano(RATES) > 0
    assert (row["purpose"], row["estimated"], standing.reserved.nano) == ("reward", False, 0)


@pytest.mark.parametrize(
    ("reduce", "score"), [("mean", 0.5), ("min", 0.25), ("last", 0.5), ("product", 0.75 * 0.25 * 0.5)]
)
@pytest.mark.parametrize("data", [[0.75, 0.25, 0.5], [[0.75], [0.25], [0.5]], [[0.25, 0.75], [0.75, 0.25], [0.5, 0.5]]])
async def test_the_rewards_of_steps_become_one(reduce: Reduction, score: float, data: list[Any]) -> None:
    with FakeUpstream(Plain([{"data": data}])) as upstream:
        async with bench(upstream.base_url) as made:
            assert await reward(made, api="pooling", reduce=reduce) == pytest.approx(score)


async def test_a_separator_stands_after_each_step() -> None:
    with FakeUpstream(Plain([{"data": [0.5]}])) as upstream:
        async with bench(upstream.base_url) as made:
            await reward(made, api="pooling", separator="<extra_0>")
    assert upstream.calls[0].messages[-1]["content"] == "6 x 7 is 42.<extra_0>So 42.<extra_0>"


def logistic(value: float) -> float:
    return 1 / (1 + exp(-value))


@pytest.mark.parametrize(
    ("activation", "raw", "score"),
    [
        ("auto", 0.5, 0.5),
        ("auto", 0.0, 0.0),
        ("auto", 1.0, 1.0),
        ("auto", 3.0, logistic(3)),
        ("auto", -3, logistic(-3)),
        ("auto", -1000.0, 0.0),
        ("sigmoid", 0.5, logistic(0.5)),
        ("none", 0.5, 0.5),
        ("none", 3.0, 1.0),
        ("none", -3.0, 0.0),
    ],
)
async def test_a_reward_becomes_a_share_as_is_configured(activation: Activation, raw: float, score: float) -> None:
    with FakeUpstream(Plain([{"score": raw}])) as upstream:
        async with bench(upstream.base_url) as made:
            assert await reward(made, activation=activation) == pytest.approx(score)


async def test_steps_go_through_the_logistic_function_before_they_are_reduced() -> None:
    with FakeUpstream(Plain([{"data": [2.0, 0.5]}])) as upstream:
        async with bench(upstream.base_url) as made:
            found = await reward(made, api="pooling", reduce="product")
    assert found == pytest.approx(logistic(2) * logistic(0.5))


async def test_from_the_first_reward_outside_on_all_are_put_on_one_scale() -> None:
    replies = Turns(*(Plain([{"score": value}]) for value in (1.1, 0.9)))
    with FakeUpstream(replies) as upstream:
        async with bench(upstream.base_url) as made:
            asked = scorer(made)
            scores = [await asked.score(made.purse(), ASK, SAID, time.monotonic() + 5) for _ in range(2)]
    assert scores == [pytest.approx(logistic(1.1)), pytest.approx(logistic(0.9))]


@pytest.mark.parametrize(
    "step",
    [
        Fault(500),
        Fault(401),
        Drop(),
        Malformed("{oops"),
        Malformed("[]"),
        "a chat's reply",
        Plain(),
        Plain([{}]),
        Plain([{"score": None}]),
        Plain([{"score": "0.5"}]),
        Plain([{"score": True}]),
        Plain([{"score": float("nan")}]),
        Plain([{"data": []}]),
        Plain([{"data": [0.5, [None]]}]),
        Plain([{"data": "AAAA"}]),
    ],
)
async def test_a_server_that_fails_or_says_something_else_gives_no_score(step: Script) -> None:
    with FakeUpstream(step) as upstream:
        async with bench(upstream.base_url) as made:
            assert await reward(made) is None
            standing = await made.standing()
            assert (standing.reserved.nano, standing.ok) == (0, True)
            assert standing.spent.nano >= upstream.meter.cost_nano(RATES)


@pytest.mark.parametrize("seconds", [-1.0, 0.1])
async def test_a_server_that_is_too_slow_gives_no_score(seconds: float) -> None:
    with FakeUpstream(Plain([{"score": 1.0}], latency=30)) as upstream:
        async with bench(upstream.base_url) as made:
            assert await reward(made, seconds=seconds) is None


async def test_a_server_that_the_budget_does_not_hold_is_not_asked() -> None:
    with FakeUpstream(Plain([{"score": 1.0}])) as upstream:
        async with bench(upstream.base_url, tenants=(Tenant("acme", max_nano=10),)) as made:
            assert await reward(made) is None
        async with bench(upstream.base_url, rates=None, tenants=(Tenant("acme", max_nano=10**9),)) as made:
            assert await reward(made) is None
    assert upstream.calls == []


async def test_where_there_is_no_answer_nobody_is_asked() -> None:
    with FakeUpstream(Plain([{"score": 1.0}])) as upstream:
        async with bench(upstream.base_url) as made:
            assert await reward(made, said=Choice(0, {"content": "<think>Hm.</think>"}, "stop")) is None
    assert upstream.calls == []
