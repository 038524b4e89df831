"""The two lanes to a provider, one table of requests: the same on the wire, and the same for the client."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from openai import OpenAI

from proxy.types import JSON
from tests.fake_upstream import Call, FakeUpstream, Reply
from tests.served import ServedTally, configuration, deployment

LANES = {"direct": "openai/small", "wide": "litellm_proxy/small"}
LEFT_OUT = "left out"

STREAMED: JSON = {"stream": True, "stream_options": {"include_usage": True}}

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        "strict": True,
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
USER = {"role": "user", "content": "What is 6 x 7?"}
CALLED = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": "Be right."},
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALLED]},
    {"role": "tool", "tool_call_id": "c1", "content": "42"},
    {"role": "assistant", "content": "42", "refusal": None},
    {"role": "user", "name": "bob", "content": "And now?"},
]
TURNS_BY_LITELLM = [
    TURNS[0],
    {"role": "system", "content": "Be right."},
    USER,
    {"role": "assistant", "tool_calls": [CALLED]},
    TURNS[4],
    {"role": "assistant", "content": "42"},
    TURNS[6],
]
PICTURE = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
]
SAMPLES = Reply(("The answer is 42.", "42", "41"))
CALLING = Reply(tool_calls=[{"name": "add", "arguments": '{"a":1}'}])
JSONS = Reply(('{"a": 1}', '{"a":1}'))


@dataclass(frozen=True, slots=True)
class Row:
    """A request's fields beside model and messages, what the provider replies, and all that LiteLLM sends otherwise."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    reply: Reply = SAMPLES
    by_litellm: Mapping[str, Any] = field(default_factory=dict)
    strategies: tuple[str, ...] = ("off", "self_consistency")


NULLS = ("temperature", "stop", "tools", "seed", "response_format", "max_tokens")
ROWS = {
    "text": Row(),
    "reasoning told": Row(reply=Reply(("42",), reasoning_content="Six sevens.")),
    "refusal": Row(reply=Reply(refusal="I will not.")),
    # where it stops further samples, how many have come by then is chance
    "content filter": Row(reply=Reply(("",), finish_reason="content_filter"), strategies=("off",)),
    "cached prompt": Row(reply=Reply(("42",), cached_tokens=2)),
    "no usage": Row(reply=Reply(("42",), usage="none")),
    "n": Row({"n": 2}),
    "tools": Row({"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False}, CALLING),
    "a forced tool": Row({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}}, CALLING),
    "functions": Row({"functions": [TOOL["function"]], "function_call": "auto"}),
    "json object": Row({"response_format": {"type": "json_object"}}, JSONS),
    "json schema": Row(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}},
        JSONS,
    ),
    "logprobs": Row({"logprobs": True, "top_logprobs": 2}),
    "seed and stop": Row({"seed": 7, "stop": ["\n", "END"]}),
    "one stop": Row({"stop": "END"}),
    "sampling": Row(
        {
            "temperature": 0.5,
            "top_p": 0.9,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.2,
            "logit_bias": {"50256": -100},
        }
    ),
    "temperature 0": Row({"temperature": 0}),
    "an image": Row({"messages": [{"role": "user", "content": PICTURE}]}),
    "parts of text": Row({"messages": [{"role": "user", "content": [PICTURE[0], PICTURE[0]]}]}),
    "reasoning effort": Row({"reasoning_effort": "low", "verbosity": "low"}),
    "unknown fields": Row({"foo_field": {"a": [1, None]}, "top_k": 40, "chat_template_kwargs": {"thinking": False}}),
    "max_tokens": Row({"max_tokens": 2}),
    "max_completion_tokens": Row({"max_completion_tokens": 2}),
    "both limits": Row({"max_tokens": 9, "max_completion_tokens": 8}),
    "metadata and user": Row(
        {
            "metadata": {"a": "b"},
            "user": "me",
            "safety_identifier": "s",
            "prompt_cache_key": "k",
            "service_tier": "flex",
            "store": False,
        }
    ),
    # LiteLLM knows no developers but OpenAI's, and leaves out what is null
    "all roles": Row({"messages": TURNS, "tools": [TOOL]}, by_litellm={"messages": TURNS_BY_LITELLM}),
    "nulls": Row(dict.fromkeys(NULLS), by_litellm=dict.fromkeys(NULLS, LEFT_OUT)),
}
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


