"""`POST /v1/completions`: legacy text completions for the official client, scaled and not, streamed and not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from proxy.api.completions import legacy
from proxy.api.serving import Reply as Served
from proxy.errors import RequestInvalid
from tests.fake_upstream import Drop, Fault, Reply, count_prompt, tokenize
from tests.staged import JSON, Stage, events, staged

PROMPT = "What is six times seven?"
ASKED = [{"role": "user", "content": PROMPT}]
ANSWER = "The answer is 42."
STRATEGIES = ["off", "self_consistency", "adaptive"]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("completions"), aliases=["alias"]) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_reservation_is_left(stage: Stage) -> Iterator[None]:
    yield
    stage.upstream.wait(lambda: stage.tally.balance().reserved.nano == 0)


def complete(stage: Stage, strategy: str | None = "self_consistency", **more: Any) -> Completion:
    reply = stage.client(strategy).completions.create(**{"model": "small", "prompt": PROMPT, **more})
    assert isinstance(reply, Completion)
    return reply


def streamed(stage: Stage, strategy: str | None = "self_consistency", **more: Any) -> list[Completion]:
    fields = {"model": "small", "prompt": PROMPT, "stream": True, **more}
    return list(stage.client(strategy).completions.create(**fields))


def refused(stage: Stage, **more: Any) -> JSON:
    before = len(stage.upstream.calls)
    response = stage.post({"model": "small", "prompt": PROMPT, **more}, path="/v1/completions")
    assert response.status_code == 400, response.text
    assert len(stage.upstream.calls) == before
    return dict(response.json()["error"])


def told(reply: Completion) -> JSON:
    return dict((reply.model_extra or {})["tally"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_official_client_reads_a_text_completion(stage: Stage, strategy: str) -> None:
    stage.says(ANSWER)
    reply = complete(stage, strategy)
    assert (reply.object, reply.model, reply.system_fingerprint) == ("text_completion", "small", "fp_fake")
    assert reply.id.startswith("cmpl-")
    assert [choice.model_dump() for choice in reply.choices] == [
        {"text": ANSWER, "index": 0, "logprobs": None, "finish_reason": "stop"}
    ]
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == count_prompt(ASKED)
    assert reply.usage.completion_tokens == stage.completion_tokens


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stream_is_chunks_of_text_and_one_finish(stage: Stage, strategy: str) -> None:
    stage.says(ANSWER)
    found = streamed(stage, strategy)
    assert "".join(chunk.choices[0].text for chunk in found) == ANSWER
    reasons = [chunk.choices[0].model_dump()["finish_reason"] for chunk in found]
    assert reasons == [None] * (len(found) - 1) + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in found}) == 1
    assert {chunk.object for chunk in found} == {"text_completion"}
    assert all(chunk.usage is None for chunk in found)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_streams_usage_comes_in_a_chunk_of_its_own_when_asked_for(stage: Stage, strategy: str) -> None:
    stage.says(ANSWER)
    *others, last = streamed(stage, strategy, stream_options={"include_usage": True})
    assert (last.choices, all(chunk.usage is None for chunk in others)) == ([], True)
    assert last.usage is not None
    assert last.usage.completion_tokens == stage.completion_tokens


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stream_ends_with_done(stage: Stage, strategy: str) -> None:
    stage.says(ANSWER)
    body = {"model": "small", "prompt": PROMPT, "stream": True}
    assert events(stage.post(body, path=f"/{strategy}/v1/completions"))[-1] == "[DONE]"


def test_a_stream_is_open_before_its_first_word(stage: Stage) -> None:
    stage.says(Reply([{"content": ANSWER, "reasoning_content": "six sevens are"}]))
    body = {"model": "small", "prompt": PROMPT, "stream": True}
    text = stage.post(body, path="/off/v1/completions").text
    # one for the role and one for each token of its thoughts
    assert text.startswith(": ping\n\n" * 5 + 'data: {"id":"cmpl-fake')
    assert "sevens" not in text


def test_samples_vote_and_the_reply_tells_of_it(stage: Stage) -> None:
    stage.says(["The answer is 41.", ANSWER, ANSWER])
    reply = complete(stage, None, extra_body={"tally": {"strategy": "self_consistency", "samples": 3}})
    assert reply.choices[0].text == ANSWER
    assert told(reply)["votes"] == [{"answer": "42", "count": 2}, {"answer": "41", "count": 1}]
    stage.says(["The answer is 41.", ANSWER, ANSWER])
    *_, last = streamed(stage, extra_body={"tally": {"samples": 3}})
    assert told(last)["answer"] == "42"


def test_the_votes_so_far_are_told_as_comments(stage: Stage) -> None:
    stage.says(ANSWER)
    body = {"model": "small", "prompt": PROMPT, "stream": True, "tally": {"progress": True, "samples": 3}}
    response = stage.post(body, path="/self_consistency/v1/completions")
    assert ": tally {" in response.text
    assert "".join(json.loads(data)["choices"][0]["text"] for data in events(response)[:-1]) == ANSWER


def test_headers_are_those_of_a_chat(stage: Stage) -> None:
    stage.says(ANSWER)
    response = stage.post(
        {"model": "small", "prompt": PROMPT}, path="/v1/completions", headers={"x-tally-strategy": "self_consistency"}
    )
    assert response.headers["x-request-id"].startswith("req_")
    assert (response.headers["x-tally-strategy"], response.headers["x-tally-samples"]) == ("self_consistency", "8")
    assert float(response.headers["x-tally-cost-usd"]) == pytest.approx(stage.cost_nano / 1e9)


def test_the_upstream_is_asked_a_chat_with_every_field_that_both_know(stage: Stage) -> None:
    stage.says(ANSWER)
    both = {"temperature": 0.5, "top_p": 0.9, "stop": ["\n"], "presence_penalty": 0.1, "frequency_penalty": 0.2,
            "logit_bias": {"5": 1}, "user": "u", "max_tokens": 7}  # fmt: skip
    complete(stage, "off", **both, seed=3, suffix="", best_of=1, echo=False, extra_body={"top_k": 4})
    (call,) = stage.calls
    assert call.path == "/v1/chat/completions"
    assert call.body == {"model": "small", "messages": ASKED, **both, "seed": 3, "top_k": 4}


def test_a_completion_has_sixteen_tokens_unless_more_are_asked_for(stage: Stage) -> None:
    stage.says(" ".join(["word"] * 40))
    assert complete(stage, "off").choices[0].finish_reason == "length"
    assert complete(stage, "off", max_tokens=30).usage.completion_tokens == 30  # type: ignore[union-attr]  # it has one
    assert complete(stage, "off", extra_body={"max_completion_tokens": 20}).usage.completion_tokens == 20  # type: ignore[union-attr]  # it has one
    assert [call.max_tokens for call in stage.calls] == [16, 30, 20]


@pytest.mark.parametrize("strategy", ["off", "self_consistency"])
def test_a_list_of_one_prompt_is_that_prompt(stage: Stage, strategy: str) -> None:
    stage.says(ANSWER)
    assert complete(stage, strategy, prompt=[PROMPT]).choices[0].text == ANSWER
    assert all(call.messages == ASKED for call in stage.calls)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_echo_puts_the_prompt_before_the_text(stage: Stage, strategy: str) -> None:
    stage.says(ANSWER)
    assert complete(stage, strategy, echo=True).choices[0].text == PROMPT + ANSWER
    found = streamed(stage, strategy, echo=True)
    assert "".join(chunk.choices[0].text for chunk in found) == PROMPT + ANSWER


@pytest.mark.parametrize("strategy", ["off", "self_consistency"])
def test_several_choices_have_an_index_each(stage: Stage, strategy: str) -> None:
    texts = ["The answer is 1.", "The answer is 2.", "The answer is 3."]
    stage.says(Reply(texts))
    reply = complete(stage, strategy, n=3, best_of=3, echo=True)
    assert [(choice.index, choice.text) for choice in reply.choices] == [
        (index, PROMPT + text) for index, text in enumerate(texts)
    ]
    said = dict.fromkeys(range(3), "")
    for chunk in streamed(stage, strategy, n=3, echo=True):
        for choice in chunk.choices:
            said[choice.index] += choice.text
    assert list(said.values()) == [PROMPT + text for text in texts]


@pytest.mark.parametrize("strategy", ["off", "self_consistency"])
def test_logprobs_have_the_legacy_shape(stage: Stage, strategy: str) -> None:
    stage.says(Reply([ANSWER], top={" no": -3.0}))
    found = complete(stage, strategy, logprobs=2).choices[0].logprobs
    assert found is not None
    tokens = tokenize(ANSWER)
    assert found.tokens == tokens
    assert found.token_logprobs == [(-0.1, -0.2, -0.3)[place % 3] for place in range(len(tokens))]
    assert found.text_offset == [len("".join(tokens[:place])) for place in range(len(tokens))]
    assert found.top_logprobs is not None
    assert found.top_logprobs[0] == {tokens[0]: -0.1, " no": -3.0}
    assert all(call.body["top_logprobs"] == 2 for call in stage.calls)


def test_logprobs_zero_tells_the_tokens_without_others(stage: Stage) -> None:
    stage.says(ANSWER)
    found = complete(stage, "off", logprobs=0).choices[0].logprobs
    assert found is not None
    assert (found.tokens, found.top_logprobs) == (tokenize(ANSWER), None)
    assert "top_logprobs" not in stage.calls[0].body


def test_offsets_go_on_from_chunk_to_chunk(stage: Stage) -> None:
    stage.says(ANSWER)
    found = [chunk.choices[0].logprobs for chunk in streamed(stage, "off", logprobs=1)]
    offsets = [place for one in found if one is not None for place in one.text_offset or ()]
    tokens = tokenize(ANSWER)
    assert offsets == [len("".join(tokens[:place])) for place in range(len(tokens))]


@pytest.mark.parametrize(
    ("more", "param", "word"),
    [
        ({"prompt": ["one", "two"]}, "prompt", "requests of their own"),
        ({"prompt": []}, "prompt", "text"),
        ({"prompt": [1, 2, 3]}, "prompt", "tokens"),
        ({"prompt": [[1, 2], [3]]}, "prompt", "tokens"),
        ({"prompt": None}, "prompt", ""),
        ({"prompt": 5}, "prompt", ""),
        ({"suffix": "the end"}, "suffix", "suffix"),
        ({"best_of": 4}, "best_of", "tally.samples"),
        ({"n": 3, "best_of": 2}, "best_of", "tally.samples"),
        ({"echo": True, "logprobs": 1}, "echo", "logprobs"),
        ({"echo": "yes"}, "echo", ""),
        ({"logprobs": 6}, "logprobs", "5"),
        ({"logprobs": True}, "logprobs", ""),
        ({"messages": ASKED}, "messages", "/v1/chat/completions"),
        ({"tools": []}, "tools", "/v1/chat/completions"),
        ({"tool_choice": "auto"}, "tool_choice", "/v1/chat/completions"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", "/v1/chat/completions"),
        ({"function_call": "none"}, "function_call", "/v1/chat/completions"),
        ({"modalities": ["text"]}, "modalities", "/v1/chat/completions"),
        ({"temperature": 3}, "temperature", ""),
        ({"tally": {"samples": 0}}, "tally.samples", ""),
    ],
)
def test_what_a_chat_cannot_keep_is_a_400_that_names_it(stage: Stage, more: JSON, param: str, word: str) -> None:
    error = refused(stage, **more)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert word in error["message"]


def test_a_prompt_is_needed(stage: Stage) -> None:
    response = stage.post({"model": "small"}, path="/v1/completions")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("strategy", ["off", "self_consistency"])
def test_errors_are_those_of_a_chat(stage: Stage, strategy: str) -> None:
    stage.says(Fault(422, "Too odd.", "odd", "odd_code"))
    with pytest.raises(openai.UnprocessableEntityError, match="Too odd") as caught:
        complete(stage, strategy)
    assert (caught.value.code, caught.value.type) == ("odd_code", "odd")
    with pytest.raises(openai.NotFoundError):
        complete(stage, strategy, model="nope")
    with pytest.raises(openai.AuthenticationError):
        stage.client(strategy, "sk-nope").completions.create(model="small", prompt=PROMPT)


def test_a_stream_that_breaks_ends_with_an_error_the_client_raises(stage: Stage) -> None:
    stage.says(Drop(after_chunks=3))
    with pytest.raises(openai.APIError, match="broke"):
        streamed(stage, "off")


def test_refusals_are_text_and_calls_are_a_stop(stage: Stage) -> None:
    stage.says(Reply(refusal="I will not."))
    assert complete(stage, "off").choices[0].text == "I will not."
    stage.says(Reply(tool_calls=[{"name": "f", "arguments": "{}"}]))
    assert complete(stage, "off").choices[0].model_dump(include={"text", "finish_reason"}) == {
        "text": "",
        "finish_reason": "stop",
    }


def test_the_model_has_the_name_it_was_asked_by(stage: Stage) -> None:
    stage.says(ANSWER)
    assert complete(stage, "off", model="alias").model == "alias"
    assert {chunk.model for chunk in streamed(stage, "off", model="alias")} == {"alias"}


def test_feedback_takes_the_id_of_a_completion(stage: Stage) -> None:
    stage.says(ANSWER)
    reply = complete(stage)
    assert stage.post({"id": reply.id, "correct": True}, path="/v1/feedback").status_code == 200


def test_the_ledger_has_each_completion_and_adds_up(stage: Stage) -> None:
    stage.says(ANSWER)
    before = stage.tally.balance().spent.nano
    complete(stage)
    stage.upstream.wait(lambda: stage.tally.balance().spent.nano > before)
    balance = stage.tally.balance()
    assert balance.ok
    assert balance.spent.nano - before == stage.cost_nano


def test_a_spent_budget_is_402_here_too(tmp_path: Path) -> None:
    with staged(tmp_path, tenant={"max_budget": 0.000001}) as poor:
        with pytest.raises(openai.APIStatusError) as caught:
            complete(poor)
        assert caught.value.status_code == 402
        assert not poor.calls


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["prompt", "echo", "suffix", "best_of", "n", "logprobs"]), json_values))
def test_any_request_is_one_message_or_a_refusal_that_names_a_field(body: JSON) -> None:
    try:
        asked = legacy({"model": "small", **body}).asked
    except RequestInvalid as error:
        assert error.param
        assert error.param.split("[")[0] in {"prompt", "echo", "suffix", "best_of", "logprobs"}
        return
    assert [message["role"] for message in asked["messages"]] == ["user"]
    assert not asked.keys() & {"prompt", "echo", "suffix", "best_of"}


@given(
    st.fixed_dictionaries(
        {},
        optional={"message": json_values, "delta": json_values, "logprobs": json_values, "finish_reason": json_values},
    )
)
def test_whatever_a_provider_says_in_a_choice_has_the_legacy_shape(choice: JSON) -> None:
    reply = legacy({"model": "small", "prompt": "x"}).told(Served({}, json.dumps({"choices": [choice]}).encode()), "1")
    (shaped,) = json.loads(reply.body)["choices"]
    assert isinstance(shaped["text"], str)
    assert shaped.keys() == {"text", "index", "logprobs", "finish_reason"}
