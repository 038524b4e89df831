"""`POST /v1/responses`: what a request may say, and the chat that it becomes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from proxy.api.response_input import messages
from proxy.api.responses import Responses
from proxy.errors import RequestInvalid
from tests.fake_upstream import Reply
from tests.responding import (
    ANSWER,
    ASKED,
    OSLO,
    PROMPT,
    ROME,
    WEATHER,
    create,
    exactly,
    refused,
    responses,
    streamed,
)
from tests.staged import JSON, Stage, staged

IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": ""}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("responses"), aliases=["alias"]) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_reservation_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "stage" in request.fixturenames:
        stage: Stage = request.getfixturevalue("stage")
        stage.upstream.wait(lambda: stage.tally.balance().reserved.nano == 0)


def test_every_field_of_the_request_reaches_the_chat_in_its_own_shape(stage: Stage) -> None:
    stage.says(Reply(tool_calls=[{"name": "weather", "arguments": ROME}]))
    both = {"temperature": 0.5, "top_p": 0.9, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k",
            "service_tier": "flex"}  # fmt: skip
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    reply = create(
        stage,
        "off",
        **both,
        instructions="Be short.",
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        max_output_tokens=50,
        max_tool_calls=3,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}, "verbosity": "low"},
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
        truncation="auto",
        metadata={"a": "b"},
        store=False,
        extra_body={"seed": 3, "top_k": 4},
    )
    (call,) = stage.calls
    function = {key: value for key, value in WEATHER.items() if key != "type"}
    assert call.body == {
        "model": "small",
        "messages": [{"role": "system", "content": "Be short."}, *ASKED],
        **both,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "max_completion_tokens": 50,
        "reasoning_effort": "low",
        "verbosity": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
        "logprobs": True,
        "top_logprobs": 2,
        "seed": 3,
        "top_k": 4,
    }
    kept = reply.to_dict()
    assert [kept[name] for name in ("instructions", "parallel_tool_calls", "max_output_tokens", "max_tool_calls")] == [
        "Be short.", False, 50, 3]  # fmt: skip
    assert [kept[name] for name in ("tools", "tool_choice", "metadata", "temperature", "top_p")] == [
        [WEATHER], {"type": "function", "name": "weather"}, {"a": "b"}, 0.5, 0.9]  # fmt: skip
    assert kept["reasoning"] == {"effort": "low", "summary": "auto"}
    assert kept["truncation"] == "auto"
    assert kept["text"] == {
        "format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True},
        "verbosity": "low",
    }


def test_the_items_of_a_conversation_are_the_messages_of_a_chat(stage: Stage) -> None:
    stage.says(ANSWER)
    image = "data:image/png;base64,AAAA"
    create(
        stage,
        "off",
        input=[
            {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look:"},
                    {"type": "input_image", "image_url": image, "detail": "low"},
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Two", "annotations": []},
                            {"type": "output_text", "text": " cities.", "annotations": []}],
            },
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": ROME},
            {"type": "reasoning", "id": "rs_2", "summary": []},
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": OSLO},
            {"type": "function_call_output", "call_id": "c1", "output": "sun"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [{"type": "input_text", "text": "rain"}, {"type": "input_text", "text": "hail"}],
            },
            {"type": "custom_tool_call", "call_id": "c3", "name": "shell", "input": "ls"},
            {"role": "assistant", "content": "I looked."},
            {"type": "custom_tool_call_output", "call_id": "c3", "output": "a b"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No more."}]},
            {"role": "user", "content": "Why?"},
        ],
    )  # fmt: skip
    (call,) = stage.calls

    def called(name: str, call_id: str, arguments: str) -> JSON:
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}

    assert call.messages == [
        {"role": "developer", "content": "Be kind."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": image, "detail": "low"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            ],
        },
        {
            "role": "assistant",
            "content": "Two cities.",
            "tool_calls": [called("weather", "c1", ROME), called("weather", "c2", OSLO)],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "tool", "tool_call_id": "c2", "content": "rain\nhail"},
        {
            "role": "assistant",
            "content": "I looked.",
            "tool_calls": [{"id": "c3", "type": "custom", "custom": {"name": "shell", "input": "ls"}}],
        },
        {"role": "tool", "tool_call_id": "c3", "content": "a b"},
        {"role": "assistant", "content": None, "refusal": "No more."},
        {"role": "user", "content": "Why?"},
    ]


def test_of_allowed_tools_the_others_are_not_offered(stage: Stage) -> None:
    stage.says(Reply(tool_calls=[{"name": "weather", "arguments": ROME}]))
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    reply = create(stage, "off", tools=[WEATHER, {**WEATHER, "name": "other"}], tool_choice=choice)
    (call,) = stage.calls
    assert [tool["function"]["name"] for tool in call.body["tools"]] == ["weather"]
    assert call.body["tool_choice"] == "required"
    assert reply.to_dict()["tool_choice"] == choice


def test_without_tools_nothing_is_said_of_tools(stage: Stage) -> None:
    stage.says(ANSWER)
    create(stage, "off", tools=[], tool_choice="auto", parallel_tool_calls=True)
    assert stage.calls[0].body == {"model": "small", "messages": ASKED}


@pytest.mark.parametrize(
    ("more", "param", "word"),
    [
        ({"store": True}, "store", "stored"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "whole conversation"),
        ({"conversation": "conv_1"}, "conversation", "stored"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "stored"),
        ({"background": True}, "background", "stored"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "stored"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "stored"),
        ({"n": 2}, "n", "several requests"),
        ({"messages": ASKED}, "messages", "use input"),
        ({"max_tokens": 5}, "max_tokens", "max_output_tokens"),
        ({"response_format": {"type": "text"}}, "response_format", "text.format"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"tools": [WEATHER, {"type": "file_search"}]}, "tools[1].type", "file_search"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type", "mcp"),
        ({"tools": [{"type": "image_generation"}]}, "tools[0].type", "image_generation"),
        ({"tools": [{"type": "code_interpreter"}]}, "tools[0].type", "code_interpreter"),
        ({"tools": [WEATHER], "tool_choice": {"type": "file_search"}}, "tool_choice.type", "file_search"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "grammar"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "item_reference"),
        ({"input": [{"id": "msg_1"}]}, "input[0].type", "set store to false"),
        ({"input": [{"role": "system", "content": [IMAGE]}]}, "input[0].content[0].type", "users alone"),
        ({"input": [CALL, {**RESULT, "output": [IMAGE]}]}, "input[1].output[0].type", "users alone"),
        ({"input": [ASKED[0], {"type": "web_search_call"}]}, "input[1].type", "web_search_call"),
        ({"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "input[0].content[0].type", "text"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].image_url",
            "URL",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "u"}]}]},
            "input[0].content[0].file_data",
            "data",
        ),
    ],
)
def test_what_no_chat_can_keep_is_a_400_that_names_it(stage: Stage, more: JSON, param: str, word: str) -> None:
    error = refused(stage, **more)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "unsupported_value", param)
    assert error["message"].startswith(f"{param}: ")
    assert word in error["message"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"type": 5}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [RESULT]}, "input[0].call_id"),
        ({"input": [RESULT, CALL]}, "input[0].call_id"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"instructions": []}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"truncation": "never"}, "truncation"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "must"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.name"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
            "tool_choice.tools",
        ),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"temperature": 3}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"tally": {"samples": 0}}, "tally.samples"),
    ],
)
def test_a_field_of_the_wrong_shape_is_a_400_that_names_it(stage: Stage, more: JSON, param: str) -> None:
    error = refused(stage, **more)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_value", param)


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
@pytest.mark.parametrize("path", ["resp_1", "resp_1/cancel", "resp_1/input_items"])
def test_a_response_cannot_be_asked_for_later(stage: Stage, method: str, path: str) -> None:
    response = stage.send(method, f"/v1/responses/{path}")
    assert (response.status_code, response.headers["x-request-id"][:4]) == (404, "req_")
    assert "not stored" in response.json()["error"]["message"]


def test_the_client_is_told_that_nothing_is_stored(stage: Stage) -> None:
    client = stage.client()
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError, match="not stored"):
            ask("resp_1")


def test_feedback_takes_the_id_of_a_response(stage: Stage) -> None:
    stage.says(ANSWER)
    reply = create(stage)
    assert stage.post({"id": reply.id, "correct": True}, path="/v1/feedback").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_the_ledger_has_each_response_and_adds_up(stage: Stage, stream: bool) -> None:
    stage.says(ANSWER)
    before = stage.tally.balance().spent.nano
    _ = streamed(stage) if stream else create(stage)
    stage.upstream.wait(lambda: stage.tally.balance().spent.nano > before)
    balance = stage.tally.balance()
    assert balance.ok
    assert balance.spent.nano - before == stage.cost_nano


def test_a_spent_budget_is_402_here_too(tmp_path: Path) -> None:
    with staged(tmp_path, tenant={"max_budget": 0.000001}) as poor:
        for ask in (create, streamed):
            with pytest.raises(openai.APIStatusError) as caught:
                ask(poor)
            assert caught.value.status_code == 402
        assert not poor.calls


@pytest.mark.parametrize("path", ["input_tokens", "compact"])
def test_what_is_no_response_is_an_unknown_path(stage: Stage, path: str) -> None:
    response = stage.send("POST", f"/off/v1/responses/{path}")
    assert (response.status_code, response.headers["x-request-id"][:4]) == (404, "req_")
    assert response.json()["error"]["message"] == f"Unknown path: POST /off/v1/responses/{path}."


def said(role: str, text: str) -> JSON:
    return {"role": role, "content": text}


def called(*ids: str, content: str | None = None) -> JSON:
    calls = [{"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}} for each in ids]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def result(call_id: str) -> JSON:
    return {"role": "tool", "tool_call_id": call_id, "content": call_id.upper()}


TURNS: dict[str, list[JSON]] = {
    "a c1 b r1": [called("c1", content="ab"), result("c1")],
    "c1 a c2 b r1 r2": [called("c1", "c2", content="ab"), result("c1"), result("c2")],
    "c1 ? r1": [called("c1"), result("c1"), said("user", "?")],
    "c1 ? a r1": [called("c1"), result("c1"), said("user", "?"), said("assistant", "a")],
    "c1 c2 r1 a r2": [called("c1", "c2", content="a"), result("c1"), result("c2")],
    "c1 c2 r1 c3 r2 r3": [called("c1", "c2"), result("c1"), result("c2"), called("c3"), result("c3")],
    "c1 r1 a c2 r2": [called("c1"), result("c1"), called("c2", content="a"), result("c2")],
    "c1 r1 c1 r1": [called("c1"), result("c1"), called("c1"), result("c1")],
    "a b": [said("assistant", "a"), said("assistant", "b")],
}


@pytest.mark.parametrize("turns", TURNS)
def test_results_stand_behind_their_calls_wherever_they_came(turns: str) -> None:
    """A letter is what the assistant says, `?` a user; `c1` is a call, `r1` its result."""

    def item(word: str) -> JSON:
        if len(word) == 1:
            return said("user" if word == "?" else "assistant", word)
        call_id = f"c{word[1]}"
        return (
            {**CALL, "call_id": call_id}
            if word[0] == "c"
            else {**RESULT, "call_id": call_id, "output": call_id.upper()}
        )

    assert messages([item(word) for word in turns.split()], None) == TURNS[turns]


def test_a_streams_own_output_goes_back_as_it_came(stage: Stage) -> None:
    function = {"name": "weather", "arguments": "{}"}
    deltas = [{"content": "a"}, {"tool_calls": [{"index": 0, "id": "c1", "function": function}]}, {"content": "b"}]
    stage.says(exactly(*({"choices": [{"index": 0, "delta": delta}]} for delta in deltas),
                       {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}))  # fmt: skip
    output = streamed(stage, "off", tools=[WEATHER])[-1].response.output
    assert [item.type for item in output] == ["message", "function_call", "message"]
    stage.says(ANSWER)
    create(stage, "off", input=[*ASKED, *output, {**RESULT, "call_id": "c1", "output": "sun"}], tools=[WEATHER])
    _, turn, answer = stage.calls[0].messages
    assert (turn["content"], turn["tool_calls"][0]["id"]) == ("ab", "c1")
    assert answer == {"role": "tool", "tool_call_id": "c1", "content": "sun"}


def chat(**body: Any) -> JSON:
    return responses({"model": "small", "input": PROMPT, **body}).asked


def test_empty_instructions_are_none() -> None:
    assert chat(instructions="")["messages"] == ASKED


def test_too_many_messages_are_too_much_input() -> None:
    few = Responses(lambda: 0.0, max_messages=2)
    assert len(few({"model": "small", "instructions": "a", "input": PROMPT}).asked["messages"]) == 2
    with pytest.raises(RequestInvalid, match="more than 2") as caught:
        few({"model": "small", "instructions": "a", "input": [*ASKED, *ASKED]})
    assert caught.value.param == "input"


def test_a_stream_is_asked_for_its_usage_and_never_for_noise() -> None:
    options = {"include_obfuscation": True, "other": 1}
    assert chat(stream=True, stream_options=options)["stream_options"] == {"other": 1, "include_usage": True}
    assert "stream_options" not in chat(stream_options=options)


def test_alternatives_are_asked_for_with_log_probabilities_alone() -> None:
    assert not chat(top_logprobs=2).keys() & {"top_logprobs", "logprobs"}
    assert "top_logprobs" not in chat(top_logprobs=0, include=["message.output_text.logprobs"])


def test_a_choice_without_tools_is_left_to_the_provider_and_says_nothing_of_parallel_calls() -> None:
    asked = chat(tool_choice="required", parallel_tool_calls=False)
    assert asked["tool_choice"] == "required"
    assert not asked.keys() & {"tools", "parallel_tool_calls"}
