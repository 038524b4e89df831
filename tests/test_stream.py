"""Streams: scaled answers in chunks, and `off` passed on as it comes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from tests.fake_upstream import Drop, Fault, Reply, count_prompt, tokenize
from tests.served import KEY
from tests.staged import ASK, Stage, staged

ANSWER = "The answer is 42."
CALLS = {
    "content": None,
    "tool_calls": [
        {"function": {"name": "capital", "arguments": '{"of":"Chile"}'}},
        {"function": {"name": "area", "arguments": "{}"}},
    ],
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("stream"), aliases=["alias"]) as made:
        yield made


def chunks(stage: Stage, strategy: str | None = "self_consistency", **more: Any) -> list[dict[str, Any]]:
    """The chunks of one stream, which ends with `[DONE]`."""
    data = stage.events(strategy, **more)
    assert data[-1] == "[DONE]"
    return [json.loads(item) for item in data[:-1]]


def sdk(stage: Stage, strategy: str | None = "self_consistency", **more: Any) -> list[ChatCompletionChunk]:
    return list(opened(stage, strategy, **more))


def opened(stage: Stage, strategy: str | None, **more: Any) -> openai.Stream[ChatCompletionChunk]:
    stream = stage.client(strategy).chat.completions.create(
        **{"model": "small", "messages": ASK, "stream": True, **more}
    )
    assert isinstance(stream, openai.Stream)
    return stream


@pytest.mark.parametrize("strategy", ["off", "self_consistency", "dynscaling", "optscale"])
def test_the_role_is_first_the_finish_is_one_and_the_text_is_whole(stage: Stage, strategy: str) -> None:
    stage.says(ANSWER)
    found = chunks(stage, strategy)
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["finish_reason"] for chunk in found for c in chunk["choices"] if c["finish_reason"]] == ["stop"]
    assert "".join(c["delta"].get("content") or "" for chunk in found for c in chunk["choices"]) == ANSWER
    assert len({(chunk["id"], chunk["created"], chunk["object"], chunk["model"]) for chunk in found}) == 1
    assert all(chunk["choices"] for chunk in found)
    assert all("usage" not in chunk for chunk in found)


@pytest.mark.parametrize("strategy", ["off", "self_consistency"])
def test_the_official_client_reads_it(stage: Stage, strategy: str) -> None:
    stage.says(ANSWER)
    found = sdk(stage, strategy)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in found) == ANSWER


def test_the_last_chunk_of_a_scaled_stream_carries_the_tally_object(stage: Stage) -> None:
    stage.says(["The answer is 41.", ANSWER, ANSWER])
    *others, last = chunks(stage, tally={"samples": 3})
    assert all("tally" not in chunk for chunk in others)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["tally"]["votes"] == [{"answer": "42", "count": 2}, {"answer": "41", "count": 1}]


@pytest.mark.parametrize("strategy", ["off", "self_consistency"])
def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(stage: Stage, strategy: str) -> None:
    stage.says(ANSWER)
    *others, last = chunks(stage, strategy, stream_options={"include_usage": True})
    samples = 1 if strategy == "off" else 8
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == count_prompt(ASK)
    assert last["usage"]["completion_tokens"] == samples * len(tokenize(ANSWER))
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in others)
    assert ("tally" in last) == (strategy != "off")


def test_the_official_client_gets_usage_and_tally_last(stage: Stage) -> None:
    stage.says(ANSWER)
    last = sdk(stage, stream_options={"include_usage": True})[-1]
    assert last.usage is not None
    assert last.choices == []
    assert (last.model_extra or {})["tally"]["samples"] == 8


def test_tool_calls_are_joined_by_the_official_client_as_they_were_made(stage: Stage) -> None:
    stage.says(Reply([CALLS]))
    found = chunks(stage, tools=[{"type": "function", "function": {"name": "capital"}}])
    pieces = [piece for chunk in found for piece in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [piece["index"] for piece in pieces] == [0, 1]
    assert [piece["function"]["arguments"] for piece in pieces] == ['{"of":"Chile"}', "{}"]
    with stage.client("self_consistency").chat.completions.stream(model="small", messages=ASK) as stream:  # type: ignore[arg-type]  # any dict is a message
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert message.content is None
    assert [call.function.name for call in message.tool_calls] == ["capital", "area"]
    assert stream.get_final_completion().choices[0].finish_reason == "tool_calls"


def test_reasoning_and_log_probabilities_are_the_winners_own(stage: Stage) -> None:
    stage.says(Reply([{"content": ANSWER, "reasoning_content": "six sevens"}]))
    found = chunks(stage, logprobs=True)
    deltas = [chunk["choices"][0] for chunk in found]
    assert "".join(c["delta"].get("reasoning_content", "") for c in deltas) == "six sevens"
    tokens = [entry["token"] for c in deltas if c["logprobs"] for entry in c["logprobs"]["content"]]
    assert "".join(tokens) == ANSWER


def test_a_refusal_is_streamed_as_one(stage: Stage) -> None:
    stage.says(Reply(refusal="No."))
    found = chunks(stage)
    assert "".join(chunk["choices"][0]["delta"].get("refusal") or "" for chunk in found) == "No."


def test_off_passes_the_upstreams_own_chunks_on(stage: Stage) -> None:
    stage.says(ANSWER)
    found = chunks(stage, "off")
    assert {chunk["id"] for chunk in found} == {f"chatcmpl-fake-{stage.calls[0].index}"}
    assert len(found) == 2 + len(tokenize(ANSWER))
    assert all("tally" not in chunk for chunk in found)
    assert stage.calls[0].body["stream_options"] == {"include_usage": True}


def test_off_keeps_the_other_options_of_its_stream(stage: Stage) -> None:
    stage.says(ANSWER)
    stage.events("off", stream_options={"include_obfuscation": False})
    assert stage.calls[0].body["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_off_names_the_model_as_it_was_asked_for(stage: Stage) -> None:
    stage.says(ANSWER)
    assert {chunk["model"] for chunk in chunks(stage, "off", model="alias")} == {"alias"}


@pytest.mark.parametrize("usage", [False, True])
def test_off_carries_the_tally_object_on_request_in_its_last_chunk(stage: Stage, usage: bool) -> None:
    stage.says(ANSWER)
    *others, last = chunks(stage, "off", tally={}, stream_options={"include_usage": usage})
    assert all("tally" not in chunk for chunk in others)
    assert last["tally"]["strategy"] == "off"
    assert last["tally"]["cost_usd"] == pytest.approx(stage.cost_nano / 1e9)
    assert (last["choices"] == []) == usage


def test_an_unscaled_stream_says_why_in_its_last_chunk(stage: Stage) -> None:
    stage.says(ANSWER)
    assert chunks(stage, temperature=0)[-1]["tally"]["reason"] == "temperature 0"


def test_several_choices_are_streamed_by_the_upstream(stage: Stage) -> None:
    stage.says(["a", "b"])
    found = chunks(stage, n=2)
    said = [
        (c["index"], c["delta"]["content"]) for chunk in found for c in chunk["choices"] if c["delta"].get("content")
    ]
    assert sorted(said) == [(0, "a"), (1, "b")]


def test_the_first_chunk_of_off_arrives_while_the_upstream_still_generates(stage: Stage) -> None:
    stage.says(Reply(["token " * 400], per_token=0.02))
    with opened(stage, "off") as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        assert stage.calls[0].finished is None
    stage.upstream.wait(lambda: stage.calls[0].cancelled)


def test_the_headers_of_a_stream_say_what_is_known_at_its_start(stage: Stage) -> None:
    stage.says(ANSWER)
    body = {"model": "small", "messages": ASK, "stream": True}
    response = stage.post(body, path="/off/v1/chat/completions")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-tally-strategy"] == "off"
    assert response.headers["x-request-id"].startswith("req_")
    assert "x-tally-samples" not in response.headers
    assert "content-length" not in response.headers


@pytest.mark.parametrize("strategy", ["off", "self_consistency"])
@pytest.mark.parametrize("status", [400, 404, 422])
def test_an_early_error_keeps_its_status(stage: Stage, strategy: str, status: int) -> None:
    stage.says(Fault(status, "Not so.", "odd", "odd_code"))
    with pytest.raises(openai.APIStatusError, match="Not so") as caught:
        sdk(stage, strategy)
    assert caught.value.status_code == status
    assert caught.value.response.headers["content-type"] == "application/json"


def test_a_rate_limit_of_the_upstream_keeps_its_retry_after(stage: Stage) -> None:
    stage.says(Fault(429, retry_after=90))
    for strategy in ("off", "self_consistency"):
        with pytest.raises(openai.RateLimitError) as caught:
            sdk(stage, strategy)
        assert caught.value.response.headers["retry-after"] == "90"


@pytest.mark.parametrize("step", [Fault(500, "Broke.", after_chunks=3), Drop(after_chunks=3)])
def test_a_late_error_of_off_is_an_event_with_an_object(stage: Stage, step: Fault | Drop) -> None:
    stage.says(step)
    *said, last = stage.events("off")
    assert len(said) >= 3
    assert json.loads(last)["error"].keys() == {"message", "type", "param", "code"}
    with pytest.raises(openai.APIError):
        sdk(stage, "off")


def test_the_body_of_a_stream_ends_with_done(stage: Stage) -> None:
    stage.says(ANSWER)
    for strategy in ("off", "self_consistency"):
        response = stage.post(
            {"model": "small", "messages": ASK, "stream": True}, path=f"/{strategy}/v1/chat/completions"
        )
        assert response.text.endswith("data: [DONE]\n\n")
        assert response.text.count("[DONE]") == 1


def test_a_client_that_leaves_a_scaled_stream_stops_its_draws(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        stage.says(Reply(["token " * 2000], per_token=0.02))
        body = {"model": "small", "messages": ASK, "stream": True}
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=stage.tally.url, timeout=0.3) as client, pytest.raises(httpx.ReadTimeout):
            client.post("/self_consistency/v1/chat/completions", json=body, headers=headers)
        stage.upstream.wait(lambda: bool(stage.calls) and all(call.cancelled for call in stage.calls))
        stage.upstream.wait(lambda: stage.tally.balance().reserved.nano == 0)
        assert stage.tally.balance().spent.nano == stage.tally.balance().ledger.nano
