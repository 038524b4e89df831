"""What `POST /v1/responses` answers the official client: scaled and not, streamed and not."""

import json
import re
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from proxy.api.response_events import Growing
from proxy.api.serving import Reply as Told
from proxy.errors import UpstreamError
from proxy.upstream import sse
from tests.fake_upstream import Drop, Fault, Reply, count_prompt, tokenize
from tests.responding import (
    ANSWER,
    ASKED,
    EVENTS,
    OSLO,
    PROMPT,
    ROME,
    STRATEGIES,
    TWO,
    WEATHER,
    call,
    create,
    exactly,
    grown,
    items,
    piece,
    responses,
    streamed,
    told,
    transcript,
)
from tests.served import KEY
from tests.staged import JSON, Stage, staged


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


def ended(delta: JSON, finish: str | None = None, **more: Any) -> JSON:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def named(index: int, call_id: str, name: str, arguments: str) -> JSON:
    return {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


GLUED = [
    ended({"role": "assistant", "content": None}),
    ended({"tool_calls": [named(0, "a", "f", '{"x":')]}),
    ended({"tool_calls": [call(0, "1}")]}),
    ended({"tool_calls": [named(0, "b", "g", '{"y":')]}),
    ended({"tool_calls": [call(0, "2}")]}),
    ended({}, "tool_calls"),
]
"""Two calls at one index, each with an id of its own."""


@pytest.mark.parametrize("strategy", TWO)
def test_calls_at_one_index_with_ids_of_their_own_are_two(stage: Stage, strategy: str) -> None:
    stage.says(exactly(*GLUED))
    tools = [{"type": "function", "name": name} for name in "fg"]
    output = streamed(stage, strategy, tools=tools, extra_body={"tally": {"samples": 2}})[-1].response.output
    assert [(item.call_id, item.name, item.arguments) for item in output] == [
        ("a", "f", '{"x":1}'),
        ("b", "g", '{"y":2}'),
    ]


def test_calls_at_one_index_are_numbered_anew_in_a_scaled_chat(stage: Stage) -> None:
    stage.says(exactly(*GLUED))
    tools = [{"type": "function", "function": {"name": name}} for name in "fg"]
    more: JSON = {"tools": tools, "tally": {"samples": 2}}
    chunks = [json.loads(each) for each in stage.events(**more)[:-1]]
    pieces = [each for chunk in chunks for each in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [(each["index"], each["id"], each["function"]["name"]) for each in pieces] == [(0, "a", "f"), (1, "b", "g")]
    stage.says(exactly(*GLUED))
    (choice,) = stage.ask(tools=tools, extra_body={"tally": {"samples": 2}}).choices
    assert [each.id for each in choice.message.tool_calls or ()] == ["a", "b"]


def test_an_id_that_is_said_again_is_of_the_same_call() -> None:
    first, second = named(0, "a", "f", ""), named(0, "b", "f", "")
    again = {**call(0, "1"), "id": "a"}
    output = grown(piece(tool_calls=[first, second]), piece(tool_calls=[again]))[-1]["response"]["output"]
    assert [(item["call_id"], item["arguments"]) for item in output] == [("a", "1"), ("b", "")]


def test_a_call_begins_when_its_name_is_known() -> None:
    found = grown(
        piece(tool_calls=[{"index": 0, "id": "a"}]),
        piece(tool_calls=[call(0, "{")]),
        piece(tool_calls=[call(1, "{}", name="g")]),
        piece(tool_calls=[{"index": 1, "id": "b"}]),
        piece(tool_calls=[call(0, "", name="f")]),
        piece(tool_calls=[{**call(0, "}", name=""), "id": ""}]),
    )
    added = [event["item"] for event in found if event["type"] == "response.output_item.added"]
    assert [(item["name"], item["arguments"]) for item in added] == [("g", ""), ("f", "")]
    output = found[-1]["response"]["output"]
    assert [(item["call_id"], item["name"], item["arguments"]) for item in output] == [
        ("b", "g", "{}"), ("a", "f", "{}")]  # fmt: skip
    deltas = [event["delta"] for event in found if event.get("output_index") == 1 and "delta" in event]
    assert deltas == ["{", "}"]


def test_what_comes_of_a_call_that_was_told_whole_changes_nothing() -> None:
    found = grown(
        piece(tool_calls=[call(0, "{}", name="f")]),
        piece(content="a"),
        piece(tool_calls=[call(0, "5", name="g")]),
    )
    (done, _) = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert (done["name"], done["arguments"]) == ("f", "{}")
    assert found[-1]["response"]["output"][0] == done


def test_a_call_whose_name_never_comes_is_told_at_the_end() -> None:
    (item,) = grown(piece(tool_calls=[call(0, "{}")]))[-1]["response"]["output"]
    assert (item["name"], item["arguments"], item["status"]) == ("", "{}", "completed")


def test_calls_without_ids_get_some_that_no_other_response_has() -> None:
    made = []
    for identity in ("1", "2"):
        growing = Growing({}, lambda: 5.0)
        growing.identity = identity
        message = {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}] * 2}
        made += [item["call_id"] for item in growing.whole({"choices": [{"message": message}]})["output"]]
    assert len(set(made)) == 4


