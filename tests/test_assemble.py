"""Chunks of a streamed call, put together, are the completion that was cut into them."""

from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answers import mean_logprob, read
from proxy.errors import UpstreamMalformed
from proxy.types import JSON, AnswerSpec
from proxy.upstream.assemble import Assembler

TEXT = st.text(max_size=20)
PIECES = st.lists(st.text(min_size=1, max_size=5), max_size=5)
NAME = st.text(min_size=1, max_size=8)
TOOL = st.fixed_dictionaries({"id": NAME, "name": NAME, "arguments": PIECES})
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "content": PIECES,
        "refusal": PIECES,
        "reasoning_content": PIECES,
        "tools": st.lists(TOOL, min_size=1, max_size=3),
    },
)


def chunk(delta: JSON, index: int = 0, finish: str | None = None, **more: Any) -> JSON:
    return {"id": "c1", "choices": [{"index": index, "delta": delta, "finish_reason": finish, **more}]}


def deltas(parts: JSON) -> list[JSON]:
    """A message as the deltas of a stream: role first, texts in pieces, tool calls by index, head and arguments."""
    made: list[JSON] = [{"role": "assistant", "content": None}]
    for key in ("reasoning_content", "content", "refusal"):
        made += [{key: piece} for piece in parts.get(key, ())]
    for index, tool in enumerate(parts.get("tools", ())):
        head = {"index": index, "id": tool["id"], "type": "function"}
        made.append({"tool_calls": [{**head, "function": {"name": tool["name"], "arguments": ""}}]})
        made += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in tool["arguments"]]
    return made


def whole(parts: JSON) -> JSON:
    message: JSON = {"role": "assistant", "content": None}
    message |= {key: "".join(parts[key]) for key in ("content", "refusal", "reasoning_content") if parts.get(key)}
    if parts.get("tools"):
        message["tool_calls"] = [
            {"id": t["id"], "type": "function", "function": {"name": t["name"], "arguments": "".join(t["arguments"])}}
            for t in parts["tools"]
        ]
    return message


@given(st.lists(MESSAGE, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_interleaved_chunks_of_several_choices_assemble_to_the_whole_messages(messages: list[JSON], order: Any) -> None:
    queues = [[chunk(delta, i) for delta in deltas(parts)] for i, parts in enumerate(messages)]
    for i, queue in enumerate(queues):
        queue.append(chunk({}, i, "stop"))
    assembler, finished = Assembler(), []
    while any(queues):
        finished += assembler.feed(order.choice([queue for queue in queues if queue]).pop(0))
    assert {choice.index: choice.message for choice in finished} == {
        i: whole(parts) for i, parts in enumerate(messages)
    }
    assert assembler.finished == assembler.started == len(messages)


@given(st.lists(st.floats(-9, 0), min_size=1, max_size=8), st.integers(1, 8))
def test_log_probabilities_of_chunks_are_joined_in_order(values: list[float], size: int) -> None:
    entries = [{"token": "x", "logprob": value} for value in values]
    assembler = Assembler()
    for start in range(0, len(entries), size):
        assembler.feed(chunk({"content": "x"}, logprobs={"content": entries[start : start + size], "refusal": None}))
    (choice,) = assembler.feed(chunk({}, finish="stop"))
    assert choice.logprobs == {"content": entries, "refusal": None}
    assert choice.tokens == len(entries)


def test_a_whole_completion_gives_its_messages_untouched() -> None:
    message = {"role": "assistant", "content": "42", "annotations": [{"index": 3}], "refusal": None}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    payload = {"id": "c1", "model": "m", "choices": choices, "usage": {"prompt_tokens": 1}}
    assembler = Assembler()
    (choice,) = assembler.feed(payload)
    assert (choice.message, choice.finish_reason) == (message, "stop")
    assert assembler.head == {"id": "c1", "model": "m"}
    assert assembler.usage == {"prompt_tokens": 1}


def test_a_whole_message_without_a_finish_reason_is_finished_all_the_same() -> None:
    (choice,) = Assembler().feed({"choices": [{"index": 0, "message": {"role": "assistant", "content": "42"}}]})
    assert (choice.content, choice.finish_reason) == ("42", None)


def test_an_empty_finish_reason_ends_nothing() -> None:
    assembler = Assembler()
    assert assembler.feed(chunk({"content": "4"}, finish="")) == []
    assert assembler.feed(chunk({"content": "2"}, finish="")) == []
    (choice,) = assembler.feed(chunk({}, finish="stop"))
    assert choice.content == "42"


def test_what_comes_after_a_choice_was_finished_is_left_out() -> None:
    assembler = Assembler()
    (choice,) = assembler.feed(chunk({"content": "42"}, finish="stop"))
    assert assembler.feed(chunk({"content": "!"}, finish="stop")) == []
    assert choice.content == "42"


def test_unknown_fields_of_a_delta_are_kept_and_texts_among_them_joined() -> None:
    assembler = Assembler()
    assembler.feed(chunk({"thinking": "ab", "extra": {"signature": "x"}, "score": 1}))
    assembler.feed(chunk({"thinking": "cd", "extra": {"signature": "y"}, "score": 2}))
    (choice,) = assembler.feed(chunk({}, finish="stop"))
    assert choice.message["thinking"] == "abcd"
    assert choice.message["extra"] == {"signature": "xy"}
    assert choice.message["score"] == 2


def test_a_cut_ends_the_unfinished_choices_alone_with_what_they_hold() -> None:
    assembler = Assembler()
    assembler.feed(chunk({"content": "done"}, 0, "stop"))
    assembler.feed(chunk({"content": "half"}, 1))
    assert [(c.index, c.content, c.finish_reason) for c in assembler.cut()] == [(1, "half", "length")]


def test_tokens_are_counted_by_log_probabilities_else_by_deltas_rounded_up() -> None:
    assembler = Assembler()
    assembler.feed(chunk({"role": "assistant", "content": ""}))
    for _ in range(3):
        assembler.feed(chunk({"content": "x"}))
    assembler.feed(chunk({"content": "xyz"}, 1, logprobs={"content": [{"logprob": -1.0}] * 5}))
    assert [assembler.tokens(0), assembler.estimate(0, 1.5), assembler.tokens(1), assembler.tokens(2)] == [3, 5, 5, 0]


def test_a_delta_with_a_long_text_is_estimated_by_its_bytes_and_never_counted_as_told() -> None:
    assembler = Assembler()
    assembler.feed(chunk({"content": "x" * 400}))
    assert (assembler.tokens(0), assembler.estimate(0)) == (1, 100)


@pytest.mark.parametrize("text", ["content", "reasoning_content", "reasoning", "refusal"])
def test_the_size_of_a_choice_is_the_bytes_of_all_it_generated(text: str) -> None:
    assembler = Assembler()
    assembler.feed(chunk({text: "dé"}))
    assembler.feed(chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}))
    assert assembler.sizes() == [6]
    assert assembler.deltas == 2


