"""LiteLLM's transforms, driven without the rest of `acompletion`: the same on the wire, and the same back."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio
import anyio.to_thread
import orjson
import pytest

from proxy.errors import UpstreamError, UpstreamUnreachable
from proxy.types import JSON, Usage
from proxy.upstream import Endpoint
from proxy.upstream.assemble import Assembler
from proxy.upstream.litellm import LiteLLMLane
from proxy.upstream.usage import told
from tests.fake.script import Step
from tests.fake_upstream import Call, FakeUpstream, Fault, Reply
from tests.native_upstream import CLIENTS_OWN, Answer, NativeUpstream, Sent

KEY = "sk-a-secret-of-ours"
USER = {"role": "user", "content": "What is 6 x 7?"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
PAPER = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0xLjQK"}}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}
CALLED = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
CALLED_TOO = {"id": "c2", "type": "function", "function": {"name": "add", "arguments": '{"a":2}'}}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": "Be right."},
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALLED, CALLED_TOO]},
    {"role": "tool", "tool_call_id": "c1", "content": "42"},
    {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "43"}]},
    {"role": "assistant", "content": "42"},
    {"role": "user", "name": "bob", "content": "And now?"},
]
REQUESTS: dict[str, JSON] = {
    "text": {},
    "all roles": {"messages": TURNS, "tools": [ADD]},
    "tools": {"tools": [ADD], "tool_choice": "auto", "parallel_tool_calls": False},
    "a forced tool": {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "add"}}},
    "an image": {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, PICTURE]}]},
    "json schema": {"response_format": AS_SCHEMA},
    "json object": {"response_format": {"type": "json_object"}},
    "sampling": {"temperature": 0.5, "top_p": 0.9, "stop": ["\n", "END"], "max_tokens": 50},
    "temperature 0": {"temperature": 0, "stop": "END", "max_completion_tokens": 60},
    "nulls": dict.fromkeys(("temperature", "stop", "tools", "max_tokens", "response_format")),
}
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
_RANDOM = re.compile(r"call_[0-9a-f-]{20,}")

pytestmark = [
    pytest.mark.anyio,
    # pydantic's remark on types of LiteLLM's; the lane's own filter ends with the test that imports LiteLLM
    pytest.mark.filterwarnings("ignore:Items? '.*' on TypedDict class"),
    # and on what LiteLLM's stream wrapper, which is not driven, makes of its own types
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_"),
]


@dataclass(frozen=True, slots=True)
class Kind:
    """A provider: a model of it, what it says whole and in events, and what only it is asked."""

    model: str
    whole: Mapping[str, JSON]
    events: Mapping[str, list[JSON | str]]
    requests: Mapping[str, JSON] = field(default_factory=dict)
    names: bool = False


def anthropic(*blocks: JSON, stop: str = "end_turn") -> JSON:
    usage = {"input_tokens": 20, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 40}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929"}
    return {**head, "content": list(blocks), "stop_reason": stop, "stop_sequence": None, "usage": usage}


def anthropic_events(*blocks: tuple[JSON, list[JSON]], stop: str = "end_turn") -> list[JSON | str]:
    usage = {"input_tokens": 20, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 1}
    start = {**anthropic(), "stop_reason": None, "usage": usage}
    events: list[JSON | str] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, (block, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": stop, "stop_sequence": None}
    return [
        *events,
        {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 40}},
        {"type": "message_stop"},
    ]


def texts(*said: str) -> tuple[JSON, list[JSON]]:
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": text} for text in said]


def tool_use(name: str, call: str, *pieces: str) -> tuple[JSON, list[JSON]]:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return {"type": "tool_use", "id": call, "name": name, "input": {}}, deltas


THOUGHT: tuple[JSON, list[JSON]] = (
    {"type": "thinking", "thinking": "", "signature": ""},
    [
        {"type": "thinking_delta", "thinking": "Six "},
        {"type": "thinking_delta", "thinking": "sevens."},
        {"type": "signature_delta", "signature": "c2ln"},
    ],
)
ANTHROPIC = Kind(
    "claude-sonnet-4-5",
    {
        "text": anthropic({"type": "text", "text": "The answer is 42."}),
        "a call": anthropic(
            {"type": "text", "text": "Let me add."},
            {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}},
            {"type": "tool_use", "id": "t2", "name": "add", "input": {}},
            stop="tool_use",
        ),
        "as a tool": anthropic(
            {"type": "tool_use", "id": "t1", "name": "json_tool_call", "input": {"a": 1}}, stop="tool_use"
        ),
        "thoughts": anthropic(
            {"type": "thinking", "thinking": "Six sevens.", "signature": "c2ln"}, {"type": "text", "text": "42"}
        ),
        "cut": anthropic({"type": "text", "text": "The"}, stop="max_tokens"),
        "refused": anthropic({"type": "text", "text": "No."}, stop="refusal"),
        "nothing": anthropic(),
    },
    {
        "text": anthropic_events(texts("The answer ", "is 42.", " \u2028 line")),
        "a call": anthropic_events(
            texts("Let me add."),
            tool_use("add", "t1", '{"a"', ": 1}"),
            tool_use("add", "t2"),
            stop="tool_use",
        ),
        "as a tool": anthropic_events(tool_use("json_tool_call", "t1", '{"a"', ": 1}"), stop="tool_use"),
        "thoughts": anthropic_events(THOUGHT, texts("42")),
        "hidden thoughts": anthropic_events(({"type": "redacted_thinking", "data": "aGlkZGVu"}, []), texts("42")),
        "cut": anthropic_events(texts("The"), stop="max_tokens"),
        "refused": anthropic_events(texts("No."), stop="refusal"),
    },
    {
        "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000},
        "effort": {"reasoning_effort": "low", "max_tokens": 8000},
        "top_k": {"top_k": 40},
        "a cached prefix": {
            "messages": [
                {
                    "role": "system",
                    "content": [{"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral"}}],
                },
                USER,
            ]
        },
        "a paper": {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, PAPER]}]},
        "thoughts before": {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": "42",
                    "thinking_blocks": [{"type": "thinking", "thinking": "Six sevens.", "signature": "c2ln"}],
                },
                {"role": "user", "content": "Sure?"},
            ],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "max_tokens": 2000,
        },
        "a tool's odd name": {"tools": [{"type": "function", "function": {"name": "a/b", "parameters": {}}}]},
        "user": {"user": "someone"},
        "several system prompts": {
            "messages": [{"role": "system", "content": "A."}, USER, {"role": "system", "content": "B."}, USER]
        },
    },
    names=True,
)
GOOGLE_USAGE = {
    "promptTokenCount": 20,
    "candidatesTokenCount": 30,
    "thoughtsTokenCount": 10,
    "totalTokenCount": 60,
    "cachedContentTokenCount": 5,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 20}],
}


def gemini(*parts: JSON, stop: str | None = "STOP", usage: JSON | None = None) -> JSON:
    candidate = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    head = {"modelVersion": "gemini-2.5-flash", "responseId": "r1", "usageMetadata": usage or GOOGLE_USAGE}
    return {"candidates": [candidate | ({"finishReason": stop} if stop else {})], **head}


GEMINI = Kind(
    "gemini-2.5-flash",
    {
        "text": gemini({"text": "The answer is 42."}),
        "a call": gemini({"functionCall": {"name": "add", "args": {"a": 1}}, "thoughtSignature": "c2ln"}),
        "thoughts": gemini({"text": "Six sevens.", "thought": True}, {"text": "42", "thoughtSignature": "c2ln"}),
        "cut": gemini({"text": "The"}, stop="MAX_TOKENS"),
        "refused": {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": GOOGLE_USAGE, "responseId": "r1"},
        "filtered": gemini(stop="SAFETY"),
    },
    {
        "text": [
            gemini({"text": "The answer "}, stop=None),
            gemini({"text": "is 42."}, stop=None),
            gemini({"text": ""}),
        ],
        "text at once": [gemini({"text": "The answer is 42."})],
        "a call": [
            gemini({"functionCall": {"name": "add", "args": {"a": 1}}, "thoughtSignature": "c2ln"}, stop=None),
            gemini({"functionCall": {"name": "add", "args": {"a": 2}}}, stop=None),
            gemini({"text": ""}),
        ],
        "thoughts": [
            gemini({"text": "Six sevens.", "thought": True}, stop=None),
            gemini({"text": "42", "thoughtSignature": "c2ln"}),
        ],
        "cut": [gemini({"text": "The"}, stop=None), gemini({"text": ""}, stop="MAX_TOKENS")],
        "filtered": [gemini({"text": "The"}, stop=None), gemini(stop="SAFETY")],
    },
    {
        "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        "effort": {"reasoning_effort": "low"},
        "several": {"n": 2},
        "seed and penalties": {"seed": 7, "frequency_penalty": 0.1, "presence_penalty": 0.2},
    },
)


KINDS = {"anthropic": ANTHROPIC, "gemini": GEMINI}
ROWS = [(provider, name) for provider, kind in KINDS.items() for name in {**REQUESTS, **kind.requests}]
REPLIES = [(provider, name, False) for provider, kind in KINDS.items() for name in kind.whole]
REPLIES += [(provider, name, True) for provider, kind in KINDS.items() for name in kind.events]
SHAPED = ("deepseek", "fireworks_ai", "groq", "mistral", "openrouter", "together_ai", "xai")


class Taking(Protocol):
    """A provider that keeps what it was sent."""

    def taken(self) -> list[Sent]:
        """The requests since the last call of this."""


@pytest.fixture
async def lanes() -> AsyncIterator[tuple[LiteLLMLane, LiteLLMLane]]:
    """The transforms driven, and `acompletion` itself."""
    driven, whole = LiteLLMLane(), LiteLLMLane(drive=False)
    yield driven, whole
    await driven.close()
    await whole.close()


@pytest.fixture(scope="module")
def listening() -> Iterator[NativeUpstream]:
    with NativeUpstream() as upstream:
        yield upstream


@pytest.fixture
def native(listening: NativeUpstream) -> NativeUpstream:
    listening.taken()
    return listening


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back: the choices, the usage and the model, or the error."""

    choices: Any = None
    usage: Any = None
    error: Any = None


