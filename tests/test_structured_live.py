"""Tool calls, JSON and reasoning through the official client: what wins, and what is passed on, streamed or not."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from pydantic import BaseModel, ConfigDict, Field

from tests.fake_upstream import Reply
from tests.staged import ASK, Stage, staged, told

JSON = dict[str, Any]

FIND: JSON = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
SHELL: JSON = {"type": "custom", "custom": {"name": "shell"}}
PROSE = "Before I look for anything, tell me which of the two cities of that name you have in mind, please. " * 4


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("structured"), scaling={"samples": 5}) as made:
        yield made


def finding(*given: JSON) -> JSON:
    return {"tool_calls": [{"name": "find", "arguments": json.dumps(each)} for each in given]}


def asked(stage: Stage, streamed: bool, answer: JSON | None = None, **more: Any) -> tuple[ChatCompletionMessage, JSON]:
    """The message as the client gets it, in one piece or joined from a stream by the client's own helper; the tally."""
    body = {"model": "small", "messages": ASK, "extra_body": {"tally": {"answer": answer or {}}}, **more}
    completions = stage.client("self_consistency").chat.completions
    if not streamed:
        whole = completions.create(**body)
        assert isinstance(whole, ChatCompletion)
        return whole.choices[0].message, told(whole)
    tally: JSON = {}
    with completions.stream(**body) as stream:
        for event in stream:
            if event.type == "chunk":
                tally = (event.chunk.model_extra or {}).get("tally", tally)
        return stream.get_final_completion().choices[0].message, tally


def made(message: ChatCompletionMessage) -> list[tuple[str, Any]]:
    """The calls of a message."""
    return [
        (call.function.name, json.loads(call.function.arguments))
        for call in message.tool_calls or ()
        if call.type == "function"
    ]


BOTH = pytest.mark.parametrize("streamed", [False, True])

# tool calls ----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_forced_call_is_voted_on_by_its_arguments(stage: Stage, streamed: bool) -> None:
    right = finding({"q": "Paris", "n": 1})
    stage.says([finding({"q": "Rome"}), right, "I would rather talk.", finding({"n": 1.0, "q": "Paris"}), right])
    forced = {"type": "function", "function": {"name": "find"}}
    message, tally = asked(stage, streamed, tools=[FIND], tool_choice=forced)
    assert made(message) == [("find", {"q": "Paris", "n": 1})]
    assert [vote["count"] for vote in tally["votes"]] == [3, 1]
    assert tally["abstained"] == 1


@BOTH
def test_the_ids_are_those_of_the_sample_that_is_returned(stage: Stage, streamed: bool) -> None:
    stage.says([finding({"q": "Rome"}), finding({"q": "Paris"})])
    message, tally = asked(stage, streamed, tools=[FIND])
    assert message.tool_calls is not None
    (call,) = stage.calls
    assert made(message) == [("find", {"q": "Rome"})]
    assert [each.id for each in message.tool_calls] == [f"call_{call.index}_{tally['winner']}_0"]


@BOTH
def test_text_wins_against_calls_that_are_fewer(stage: Stage, streamed: bool) -> None:
    stage.says([finding({"q": "Rome"}), PROSE, finding({"q": "Rome"}), f"{PROSE}!", "It is 42."])
    message, tally = asked(stage, streamed, tools=[FIND])
    assert (message.content, message.tool_calls) == (PROSE, None)
    assert [vote["count"] for vote in tally["votes"]] == [2, 1, 2]


@BOTH
def test_calls_that_are_more_win_against_text_though_no_two_are_alike(stage: Stage, streamed: bool) -> None:
    stage.says([PROSE, finding({"q": "Rome"}), PROSE, finding({"q": "Paris"}), finding({"q": "Oslo"})])
    message, tally = asked(stage, streamed, tools=[FIND])
    assert made(message) == [("find", {"q": "Rome"})]
    assert tally["winner"] == 1


@BOTH
def test_calls_side_by_side_are_one_answer_in_any_order(stage: Stage, streamed: bool) -> None:
    one, two = {"q": "Rome"}, {"q": "Oslo"}
    stage.says([finding(one), finding(two, one), finding(one), finding(one, two), finding(two, one)])
    message, tally = asked(stage, streamed, tools=[FIND], parallel_tool_calls=True)
    assert made(message) == [("find", two), ("find", one)]
    assert message.tool_calls is not None
    assert len({call.id for call in message.tool_calls}) == 2
    assert tally["votes"][0]["count"] == 3