@pytest.mark.parametrize(
    "called",
    [
        {"function_call": {"name": "f", "arguments": "{}"}},
        {"tool_calls": [{"index": 0, "type": "custom", "custom": {"name": "f", "input": "ab"}}]},
    ],
)
def test_calls_of_every_kind_count_by_what_was_generated(called: JSON) -> None:
    assembler = Assembler()
    assembler.feed(chunk({"role": "assistant", "content": ""}))
    (choice,) = [assembler.feed(chunk(called)), assembler.feed(chunk({}, finish="stop"))][1]
    assert assembler.sizes() == [3]
    assert choice.message["content"] is None


def called(index: int, arguments: str, **more: Any) -> JSON:
    return {"index": index, "function": {"arguments": arguments, **more.pop("function", {})}, **more}


def assembled(*pieces: JSON) -> list[tuple[Any, ...]]:
    """The id, name and arguments of each call that these pieces make."""
    assembler = Assembler()
    for piece in pieces:
        assembler.feed(chunk({"tool_calls": [piece]}))
    (choice,) = assembler.feed(chunk({}, finish="tool_calls"))
    assert not any("index" in call for call in choice.message["tool_calls"])
    return [(call.get("id"), call["function"].get("name"), call["function"]["arguments"])
            for call in choice.message["tool_calls"]]  # fmt: skip


def test_a_piece_with_an_id_of_its_own_begins_a_call_even_at_an_index_that_is_taken() -> None:
    pieces = [
        called(0, "{", id="a", function={"name": "f"}),
        called(0, "}"),
        called(0, "[", id="b", function={"name": "g"}),
        called(0, "]", id="b"),
    ]
    assert assembled(*pieces) == [("a", "f", "{}"), ("b", "g", "[]")]


def test_a_name_and_an_id_may_come_late_and_an_empty_one_takes_nothing_back() -> None:
    pieces = [
        called(0, "{"),
        called(0, "", id="a"),
        called(0, "", function={"name": "f"}),
        called(0, "}", id="", function={"name": ""}),
    ]
    assert assembled(*pieces) == [("a", "f", "{}")]


def test_calls_stand_in_the_order_of_their_indices() -> None:
    pieces = [called(7, "{}", id="c"), called(2, "[", id="a"), called(2, "]"), called(2, "{}", id="b")]
    assert [call[0] for call in assembled(*pieces)] == ["a", "b", "c"]


def test_a_chunk_that_is_taken_stays_as_it_was() -> None:
    pieces = [called(0, "{", extra={"a": "b"}), called(0, "}", extra={"a": "c"})]
    payloads = [
        chunk({"tool_calls": pieces, "extra": {"a": "b"}}, logprobs={"content": [{"token": "x"}]}),
        chunk({"tool_calls": pieces, "extra": {"a": "c"}}, logprobs={"content": [{"token": "y"}]}),
    ]
    before = deepcopy(payloads)
    assembler = Assembler()
    for payload in payloads:
        assembler.feed(payload)
    assembler.cut()
    assert payloads == before


def test_a_delta_that_is_too_deep_is_malformed() -> None:
    deep: JSON = {}
    for _ in range(2000):
        deep = {"a": deep}
    with pytest.raises(UpstreamMalformed):
        Assembler().feed(chunk({"extra": deep}))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "index",
                    "delta",
                    "message",
                    "content",
                    "tool_calls",
                    "function",
                    "arguments",
                    "logprobs",
                    "finish_reason",
                    "name",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(st.fixed_dictionaries({"choices": JUNK}, optional={"usage": JUNK, "id": JUNK}), max_size=3))
def test_chunks_of_any_shape_are_taken_or_refused_as_malformed(payloads: list[JSON]) -> None:
    assembler = Assembler()
    for payload in payloads:
        with suppress(UpstreamMalformed):
            for choice in assembler.feed(payload):
                assert choice.index >= 0
                assert choice.tokens >= 0
                read(choice, AnswerSpec(), {})
                mean_logprob(choice)
        assert sum(assembler.tokens(index) for index in range(8)) >= 0
        assert min([0, *assembler.sizes()]) == 0