def test_calls_of_a_whole_message_are_one_by_one_whatever_their_indices() -> None:
    message = {"tool_calls": [call(0, "{}", name="f"), call(0, "[]", name="g")]}
    output = grown({"choices": [{"message": message}]})[-1]["response"]["output"]
    assert [(item["name"], item["arguments"]) for item in output] == [("f", "{}"), ("g", "[]")]


def test_free_text_calls_that_come_in_turns_are_each_put_together() -> None:
    def part(index: int, text: str, **more: str) -> JSON:
        return {"index": index, "custom": {"input": text, **more}}

    found = grown(
        piece(tool_calls=[part(0, "a", name="f"), part(1, "1", name="g")]),
        piece(tool_calls=[part(0, "b"), part(1, "2")]),
    )
    assert [item["input"] for item in found[-1]["response"]["output"]] == ["ab", "12"]


def test_the_one_call_of_servers_that_know_no_tools_is_a_call() -> None:
    found = grown(
        piece(function_call={"name": "f", "arguments": ""}),
        piece(function_call={"arguments": "{}"}),
        ended({}, "function_call"),
    )
    (item,) = found[-1]["response"]["output"]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", "f", "{}")


CITED: JSON = {
    "type": "url_citation",
    "url_citation": {"url": "https://a.test", "title": "A", "start_index": 1, "end_index": 4},
}


@pytest.mark.parametrize("strategy", TWO)
def test_citations_of_web_pages_come_with_the_text(stage: Stage, strategy: str) -> None:
    stage.says(Reply([{"content": ANSWER, "annotations": [CITED]}]))
    flat = {"type": "url_citation", **CITED["url_citation"]}
    found = streamed(stage, strategy)
    added = [each.to_dict() for each in found if each.type == "response.output_text.annotation.added"]
    assert [(each["annotation_index"], each["annotation"]) for each in added] == [(0, flat)]
    for reply in (found[-1].response, create(stage, strategy)):
        assert items(reply)[0]["content"][0]["annotations"] == [flat]


def test_citations_wait_for_the_text_and_what_is_none_is_left_out() -> None:
    bare = {"type": "url_citation", "url": "https://b.test"}
    wrong = [None, {"type": "file", "file": {}}, {"type": "url_citation"}, {"type": "url_citation", "url_citation": 5}]
    found = grown(piece(annotations=[CITED]), piece(content="a"), piece(annotations=[*wrong, bare]))
    kinds = [event["type"] for event in found]
    assert kinds.index("response.content_part.added") < kinds.index("response.output_text.annotation.added")
    (part,) = found[-1]["response"]["output"][0]["content"]
    assert [note["url"] for note in part["annotations"]] == ["https://a.test", "https://b.test"]
    assert part["annotations"][1] == {**bare, "title": "", "start_index": 0, "end_index": 0}
    *_, last = grown(piece(annotations=[CITED]))
    assert len(last["response"]["output"][0]["content"][0]["annotations"]) == 1


def test_a_chunk_without_a_name_of_the_model_says_nothing_of_it() -> None:
    found = grown(ended({}, model=""), ended({"content": "a"}, model="large"))
    assert [event["response"]["model"] for event in found if "response" in event] == ["small", "small", "large"]


def token(text: str) -> JSON:
    return {"content": [{"token": text, "logprob": -0.5, "bytes": [240], "top_logprobs": []}]}


