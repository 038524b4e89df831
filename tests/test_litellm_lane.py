"""The lane through LiteLLM, against a real server: what reaches the wire, what comes back, and every kind of error."""

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.types import JSON
from proxy.upstream import Endpoint
from proxy.upstream.litellm import LiteLLMLane
from tests.fake_upstream import Drop, FakeUpstream, Fault, Malformed, Reply, Script

KEY = "sk-a-secret-of-ours"
BODY: JSON = {"model": "small", "messages": [{"role": "user", "content": "What is 6 x 7?"}]}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
SHAPED = pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "mistral", "deepseek"])

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lane() -> AsyncIterator[LiteLLMLane]:
    lane = LiteLLMLane()
    yield lane
    await lane.close()


def at(upstream: FakeUpstream, provider: str = "mistral", **params: Any) -> Endpoint:
    return Endpoint(provider, "small", upstream.base_url, KEY, params)


async def complete(lane: LiteLLMLane, endpoint: Endpoint, timeout: float = 10.0, **fields: Any) -> JSON:
    reply: JSON = orjson.loads(await lane.complete(endpoint, BODY | fields, timeout))
    return reply


async def chunks(lane: LiteLLMLane, endpoint: Endpoint, timeout: float = 10.0, **fields: Any) -> list[JSON]:
    return [orjson.loads(chunk) async for chunk in lane.stream(endpoint, BODY | fields, timeout)]


def test_importing_the_lane_does_not_import_litellm() -> None:
    code = "import sys, proxy.upstream.litellm; sys.exit('litellm' in sys.modules or 'openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@SHAPED
async def test_every_field_of_a_request_reaches_the_wire(lane: LiteLLMLane, provider: str) -> None:
    fields: JSON = {
        "n": 2,
        "seed": 7,
        "logprobs": True,
        "top_logprobs": 3,
        "tools": TOOLS,
        "temperature": 0.5,
        "stop": ["\n"],
        "foo_field": 1,
        "metadata": {"a": "b"},
        "top_k": 40,
    }
    with FakeUpstream("42") as upstream:
        reply = await complete(lane, at(upstream, provider), **fields)
        (call,) = upstream.calls
    if provider == "mistral":
        fields["random_seed"] = fields.pop("seed")
    assert {key: call.body.get(key) for key in fields} == fields
    assert call.body["model"] == "small"
    assert call.headers["authorization"] == f"Bearer {KEY}"
    told = {"role": "assistant", "content": "42", "refusal": None}
    assert [choice["message"] for choice in reply["choices"]] == [told] * 2


async def test_a_client_cannot_steer_litellm(lane: LiteLLMLane) -> None:
    steering: JSON = {
        "api_base": "http://127.0.0.1:9",
        "mock_response": "free",
        "fallbacks": ["openai/x"],
        "api_key": "x",
    }
    with FakeUpstream("42") as upstream:
        reply = await complete(lane, at(upstream), **steering, extra_body={"model": "other"})
        (call,) = upstream.calls
    assert reply["choices"][0]["message"]["content"] == "42"
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.body["model"] == "small"


async def test_the_operators_parameters_hold_where_the_client_says_nothing(lane: LiteLLMLane) -> None:
    with FakeUpstream("42") as upstream:
        endpoint = at(upstream, temperature=0.1, top_p=0.9, extra_body={"mine": 1}, extra_headers={"x-team": "a"})
        await complete(lane, endpoint, temperature=1.0, yours=2)
        (call,) = upstream.calls
    assert {key: call.body[key] for key in ("temperature", "top_p", "mine", "yours")} == {
        "temperature": 1.0,
        "top_p": 0.9,
        "mine": 1,
        "yours": 2,
    }
    assert call.headers["x-team"] == "a"


async def test_the_request_is_left_as_it_was(lane: LiteLLMLane) -> None:
    body = {"model": "small", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}
    before = orjson.dumps(body)
    with FakeUpstream("42") as upstream:
        await lane.complete(at(upstream), body, 10.0)
    assert orjson.dumps(body) == before


@SHAPED
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_message_keeps_what_the_provider_said(lane: LiteLLMLane, provider: str, streamed: bool) -> None:
    scripts = {
        "refusal": (Reply(refusal="I will not."), "I will not."),
        "reasoning_content": (Reply(("42",), reasoning_content="six sevens"), "six sevens"),
    }
    for field, (script, said) in scripts.items():
        with FakeUpstream(script) as upstream:
            if streamed:
                parts = await chunks(lane, at(upstream, provider))
                text = "".join(c["delta"].get(field) or "" for part in parts for c in part["choices"])
            else:
                reply = await complete(lane, at(upstream, provider))
                text = reply["choices"][0]["message"].get(field)
        assert text == said, field