def counted(usage: JSON | None) -> Usage | None:
    """What is charged for; how LiteLLM repeats itself about it does not matter."""
    return None if usage is None else told(usage)


async def heard(lane: LiteLLMLane, endpoint: Endpoint, body: JSON, *, stream: bool) -> Heard:
    try:
        if not stream:
            reply = orjson.loads(_RANDOM.sub("call_x", (await lane.complete(endpoint, body, 10.0)).decode()))
            return Heard(reply["choices"], counted(reply.get("usage")))
        assembler = Assembler()
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        choices = []
        async for chunk in lane.stream(endpoint, body, 10.0):
            choices += assembler.feed(orjson.loads(_RANDOM.sub("call_x", chunk.decode())))
        said = [(each.index, each.message, each.finish_reason, each.logprobs) for each in choices]
        return Heard(said, counted(assembler.usage))
    except UpstreamError as error:
        return Heard(error=(type(error), error.status, error.message, error.type, error.code, error.retry_after))


def answer_of(kind: Kind, name: str, *, stream: bool) -> Answer:
    return Answer(events=kind.events[name], names=kind.names) if stream else Answer(kind.whole[name])


async def both(
    lanes: tuple[LiteLLMLane, LiteLLMLane], native: Taking, endpoint: Endpoint, body: JSON, *, stream: bool
) -> list[tuple[list[Sent], Heard]]:
    """What was sent and what was heard, driven and by `acompletion`."""
    found = []
    for lane in lanes:
        said = await heard(lane, endpoint, body, stream=stream)
        found.append((native.taken(), said))
    return found


