"""What a client sees of an upstream in trouble; the table of all its errors is in test_error_mapping."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import openai
import pytest

from tests.fake_upstream import Call, FakeUpstream, Fault, Reply
from tests.served import KEY, RATES, ServedTally, configuration, deployment
from tests.staged import ASK, Stage, events, staged, told

SECRET = "sk-upstream-secret"
STRATEGIES = pytest.mark.parametrize("strategy", ["dynscaling", "optscale"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("faults"), scaling={"samples": 4, "batch_window_ms": 5}) as made:
        yield made


def refused(stage: Stage, strategy: str, **more: Any) -> httpx.Response:
    path = f"/{strategy}/v1/chat/completions"
    response = stage.tally.post({"model": "small", "messages": ASK, **more}, path=path)
    assert response.status_code >= 400
    assert response.json().keys() == {"error"}
    return response


@STRATEGIES
def test_a_wrong_request_is_answered_as_the_provider_answers_it(stage: Stage, strategy: str) -> None:
    stage.says(Fault(400, "Too many tools.", "invalid_request_error", "too_many", param="tools"))
    with pytest.raises(openai.BadRequestError) as caught:
        stage.ask(strategy)
    assert caught.value.body == {
        "message": "Too many tools.",
        "type": "invalid_request_error",
        "param": "tools",
        "code": "too_many",
    }
    assert len(stage.calls) <= 2


@STRATEGIES
@pytest.mark.parametrize("status", [404, 409, 418, 422, 429, 500, 503])
def test_the_providers_status_is_kept(stage: Stage, strategy: str, status: int) -> None:
    stage.says(Fault(status, "It did not work.", retry_after=30))
    response = refused(stage, strategy)
    assert response.status_code == status
    assert response.json()["error"]["message"] == "It did not work."
    assert response.headers["retry-after"] == "30"


@STRATEGIES
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_the_proxys_own_key_says_nothing_of_it(
    stage: Stage, strategy: str, stream: bool, status: int
) -> None:
    stage.says(Fault(status, f"Incorrect API key provided: {SECRET[:9]}***cret. Org acme-inc."))
    response = refused(stage, strategy, stream=stream)
    assert response.status_code == 502
    assert not any(part in response.text for part in ("sk-", "cret.", "acme-inc", "Incorrect"))
    assert response.json()["error"]["code"] == "upstream_auth"


def test_a_live_stream_that_breaks_ends_in_an_error_event(stage: Stage) -> None:
    stage.says(Fault(500, "It broke.", after_chunks=2))
    response = stage.tally.post({"model": "small", "messages": ASK, "stream": True}, path="/off/v1/chat/completions")
    assert response.status_code == 200
    *_, last = events(response)
    assert json.loads(last)["error"]["message"] == "It broke."
    request: dict[str, Any] = {"model": "small", "messages": ASK, "stream": True}
    with pytest.raises(openai.APIError, match="broke"):
        list(stage.client("off").chat.completions.create(**request))


def test_a_provider_that_recovers_is_no_trouble_of_the_clients(stage: Stage) -> None:
    steps = iter([Fault(429, retry_after=0), Fault(503, retry_after=0)])
    stage.says(lambda _: next(steps, "42"))
    reply = stage.ask()
    assert (reply.choices[0].message.content, told(reply)["samples"]) == ("42", 4)
    assert [call.status for call in stage.calls] == [429, 503, 200]


def test_among_many_clients_at_once_only_the_wrong_ones_fail(stage: Stage) -> None:
    def script(call: Call) -> Reply | Fault:
        return Fault(400, "no") if "wrong" in call.question else Reply(["Answer: 42"], latency=0.02)

    stage.says(script)
    statuses: dict[int, int] = {}

    async def ask(client: httpx.AsyncClient, place: int) -> None:
        content = "wrong" if place % 4 == 0 else f"question {place}"
        body = {"model": "small", "messages": [{"role": "user", "content": content}]}
        url = f"{stage.tally.url}/dynscaling/v1/chat/completions"
        reply = await client.post(url, json=body, headers={"authorization": f"Bearer {KEY}"})
        statuses[place] = reply.status_code

    async def all_at_once() -> None:
        async with httpx.AsyncClient(timeout=30) as client, anyio.create_task_group() as tasks:
            for place in range(12):
                tasks.start_soon(ask, client, place)

    anyio.run(all_at_once)
    assert statuses == {place: 400 if place % 4 == 0 else 200 for place in range(12)}


def test_after_all_of_that_nothing_is_reserved_and_nothing_served_is_unpaid(stage: Stage) -> None:
    stage.says("42")
    stage.ask()
    stage.upstream.wait(lambda: not stage.tally.balance().reserved.nano)
    balance = stage.tally.balance()
    assert balance.ok
    assert balance.spent.nano >= stage.upstream.meter.cost_nano(RATES)


def test_a_slow_provider_is_answered_for_with_what_is_in_hand_or_a_timeout(tmp_path: Path) -> None:
    with staged(tmp_path, scaling={"samples": 4, "deadline_s": 0.4}) as slow:
        steps = iter([Reply(["42"])])
        slow.says(lambda _: next(steps, Reply(latency=30)))
        reply = slow.ask(None)
        assert (reply.choices[0].message.content, told(reply)["reason"]) == ("42", "deadline")
        slow.says(Reply(latency=30))
        assert refused(slow, "self_consistency").status_code == 504
        slow.upstream.wait(lambda: not slow.tally.balance().reserved.nano and not slow.upstream.in_flight)
        assert slow.tally.balance().ok


def test_a_provider_that_cannot_be_reached_is_a_502_that_names_no_address(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        with ServedTally(configuration(base_url, tmp_path)) as tally:
            response = tally.post({"model": "small", "messages": ASK}, path="/off/v1/chat/completions")
            assert response.status_code == 502
            assert response.json()["error"]["code"] == "upstream_unreachable"
            assert "127.0.0.1" not in response.text
            assert tally.balance().spent.nano == 0


def test_a_deployment_that_never_streams_serves_streams_and_scaled_answers_all_the_same(tmp_path: Path) -> None:
    with FakeUpstream("42") as upstream:
        model = deployment(upstream.base_url, model_info={"stream": False, "max_output_tokens": 64})
        with ServedTally(configuration(upstream.base_url, tmp_path, model_list=[model])) as tally:
            for strategy in ("off", "self_consistency", "dynscaling"):
                body = {"model": "small", "messages": ASK, "stream": True}
                data = events(tally.post(body, path=f"/{strategy}/v1/chat/completions"))
                assert data[-1] == "[DONE]"
                assert "42" in "".join(data)
            upstream.wait(lambda: not tally.balance().reserved.nano)
            assert tally.balance().spent.nano == upstream.meter.cost_nano(RATES)
        assert not any(call.stream for call in upstream.calls)
