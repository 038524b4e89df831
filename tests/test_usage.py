"""What a call takes: upper bounds beforehand, and the bill from what was told and what can be counted."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.types import JSON, Usage
from proxy.upstream import Endpoint
from proxy.upstream.assemble import Assembler
from proxy.upstream.deployment import Deployment
from proxy.upstream.direct import DirectLane
from proxy.upstream.usage import billed, output_bound, prompt_bound, told
from tests.fake.tokens import count_prompt

TEXT = st.text(max_size=40)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "assistant"]), "content": TEXT})


def deployment(max_output: int | None = None) -> Deployment:
    return Deployment("small", Endpoint("openai", "small", None, None, {}), DirectLane(), max_output=max_output)


def plain(usage: JSON | None, *texts: str, logprobs: bool = False) -> Assembler:
    assembler = Assembler()
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "logprobs": {"content": [{"logprob": -0.1}] * len(text)} if logprobs else None,
            "finish_reason": "stop",
        }
        for index, text in enumerate(texts)
    ]
    assembler.feed({"choices": choices, "usage": usage})
    return assembler


def streamed(usage: JSON | None, *deltas: int) -> Assembler:
    assembler = Assembler()
    for index, count in enumerate(deltas):
        for _ in range(count):
            assembler.feed({"choices": [{"index": index, "delta": {"content": "word"}}]})
        assembler.feed({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]})
    assembler.feed({"choices": [], "usage": usage})
    return assembler


def usage(prompt: int, completion: int) -> JSON:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


@given(st.lists(MESSAGE, min_size=1, max_size=4), st.dictionaries(TEXT, TEXT, max_size=3))
def test_a_prompt_never_has_more_tokens_than_its_bound_even_at_a_token_a_byte(
    messages: list[JSON], parameters: JSON
) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    text = sum(len(message["content"].encode()) + len(message["role"].encode()) for message in messages)
    # a template wraps each message in some tokens of its own
    worst = text + 8 * len(messages) + 16 + sum(len((k + v).encode()) for k, v in parameters.items())
    assert prompt_bound({"messages": messages, "tools": tools}) >= worst
    assert prompt_bound({"messages": messages}) >= count_prompt(messages)


def test_every_part_of_a_message_counts_for_the_bound_of_the_prompt() -> None:
    bare = prompt_bound({"messages": [{"role": "user", "content": ""}]})
    parts = [{"type": "text", "text": "x" * 500}, {"type": "image_url", "image_url": {"url": "data:..."}}]
    tool = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "y" * 300}}]}
    schema = {"type": "json_schema", "json_schema": {"schema": {"description": "z" * 700}}}
    assert prompt_bound({"messages": [{"role": "user", "content": parts}]}) >= bare + 500 + 1000
    assert prompt_bound({"messages": [tool]}) >= bare + 300
    assert prompt_bound({"messages": [{"role": "user", "content": ""}], "response_format": schema}) >= bare + 700


@pytest.mark.parametrize(
    ("body", "most", "bound"),
    [
        ({}, None, None),
        ({}, 50, 50),
        ({"max_tokens": 7}, None, 7),
        ({"max_tokens": 7}, 50, 7),
        ({"max_completion_tokens": 90}, 50, 50),
        ({"max_tokens": 30, "max_completion_tokens": 20}, None, 30),
    ],
)
def test_a_choice_is_bound_by_the_least_of_what_is_asked_and_what_the_model_can(
    body: JSON, most: int | None, bound: int | None
) -> None:
    assert output_bound(body, deployment(most)) == bound


def test_told_usage_is_read_with_cached_and_reasoning_tokens() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 3}}
    assert told({**usage(10, 5), **details}) == Usage(10, 5, cached=4, reasoning=3)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6}, Usage(10, 5, cached=4)),
        # Anthropic by way of LiteLLM, which adds both to the prompt
        (
            {
                "cache_read_input_tokens": 2,
                "cache_creation_input_tokens": 6,
                "prompt_tokens_details": {
                    "cached_tokens": 2,
                    "cache_creation_tokens": 6,
                    "cache_creation_token_details": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 5},
                },
            },
            Usage(10, 5, cached=2, cache_write=6, cache_write_1h=5),
        ),
        ({"prompt_tokens_details": {"cache_write_tokens": 3}}, Usage(10, 5, cache_write=3)),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 3}}, Usage(10, 5, cache_write=3, cache_write_1h=3)),
        (
            {"prompt_tokens_details": {"audio_tokens": 3, "image_tokens": 2}, "completion_tokens_details": None},
            Usage(10, 5, audio_input=3, image_input=2),
        ),
        (
            {
                "prompt_tokens_details": {
                    "audio_tokens": 6,
                    "cached_tokens": 5,
                    "cached_tokens_details": {"audio_tokens": 4},
                }
            },
            Usage(10, 5, cached=5, cached_audio=4, audio_input=2),
        ),
        (
            {"completion_tokens_details": {"audio_tokens": 3, "reasoning_tokens": 1, "image_tokens": 9}},
            Usage(10, 5, reasoning=1, audio_output=3, image_output=1),
        ),
        # xAI tells reasoning beside the completion
        ({"total_tokens": 22, "completion_tokens_details": {"reasoning_tokens": 7}}, Usage(10, 12, reasoning=7)),
        ({"total_tokens": 15, "completion_tokens_details": {"reasoning_tokens": 7}}, Usage(10, 5, reasoning=5)),
        ({"prompt_tokens_details": {"cached_tokens": 99, "cache_write_tokens": 9}}, Usage(10, 5, cached=10)),
        ({"prompt_tokens_details": {"cached_tokens": True}}, Usage(10, 5)),
    ],
)
def test_each_kind_of_token_is_read_by_the_names_that_providers_have_for_it(said: JSON, found: Usage) -> None:
    assert told({**usage(10, 5), **said}) == found


def test_tokens_that_were_not_told_are_of_the_kinds_that_were() -> None:
    seen = deployment()
    seen.told_per_choice = True
    details = {"completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 2}}
    found = billed(plain({**usage(9, 4), **details}, "x" * 8, "x" * 8), seen, 2)
    assert found == Usage(9, 8, reasoning=4, audio_output=4, estimated=True)


NUMBER = st.none() | st.text(max_size=2) | st.integers() | st.floats() | st.lists(st.integers())
PARTS = ["cached_tokens", "cache_write_tokens", "reasoning_tokens", "audio_tokens", "image_tokens"]
DETAILS = NUMBER | st.dictionaries(
    st.sampled_from([*PARTS, "cached_tokens_details", "cache_creation_token_details"]),
    NUMBER | st.dictionaries(st.sampled_from(["audio_tokens", "ephemeral_1h_input_tokens"]), NUMBER),
)
TOTALS = ["prompt_tokens", "completion_tokens", "total_tokens", "cache_read_input_tokens", "prompt_cache_hit_tokens"]


@given(
    st.dictionaries(st.sampled_from([*TOTALS, "cache_creation_input_tokens"]), NUMBER),
    st.dictionaries(st.sampled_from(["prompt_tokens_details", "completion_tokens_details"]), DETAILS),
)
def test_a_malformed_usage_counts_as_nothing_and_no_part_is_more_than_its_whole(counts: JSON, details: JSON) -> None:
    found = told(counts | details)
    assert min(found.prompt, found.completion, found.cached, found.reasoning, found.cache_write) >= 0
    assert min(found.audio_input, found.image_input, found.audio_output, found.image_output) >= 0
    assert found.cached + found.cache_write + found.audio_input + found.image_input <= found.prompt
    assert found.reasoning + found.audio_output + found.image_output <= found.completion
    assert 0 <= found.cached_audio <= found.cached
    assert 0 <= found.cache_write_1h <= found.cache_write


def test_whole_numbers_told_as_floats_count() -> None:
    assert told(orjson.loads(b'{"prompt_tokens": 12.0, "completion_tokens": 3.0}')) == Usage(12, 3)


def test_the_usage_of_one_choice_is_charged_as_told() -> None:
    assert billed(plain(usage(9, 4), "one two three"), deployment(), 1) == Usage(9, 4)


def test_without_told_usage_nothing_is_billed_here() -> None:
    assert billed(plain(None, "42"), deployment(), 1) is None


def test_a_stream_that_tells_the_first_choice_only_is_charged_what_was_counted() -> None:
    seen = deployment()
    found = billed(streamed(usage(9, 4), 4, 6, 5), seen, 3)
    assert found == Usage(9, 15, estimated=True)
    assert seen.usage_per_choice


def test_a_stream_that_tells_all_choices_is_charged_as_told() -> None:
    seen = deployment()
    assert billed(streamed(usage(9, 15), 4, 6, 5), seen, 3) == Usage(9, 15)
    assert not seen.usage_per_choice


def test_a_plain_reply_that_tells_the_first_choice_only_is_scaled_by_length() -> None:
    seen = deployment()
    found = billed(plain(usage(9, 10), "x" * 40, "x" * 80, "x" * 40), seen, 3)
    assert found == Usage(9, 40, estimated=True)
    assert seen.usage_per_choice


def test_a_deployment_known_to_tell_per_choice_is_scaled_however_short_the_reply() -> None:
    seen = deployment()
    seen.usage_per_choice = True
    assert billed(plain(usage(9, 1), "42", "43"), seen, 2) == Usage(9, 2, estimated=True)


def test_a_plain_reply_that_tells_all_choices_is_charged_as_told() -> None:
    seen = deployment()
    assert billed(plain(usage(9, 40), "x" * 40, "x" * 80, "x" * 40), seen, 3) == Usage(9, 40)
    assert not seen.usage_per_choice


def test_a_plain_reply_with_log_probabilities_is_counted_exactly() -> None:
    found = billed(plain(usage(9, 4), "1234", "123456", logprobs=True), deployment(), 2)
    assert found == Usage(9, 10, estimated=True)


@pytest.mark.parametrize("texts", [["42"] * 8, ["Paris", "Rome"], ["yes"] * 3])
def test_a_plain_reply_that_tells_less_than_a_token_a_choice_is_not_believed(texts: list[str]) -> None:
    found = billed(plain(usage(9, 1), *texts), deployment(), len(texts))
    assert found is not None
    assert found.estimated
    assert found.completion >= len(texts)


def test_choices_that_nobody_counted_are_charged_at_most_what_a_choice_may_have() -> None:
    known = deployment()
    known.told_per_choice = True
    found = billed(plain(usage(9, 2), "Oslo", "word " * 16, "word " * 16), known, 3, most=16)
    assert found == Usage(9, 2 + 16 + 16, estimated=True)
    over = billed(plain(usage(9, 40), "x" * 80, "x" * 800), known, 2, most=16)
    assert over == Usage(9, 40 + 40, estimated=True)


def test_one_choice_is_charged_as_told_however_many_deltas_there_were() -> None:
    assert billed(streamed(usage(9, 40), 400), deployment(), 1) == Usage(9, 40)


def letters(usage: JSON, choices: int, size: int) -> Assembler:
    """Choices that come letter by letter."""
    assembler = Assembler()
    for index in range(choices):
        for _ in range(size):
            assembler.feed({"choices": [{"index": index, "delta": {"content": "x"}}]})
        assembler.feed({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]})
    assembler.feed({"choices": [], "usage": usage})
    return assembler


@pytest.mark.parametrize("choices", [2, 3, 4, 5, 8])
def test_letters_for_deltas_do_not_make_an_honest_total_suspicious(choices: int) -> None:
    told = choices * 20
    assert billed(letters(usage(9, told), choices, 80), deployment(), choices) == Usage(9, told)


def test_what_was_learned_of_usage_is_forgotten_when_it_is_contradicted() -> None:
    seen = deployment()
    assert billed(streamed(usage(9, 10), 10, 10, 10), seen, 3) == Usage(9, 30, estimated=True)
    assert seen.usage_per_choice
    assert billed(plain(usage(9, 80), *["x" * 80] * 4), seen, 4) == Usage(9, 80)
    assert not seen.usage_per_choice


def test_hidden_tokens_say_nothing_of_what_a_delta_holds() -> None:
    seen = deployment()
    billed(streamed(usage(9, 3000), 1), seen, 1)
    assert seen.tokens_per_delta == 1


@pytest.mark.parametrize("field", ["functions", "documents", "anything_else"])
def test_whatever_may_come_into_the_prompt_counts_for_its_bound(field: str) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], field: ["word " * 1000]}
    assert prompt_bound(body) > 5000


def test_a_file_counts_for_a_part_of_its_bytes() -> None:
    part = {"type": "file", "file": {"file_data": "A" * 800_000}}
    assert 100_000 < prompt_bound({"messages": [{"role": "user", "content": [part]}]}) < 101_000


@given(st.integers(1, 50), st.integers(1, 40))
def test_what_a_delta_holds_is_learned_from_streams_of_one_choice(deltas: int, extra: int) -> None:
    seen = deployment()
    extra = min(extra, 3 * deltas)  # no more than the text explains
    billed(streamed(usage(9, deltas + extra), deltas), seen, 1)
    again = streamed(None, deltas)
    assert again.estimate(0, seen.tokens_per_delta) >= deltas + extra