def at(native: NativeUpstream, provider: str, model: str | None = None, **params: Any) -> Endpoint:
    kind = KINDS[provider]
    return Endpoint(provider, model or kind.model, native.url, KEY, params)


@STREAM
@pytest.mark.parametrize(("provider", "name"), ROWS)
async def test_a_request_is_the_same_on_the_wire(
    lanes: tuple[LiteLLMLane, LiteLLMLane], native: NativeUpstream, provider: str, name: str, stream: bool
) -> None:
    kind = KINDS[provider]
    native.answer = answer_of(kind, "text", stream=stream and name != "several")
    body = {"model": kind.model, "messages": [USER], **{**REQUESTS, **kind.requests}[name]}
    (sent, said), (sent_whole, said_whole) = await both(lanes, native, at(native, provider), body, stream=stream)
    assert len(sent) == 1
    assert sent == sent_whole
    assert said == said_whole
    assert said.error is None


@pytest.mark.parametrize(("provider", "name", "stream"), REPLIES)
async def test_a_reply_reads_the_same(
    lanes: tuple[LiteLLMLane, LiteLLMLane], native: NativeUpstream, provider: str, name: str, stream: bool
) -> None:
    kind = KINDS[provider]
    native.answer = answer_of(kind, name, stream=stream)
    body = {"model": kind.model, "messages": [USER], "tools": [ADD]}
    (_, said), (_, said_whole) = await both(lanes, native, at(native, provider), body, stream=stream)
    assert said == said_whole
    assert said.error is None