class Lanes:
    """One upstream, and a proxy before it for each lane. `reply` is what the upstream says."""

    def __init__(self) -> None:
        self.reply = Reply()
        self.upstream = FakeUpstream(self._script)
        self.tallies: dict[str, ServedTally] = {}
        self.clients: dict[tuple[str, str], OpenAI] = {}

    def ask(self, lane: str, strategy: str, row: Row, *, stream: bool) -> tuple[list[JSON], list[JSON]]:
        """What the client sees, reply or chunks, and the bodies that the upstream got for it."""
        create: Any = self.clients[lane, strategy].chat.completions.create
        made = create(model="small", messages=[], extra_body=self._body(row), **(STREAMED if stream else {}))
        seen = [chunk.model_dump() for chunk in made] if stream else [made.model_dump()]
        return [without_own(each) for each in seen], self._sent()

    def post(self, lane: str, row: Row) -> JSON:
        """The bytes of a reply that was passed through, as JSON."""
        body = {"model": "small", **self._body(row)}
        reply: JSON = self.tallies[lane].post(body, path="/off/v1/chat/completions").json()
        self._sent()
        return without_own(reply)

    def _script(self, _: Call) -> Reply:
        return self.reply

    def _body(self, row: Row) -> JSON:
        self.reply = row.reply
        return {"messages": [USER], "tally": {"samples": 3, "detail": True}, **row.fields}

    def _sent(self) -> list[JSON]:
        """The bodies since the last call of this; the upstream, which counts its calls, begins anew."""
        self.upstream.wait(lambda: not self.upstream.in_flight)
        bodies = [call.body for call in self.upstream.calls]
        self.upstream.calls.clear()
        return bodies


def without_own(seen: JSON) -> JSON:
    """A reply without what no two replies share."""
    return {name: value for name, value in seen.items() if name not in ("id", "created")}


def by_litellm(body: JSON, row: Row) -> JSON:
    """What LiteLLM makes of a body, as the table says."""
    return {name: value for name, value in {**body, **row.by_litellm}.items() if value != LEFT_OUT}


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    made = Lanes()
    with ExitStack() as stack:
        stack.enter_context(made.upstream)
        for lane, model in LANES.items():
            base = made.upstream.base_url
            entry = deployment(base, litellm_params={"model": model})
            config = configuration(base, tmp_path_factory.mktemp(lane), model_list=[entry])
            made.tallies[lane] = tally = stack.enter_context(ServedTally(config))
            for strategy in ("off", "self_consistency"):
                made.clients[lane, strategy] = stack.enter_context(tally.client(strategy))
        yield made


@STREAM
@pytest.mark.parametrize(("name", "strategy"), [(name, each) for name, row in ROWS.items() for each in row.strategies])
def test_a_request_is_the_same_on_the_wire_and_its_answer_the_same_to_the_client(
    lanes: Lanes, name: str, strategy: str, stream: bool
) -> None:
    row = ROWS[name]
    seen, sent = lanes.ask("direct", strategy, row, stream=stream)
    seen_wide, sent_wide = lanes.ask("wide", strategy, row, stream=stream)
    assert sent
    assert sent_wide == [by_litellm(body, row) for body in sent]
    assert seen_wide == seen


@pytest.mark.parametrize("name", ROWS)
def test_a_reply_that_is_passed_through_has_the_same_fields_with_the_same_values(lanes: Lanes, name: str) -> None:
    assert lanes.post("wide", ROWS[name]) == lanes.post("direct", ROWS[name])


def test_both_lanes_charge_the_same(lanes: Lanes) -> None:
    lanes.upstream.wait(lambda: not any(tally.balance().reserved.nano for tally in lanes.tallies.values()))
    spent = {lane: tally.balance().spent for lane, tally in lanes.tallies.items()}
    assert spent["direct"] == spent["wide"]
    assert spent["direct"].nano