@BOTH
def test_calls_that_differ_in_an_ignored_argument_are_one_answer(stage: Stage, streamed: bool) -> None:
    calls = [finding({"q": "Paris", "request_id": number}) for number in range(3)]
    stage.says([finding({"q": "Rome", "request_id": 7}), calls[0], finding({"q": "Rome", "request_id": 7}), *calls[1:]])
    message, tally = asked(stage, streamed, {"ignore": ["request_id"]}, tools=[FIND])
    ((_, given),) = made(message)
    assert given["q"] == "Paris"
    assert given["request_id"] in (0, 1, 2)
    assert [vote["count"] for vote in tally["votes"]] == [3, 2]


def test_a_custom_tool_is_voted_on_by_its_text(stage: Stage) -> None:
    calls = [{"tool_calls": [{"custom": {"name": "shell", "input": text}}]} for text in ("ls", "pwd", "pwd")]
    stage.says([calls[0], calls[1], calls[2], calls[0], calls[1]])
    message, _ = asked(stage, streamed=False, tools=[SHELL], tool_choice="required")
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "custom"
    assert (call.custom.name, call.custom.input) == ("shell", "pwd")


def test_a_streamed_call_of_a_custom_tool_is_whole(stage: Stage) -> None:
    stage.says([{"tool_calls": [{"custom": {"name": "shell", "input": "ls -l"}}]}])
    chunks = [json.loads(data) for data in stage.events(tools=[SHELL])[:-1]]
    (call,) = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert (call["index"], call["custom"]) == (0, {"name": "shell", "input": "ls -l"})


@BOTH
def test_the_older_form_of_a_call_is_voted_on_as_well(stage: Stage, streamed: bool) -> None:
    right = {"content": None, "function_call": {"name": "find", "arguments": '{"q": "Paris"}'}}
    wrong = {"content": None, "function_call": {"name": "find", "arguments": '{"q": "Rome"}'}}
    stage.says([wrong, right, right, wrong, right])
    functions = [FIND["function"]]
    message, tally = asked(stage, streamed, functions=functions)
    assert message.function_call is not None
    assert (message.function_call.name, message.function_call.arguments) == ("find", '{"q": "Paris"}')
    assert [vote["count"] for vote in tally["votes"]] == [3, 2]


# JSON ----------------------------------------------------------------------------------------------------------------


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern="^[A-Z]")
    size: int = Field(ge=0)
    kind: Literal["town", "port"]


PARIS = '{"name": "Paris", "size": 2, "kind": "town"}'
SAME = '{"kind":"town","size":2.0,"name":"Paris"}'
ROME = '{"name": "Rome", "size": 3, "kind": "town"}'
WRONG = [
    '{"name": "Paris", "size": -2, "kind": "town"}',
    '{"name": "paris", "size": 2, "kind": "town"}',
    '{"name": "Paris", "size": 2, "kind": "city"}',
    '{"name": "Paris", "size": 2}',
    '{"name": "Paris", "size": 2, "kind": "town", "more": 1}',
    "It is Paris.",
]
SAMPLES = [
    [PARIS, ROME, SAME, ROME, PARIS],
    [WRONG[0], PARIS, WRONG[0], WRONG[0], WRONG[0]],
    [*WRONG[:4], PARIS],
    [*WRONG[3:5], f"```json\n{PARIS}\n```", f"```json\n{PARIS}\n```", PARIS],
    [*WRONG[4:6], WRONG[5], PARIS, WRONG[5]],
]


@pytest.mark.parametrize("samples", SAMPLES)
def test_the_parsing_helper_always_gets_a_document_that_fits(stage: Stage, samples: list[str]) -> None:
    stage.says(samples)
    reply = stage.client("self_consistency").chat.completions.parse(
        model="small",
        messages=ASK,  # type: ignore[arg-type]  # any dict is a message
        response_format=City,
    )
    assert reply.choices[0].message.parsed == City.model_validate_json(PARIS)
    assert reply.choices[0].message.content in samples


