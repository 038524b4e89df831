"""Whatever is asked and whatever a provider says: responses keep to their shapes."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from proxy.api.response_events import Growing
from proxy.api.response_input import messages
from proxy.api.serving import Reply as Told
from proxy.api.wire import check_chat
from proxy.errors import RequestInvalid, UpstreamMalformed
from proxy.upstream.assemble import Assembler
from tests.responding import EVENTS, grown, responses
from tests.staged import JSON

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


PLAIN = words | st.lists(one("input_text", "text"), max_size=3)


CONTENT = words | st.lists(PARTS, max_size=3)
SAID = words | st.lists(one("output_text", "text") | one("refusal", "refusal"), max_size=2)


ITEMS = (
    one("message", role=st.just("user"), content=CONTENT)
    | one("message", role=st.sampled_from(["system", "developer"]), content=PLAIN)
    | one("message", role=st.just("assistant"), content=SAID)
    | one("function_call", "call_id", "name", "arguments")
    | one("custom_tool_call", "call_id", "name", "input")
    | one("function_call_output", "call_id", output=PLAIN)
    | one("reasoning", summary=st.just([]))
)


@st.composite
def conversations(draw: st.DrawFn) -> list[JSON]:
    """Items whose results have their calls somewhere before them."""
    made: list[JSON] = [{"type": "message", "role": "user", "content": "?"}]
    calls: list[str] = []
    for item in draw(st.lists(ITEMS, max_size=8)):
        if item["type"].endswith("_call"):
            calls.append(f"c{len(calls)}")
            made.append({**item, "call_id": calls[-1]})
        elif not item["type"].endswith("_output"):
            made.append(item)
        elif calls:
            made.append({**item, "call_id": draw(st.sampled_from(calls))})
    return made


TOOLS = one("function", "name", "description", parameters=st.just({}), strict=st.booleans()) | one("custom", "name")


BODIES = st.fixed_dictionaries(
    {"input": words | conversations()},
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
        # tools that are allowed and not there
        assert error.param == "tool_choice.tools"
        return
    completion = {"choices": [{"index": 0, "message": {"content": "42"}, "finish_reason": "stop"}]}
    reply = spoken.told(Told({}, json.dumps(completion).encode()), "1")
    found = Response.model_validate_json(reply.body)
    assert (found.id, found.output_text, found.usage) == ("resp_1", "42", None)


@given(conversations())
def test_every_result_stands_behind_its_calls_and_nothing_is_lost(items: list[JSON]) -> None:
    said = messages(items, None)
    waiting: set[str] = set()
    for message in said:
        if message["role"] == "tool":
            assert message["tool_call_id"] in waiting
        else:
            waiting = {call["id"] for call in message.get("tool_calls", ())}
            assert not waiting or message["role"] == "assistant"
    called = [item["call_id"] for item in items if item["type"].endswith("_call")]
    assert [call["id"] for message in said for call in message.get("tool_calls", ())] == called
    results = [item["call_id"] for item in items if item["type"].endswith("_output")]
    assert Counter(message["tool_call_id"] for message in said if message["role"] == "tool") == Counter(results)
    assert [message["content"] for message in said if message["role"] == "user"] == [
        message["content"] for item in items if item.get("role") == "user" for message in messages([item], None)
    ]
    words = [message["content"] or "" for message in said if message["role"] == "assistant"]
    alone = [messages([item], None)[0]["content"] or "" for item in items if item.get("role") == "assistant"]
    assert "".join(words) == "".join(alone)


PIECES = st.fixed_dictionaries(
    {"index": st.integers(0, 2), "function": st.fixed_dictionaries({"name": words, "arguments": words})},
    optional={"id": words},
) | st.fixed_dictionaries({"custom": st.fixed_dictionaries({"name": words, "input": words})})


ENTRIES = st.fixed_dictionaries({"token": words, "logprob": st.floats(-9, 0)}, optional={"bytes": st.just([65])})


CITATIONS = st.fixed_dictionaries(
    {"type": st.just("url_citation"), "url_citation": st.fixed_dictionaries({"url": words, "title": words})}
)
SPOKEN = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["content", "reasoning_content", "reasoning", "refusal"], words),
        "tool_calls": st.lists(PIECES, max_size=3),
        "function_call": st.fixed_dictionaries({"name": words, "arguments": words}),
        "annotations": st.lists(CITATIONS, max_size=2),
    },
)


def replies(kind: str) -> st.SearchStrategy[JSON]:
    """Chunks (`delta`), or whole completions (`message`)."""
    choices = st.fixed_dictionaries(
        {"index": st.just(0), kind: SPOKEN},
        optional={
            "finish_reason": st.sampled_from([None, "stop", "length", "error"]),
            "logprobs": st.fixed_dictionaries({"content": st.lists(ENTRIES, max_size=2)}),
        },
    )
    return st.fixed_dictionaries(
        {"choices": st.lists(choices, max_size=2)},
        optional={"model": words, "service_tier": st.just("flex"), "usage": st.just({"prompt_tokens": 1})},
    )


@given(st.lists(spoilt(replies("delta")), max_size=5))
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


@given(spoilt(replies("message")))
def test_whatever_a_whole_completion_says_is_a_response(completion: JSON) -> None:
    try:
        Assembler().feed(completion)
    except UpstreamMalformed:
        return
    growing = Growing({"model": "small", "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}, lambda: 5.0)
    found = Response.model_validate_json(json.dumps(growing.whole(completion)))
    assert found.status in {"completed", "incomplete", "failed"}
    assert len({item.id for item in found.output}) == len(found.output)


# an arguments' text that is whole JSON would end its call when another begins
TURNS = st.builds(
    lambda index, own, text: {"index": index, "id": own, "function": {"name": f"f{index}", "arguments": text}},
    st.integers(0, 1),
    st.sampled_from(["", "a", "b", "c"]),
    st.sampled_from(["[", "[1"]),
)


@given(st.lists(TURNS, min_size=1, max_size=8))
def test_a_stream_and_what_is_put_together_of_it_tell_the_same_calls(pieces: list[JSON]) -> None:
    payloads = [{"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]} for piece in pieces]
    assembler = Assembler()
    for payload in payloads:
        assembler.feed(payload)
    (choice,) = assembler.cut()
    whole = [(call["function"]["name"], call["function"]["arguments"]) for call in choice.message["tool_calls"]]
    output = grown(*payloads)[-1]["response"]["output"]
    assert sorted(whole) == sorted((item["name"], item["arguments"]) for item in output)