@STREAM
@pytest.mark.parametrize("model", ["claude-3-5-haiku-20241022", "claude-opus-4-6", "claude-of-tomorrow"])
@pytest.mark.parametrize("name", ["json schema", "json object", "effort", "tools"])
async def test_each_generation_of_a_model_is_asked_in_its_own_way(
    lanes: tuple[LiteLLMLane, LiteLLMLane], native: NativeUpstream, model: str, name: str, stream: bool
) -> None:
    native.answer = answer_of(ANTHROPIC, "as a tool", stream=stream)
    body = {"model": model, "messages": [USER], **{**REQUESTS, **ANTHROPIC.requests}[name]}
    (sent, said), (sent_whole, said_whole) = await both(
        lanes, native, at(native, "anthropic", model), body, stream=stream
    )
    assert sent == sent_whole
    assert said == said_whole


@STREAM
@pytest.mark.parametrize("provider", KINDS)
async def test_the_operators_parameters_and_headers_are_the_same_on_the_wire(
    lanes: tuple[LiteLLMLane, LiteLLMLane], native: NativeUpstream, provider: str, stream: bool
) -> None:
    native.answer = answer_of(KINDS[provider], "text", stream=stream)
    params: JSON = {"temperature": 0.1, "extra_headers": {"x-team": "a"}, "extra_body": {"labels": {"a": "b"}}}
    body = {"model": KINDS[provider].model, "messages": [USER], "top_p": 0.9, "unknown_field": 1}
    (sent, _), (sent_whole, _) = await both(lanes, native, at(native, provider, **params), body, stream=stream)
    assert sent == sent_whole
    assert sent[0].headers["x-team"] == "a"


