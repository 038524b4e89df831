"""Chunks that are known without being parsed: they have the effect that they would have had."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.types import JSON, Choice
from proxy.upstream.assemble import Assembler
from proxy.upstream.skim import Skimmer, pattern

TEXT = st.one_of(
    st.sampled_from([":", ",", " the", "x", "content", "small", "\n", '"', "\\", "日本", "\x7f"]), st.text()
)
DELTAS = st.one_of(
    st.builds(lambda key, text: {key: text}, st.sampled_from(["content", "content", "reasoning_content"]), TEXT),
    st.builds(lambda text: {"role": "assistant", "content": text, "tool_calls": None}, TEXT),
    st.just({}),
    st.just({"content": ["a"]}),
    st.just({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]}),
)
CHOICES = st.builds(
    lambda index, delta, end: {"index": index, "delta": delta, "logprobs": None, "finish_reason": end},
    st.sampled_from([0, 0, 0, 1]),
    DELTAS,
    st.sampled_from([None, None, None, None, None, "", "stop"]),
)
CHUNKS = st.lists(st.tuples(CHOICES, st.sampled_from([None, None, None, {"prompt_tokens": 3}])), max_size=30)


def chunk(delta: JSON, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return orjson.dumps({"id": "c", "model": "small", "choices": [choice], **more})


def learned(raw: bytes) -> Skimmer:
    skimmer = Skimmer()
    skimmer.learn(raw, orjson.loads(raw))
    return skimmer


def said(made: Assembler) -> tuple[object, ...]:
    return made.cut(), made.size, made.deltas, made.finished, made.sizes(), made.usage, made.head, made.tokens(0)


@given(CHUNKS)
def test_a_stream_that_is_skimmed_comes_to_the_same_as_one_that_is_parsed(
    chunks: list[tuple[JSON, JSON | None]],
) -> None:
    parsed, mixed, skimmer = Assembler(), Assembler(), Skimmer()
    for choice, usage in chunks:
        raw = orjson.dumps({"id": "c", "model": "small", "choices": [choice], "usage": usage})
        whole: list[Choice] = parsed.feed(orjson.loads(raw))
        text = skimmer.skim(raw)
        if text is not None and skimmer.pattern is not None:
            mixed.skim(skimmer.pattern, text)
            assert not whole
        else:
            assert mixed.feed(orjson.loads(raw)) == whole
            skimmer.learn(raw, orjson.loads(raw))
        assert (mixed.size, mixed.deltas, mixed.sizes()) == (parsed.size, parsed.deltas, parsed.sizes())
    assert said(mixed) == said(parsed)


def test_a_chunk_like_the_one_before_is_not_parsed() -> None:
    skimmer = learned(chunk({"content": " the"}))
    assert skimmer.skim(chunk({"content": " cat"})) == " cat"
    assert skimmer.skim(chunk({"content": "猫"})) == "猫"


@pytest.mark.parametrize(
    "other",
    [
        chunk({"content": "a\nb"}),
        chunk({"content": 'say "a"'}),
        chunk({"content": ""}),
        chunk({"refusal": " cat"}),
        chunk({"content": " cat"}, usage={"prompt_tokens": 1}),
        chunk({"content": " cat"}, error={"message": "no"}),
        chunk({"content": " cat"}).replace(b'"finish_reason":null', b'"finish_reason":"stop"'),
        chunk({"content": "@"}).replace(b"@", b"\xff"),
        chunk({"content": "@"}).replace(b"@", b"\x01"),
        chunk({"content": "@"}).replace(b'"@"', b'"a","content":"b"'),
    ],
)
def test_a_chunk_that_does_more_or_is_written_otherwise_is_parsed(other: bytes) -> None:
    assert learned(chunk({"content": " the"})).skim(other) is None


@pytest.mark.parametrize(
    "raw",
    [
        chunk({"content": "small"}),
        chunk({"content": ":"}),
        chunk({"content": "a\nb"}),
        chunk({"content": " the", "tool_calls": [{"index": 0}]}),
        chunk({"content": " the", "tool_calls": ""}),
        chunk({"content": " the", "role": ["assistant"]}),
        chunk({"content": " the"}, usage={"prompt_tokens": 1}),
        chunk({"content": " the"}, usage={}),
        chunk({"content": " the"}).replace(b'"delta":', b'"message":{},"delta":'),
        chunk({"content": " the"}).replace(b'"finish_reason":null', b'"finish_reason":"stop"'),
        chunk({"content": " the"}).replace(b'"logprobs":null', b'"logprobs":{"content":[]}'),
    ],
)
def test_a_chunk_that_others_cannot_be_told_by_makes_no_pattern(raw: bytes) -> None:
    assert pattern(raw, orjson.loads(raw)) is None


def test_a_stream_whose_chunks_are_never_alike_is_soon_left_alone() -> None:
    skimmer = Skimmer()
    for number in range(50):
        raw = chunk({"content": " the"}, created=number)
        skimmer.learn(raw, orjson.loads(raw))
    assert skimmer.skim(chunk({"content": " cat"}, created=49)) is None
    assert skimmer.skim(chunk({"content": " cat"}, created=7)) == " cat"