@pytest.mark.parametrize("delta", [{}, {"content": ""}, None])
def test_tokens_after_the_last_letter_are_told_at_the_end(delta: JSON | None) -> None:
    first = {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": token("a")}]}
    last = {"choices": [{"index": 0, "delta": delta, "logprobs": token("<end>"), "finish_reason": "stop"}]}
    found = grown(first, last)
    (part,) = found[-1]["response"]["output"][0]["content"]
    assert [entry["token"] for entry in part["logprobs"]] == ["a", "<end>"]
    told = [entry["token"] for event in found if event["type"].endswith("text.delta") for entry in event["logprobs"]]
    assert told == ["a", "<end>"]


def test_tokens_after_a_refusal_begin_no_text() -> None:
    last = {"choices": [{"index": 0, "delta": {}, "logprobs": token("<end>")}]}
    (item,) = grown(piece(refusal="no"), last)[-1]["response"]["output"]
    assert [part["type"] for part in item["content"]] == ["refusal"]


def test_a_provider_that_ends_with_an_error_has_failed() -> None:
    found = grown(ended({"content": "a"}), ended({}, "error"))
    last = found[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"]["code"] == "server_error"
    assert [item["status"] for item in last["response"]["output"]] == ["incomplete"]
    EVENTS[last["type"]].model_validate(last)


@pytest.mark.parametrize(("status", "code"), [(429, "rate_limit_exceeded"), (500, "server_error")])
def test_what_broke_a_stream_has_a_code_of_its_own(status: int, code: str) -> None:
    growing = Growing({}, lambda: 5.0)
    error = UpstreamError("Broken.", status=status)
    assert [event["type"] for event in growing.fail(error)] == ["error"]
    assert list(growing.hear(piece(content="a")))
    *_, failed = growing.fail(error)
    assert failed["response"]["error"] == {"code": code, "message": "Broken."}


def test_of_several_choices_the_first_is_told() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "length"}]}
    last = grown(piece(content="a"), other)[-1]
    assert (last["type"], last["response"]["output"][0]["content"][0]["text"]) == ("response.completed", "a")


def test_a_response_tells_when_it_was_made_and_by_which_tier() -> None:
    response = grown(ended({"content": "a"}, service_tier="flex"), ended({}, service_tier="odd"))[-1]["response"]
    assert (response["created_at"], response["completed_at"], response["service_tier"]) == (5, 5, "flex")


def test_usage_tells_what_was_written_to_a_cache() -> None:
    details = {"cached_tokens": 3, "cache_write_tokens": 4}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": details}
    response = grown(ended({"content": "a"}, usage=usage))[-1]["response"]
    assert response["usage"]["input_tokens_details"] == details
    EVENTS["response.completed"].model_validate({"type": "response.completed", "sequence_number": 0, "response": {
        **response, "model": "small"}})  # fmt: skip


@pytest.mark.anyio
async def test_a_stream_that_is_closed_closes_what_it_is_made_from() -> None:
    closed = []

    async def chat() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield sse.event(json.dumps(piece(content="a")).encode())
        finally:
            closed.append(True)

    source = chat()
    events = responses({"model": "small", "input": PROMPT, "stream": True}).told(Told({}, events=source), "1").events
    assert events is not None
    assert (await anext(events)).startswith(b"event: response.created\n")
    await events.aclose()
    assert closed


def test_a_client_that_goes_while_samples_are_drawn_stops_them_all(stage: Stage) -> None:
    stage.says(Reply(["one two three four five six seven eight"], per_token=0.2))
    body = {"model": "small", "input": PROMPT, "stream": True, "tally": {"progress": True}}
    url, key = f"{stage.tally.url}/self_consistency/v1/responses", {"authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", url, json=body, headers=key) as response:
        lines = response.iter_lines()
        assert next(lines) == ": ping"
        stage.upstream.wait(lambda: bool(stage.calls))
    stage.upstream.wait(lambda: all(call.cancelled for call in stage.calls))


def test_a_client_that_does_not_wait_for_a_whole_response_stops_its_samples(stage: Stage) -> None:
    stage.says(Reply(["one two three four five six seven eight"], per_token=0.2))
    with pytest.raises(openai.APITimeoutError):
        stage.client().with_options(timeout=0.3).responses.create(model="small", input=PROMPT)
    assert stage.calls
    stage.upstream.wait(lambda: all(call.cancelled for call in stage.calls))