async def test_a_reply_is_shaped_as_openais_with_its_tool_calls_logprobs_and_usage(lane: LiteLLMLane) -> None:
    with FakeUpstream(Reply(tool_calls=[{"name": "add", "arguments": '{"a":1}'}], cached_tokens=2)) as upstream:
        called = await complete(lane, at(upstream))
        meter = upstream.meter
    assert called["object"] == "chat.completion"
    assert called["choices"][0]["finish_reason"] == "tool_calls"
    assert called["choices"][0]["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [{"id": "call_0_0_0", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}],
    }
    assert called["usage"]["prompt_tokens"] == meter.prompt_tokens
    assert called["usage"]["prompt_tokens_details"]["cached_tokens"] == 2
    with FakeUpstream("42") as upstream:
        told = await complete(lane, at(upstream), logprobs=True)
    assert told["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.1


@SHAPED
async def test_a_stream_tells_every_choices_end_and_the_usage(lane: LiteLLMLane, provider: str) -> None:
    script = Reply(("one two", "one two three four"), finish_reason=("stop", "length"))
    with FakeUpstream(script) as upstream:
        parts = await chunks(lane, at(upstream, provider), n=2, stream=True, stream_options={"include_usage": True})
        tokens = upstream.meter.completion_tokens
    choices = [choice for part in parts for choice in part["choices"]]
    ends = {choice["index"]: choice["finish_reason"] for choice in choices if choice["finish_reason"]}
    texts = ["".join(c["delta"].get("content") or "" for c in choices if c["index"] == index) for index in (0, 1)]
    assert ends == {0: "stop", 1: "length"}
    assert texts == ["one two", "one two three four"]
    assert [part["usage"]["completion_tokens"] for part in parts if part.get("usage")] == [tokens]


@pytest.mark.parametrize("streamed", [False, True])
async def test_no_usage_is_made_up_where_the_provider_told_none(lane: LiteLLMLane, streamed: bool) -> None:
    with FakeUpstream(Reply(("42",), usage="none")) as upstream:
        if streamed:
            parts = await chunks(lane, at(upstream), stream_options={"include_usage": True})
        else:
            parts = [await complete(lane, at(upstream))]
    assert not any(part.get("usage") for part in parts)


@SHAPED
async def test_closing_a_stream_disconnects(lane: LiteLLMLane, provider: str) -> None:
    with FakeUpstream(Reply(("a long tale " * 50,), per_token=0.02)) as upstream:
        stream = lane.stream(at(upstream, provider), BODY, 10.0)
        await anext(stream)
        await stream.aclose()
        await upstream.until(lambda: upstream.calls[0].cancelled)


FAULTS: list[tuple[Script, type[UpstreamError], int]] = [
    (Fault(400, "n is too large", "invalid_request_error", "unsupported_value", param="n"), UpstreamError, 400),
    (Fault(400, "maximum context length is 10 tokens", "invalid_request_error", "context"), UpstreamError, 400),
    (Fault(401, f"Incorrect API key {KEY}", "invalid_request_error", "invalid_api_key"), UpstreamError, 401),
    (Fault(404, "no such model", "invalid_request_error", "model_not_found"), UpstreamError, 404),
    (Fault(429, "slow down", "requests", "rate_limit_exceeded", retry_after=7), UpstreamError, 429),
    (Fault(500, "out of order", "server_error", None), UpstreamError, 500),
    (Fault(503, "busy", "server_error", "rate_limit_exceeded"), UpstreamError, 503),
    (Drop(), UpstreamUnreachable, 502),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("provider", ["openai", "mistral"])
async def test_an_error_keeps_its_status_and_message(lane: LiteLLMLane, provider: str, streamed: bool) -> None:
    for fault, kind, status in FAULTS:
        with FakeUpstream(fault) as upstream:
            with pytest.raises(kind) as caught:
                await (chunks if streamed else complete)(lane, at(upstream, provider))
            assert len(upstream.calls) == 1, "LiteLLM must not retry"
        error = caught.value
        assert error.status == status
        assert KEY not in error.message
        if isinstance(fault, Fault):
            assert error.message == fault.message.replace(KEY, "***")
            assert (error.type, error.code, error.param) == (fault.type, fault.code, fault.param)
            assert error.retry_after == fault.retry_after


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_silent_provider_is_a_timeout(lane: LiteLLMLane, streamed: bool) -> None:
    with FakeUpstream(Reply(latency=5)) as upstream, pytest.raises(UpstreamTimeout) as caught:
        await (chunks if streamed else complete)(lane, at(upstream), 0.2)
    assert caught.value.sent


async def test_a_stream_that_dribbles_on_is_cut_at_its_time_limit(lane: LiteLLMLane) -> None:
    with FakeUpstream(Reply(("a long tale " * 50,), per_token=0.05)) as upstream:
        with pytest.raises(UpstreamTimeout):
            await chunks(lane, at(upstream), 0.4)
        await upstream.until(lambda: upstream.calls[0].cancelled)


async def test_nobody_listening_is_unreachable_and_nothing_was_sent(lane: LiteLLMLane) -> None:
    with FakeUpstream() as upstream:
        gone = at(upstream)
    with pytest.raises(UpstreamUnreachable) as caught:
        await complete(lane, gone)
    assert not caught.value.sent
    assert "127.0.0.1" not in caught.value.message


@pytest.mark.parametrize("provider", ["openai", "mistral"])
@pytest.mark.parametrize("script", [Drop(2), Fault(500, "boiled over", "server_error", None, after_chunks=2)])
async def test_a_stream_that_breaks_off_may_have_been_billed(lane: LiteLLMLane, provider: str, script: Script) -> None:
    with FakeUpstream(script) as upstream, pytest.raises(UpstreamError) as caught:
        await chunks(lane, at(upstream, provider))
    assert caught.value.sent
    assert caught.value.status in {500, 502}
    if isinstance(script, Fault):
        assert caught.value.message == "boiled over"


async def test_a_reply_that_is_not_json_is_an_upstream_error(lane: LiteLLMLane) -> None:
    with FakeUpstream(Malformed()) as upstream, pytest.raises(UpstreamError, match="not JSON") as caught:
        await complete(lane, at(upstream))
    assert caught.value.status == 502


async def test_a_parameter_that_a_provider_of_another_shape_lacks_is_refused_unsent(lane: LiteLLMLane) -> None:
    with FakeUpstream() as upstream:
        with pytest.raises(UpstreamError, match=r"anthropic does not support parameters: \['n'\]") as caught:
            await complete(lane, at(upstream, "anthropic"), n=2)
        assert not upstream.calls
    assert caught.value.status == 400
    assert not caught.value.sent