@pytest.mark.parametrize("samples", SAMPLES)
def test_the_streaming_helper_always_gets_a_document_that_fits(stage: Stage, samples: list[str]) -> None:
    stage.says(samples)
    with stage.client("self_consistency").chat.completions.stream(
        model="small",
        messages=ASK,  # type: ignore[arg-type]  # any dict is a message
        response_format=City,
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == City.model_validate_json(PARIS)


FORMAT = {"type": "json_schema", "json_schema": {"name": "City", "schema": City.model_json_schema()}}


@BOTH
def test_a_schema_that_is_not_strict_is_held_to_as_well(stage: Stage, streamed: bool) -> None:
    stage.says(SAMPLES[1])
    message, tally = asked(stage, streamed, response_format=FORMAT)
    assert (message.content, tally["abstained"]) == (PARIS, 4)


@BOTH
def test_where_nothing_fits_a_complete_sample_comes_with_the_reason(stage: Stage, streamed: bool) -> None:
    stage.says(WRONG)
    message, tally = asked(stage, streamed, response_format=FORMAT)
    assert (message.content, tally["reason"], tally["answer"]) == (WRONG[0], "no votes", None)


FIELDS = [
    '{"name": "Paris", "size": 2, "kind": "port"}',
    '{"name": "Rome", "size": 2, "kind": "town"}',
    '{"size": 9, "name": "Paris", "kind": "town"}',
]


@BOTH
def test_where_fields_vote_the_result_may_be_no_samples_and_says_so(stage: Stage, streamed: bool) -> None:
    stage.says(Reply(FIELDS))
    message, tally = asked(
        stage,
        streamed,
        {"per_field": True},
        response_format=FORMAT,
        logprobs=True,
        extra_body={"tally": {"samples": 3, "answer": {"per_field": True}}},
    )
    assert message.content == '{"name": "Paris", "size": 2, "kind": "town"}'
    assert (tally["composed"], tally["winner"], tally["answer"]) == (True, 0, message.content)


def test_what_is_passed_through_is_not_composed_and_does_not_say_so(stage: Stage) -> None:
    told_by = [json.dumps(made) for made in ({"a": 1, "b": 1}, {"a": 1, "b": 2, "c": 1}, {"a": 2, "b": 2})]
    stage.says(told_by)
    wish = {"tally": {"strategy": "off", "answer": {"kind": "json", "per_field": True}}}
    reply = stage.ask(None, n=3, response_format={"type": "json_object"}, extra_body=wish)
    assert [choice.message.content for choice in reply.choices] == told_by
    assert "composed" not in told(reply)
    assert told(reply)["answer"] == told_by[0]


def test_a_composed_result_has_no_log_probabilities_and_a_sample_has_its_own(stage: Stage) -> None:
    body = {"tally": {"samples": 3, "answer": {"per_field": True}}}
    stage.says(Reply(FIELDS))
    assert stage.ask(response_format=FORMAT, logprobs=True, extra_body=body).choices[0].logprobs is None
    stage.says(Reply([PARIS, *FIELDS[1:]]))
    reply = stage.ask(response_format=FORMAT, logprobs=True, extra_body=body)
    assert reply.choices[0].message.content == PARIS
    assert "composed" not in told(reply)
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert "".join(entry.token for entry in logprobs.content or ()) == PARIS


@BOTH
def test_a_path_votes_on_the_value_alone(stage: Stage, streamed: bool) -> None:
    texts = [f'{{"why": "{why}", "city": "{city}"}}' for why, city in (("a", "Rome"), ("b", "Paris"), ("c", "paris"))]
    stage.says([*texts, texts[0], texts[1]])
    message, tally = asked(stage, streamed, {"kind": "json_path", "path": "$.city"})
    assert message.content in texts[1:]
    assert tally["votes"] == [{"answer": "Paris", "count": 3}, {"answer": "Rome", "count": 2}]


# reasoning -----------------------------------------------------------------------------------------------------------


@BOTH
def test_reasoning_has_no_vote_and_is_returned_with_the_winner(stage: Stage, streamed: bool) -> None:
    said = [("41", "42"), ("42", "41"), ("41", "42"), ("42", "41"), ("41", "42")]
    stage.says([{"reasoning_content": f"Surely {first}.", "content": f"Answer: {then}"} for first, then in said])
    message, tally = asked(stage, streamed)
    assert message.content == "Answer: 42"
    assert (message.model_extra or {})["reasoning_content"] == "Surely 41."
    assert tally["votes"][0] == {"answer": "42", "count": 3}


@BOTH
def test_thinking_in_the_content_has_no_vote_and_is_returned_as_it_stands(stage: Stage, streamed: bool) -> None:
    right = "<think>Answer: 41\nor is it?</think>\n\nAnswer: 42"
    stage.says([right, "<think>Answer: 42</think>Answer: 41", right, "<think>42 42 42", right])
    message, tally = asked(stage, streamed)
    assert message.content == right
    assert [vote["count"] for vote in tally["votes"]] == [3, 1]


@BOTH
def test_reasoning_before_a_document_leaves_it_a_document(stage: Stage, streamed: bool) -> None:
    texts = [ROME, PARIS, PARIS, ROME, SAME]
    stage.says([{"reasoning_content": ROME, "content": text} for text in texts])
    message, _ = asked(stage, streamed, response_format=FORMAT)
    assert City.model_validate_json(message.content or "") == City.model_validate_json(PARIS)
    assert (message.model_extra or {})["reasoning_content"] == ROME
