"""Tools: forced and free, one call and several, whole loops, and the older functions."""

import json
from typing import Any

import pytest

from tests.conformance.conftest import named
from tests.conformance.talk import SCALED, Talk, heard, scaled, streamed, whole
from tests.fake_upstream import Reply
from tests.staged import ASK, Stage

CAPITAL = {"type": "function", "function": {"name": "capital", "parameters": {"type": "object"}}}
AREA = {"type": "function", "function": {"name": "area", "parameters": {"type": "object"}}}
FORCED = {"type": "function", "function": {"name": "capital"}}
TOOLS: dict[str, Any] = {"tools": [CAPITAL, AREA]}
LOOP: list[dict[str, Any]] = [
    {"role": "system", "content": "Be terse."},
    {"role": "user", "content": "What is six times seven?"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "times", "arguments": '{ "x":6, "y" : 7 }'}},
        {"id": "call_2", "type": "function", "function": {"name": "times", "arguments": "{}"}},
    ]},
    {"role": "tool", "tool_call_id": "call_1", "content": "42"},
    {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "nothing"}]},
]  # fmt: skip


def call(arguments: str, name: str = "capital") -> dict[str, Any]:
    return {"content": None, "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


CHILE, PERU = call('{"of": "Chile", "year": 1}'), call('{"of":"Peru"}')
CHILE_REPLY = Reply([CHILE])


def test_a_forced_call_is_voted_on_by_name_and_canonical_arguments(talk: Talk) -> None:
    spellings = ['{"of": "Chile", "year": 1}', '{"year":1,"of":"Chile"}', '{ "of" :"Chile","year":1.0 }']
    talk.says([PERU, *(call(spellings[number % 3]) for number in range(200))])
    found = talk.hear(**TOOLS, tool_choice=FORCED)
    said = json.loads(found.calls[0]["function"]["arguments"])
    assert said == ({"of": "Chile", "year": 1} if talk.scales else {"of": "Peru"})
    if talk.scales:
        assert len(found.tally["votes"]) == 2


def test_a_call_is_one_samples_own_message_with_its_id_and_its_spelling(talk: Talk) -> None:
    talk.says(call('{ "of" :"Chile" }'))
    found = talk.hear(**TOOLS, tool_choice="required")
    (made,) = found.calls
    assert made["function"] == {"name": "capital", "arguments": '{ "of" :"Chile" }'}
    assert made["id"].startswith("call_")
    assert (made["type"], found.content or None, found.finish) == ("function", None, "tool_calls")


def test_a_free_choice_votes_on_call_against_text_first(talk: Talk) -> None:
    talk.outvoted("Let me see: 42.", CHILE)
    found = talk.hear(**TOOLS)
    assert bool(found.calls) == talk.scales
    assert found.finish == ("tool_calls" if talk.scales else "stop")


def test_where_most_answer_in_words_words_are_returned(talk: Talk) -> None:
    talk.outvoted(CHILE, "The answer is 42.")
    found = talk.hear(**TOOLS)
    # a stream begins with an empty text also where a call follows
    assert (found.content or None) == ("The answer is 42." if talk.scales else None)
    assert bool(found.calls) != talk.scales


@scaled("off draws one sample")
def test_calls_whose_arguments_differ_stand_together_against_text(talk: Talk) -> None:
    talk.says([call(json.dumps({"of": number})) if number % 3 else "42" for number in range(1, 200)])
    found = talk.hear(**TOOLS)
    assert found.calls


@scaled("off draws one sample")
def test_arguments_that_are_no_json_abstain(talk: Talk) -> None:
    talk.outvoted(call('{"of": '), CHILE)
    found = talk.hear(**TOOLS, tool_choice=FORCED)
    assert found.calls[0]["function"]["arguments"] == '{"of": "Chile", "year": 1}'
    assert found.tally["abstained"] == 1


def test_parallel_calls_come_whole_and_in_order_each_with_an_id(talk: Talk) -> None:
    both = {"content": None, "tool_calls": [
        {"function": {"name": "capital", "arguments": '{"of":"Chile"}'}},
        {"function": {"name": "area", "arguments": "{}"}},
    ]}  # fmt: skip
    talk.says(Reply([both]))
    made = talk.hear(**TOOLS).calls
    assert [each["function"]["name"] for each in made] == ["capital", "area"]
    assert [each["function"]["arguments"] for each in made] == ['{"of":"Chile"}', "{}"]
    assert len({each["id"] for each in made}) == 2
    # of one sample: ids are made of the call, the choice, and the place in it
    assert len({each["id"].rsplit("_", 1)[0] for each in made}) == 1


@streamed("a whole message has a list")
def test_pieces_of_calls_have_their_index_and_the_first_of_each_its_id_and_name(talk: Talk) -> None:
    talk.says(
        Reply(tool_calls=[{"name": "capital", "arguments": '{"of":"Chile"}'}, {"name": "area", "arguments": "{}"}])
    )
    seen: set[int] = set()
    for chunk in talk.hear(**TOOLS).chunks:
        for piece in chunk["choices"][0]["delta"].get("tool_calls") or ():
            if piece["index"] not in seen:
                assert piece["id"]
                assert piece["type"] == "function"
                assert piece["function"]["name"]
            seen.add(piece["index"])
    assert seen == {0, 1}


@streamed("a whole message needs no collector")
def test_the_official_clients_own_collector_reads_calls(talk: Talk) -> None:
    talk.says(CHILE)
    body = {name: value for name, value in talk.body(TOOLS).items() if name != "stream"}
    with talk.client.chat.completions.stream(**body) as stream:
        (made,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert made.function.name == "capital"
    assert json.loads(made.function.arguments) == {"of": "Chile", "year": 1}


def test_text_beside_a_call_stays_with_it(talk: Talk) -> None:
    talk.says(Reply([{**CHILE, "content": "Let me look."}]))
    found = talk.hear(**TOOLS)
    assert (found.content, found.calls[0]["function"]["name"]) == ("Let me look.", "capital")


def test_a_loop_with_tool_results_reaches_the_upstream_untouched_in_every_draw(talk: Talk) -> None:
    talk.says("The answer is 42.")
    assert talk.hear(messages=LOOP, **TOOLS).content == "The answer is 42."
    for made in talk.calls:
        # what sees other samples is told of them after the last turn of the user
        assert [turn for turn in made.messages if turn["role"] != "user"] == [LOOP[0], *LOOP[2:]]
        assert made.body["tools"] == TOOLS["tools"]
    assert talk.calls[0].messages == LOOP


def test_a_whole_loop_ends_in_an_answer(talk: Talk) -> None:
    talk.says(lambda made: CHILE_REPLY if made.messages[-1]["role"] == "user" else Reply(["The answer is 42."]))
    asked = talk.hear(**TOOLS).message
    results = [{"role": "tool", "tool_call_id": each["id"], "content": "42"} for each in asked["tool_calls"]]
    assert talk.hear(messages=[*ASK, asked, *results], **TOOLS).content == "The answer is 42."


def test_tools_that_may_not_be_used_are_passed_on_and_words_are_voted_on(talk: Talk) -> None:
    talk.outvoted("The answer is 41.", "The answer is 42.")
    found = talk.hear(**TOOLS, tool_choice="none")
    assert found.content == f"The answer is {42 if talk.scales else 41}."
    assert all(made.body["tool_choice"] == "none" for made in talk.calls)


@pytest.mark.parametrize(
    "more", [{"parallel_tool_calls": False}, {"parallel_tool_calls": True}, {"tools": []}, {"tool_choice": "auto"}]
)
@whole("what is asked for does not depend on the form of the reply")
def test_options_of_tools_reach_every_draw_as_they_are(talk: Talk, more: dict[str, Any]) -> None:
    talk.says("The answer is 42.")
    talk.hear(**{**TOOLS, **more})
    assert all(made.body.items() >= more.items() for made in talk.calls)


def test_the_older_functions_are_voted_on_and_come_back_whole(talk: Talk) -> None:
    functions = [{"name": "capital", "parameters": {"type": "object"}}]

    def older(arguments: str) -> dict[str, Any]:
        return {"content": "Let me look.", "function_call": {"name": "capital", "arguments": arguments}}

    talk.outvoted(older('{"of":"Peru"}'), older('{"of":"Chile"}'), Reply(finish_reason="function_call"))
    found = talk.hear(functions=functions, function_call={"name": "capital"})
    of = "Chile" if talk.scales else "Peru"
    assert found.message["function_call"] == {"name": "capital", "arguments": f'{{"of":"{of}"}}'}
    assert (found.finish, found.calls) == ("function_call", [])


def test_tools_of_a_free_form_come_back_whole(talk: Talk) -> None:
    tools = [{"type": "custom", "custom": {"name": "run"}}]
    made = {"content": None, "tool_calls": [{"custom": {"name": "run", "input": "print(6 * 7)"}}]}
    talk.says(Reply([made]))
    reply = talk.post({"tools": tools})
    assert reply.status_code == 200
    assert '"run"' in reply.text
    if talk.scales:
        assert '"input":"print(6 * 7)"' in reply.text


@pytest.mark.parametrize("strategy", SCALED)
def test_a_forced_call_needs_no_probe_under_a_strategy_that_the_request_did_not_name(
    stage: Stage, strategy: str, *, streamed: bool
) -> None:
    stage.says(CHILE_REPLY)
    body = {"model": "small", "messages": ASK, "stream": streamed, **TOOLS, "tool_choice": FORCED}
    found = heard(stage.client(None, named(strategy)), body)
    assert found.tally["samples"] > 1
    assert stage.calls[0].n > 1
