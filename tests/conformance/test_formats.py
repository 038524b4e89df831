"""Structured output: what is no JSON, or not what was asked for, has no vote; what wins comes as it was written."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from tests.conformance.conftest import named
from tests.conformance.talk import SCALED, Talk, heard, scaled, whole
from tests.staged import ASK, Stage

OBJECT: dict[str, Any] = {"type": "json_object"}
SCHEMA: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}


class Answer(BaseModel):
    """What the official client's parser is to find."""

    a: int


@pytest.mark.parametrize("wanted", [OBJECT, SCHEMA], ids=["object", "schema"])
def test_json_is_voted_on_by_value_and_the_winners_own_text_is_returned(talk: Talk, wanted: dict[str, Any]) -> None:
    texts = ['{"a": 42}', '{\n  "a" :42}', '{"a":42.0}']
    talk.says(['{"a": 41}', *(texts[number % 3] for number in range(200))])
    found = talk.hear(response_format=wanted)
    assert found.content in (texts if talk.scales else ['{"a": 41}'])
    assert all(made.body["response_format"] == wanted for made in talk.calls)


@pytest.mark.parametrize("wanted", [OBJECT, SCHEMA], ids=["object", "schema"])
@scaled("off passes on whatever comes")
def test_what_is_no_json_has_no_vote(talk: Talk, wanted: dict[str, Any]) -> None:
    talk.outvoted("Here you are: 41", '{"a": 42}')
    found = talk.hear(response_format=wanted)
    assert json.loads(found.content or "") == {"a": 42}
    assert found.tally["abstained"] == 1


@scaled("off passes on whatever comes")
def test_what_breaks_the_schema_has_no_vote(talk: Talk) -> None:
    talk.says(['{"b": 1}', '{"a": "x"}', '{"a": 1, "b": 2}', *['{"a": 42}'] * 200])
    found = talk.hear(response_format=SCHEMA)
    assert json.loads(found.content or "") == {"a": 42}


def test_where_nothing_is_valid_a_sample_is_returned_as_it_is(talk: Talk) -> None:
    talk.says("I would rather not.")
    found = talk.hear(response_format=SCHEMA)
    assert found.content == "I would rather not."
    if talk.scales:
        assert (found.tally["votes"], found.tally["confidence"]) == ([], None)


def test_a_refusal_in_place_of_json_is_a_refusal(talk: Talk) -> None:
    talk.says([{"refusal": "I will not."}])
    assert talk.hear(response_format=SCHEMA).message["refusal"] == "I will not."


@whole("a stream is parsed by another of the client's helpers, on the same words")
def test_the_official_clients_parser_gets_its_object(talk: Talk) -> None:
    talk.outvoted('{"a": 41}', '{"a": 42}')
    reply = talk.client.chat.completions.parse(model="small", messages=ASK, response_format=Answer)  # type: ignore[arg-type]  # any dict is a message
    assert reply.choices[0].message.parsed == Answer(a=42 if talk.scales else 41)


def test_the_format_text_is_as_none(talk: Talk) -> None:
    talk.outvoted("The answer is 41.", "The answer is 42.")
    assert talk.hear(response_format={"type": "text"}).content == f"The answer is {42 if talk.scales else 41}."


@pytest.mark.parametrize("strategy", SCALED)
def test_json_needs_no_probe_under_a_strategy_that_the_request_did_not_name(
    stage: Stage, strategy: str, *, streamed: bool
) -> None:
    stage.says('{"a": 42}')
    body = {"model": "small", "messages": ASK, "stream": streamed, "response_format": SCHEMA}
    found = heard(stage.client(None, named(strategy)), body)
    assert found.tally["samples"] > 1
    assert stage.calls[0].n > 1
