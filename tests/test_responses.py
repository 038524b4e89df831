"""`POST /v1/responses` for the official client: scaled and not, streamed and not."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from proxy.api.response_events import Growing
from proxy.api.response_input import messages
from proxy.api.responses import Responses
from proxy.api.serving import Reply as Told
from proxy.api.wire import check_chat
from proxy.errors import RequestInvalid, UpstreamMalformed
from proxy.upstream.assemble import Assembler
from tests.fake_upstream import Drop, Fault, Reply, count_prompt, tokenize
from tests.staged import JSON, Stage, staged

PROMPT = "What is six times seven?"
ASKED = [{"role": "user", "content": PROMPT}]
ANSWER = "The answer is 42."
STRATEGIES = ["off", "self_consistency", "adaptive", "dynscaling", "optscale"]
TWO = ["off", "self_consistency"]
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
ROME, OSLO = '{"city":"Rome"}', '{"city":"Oslo"}'
EVENTS = {
    get_args(each.model_fields["type"].annotation)[0]: each for each in get_args(get_args(ResponseStreamEvent)[0])
}

responses = Responses(lambda: 1_750_000_000.0)


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


def create(stage: Stage, strategy: str | None = "self_consistency", **more: Any) -> Any:
    """A Response; what its items are, the tests know."""
    reply = stage.client(strategy).responses.create(**{"model": "small", "input": PROMPT, **more})
    assert isinstance(reply, Response)
    # the client itself takes any shape
    Response.model_validate(reply.to_dict())
    return reply


def streamed(stage: Stage, strategy: str | None = "self_consistency", **more: Any) -> list[Any]:
    fields = {"model": "small", "input": PROMPT, "stream": True, **more}
    found = list(stage.client(strategy).responses.create(**fields))
    for each in found:
        EVENTS[each.type].model_validate(each.to_dict())
    assert [each.sequence_number for each in found] == list(range(len(found)))
    return found


def refused(stage: Stage, **more: Any) -> JSON:
    before = len(stage.upstream.calls)
    response = stage.post({"model": "small", "input": PROMPT, **more}, path="/v1/responses")
    assert response.status_code == 400, response.text
    assert len(stage.upstream.calls) == before
    return dict(response.json()["error"])


def told(reply: Response) -> JSON:
    return dict((reply.model_extra or {})["tally"])


def items(reply: Response) -> list[JSON]:
    """What a response says, without ids."""
    return [{key: value for key, value in item.to_dict().items() if key != "id"} for item in reply.output]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_official_client_reads_a_response(stage: Stage, strategy: str) -> None:
    stage.says(ANSWER)
    reply = create(stage, strategy)
    assert (reply.object, reply.model, reply.status, reply.output_text) == ("response", "small", "completed", ANSWER)
    assert re.fullmatch(r"resp_[0-9a-f]{32}", reply.id)
    assert reply.output[0].id == reply.id.replace("resp_", "msg_") + "_0"
    part = {"type": "output_text", "text": ANSWER, "annotations": [], "logprobs": []}
    assert items(reply) == [{"type": "message", "role": "assistant", "status": "completed", "content": [part]}]
    assert reply.usage is not None
    assert reply.usage.input_tokens == count_prompt(ASKED)
    assert reply.usage.output_tokens == stage.completion_tokens
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert (reply.model_extra or {})["store"] is False
    assert all(call.path == "/v1/chat/completions" for call in stage.calls)
    assert stage.calls[0].messages == ASKED


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_clients_stream_ends_with_the_same_response(stage: Stage, strategy: str) -> None:
    stage.says(ANSWER)
    with stage.client(strategy).responses.stream(model="small", input=PROMPT) as stream:
        said = [each for each in stream if each.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(each.delta for each in said) == said[-1].snapshot == final.output_text == ANSWER
    assert final.usage is not None
    assert final.usage.output_tokens == stage.completion_tokens
    Response.model_validate(final.to_dict())


def transcript(text: str) -> list[str]:
    """The events of a stream, a line each: ids and times left out, and of a response its status alone."""
    found = []
    for part in text.removesuffix("\n\n").split("\n\n"):
        if part.startswith(":"):
            found.append(part)
            continue
        name, data = part.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if "response" in event:
            event["response"] = event["response"]["status"]
        assert event.pop("sequence_number") == len([each for each in found if not each.startswith(":")])
        event.pop("item_id", None)
        event.get("item", {}).pop("id", None)
        event.get("item", {}).pop("call_id", None)
        kind = event.pop("type").removeprefix("response.")
        found.append(f"{kind} {json.dumps(event)}")
    return found


TEXT = """\
created {"response": "in_progress"}
in_progress {"response": "in_progress"}
output_item.added {"output_index": 0, "item": {"type": "message", "role": "assistant", "status": "in_progress", \
"content": []}}
content_part.added {"output_index": 0, "content_index": 0, "part": {"type": "output_text", "text": "", \
"annotations": [], "logprobs": []}}
output_text.delta {"output_index": 0, "content_index": 0, "delta": "Four", "logprobs": []}
output_text.delta {"output_index": 0, "content_index": 0, "delta": " two", "logprobs": []}
output_text.done {"output_index": 0, "content_index": 0, "text": "Four two", "logprobs": []}
content_part.done {"output_index": 0, "content_index": 0, "part": {"type": "output_text", "text": "Four two", \
"annotations": [], "logprobs": []}}
output_item.done {"output_index": 0, "item": {"type": "message", "role": "assistant", "status": "completed", \
"content": [{"type": "output_text", "text": "Four two", "annotations": [], "logprobs": []}]}}
completed {"response": "completed"}
"""

CALLS = """\
created {"response": "in_progress"}
in_progress {"response": "in_progress"}
output_item.added {"output_index": 0, "item": {"type": "reasoning", "summary": [], "status": "in_progress"}}
reasoning_summary_part.added {"output_index": 0, "summary_index": 0, "part": {"type": "summary_text", "text": ""}}
reasoning_summary_text.delta {"output_index": 0, "summary_index": 0, "delta": "Hm"}
reasoning_summary_text.done {"output_index": 0, "summary_index": 0, "text": "Hm"}
reasoning_summary_part.done {"output_index": 0, "summary_index": 0, "part": {"type": "summary_text", "text": "Hm"}}
output_item.done {"output_index": 0, "item": {"type": "reasoning", "summary": [{"type": "summary_text", \
"text": "Hm"}], "status": "completed"}}
output_item.added {"output_index": 1, "item": {"type": "function_call", "status": "in_progress", "name": "f", \
"arguments": ""}}
function_call_arguments.delta {"output_index": 1, "delta": "{}"}
function_call_arguments.done {"output_index": 1, "name": "f", "arguments": "{}"}
output_item.done {"output_index": 1, "item": {"type": "function_call", "status": "completed", "name": "f", \
"arguments": "{}"}}
output_item.added {"output_index": 2, "item": {"type": "function_call", "status": "in_progress", "name": "g", \
"arguments": ""}}
function_call_arguments.delta {"output_index": 2, "delta": "[1]"}
function_call_arguments.done {"output_index": 2, "name": "g", "arguments": "[1]"}
output_item.done {"output_index": 2, "item": {"type": "function_call", "status": "completed", "name": "g", \
"arguments": "[1]"}}
completed {"response": "completed"}
"""

REFUSAL = """\
created {"response": "in_progress"}
in_progress {"response": "in_progress"}
output_item.added {"output_index": 0, "item": {"type": "message", "role": "assistant", "status": "in_progress", \
"content": []}}
content_part.added {"output_index": 0, "content_index": 0, "part": {"type": "refusal", "refusal": ""}}
refusal.delta {"output_index": 0, "content_index": 0, "delta": "Never"}
refusal.done {"output_index": 0, "content_index": 0, "refusal": "Never"}
content_part.done {"output_index": 0, "content_index": 0, "part": {"type": "refusal", "refusal": "Never"}}
output_item.done {"output_index": 0, "item": {"type": "message", "role": "assistant", "status": "completed", \
"content": [{"type": "refusal", "refusal": "Never"}]}}
completed {"response": "completed"}
"""


def joined(lines: list[str]) -> list[str]:
    """The same transcript with the deltas of one text put together."""
    found: list[str] = []
    for line in lines:
        kind, _, data = line.partition(" ")
        if kind.endswith(".delta") and found and found[-1].startswith(kind):
            before, now = json.loads(found[-1].partition(" ")[2]), json.loads(data)
            now["delta"] = before["delta"] + now["delta"]
            found[-1] = f"{kind} {json.dumps(now)}"
        else:
            found.append(line)
    return found


TRANSCRIPTS = {
    "text": (Reply(["Four two"]), TEXT),
    "calls": (
        Reply(reasoning_content="Hm", tool_calls=[{"name": "f", "arguments": "{}"}, {"name": "g", "arguments": "[1]"}]),
        CALLS,
    ),
    "refusal": (Reply(refusal="Never"), REFUSAL),
}


@pytest.mark.parametrize("strategy", TWO)
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_the_events_of_a_stream_are_these(stage: Stage, name: str, strategy: str) -> None:
    reply, golden = TRANSCRIPTS[name]
    stage.says(reply)
    tools = [{"type": "function", "name": name} for name in "fg"]
    response = stage.post(
        {"model": "small", "input": PROMPT, "stream": True, "tools": tools, "tally": {"strategy": strategy}},
        path="/v1/responses",
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    expected = golden.splitlines()
    assert joined(transcript(response.text)) == joined(expected)
    if strategy == "off" and name == "text":
        assert transcript(response.text) == expected


def test_text_comes_as_its_upstream_says_it(stage: Stage) -> None:
    stage.says(Reply([ANSWER], per_token=0.05))
    deltas, arrived = [], []
    with stage.client("off").responses.stream(model="small", input=PROMPT) as stream:
        for each in stream:
            if each.type == "response.output_text.delta":
                deltas.append(each.delta)
                arrived.append(stage.calls[0].finished is None)
    assert deltas == tokenize(ANSWER)
    assert arrived[0]


def test_samples_vote_and_the_reply_tells_of_it(stage: Stage) -> None:
    stage.says(["The answer is 41.", ANSWER, ANSWER])
    reply = create(stage, None, extra_body={"tally": {"strategy": "self_consistency", "samples": 3}})
    assert reply.output_text == ANSWER
    assert told(reply)["votes"] == [{"answer": "42", "count": 2}, {"answer": "41", "count": 1}]
    stage.says(["The answer is 41.", ANSWER, ANSWER])
    *_, last = streamed(stage, extra_body={"tally": {"samples": 3}})
    assert last.type == "response.completed"
    assert (told(last.response)["answer"], last.response.output_text) == ("42", ANSWER)


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_passed_through_tells_of_itself_when_asked(stage: Stage, stream: bool) -> None:
    stage.says(ANSWER)
    more: JSON = {"temperature": 0, "extra_body": {"tally": {}}}
    reply = streamed(stage, **more)[-1].response if stream else create(stage, **more)
    assert (told(reply)["strategy"], told(reply)["reason"]) == ("off", "temperature 0")
    assert len(stage.calls) == 1


def test_headers_are_those_of_a_chat(stage: Stage) -> None:
    stage.says(ANSWER)
    response = stage.post(
        {"model": "small", "input": PROMPT}, path="/v1/responses", headers={"x-tally-strategy": "self_consistency"}
    )
    assert response.json()["id"] == response.headers["x-request-id"].replace("req_", "resp_")
    assert (response.headers["x-tally-strategy"], response.headers["x-tally-samples"]) == ("self_consistency", "8")
    assert float(response.headers["x-tally-cost-usd"]) == pytest.approx(stage.cost_nano / 1e9)
    cold = stage.post({"model": "small", "input": PROMPT, "temperature": 0}, path="/v1/responses")
    assert (cold.headers["x-tally-strategy"], cold.headers["x-tally-reason"]) == ("off", "temperature 0")


def test_the_votes_so_far_are_told_as_comments(stage: Stage) -> None:
    stage.says(ANSWER)
    body = {"model": "small", "input": PROMPT, "stream": True, "tally": {"progress": True, "samples": 3}}
    lines = transcript(stage.post(body, path="/self_consistency/v1/responses").text)
    assert any(line.startswith(": tally {") for line in lines)
    assert lines[-1] == 'completed {"response": "completed"}'


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
    assert kept["reasoning"] == {"effort": "low", "summary": None}
    assert kept["text"] == {
        "format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True},
        "verbosity": "low",
    }


def test_a_response_has_every_field_that_the_api_has(stage: Stage) -> None:
    stage.says(ANSWER)
    response = stage.post({"model": "small", "input": PROMPT}, path="/off/v1/responses").json()
    for name in ("id", "created_at", "completed_at", "output", "usage"):
        response.pop(name)
    nothing = ("error", "incomplete_details", "instructions", "max_output_tokens", "max_tool_calls", "temperature",
               "previous_response_id", "prompt_cache_key", "safety_identifier", "service_tier", "top_p",
               "user")  # fmt: skip
    assert response == {
        "object": "response",
        "status": "completed",
        "model": "small",
        "background": False,
        "store": False,
        "metadata": {},
        "parallel_tool_calls": True,
        "reasoning": {"effort": None, "summary": None},
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "truncation": "disabled",
        **dict.fromkeys(nothing),
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
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "rain"}]},
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
        {"role": "tool", "tool_call_id": "c2", "content": "rain"},
        {
            "role": "assistant",
            "content": "I looked.",
            "tool_calls": [{"id": "c3", "type": "custom", "custom": {"name": "shell", "input": "ls"}}],
        },
        {"role": "tool", "tool_call_id": "c3", "content": "a b"},
        {"role": "assistant", "content": None, "refusal": "No more."},
        {"role": "user", "content": "Why?"},
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stream", [False, True])
def test_parallel_calls_come_as_items_and_their_results_go_back(stage: Stage, strategy: str, stream: bool) -> None:
    stage.says(Reply(tool_calls=[{"name": "weather", "arguments": ROME}, {"name": "weather", "arguments": OSLO}]))
    more = {"tools": [WEATHER], "tool_choice": "required"}
    reply = streamed(stage, strategy, **more)[-1].response if stream else create(stage, strategy, **more)
    calls = [item for item in reply.output if item.type == "function_call"]
    assert [(call.name, call.arguments, call.status) for call in calls] == [
        ("weather", ROME, "completed"), ("weather", OSLO, "completed")]  # fmt: skip
    assert len({call.call_id for call in calls}) == len({call.id for call in calls}) == 2
    assert all(str(call.id).startswith("fc_") and call.call_id.startswith("call_") for call in calls)
    stage.says(ANSWER)
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "sun"} for call in calls]
    again = create(stage, strategy, input=[*ASKED, *reply.output, *results], tools=[WEATHER])
    assert again.output_text == ANSWER
    question, turn, *outputs = stage.calls[0].messages
    assert question == ASKED[0]
    assert [call["id"] for call in turn["tool_calls"]] == [each["tool_call_id"] for each in outputs]


def test_a_free_text_call_is_an_item_of_its_own_kind(stage: Stage) -> None:
    stage.says(Reply([{"tool_calls": [{"custom": {"name": "shell", "input": "ls -l"}}]}]))
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
    tools = [{"type": "custom", "name": "shell", "format": grammar}]
    found = streamed(stage, "off", tools=tools)
    (item,) = found[-1].response.output
    assert (item.type, item.name, item.input) == ("custom_tool_call", "shell", "ls -l")
    assert [each.type for each in found if each.type.endswith("input.done")] == ["response.custom_tool_call_input.done"]
    form = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /.+/"}}
    assert stage.calls[0].body["tools"] == [{"type": "custom", "custom": {"name": "shell", "format": form}}]


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


class Sum(BaseModel):
    total: int


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_client_parses_structured_output(stage: Stage, strategy: str) -> None:
    stage.says('{"total": 42}')
    reply = stage.client(strategy).responses.parse(model="small", input=PROMPT, text_format=Sum)
    assert reply.output_parsed == Sum(total=42)
    asked = stage.calls[0].body["response_format"]
    assert (asked["type"], asked["json_schema"]["name"], asked["json_schema"]["strict"]) == ("json_schema", "Sum", True)
    with stage.client(strategy).responses.stream(model="small", input=PROMPT, text_format=Sum) as stream:
        assert stream.get_final_response().output_parsed == Sum(total=42)


@pytest.mark.parametrize("strategy", TWO)
@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_come_with_the_text(stage: Stage, strategy: str, stream: bool) -> None:
    stage.says(Reply([ANSWER], top={" no": -3.0}))
    more: JSON = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    if stream:
        found = streamed(stage, strategy, **more)
        pieces = [entry.token for each in found if each.type == "response.output_text.delta" for entry in each.logprobs]
        assert pieces == tokenize(ANSWER)
        reply = found[-1].response
    else:
        reply = create(stage, strategy, **more)
    (part,) = reply.output[0].content
    assert [entry.token for entry in part.logprobs] == tokenize(ANSWER)
    assert [entry.token for entry in part.logprobs[0].top_logprobs] == ["The", " no"]
    assert bytes(part.logprobs[0].bytes) == b"The"


@pytest.mark.parametrize("strategy", TWO)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter"), ("stop", None)]
)
def test_what_ended_too_early_is_incomplete(
    stage: Stage, strategy: str, stream: bool, reason: str, told: str | None
) -> None:
    stage.says(Reply([ANSWER], finish_reason=reason))
    if stream:
        last = streamed(stage, strategy)[-1]
        reply, ended = last.response, last.type.removeprefix("response.")
    else:
        reply = create(stage, strategy)
        ended = reply.status
    status = "completed" if told is None else "incomplete"
    assert (ended, reply.status, reply.output[0].status) == (status, status, status)
    assert (reply.incomplete_details and reply.incomplete_details.reason) == told
    assert (reply.completed_at is None) is (told is not None)
    assert reply.output_text == ANSWER


@pytest.mark.parametrize("strategy", TWO)
def test_max_output_tokens_cuts_the_text(stage: Stage, strategy: str) -> None:
    stage.says("one two three four five")
    reply = create(stage, strategy, max_output_tokens=2)
    assert (reply.status, reply.output_text) == ("incomplete", "one two")


@pytest.mark.parametrize("strategy", TWO)
def test_reasoning_and_refusals_are_kept_apart_from_the_text(stage: Stage, strategy: str) -> None:
    stage.says(Reply([ANSWER], reasoning_content="six sevens are"))
    thought, said = create(stage, strategy).output
    assert thought.type == "reasoning"
    assert [part.text for part in thought.summary] == ["six sevens are"]
    assert said.type == "message"
    stage.says(Reply(refusal="I will not."))
    reply = create(stage, strategy)
    assert items(reply)[0]["content"] == [{"type": "refusal", "refusal": "I will not."}]
    assert reply.output_text == ""


def test_usage_tells_what_was_cached_and_what_was_thought(stage: Stage) -> None:
    stage.says(Reply([ANSWER], cached_tokens=3, reasoning_content="six sevens"))
    for reply in (create(stage, "off"), streamed(stage, "off")[-1].response):
        assert reply.usage is not None
        assert reply.usage.input_tokens_details.cached_tokens == 3
        assert reply.usage.output_tokens_details.reasoning_tokens == len(tokenize("six sevens"))


def test_the_model_has_the_name_it_was_asked_by(stage: Stage) -> None:
    stage.says(ANSWER)
    assert create(stage, "off", model="alias").model == "alias"
    assert {each.response.model for each in streamed(stage, "off", model="alias") if hasattr(each, "response")} == {
        "alias"
    }


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
        ({"input": [{"id": "msg_1"}]}, "input[0].type", "stored"),
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


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", TWO)
def test_errors_before_the_first_word_keep_their_status(stage: Stage, strategy: str, stream: bool) -> None:
    stage.says(Fault(422, "Too odd.", "odd", "odd_code"))
    ask = streamed if stream else create
    with pytest.raises(openai.UnprocessableEntityError, match="Too odd") as caught:
        ask(stage, strategy)
    assert (caught.value.code, caught.value.type) == ("odd_code", "odd")
    with pytest.raises(openai.NotFoundError):
        ask(stage, strategy, model="nope")
    with pytest.raises(openai.AuthenticationError):
        stage.client(strategy, "sk-nope").responses.create(model="small", input=PROMPT)


def test_a_stream_that_breaks_ends_with_an_error_the_client_raises(stage: Stage) -> None:
    stage.says(Drop(after_chunks=3))
    with pytest.raises(openai.APIError, match="broke"):
        streamed(stage, "off")
    stage.says(Fault(429, after_chunks=1, reply=Reply(["one two"])))
    body = {"model": "small", "input": PROMPT, "stream": True}
    text = stage.post(body, path="/off/v1/responses").text
    *_, error, failed = transcript(text)
    message = {"message": "Rate limit reached. Try again later.", "type": "requests", "param": None,
               "code": "rate_limit_exceeded"}  # fmt: skip
    assert failed == 'failed {"response": "failed"}'
    flat = {key: value for key, value in message.items() if key != "type"}
    assert json.loads(error.removeprefix("error ")) == {**flat, "error": message}
    last = json.loads(text.rstrip().rpartition("data: ")[2])["response"]
    assert last["error"]["message"] == message["message"]
    assert [item["status"] for item in last["output"]] == ["incomplete"]
    Response.model_validate(last)


def test_an_error_in_a_stream_that_was_open_before_it_is_the_first_event(stage: Stage) -> None:
    stage.says(Fault(422, "Too odd.", "odd", "odd_code"))
    body = {"model": "small", "input": PROMPT, "stream": True, "tally": {"progress": True}}
    response = stage.post(body, path="/self_consistency/v1/responses")
    assert response.status_code == 200
    *pings, error = transcript(response.text)
    assert set(pings) == {": ping"}
    assert json.loads(error.removeprefix("error "))["error"]["message"] == "Too odd."


def test_a_client_that_goes_stops_its_upstream(stage: Stage) -> None:
    stage.says(Reply(["one two three four five six seven eight"], per_token=0.2))
    with stage.client("off").responses.create(model="small", input=PROMPT, stream=True) as stream:
        next(each for each in stream if each.type == "response.output_text.delta")
    stage.upstream.wait(lambda: stage.calls[0].cancelled)


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


def grown(*chunks: JSON) -> list[JSON]:
    """The events that these chunks of a chat make."""
    head = {"model": "small", "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    growing = Growing(head, lambda: 5.0)
    return [*(event for chunk in chunks for event in growing.hear(chunk)), *growing.end()]


def piece(**delta: Any) -> JSON:
    return {"choices": [{"index": 0, "delta": delta}]}


def call(index: int, arguments: str, **more: Any) -> JSON:
    return {"index": index, "function": {"arguments": arguments, **more}}


def test_calls_that_come_in_turns_are_each_put_together() -> None:
    found = grown(
        piece(tool_calls=[call(0, '{"a"', name="f"), call(1, '{"b"', name="g")]),
        piece(tool_calls=[call(0, ":1}"), call(1, ":2}")]),
    )
    first, second = found[-1]["response"]["output"]
    assert (first["name"], first["arguments"]) == ("f", '{"a":1}')
    assert (second["name"], second["arguments"]) == ("g", '{"b":2}')
    done = [event["output_index"] for event in found if event["type"] == "response.output_item.done"]
    assert done == [0, 1]


def test_tokens_that_are_a_part_of_a_letter_keep_their_log_probabilities() -> None:
    def token(text: str, content: str) -> JSON:
        entry = {"token": text, "logprob": -0.5, "bytes": [240], "top_logprobs": []}
        return {"choices": [{"index": 0, "delta": {"content": content}, "logprobs": {"content": [entry]}}]}

    found = grown(token("a", ""), token("b", "é"), token("c", "!"))
    deltas = [event for event in found if event["type"] == "response.output_text.delta"]
    assert [[entry["token"] for entry in each["logprobs"]] for each in deltas] == [["a", "b"], ["c"]]
    (part,) = found[-1]["response"]["output"][0]["content"]
    assert [entry["token"] for entry in part["logprobs"]] == ["a", "b", "c"]


def test_thoughts_are_found_under_both_of_their_names() -> None:
    found = grown(piece(reasoning_content="", reasoning="a"), piece(reasoning_content="b", reasoning="b"))
    (item,) = found[-1]["response"]["output"]
    assert item["summary"] == [{"type": "summary_text", "text": "ab"}]


def test_words_after_a_call_are_a_message_of_their_own() -> None:
    found = grown(piece(content="a"), piece(tool_calls=[call(0, "{}", name="f")]), piece(content="b"))
    output = found[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "message"]
    assert len({item["id"] for item in output}) == 3


@pytest.mark.parametrize("chunks", [[], [piece()], [piece(content="")], [{"choices": []}]])
def test_a_reply_without_a_word_is_an_empty_message(chunks: list[JSON]) -> None:
    created, *_, last = grown(*chunks)
    assert (created["type"], last["type"]) == ("response.created", "response.completed")
    (item,) = last["response"]["output"]
    assert item["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
words = st.text(max_size=3)


@st.composite
def spoilt(draw: st.DrawFn, whole: st.SearchStrategy[Any]) -> Any:
    """The same, but for up to two places that are left out, or hold any JSON."""
    made = json.loads(json.dumps(draw(whole)))
    for _ in range(draw(st.integers(0, 2))):
        if places := list(_places(made)):
            within, key = draw(st.sampled_from(places))
            if draw(st.booleans()):
                del within[key]
            else:
                within[key] = draw(json_values)
    return made


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _places(inner)


def one(kind: str, *texts: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[JSON]:
    """Objects of a type, with these fields."""
    return st.fixed_dictionaries({"type": st.just(kind), **dict.fromkeys(texts, words), **fields})


PARTS = (
    one("input_text", "text")
    | one("input_image", "image_url", detail=st.just("low"))
    | one("input_file", "file_data", "filename")
    | one("input_audio", input_audio=st.just({"data": "", "format": "wav"}))
)
CONTENT = words | st.lists(PARTS, max_size=3)
SAID = words | st.lists(one("output_text", "text") | one("refusal", "refusal"), max_size=2)
ITEMS = (
    one("message", role=st.sampled_from(["user", "system", "developer"]), content=CONTENT)
    | one("message", role=st.just("assistant"), content=SAID)
    | one("function_call", "call_id", "name", "arguments")
    | one("custom_tool_call", "call_id", "name", "input")
    | one("function_call_output", "call_id", output=CONTENT)
    | one("reasoning", summary=st.just([]))
)
TOOLS = one("function", "name", "description", parameters=st.just({}), strict=st.booleans()) | one("custom", "name")
BODIES = st.fixed_dictionaries(
    {"input": words | st.lists(ITEMS, min_size=1, max_size=4)},
    optional={
        **dict.fromkeys(["instructions", "user", "safety_identifier", "prompt_cache_key"], words),
        **dict.fromkeys(["max_output_tokens", "max_tool_calls", "top_logprobs"], st.integers(1, 9)),
        **dict.fromkeys(["stream", "parallel_tool_calls"], st.booleans()),
        "tools": st.lists(TOOLS, max_size=3),
        "tool_choice": st.sampled_from(["auto", "none", "required"])
        | one("function", "name")
        | one("allowed_tools", mode=st.just("auto"), tools=st.lists(TOOLS, max_size=2)),
        "text": st.fixed_dictionaries(
            {"format": one("text") | one("json_object") | one("json_schema", "name", schema=st.just({"a": 1}))},
            optional={"verbosity": st.just("low")},
        ),
        "reasoning": st.just({"effort": "low"}),
        "include": st.just(["message.output_text.logprobs"]),
        "metadata": st.dictionaries(words, words, max_size=2),
        "truncation": st.just("auto"),
        "stream_options": st.just({"include_obfuscation": False}),
        "store": st.just(False),
        "temperature": st.just(0.5),
    },
)


@given(spoilt(BODIES))
def test_any_request_is_a_chat_or_a_refusal_that_names_a_field(body: JSON) -> None:
    try:
        spoken = responses({"model": "small", **body})
        check_chat(spoken.asked, 1000)
    except RequestInvalid as error:
        assert error.param
        assert re.split(r"[.\[]", error.param)[0] in body.keys() | {"input"}
        return
    roles = {message["role"] for message in spoken.asked["messages"]}
    assert roles <= {"user", "assistant", "system", "developer", "tool"}
    assert not spoken.asked.keys() & {"input", "instructions", "text", "reasoning", "include", "metadata", "store"}


@given(BODIES)
def test_the_reply_to_a_good_request_is_a_response_to_any_client(body: JSON) -> None:
    try:
        spoken = responses({"model": "small", **body})
    except RequestInvalid as error:
        # nothing but reasoning, or tools that are allowed and not there
        assert error.param in ("input", "tool_choice.tools")
        return
    completion = {"choices": [{"index": 0, "message": {"content": "42"}, "finish_reason": "stop"}]}
    reply = spoken.told(Told({"x-request-id": "req_1"}, json.dumps(completion).encode()))
    found = Response.model_validate_json(reply.body)
    assert (found.id, found.output_text, found.usage) == ("resp_1", "42", None)


@given(st.lists(ITEMS, min_size=1, max_size=6))
def test_calls_keep_their_order_and_stand_in_messages_of_the_assistant(items: list[JSON]) -> None:
    if all(item["type"] == "reasoning" for item in items):
        return
    said = messages(items, None)
    turns = [message for message in said if "tool_calls" in message]
    assert {message["role"] for message in turns} <= {"assistant"}
    called = [item["call_id"] for item in items if item["type"].endswith("_call")]
    assert [call["id"] for message in turns for call in message["tool_calls"]] == called
    results = [item["call_id"] for item in items if item["type"].endswith("_output")]
    assert [message["tool_call_id"] for message in said if message["role"] == "tool"] == results


PIECES = st.fixed_dictionaries(
    {"index": st.integers(0, 2), "function": st.fixed_dictionaries({"name": words, "arguments": words})},
    optional={"id": words},
) | st.fixed_dictionaries({"custom": st.fixed_dictionaries({"name": words, "input": words})})
ENTRIES = st.fixed_dictionaries({"token": words, "logprob": st.floats(-9, 0)}, optional={"bytes": st.just([65])})
CHUNKS = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries(
                {
                    "index": st.just(0),
                    "delta": st.fixed_dictionaries(
                        {},
                        optional={
                            **dict.fromkeys(["content", "reasoning_content", "reasoning", "refusal"], words),
                            "tool_calls": st.lists(PIECES, max_size=3),
                        },
                    ),
                },
                optional={
                    "finish_reason": st.sampled_from([None, "stop", "length"]),
                    "logprobs": st.fixed_dictionaries({"content": st.lists(ENTRIES, max_size=2)}),
                },
            ),
            max_size=2,
        )
    },
    optional={"model": words, "service_tier": st.just("flex"), "usage": st.just({"prompt_tokens": 1})},
)


@given(st.lists(spoilt(CHUNKS), max_size=5))
def test_whatever_a_provider_says_is_a_response_and_events_of_it(chunks: list[JSON]) -> None:
    try:
        assembler = Assembler()
        for chunk in chunks:
            assembler.feed(chunk)
    except UpstreamMalformed:
        # no such chunk comes so far
        return
    found = grown(*chunks)
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    output = found[-1]["response"]["output"]
    begun = [each["output_index"] for each in found if each["type"] == "response.output_item.added"]
    ended = [each["item"] for each in found if each["type"] == "response.output_item.done"]
    assert begun == list(range(len(output)))
    assert sorted(ended, key=output.index) == output
    for event in found:
        EVENTS[event["type"]].model_validate_json(json.dumps(event))