ANTHROPIC_ERROR: JSON = {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down."}}
GOOGLE_ERROR: JSON = {"error": {"code": 429, "message": "Slow down.", "status": "RESOURCE_EXHAUSTED"}}
ERRORS: dict[str, JSON] = {"anthropic": ANTHROPIC_ERROR, "gemini": GOOGLE_ERROR}
FAULTS = {
    "rate limit": Answer(ANTHROPIC_ERROR, status=429, headers={"retry-after": "7"}),
    "its rate limit": Answer(GOOGLE_ERROR, status=429),
    "bad request": Answer({"error": {"type": "invalid_request_error", "message": f"bad {KEY}"}}, status=400),
    "key": Answer({"error": {"type": "authentication_error", "message": "invalid x-api-key"}}, status=401),
    "overloaded": Answer({"error": {"type": "overloaded_error", "message": "Overloaded"}}, status=529),
    "no JSON": Answer("<html>", status=502),
    "an empty reply": Answer("", status=500),
}


@STREAM
@pytest.mark.parametrize("provider", KINDS)
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_told_the_same_and_the_provider_is_asked_once(
    lanes: tuple[LiteLLMLane, LiteLLMLane], native: NativeUpstream, provider: str, name: str, stream: bool
) -> None:
    native.answer = FAULTS[name]
    body = {"model": KINDS[provider].model, "messages": [USER]}
    (sent, said), (_, said_whole) = await both(lanes, native, at(native, provider), body, stream=stream)
    assert len(sent) == 1
    assert said == said_whole
    assert said.error is not None
    assert KEY not in said.error[2]


@pytest.mark.parametrize(
    "answer", [Answer("not JSON"), Answer({"candidates": 7, "content": 7}), Answer(events=["{not JSON", "7"])]
)
@pytest.mark.parametrize("provider", KINDS)
async def test_a_reply_of_no_known_shape_is_the_providers_error_and_no_second_call(
    lanes: tuple[LiteLLMLane, LiteLLMLane], native: NativeUpstream, provider: str, answer: Answer
) -> None:
    native.answer = answer
    body = {"model": KINDS[provider].model, "messages": [USER]}
    said = await heard(lanes[0], at(native, provider), body, stream=bool(answer.events))
    assert len(native.taken()) == 1
    assert said.error is not None
    assert said.error[1] in {500, 502}


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_stream_that_ends_without_a_reason_is_an_error(
    lanes: tuple[LiteLLMLane, LiteLLMLane], native: NativeUpstream, breaks: bool
) -> None:
    native.answer = Answer(events=ANTHROPIC.events["text"][:-2], names=True, breaks=breaks)
    with pytest.raises(UpstreamUnreachable) as caught:
        async for _ in lanes[0].stream(at(native, "anthropic"), {"model": "m", "messages": [USER]}, 10.0):
            pass
    assert caught.value.sent


@pytest.mark.parametrize("provider", KINDS)
async def test_an_error_in_a_stream_is_told_in_the_providers_words(
    lanes: tuple[LiteLLMLane, LiteLLMLane], native: NativeUpstream, provider: str
) -> None:
    kind = KINDS[provider]
    error = ERRORS[provider]
    native.answer = Answer(events=[*kind.events["text"][:2], error], names=kind.names)
    body = {"model": kind.model, "messages": [USER]}
    (_, said), (_, said_whole) = await both(lanes, native, at(native, provider), body, stream=True)
    assert said.error is not None
    assert said.error[:2] == said_whole.error[:2]
    assert "Slow down." in said.error[2]
    # there LiteLLM puts its own around them
    assert said.error[2] in said_whole.error[2]


@pytest.mark.parametrize("provider", KINDS)
async def test_closing_a_stream_disconnects(
    lanes: tuple[LiteLLMLane, LiteLLMLane], native: NativeUpstream, provider: str
) -> None:
    kind = KINDS[provider]
    native.gone.clear()
    *_, event = (each for each in kind.events["text"] if "answer" in str(each))
    native.answer = Answer(events=[event] * 100_000, names=kind.names)
    stream = lanes[0].stream(at(native, provider), {"model": "m", "messages": [USER]}, 10.0)
    await anext(stream)
    await stream.aclose()
    assert await anyio.to_thread.run_sync(native.gone.wait, 5.0)


@pytest.mark.parametrize("provider", KINDS)
async def test_nobody_listening_is_unreachable_and_nothing_was_sent(
    lanes: tuple[LiteLLMLane, LiteLLMLane], provider: str
) -> None:
    gone = Endpoint(provider, KINDS[provider].model, "http://127.0.0.1:9", KEY, {})
    with pytest.raises(UpstreamUnreachable) as caught:
        await lanes[0].complete(gone, {"model": "m", "messages": [USER]}, 10.0)
    assert not caught.value.sent
    assert "127.0.0.1" not in caught.value.message


SHAPED_REPLIES: dict[str, Step] = {
    "text": Reply(("The answer is 42.",), cached_tokens=2, service_tier="default"),
    "a call": Reply(tool_calls=[{"name": "add", "arguments": '{"a":1}'}], service_tier="default"),
    "reasoning": Reply(("42",), reasoning_content="Six sevens.", service_tier="default"),
    "refusal": Reply(refusal="I will not.", service_tier="default"),
    "fault": Fault(429, "slow down", "requests", "rate_limit_exceeded", retry_after=7),
    "length": Reply(("one two three",), finish_reason="length", service_tier="default"),
}
SHAPED_REQUESTS: dict[str, JSON] = {
    **REQUESTS,
    "n": {"n": 2},
    "seed and logprobs": {"seed": 7, "logprobs": True, "top_logprobs": 2},
    "effort": {"reasoning_effort": "low"},
    "unknown": {"foo_field": {"a": [1, None]}, "top_k": 40},
}


# what LiteLLM's wrapper of a stream loses, and the provider's own chunks have
LOST = {("openrouter", "n"), ("openrouter", "refusal")}


class Shaped:
    """A provider of OpenAI's shape; `reply` is what it says."""

    def __init__(self) -> None:
        self.reply: Step = Reply()
        self.upstream = FakeUpstream(self._say)

    def _say(self, _: Call) -> Step:
        return self.reply

    def taken(self) -> list[Sent]:
        self.upstream.wait(lambda: not self.upstream.in_flight)
        calls = [
            Sent(call.path, {name: said for name, said in call.headers.items() if name not in CLIENTS_OWN}, call.body)
            for call in self.upstream.calls
        ]
        self.upstream.calls.clear()
        return calls


@pytest.fixture(scope="module")
def shaped() -> Iterator[Shaped]:
    made = Shaped()
    with made.upstream:
        yield made


@STREAM
@pytest.mark.parametrize("name", SHAPED_REQUESTS)
@pytest.mark.parametrize("provider", SHAPED)
async def test_a_request_in_openais_shape_is_the_same_on_the_wire(
    lanes: tuple[LiteLLMLane, LiteLLMLane], shaped: Shaped, provider: str, name: str, stream: bool
) -> None:
    shaped.reply = SHAPED_REPLIES["text"]
    body = {"model": "small", "messages": [USER], **SHAPED_REQUESTS[name]}
    endpoint = Endpoint(provider, "small", shaped.upstream.base_url, KEY, {})
    (sent, said), (sent_whole, said_whole) = await both(lanes, shaped, endpoint, body, stream=stream)
    assert len(sent) == 1
    assert sent == sent_whole
    assert said.error is None
    assert said == said_whole or (stream and (provider, name) in LOST)


@STREAM
@pytest.mark.parametrize("name", SHAPED_REPLIES)
@pytest.mark.parametrize("provider", SHAPED)
async def test_a_reply_in_openais_shape_reads_the_same(
    lanes: tuple[LiteLLMLane, LiteLLMLane], shaped: Shaped, provider: str, name: str, stream: bool
) -> None:
    shaped.reply = SHAPED_REPLIES[name]
    body = {"model": "small", "messages": [USER], "tools": [ADD]}
    endpoint = Endpoint(provider, "small", shaped.upstream.base_url, KEY, {})
    (sent, said), (_, said_whole) = await both(lanes, shaped, endpoint, body, stream=stream)
    assert len(sent) == 1
    assert said == said_whole or (stream and (provider, name) in LOST)
    assert (said.error is not None) == (name == "fault")


@pytest.mark.parametrize("name", ["n", "refusal"])
async def test_what_litellms_stream_wrapper_loses_is_told(
    lanes: tuple[LiteLLMLane, LiteLLMLane], shaped: Shaped, name: str
) -> None:
    shaped.reply = SHAPED_REPLIES["refusal" if name == "refusal" else "text"]
    body = {"model": "small", "messages": [USER], "n": 2 if name == "n" else 1}
    endpoint = Endpoint("openrouter", "small", shaped.upstream.base_url, KEY, {})
    said = await heard(lanes[0], endpoint, body, stream=True)
    message = {"role": "assistant", "content": "The answer is 42."}
    refusal = {"role": "assistant", "content": None, "refusal": "I will not."}
    assert [each[1] for each in said.choices] == ([refusal] if name == "refusal" else [message, message])


async def test_what_cannot_be_driven_goes_by_acompletion(
    lanes: tuple[LiteLLMLane, LiteLLMLane], native: NativeUpstream
) -> None:
    native.answer = answer_of(ANTHROPIC, "thoughts", stream=True)
    body = {"model": ANTHROPIC.model, "messages": [USER]}
    endpoint = at(native, "anthropic", merge_reasoning_content_in_choices=True)
    said = await heard(lanes[0], endpoint, body, stream=True)
    ((_, message, _, _),) = said.choices
    # its wrapper does that, which is not driven
    assert message["content"] == "<think>Six sevens.</think>42"


async def test_connections_are_kept(lanes: tuple[LiteLLMLane, LiteLLMLane], native: NativeUpstream) -> None:
    body = {"model": ANTHROPIC.model, "messages": [USER]}
    before = native.connections
    for stream in (False, True, True, False):
        native.answer = answer_of(ANTHROPIC, "text", stream=stream)
        await heard(lanes[0], at(native, "anthropic"), body, stream=stream)
    assert native.connections == before + 1


async def test_an_environment_with_a_proxy_keeps_litellms_own_http(
    native: NativeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", native.url)
    lane = LiteLLMLane()
    native.answer = answer_of(ANTHROPIC, "text", stream=False)
    endpoint = Endpoint("anthropic", ANTHROPIC.model, "http://provider.invalid", KEY, {})
    said = await heard(lane, endpoint, {"model": ANTHROPIC.model, "messages": [USER]}, stream=False)
    await lane.close()
    assert [sent.path for sent in native.taken()] == ["http://provider.invalid/v1/messages"]
    assert said.error is None
