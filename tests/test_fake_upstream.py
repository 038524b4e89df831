"""The fake upstream behaves, for the official client, as a provider would."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.money import Rates
from tests.fake_upstream import Call, Drop, FakeUpstream, Fault, Malformed, Reply, Scripted, Turns, tokenize

PROMPT_TOKENS = 3 + len(tokenize("What is 6 x 7?"))


@contextmanager
def client(upstream: FakeUpstream, key: str = "any", timeout: float = 5.0) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=upstream.base_url, api_key=key, max_retries=0, timeout=timeout) as sdk:
        yield sdk


def ask(sdk: openai.OpenAI, question: str = "What is 6 x 7?", n: int = 1, **extra: object) -> ChatCompletion:
    messages = [{"role": "user", "content": question}]
    reply = sdk.chat.completions.create(model="small", messages=messages, n=n, **extra)  # type: ignore[call-overload]  # the extras are any
    assert isinstance(reply, ChatCompletion)
    return reply


def stream(sdk: openai.OpenAI, n: int = 1, **extra: object) -> openai.Stream[ChatCompletionChunk]:
    messages = [{"role": "user", "content": "What is 6 x 7?"}]
    chunks = sdk.chat.completions.create(model="small", messages=messages, n=n, stream=True, **extra)  # type: ignore[call-overload]  # the extras are any
    assert isinstance(chunks, openai.Stream)
    return chunks


def joined(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == index)


def contents(reply: ChatCompletion) -> list[str | None]:
    return [choice.message.content for choice in reply.choices]


def test_a_plain_call_gets_its_answer_and_is_recorded() -> None:
    with FakeUpstream("The answer is 42.") as upstream, client(upstream) as sdk:
        reply = ask(sdk, temperature=0.7)
        assert contents(reply) == ["The answer is 42."]
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == PROMPT_TOKENS
        assert reply.usage.completion_tokens == len(tokenize("The answer is 42.")) == 5
        [call] = upstream.calls
        assert call.body["temperature"] == 0.7
        assert call.headers["authorization"] == "Bearer any"
        assert call.path == "/v1/chat/completions"
        assert call.finished is not None
        assert call.finished >= call.started
        assert not call.cancelled


def test_a_list_is_one_answer_a_choice_across_calls() -> None:
    with FakeUpstream(["42", "41", "40"]) as upstream, client(upstream) as sdk:
        assert contents(ask(sdk, n=2)) == ["42", "41"]
        assert contents(ask(sdk, n=2)) == ["40", "42"]


def test_each_scripted_question_has_a_counter_of_its_own() -> None:
    script = Scripted({"6 x 7": ["42", "41"], "Paris": ["France", "Texas"]}, default=["?"])
    with FakeUpstream(script) as upstream, client(upstream) as sdk:
        assert contents(ask(sdk, n=3)) == ["42", "41", "42"]
        assert contents(ask(sdk, "Where is Paris?")) == ["France"]
        assert contents(ask(sdk)) == ["41"]
        assert contents(ask(sdk, "Where is Paris?")) == ["Texas"]
        assert contents(ask(sdk, "Who?")) == ["?"]


def test_a_function_sees_the_call_it_answers() -> None:
    def script(call: Call) -> str:
        return call.question.upper()

    with FakeUpstream(script) as upstream, client(upstream) as sdk:
        assert contents(ask(sdk, "hello")) == ["HELLO"]


def test_n_can_be_ignored_refused_or_capped() -> None:
    script = Turns(Reply(n="ignore"), Reply(n="refuse"), Reply(n=2), Reply(n=2))
    with FakeUpstream(script) as upstream, client(upstream) as sdk:
        assert len(ask(sdk, n=3).choices) == 1
        with pytest.raises(openai.BadRequestError, match="n=3"):
            ask(sdk, n=3)
        with pytest.raises(openai.BadRequestError):
            ask(sdk, n=3)
        assert len(ask(sdk, n=2).choices) == 2
        assert upstream.meter.calls == 2


@pytest.mark.parametrize(("usage", "told"), [("all", 2), ("first", 1), ("none", None)])
def test_usage_can_be_of_all_choices_of_the_first_or_missing(usage: str, told: int | None) -> None:
    with FakeUpstream(Reply(usage=usage)) as upstream, client(upstream) as sdk:  # type: ignore[arg-type]  # a parameter is any text
        reply = ask(sdk, n=2)
        assert (reply.usage and reply.usage.completion_tokens) == told
        assert upstream.meter.completion_tokens == 2


def test_max_tokens_cuts_a_reply_and_says_so() -> None:
    with FakeUpstream("one two three") as upstream, client(upstream) as sdk:
        reply = ask(sdk, max_tokens=2)
        assert contents(reply) == ["one two"]
        assert reply.choices[0].finish_reason == "length"
        assert upstream.meter.completion_tokens == 2


def test_logprobs_are_given_when_asked_for_and_join_to_the_content() -> None:
    with FakeUpstream(Reply(["The answer is 42."], logprobs=[-0.5])) as upstream, client(upstream) as sdk:
        logprobs = ask(sdk, logprobs=True).choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert "".join(entry.token for entry in logprobs.content) == "The answer is 42."
        assert {entry.logprob for entry in logprobs.content} == {-0.5}
        assert ask(sdk).choices[0].logprobs is None


def test_tools_refusals_and_reasoning_take_their_places_in_the_message() -> None:
    script = Turns(
        Reply(tool_calls=[{"name": "add", "arguments": '{"a": 1}'}]),
        Reply(refusal="No."),
        Reply(reasoning_content="Hm."),
    )
    with FakeUpstream(script) as upstream, client(upstream) as sdk:
        called = ask(sdk).choices[0]
        assert called.message.content is None
        assert called.finish_reason == "tool_calls"
        assert called.message.tool_calls is not None
        assert called.message.tool_calls[0].to_dict()["function"] == {"name": "add", "arguments": '{"a": 1}'}
        assert ask(sdk).choices[0].message.refusal == "No."
        assert ask(sdk).choices[0].message.to_dict()["reasoning_content"] == "Hm."


def test_a_stream_interleaves_its_choices_and_ends_with_the_usage() -> None:
    with FakeUpstream(["The answer is 42.", "41"]) as upstream, client(upstream) as sdk:
        chunks = list(stream(sdk, n=2, stream_options={"include_usage": True}))
    assert [c.delta.role for chunk in chunks[:2] for c in chunk.choices] == ["assistant", "assistant"]
    assert joined(chunks, 0) == "The answer is 42."
    assert joined(chunks, 1) == "41"
    finishes = [c.index for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert finishes == [1, 0]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


def test_a_stream_has_no_usage_unless_asked() -> None:
    with FakeUpstream() as upstream, client(upstream) as sdk:
        assert all(chunk.usage is None and chunk.choices for chunk in stream(sdk))


def test_streamed_tool_calls_join_to_the_whole_ones() -> None:
    with (
        FakeUpstream(Reply(tool_calls=[{"name": "add", "arguments": '{"a": 12345}'}])) as upstream,
        client(upstream) as sdk,
    ):
        pieces = [piece for chunk in stream(sdk) for piece in chunk.choices[0].delta.tool_calls or ()]
    assert pieces[0].id is not None
    assert pieces[0].function is not None
    assert pieces[0].function.name == "add"
    assert "".join(piece.function.arguments or "" for piece in pieces if piece.function) == '{"a": 12345}'


def test_a_fault_keeps_its_status_and_its_retry_after() -> None:
    with FakeUpstream(Turns(Fault(retry_after=2), Fault(500, "Boom.", "server_error", None), "42")) as upstream:
        with client(upstream) as sdk:
            with pytest.raises(openai.RateLimitError) as limited:
                ask(sdk)
            assert limited.value.response.headers["retry-after"] == "2"
            with pytest.raises(openai.InternalServerError, match="Boom"):
                ask(sdk)
            assert contents(ask(sdk)) == ["42"]
        assert [call.status for call in upstream.calls] == [429, 500, 200]
        assert upstream.meter.calls == 1


def test_a_fault_in_a_stream_comes_after_some_tokens() -> None:
    with FakeUpstream(Fault(500, "Broken.", after_chunks=2)) as upstream, client(upstream) as sdk:
        got: list[ChatCompletionChunk] = []
        with pytest.raises(openai.APIError, match="Broken"):
            got.extend(stream(sdk))
        assert joined(got) == "one two"
        assert upstream.meter.completion_tokens == 2


def test_a_connection_can_drop_at_once_or_in_a_stream() -> None:
    with FakeUpstream(Turns(Drop(), Drop(after_chunks=2))) as upstream, client(upstream) as sdk:
        with pytest.raises(openai.APIConnectionError):
            ask(sdk)
        got: list[ChatCompletionChunk] = []
        with pytest.raises(httpx.RemoteProtocolError):
            got.extend(stream(sdk))
        assert joined(got) == "one two"
        assert not any(call.cancelled for call in upstream.calls)
        assert upstream.meter.completion_tokens == 2


def test_a_body_can_be_malformed() -> None:
    with FakeUpstream(Malformed()) as upstream:
        reply = httpx.post(f"{upstream.base_url}/chat/completions", json={"messages": []})
        assert reply.status_code == 200
        with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
            reply.json()


def test_a_stream_that_its_client_leaves_stops_and_bills_what_was_sent() -> None:
    with FakeUpstream(Reply(["word " * 1000], per_token=0.005)) as upstream, client(upstream) as sdk:
        chunks = stream(sdk)
        for chunk in chunks:
            if chunk.choices[0].delta.content:
                break
        chunks.close()
        upstream.wait(lambda: upstream.calls[0].cancelled)
        upstream.wait(lambda: upstream.in_flight == 0)
        assert upstream.meter.prompt_tokens == PROMPT_TOKENS
        assert 1 <= upstream.meter.completion_tokens < 500


def test_a_whole_call_that_its_client_leaves_is_billed_whole() -> None:
    with FakeUpstream(Reply(["one two"], latency=60)) as upstream, client(upstream, timeout=0.1) as sdk:
        with pytest.raises(openai.APITimeoutError):
            ask(sdk)
        upstream.wait(lambda: upstream.calls[0].cancelled)
        assert upstream.meter.completion_tokens == 2


def test_a_hanging_call_does_not_hold_up_the_end() -> None:
    with FakeUpstream(Reply(latency=600)) as upstream, httpx.Client() as http, pytest.raises(httpx.ReadTimeout):
        http.post(f"{upstream.base_url}/chat/completions", json={"messages": []}, timeout=0.05)


def test_the_meter_rounds_up_once_a_call() -> None:
    rates = Rates(input=1, output=1_500)
    with FakeUpstream(["a", "b"]) as upstream, client(upstream) as sdk:
        ask(sdk, n=2)
        ask(sdk)
        list(stream(sdk))
        assert upstream.meter.calls == 3
        assert upstream.meter.prompt_tokens == 3 * PROMPT_TOKENS
        assert upstream.meter.completion_tokens == 4
        # 8 + 3,000 pico-dollars, then twice 8 + 1,500
        assert upstream.meter.cost_nano(rates) == 4 + 2 + 2


@pytest.mark.anyio
async def test_calls_in_flight_are_counted() -> None:
    async def answer(sdk: openai.AsyncOpenAI) -> None:
        await sdk.chat.completions.create(model="small", messages=[{"role": "user", "content": "?"}])

    with FakeUpstream(Reply(latency=0.05)) as upstream:
        async with (
            openai.AsyncOpenAI(base_url=upstream.base_url, api_key="any", max_retries=0) as sdk,
            anyio.create_task_group() as group,
        ):
            for _ in range(5):
                group.start_soon(answer, sdk)
            await upstream.until(lambda: upstream.in_flight == 5)
        assert upstream.max_in_flight == 5
        assert upstream.in_flight == 0


def test_a_wrong_key_is_refused_and_partly_echoed() -> None:
    with FakeUpstream(api_key="sk-right") as upstream:
        with client(upstream, key="sk-wrong-key-1234") as sdk, pytest.raises(openai.AuthenticationError) as refused:
            ask(sdk)
        assert refused.value.code == "invalid_api_key"
        assert "sk-wrong" in refused.value.message
        assert upstream.calls == []
        with client(upstream, key="sk-right") as sdk:
            assert contents(ask(sdk)) == ["42"]


def test_models_are_listed_and_unknown_paths_are_not_found() -> None:
    with FakeUpstream(models=("small", "large")) as upstream, client(upstream) as sdk:
        assert [model.id for model in sdk.models.list()] == ["small", "large"]
        with pytest.raises(openai.NotFoundError):
            sdk.embeddings.create(model="small", input="x")
