"""Answers that are data: JSON that fits, parts of it, tool calls, and documents composed of what most samples say."""

import json
from collections.abc import Callable, Sequence
from math import inf
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answers import REFUSAL, SAID, Candidate, Reader, kin, read, winner
from proxy.answers.compose import Composed, compose, vote
from proxy.answers.structured import MAX_JSON, Document, Documents
from proxy.types import JSON, AnswerSpec, Choice
from tests.test_answers_fuzz import messages, requests

NUMBER = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0}, "s": {"enum": ["x", "y", None]}},
    "required": ["n"],
    "additionalProperties": False,
}


def wanted(schema: JSON, *, strict: bool = True) -> JSON:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "it", "strict": strict, "schema": schema}}
    }


def said(text: str, **more: Any) -> Choice:
    return Choice(0, {"role": "assistant", "content": text, **more}, "stop")


def calling(*calls: tuple[str, object]) -> Choice:
    body = [
        {
            "id": f"call_{place}",
            "type": "function",
            "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
        }
        for place, (name, given) in enumerate(calls)
    ]
    return Choice(0, {"role": "assistant", "content": None, "tool_calls": body}, "tool_calls")


def label(choice: Choice, spec: AnswerSpec | None = None, **request: Any) -> Any:
    found = read(choice, spec or AnswerSpec(), request)
    return None if found is None else found.label


# JSON ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"n": 1}', True),
        ('```json\n{"n": 1, "s": "x"}\n```', True),
        ('<think>{"n": -1}</think>{"n": 1.0}', True),
        ('{"n": -1}', False),
        ('{"n": 1, "s": "z"}', False),
        ('{"n": 1, "more": 1}', False),
        ('{"n": 1e999}', False),
        ('{"n": 1, "s": "\\ud800"}', False),
        ('```json\n{"n": -1}\n```', False),
        (json.dumps({"n": 1, "s": "x" * MAX_JSON}), False),
    ],
)
def test_a_sample_that_does_not_fit_the_schema_abstains(text: str, fits: bool, strict: bool) -> None:
    assert (label(said(text), **wanted(NUMBER, strict=strict)) is not None) is fits


def test_json_that_stands_alone_is_told_from_json_that_is_wrapped() -> None:
    request = wanted(NUMBER)
    texts = ['{"n": 1}', ' {"n": 1}\n', '```json\n{"n": 1}\n```', '<think>hm</think>{"n": 1}']
    found = [read(said(text), AnswerSpec(), request) for text in texts]
    assert [answer and answer.bare for answer in found] == [True, True, False, False]
    assert len({answer and answer.label for answer in found}) == 1


@pytest.mark.parametrize("kind", ["number", "label"])
def test_what_does_not_fit_abstains_whatever_else_is_looked_for_in_it(kind: Any) -> None:
    assert label(said('{"n": 1}'), AnswerSpec(kind), **wanted(NUMBER)) is not None
    assert label(said('{"n": -1}'), AnswerSpec(kind), **wanted(NUMBER)) is None


def test_a_refusal_is_a_ballot_where_json_is_asked_for() -> None:
    assert label(said("I'm sorry, but I can't help with that."), **wanted(NUMBER)) == REFUSAL
    assert label(said("", refusal="No."), **wanted(NUMBER)) == REFUSAL


# parts of JSON -------------------------------------------------------------------------------------------------------


def at(path: str) -> AnswerSpec:
    return AnswerSpec("json_path", path=path)


@pytest.mark.parametrize(
    ("path", "one", "other"),
    [
        ("$.city", '{"city": "Paris", "why": "a"}', '{"why": "b", "city": " paris "}'),
        ("$.n", '{"n": 1}', '```json\n{"n": 1.0}\n```'),
        ("$.n", '{"n": "42"}', '{"n": " 42"}'),
        ("$.rows[*].id", '{"rows": [{"id": 1, "t": 0}, {"id": 2}]}', '{"rows": [{"id": 1}, {"id": 2, "t": 5}]}'),
        ("$[-1]", "[1, 2]", "[7, 2.0]"),
        ("$['a','b']", '{"a": 1, "b": 2}', '{"b": 2, "a": 1, "c": 3}'),
        ("$.o", '{"o": {"a": 1, "b": 2}}', '{"o": {"b": 2, "a": 1}}'),
    ],
)
def test_replies_with_the_same_value_at_the_path_are_one_answer(path: str, one: str, other: str) -> None:
    assert label(said(one), at(path)) == label(said(other), at(path)) is not None


@pytest.mark.parametrize(
    ("path", "one", "other"),
    [
        ("$.n", '{"n": "42"}', '{"n": 42}'),
        ("$.n", '{"n": 1}', '{"n": true}'),
        ("$.rows[*].id", '{"rows": [{"id": 1}, {"id": 2}]}', '{"rows": [{"id": 2}, {"id": 1}]}'),
        ("$.n", '{"n": null}', '{"n": 0}'),
    ],
)
def test_replies_with_other_values_at_the_path_are_two_answers(path: str, one: str, other: str) -> None:
    assert label(said(one), at(path)) != label(said(other), at(path))


@pytest.mark.parametrize("text", ['{"a": 1}', '{"n": {}}', "n is 1", "[1]", '{"n": []}', '{"n": [{"m": 1}]}'])
def test_a_reply_without_the_value_abstains(text: str) -> None:
    assert label(said(text), at("$.n[0].id")) is None


def test_the_value_is_shown_as_it_was_written() -> None:
    found = read(said('{"a": [" Paris ", 3]}'), at("$.a[*]"), {})
    assert found is not None
    assert found.text == "Paris , 3"


def test_a_document_that_does_not_fit_has_no_value_at_its_path_either() -> None:
    assert label(said('{"n": -1}'), at("$.n"), **wanted(NUMBER)) is None
    assert label(said('{"n": 2}'), at("$.n"), **wanted(NUMBER)) is not None


def test_a_path_that_names_the_same_thing_over_and_over_costs_little() -> None:
    path = "$" + "['a','a']" * 100
    text = '{"a":' * 100 + "1" + "}" * 100
    assert label(said(text), at(path)) is not None
    assert label(said(text[:-2] + ',"b":1}}'), at("$" + "[*,*,*]" * 100)) is not None


# what does not count -------------------------------------------------------------------------------------------------


def ignoring(*names: str, kind: Any = "auto") -> AnswerSpec:
    return AnswerSpec(kind, ignore=names)


@pytest.mark.parametrize("kind", ["auto", "json"])
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"id": 1, "a": 2}', '{"id": 9, "a": 2}', True),
        ('{"a": 2}', '{"id": 9, "a": 2}', True),
        ('{"user": {"id": 1, "n": 2}}', '{"user": {"id": 3, "n": 2}}', True),
        ('{"user": [{"id": 1, "n": 2}]}', '{"user": [{"id": 3, "n": 2}]}', True),
        ('{"user": {"id": 1, "n": 2}}', '{"user": {"id": 1, "n": 3}}', False),
        ('{"of": {"id": 1}}', '{"of": {"id": 2}}', False),
    ],
)
def test_ignored_fields_are_no_part_of_the_answer(kind: Any, one: str, other: str, same: bool) -> None:
    request = {"response_format": {"type": "json_object"}}
    labels = [label(said(text), ignoring("id", "user.id", kind=kind), **request) for text in (one, other)]
    assert None not in labels
    assert (labels[0] == labels[1]) is same


def test_what_is_ignored_must_still_fit_the_schema() -> None:
    assert label(said('{"n": -1}'), ignoring("n"), **wanted(NUMBER)) is None


TOOLS = [{"type": "function", "function": {"name": name}} for name in ("find", "user")]


@pytest.mark.parametrize("kind", ["auto", "tool_calls"])
@pytest.mark.parametrize(
    ("names", "one", "other", "same"),
    [
        (["id"], ("find", {"id": 1, "q": "x"}), ("find", {"id": 2, "q": "x"}), True),
        (["id"], ("find", {"id": 1, "q": "x"}), ("find", {"id": 1, "q": "y"}), False),
        (["id"], ("find", {"of": {"id": 1}}), ("find", {"of": {"id": 2}}), False),
        (["of.id"], ("find", {"of": {"id": 1}}), ("find", {"of": {"id": 2}}), True),
        (["find.id"], ("find", {"id": 1}), ("find", {"id": 2}), True),
        (["find.id"], ("user", {"id": 1}), ("user", {"id": 2}), False),
        (["user.id"], ("find", {"user": {"id": 1}}), ("find", {"user": {"id": 2}}), False),
        (["other.id"], ("other", {"id": 1}), ("other", {"id": 2}), True),
    ],
)
def test_ignored_arguments_are_no_part_of_the_call(kind: Any, names: Any, one: Any, other: Any, same: bool) -> None:
    labels = [label(calling(call), ignoring(*names, kind=kind), tools=TOOLS) for call in (one, other)]
    assert None not in labels
    assert (labels[0] == labels[1]) is same


# tool calls ----------------------------------------------------------------------------------------------------------


def test_calls_side_by_side_are_a_multiset() -> None:
    assert label(calling(("a", {}), ("b", {}))) == label(calling(("b", {}), ("a", {})))
    assert label(calling(("a", {}), ("a", {}))) != label(calling(("a", {})))
    assert label(calling(("a", {"x": 1}), ("a", {"x": 2}))) == label(calling(("a", {"x": 2}), ("a", {"x": 1})))


def test_a_custom_tool_is_called_with_a_text() -> None:
    def custom(text: str) -> Choice:
        call = {"id": "1", "type": "custom", "custom": {"name": "sh", "input": text}}
        return Choice(0, {"content": None, "tool_calls": [call]}, "tool_calls")

    assert label(custom("ls")) == label(custom("ls")) == ("tool_calls", (("sh", '"ls"'),))
    assert label(custom("ls")) != label(custom("ls -l"))


def test_the_older_form_of_a_call_is_the_same_call() -> None:
    older = Choice(0, {"content": None, "function_call": {"name": "a", "arguments": '{"x":1}'}}, "function_call")
    assert label(older) == label(calling(("a", {"x": 1})))


def test_a_call_that_cannot_be_parsed_abstains() -> None:
    assert label(calling(("a", '{"x": ')), tools=TOOLS) is None


AUTO: list[JSON] = [
    {"tools": TOOLS},
    {"tools": TOOLS, "tool_choice": "auto"},
    {"functions": [{"name": "find"}]},
    {
        "tools": TOOLS,
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": TOOLS[:1]}},
    },
]
PROSE = said("Let me first ask you something about this: which of them did you mean? " * 9)


@pytest.mark.parametrize("request_", AUTO)
def test_prose_is_a_ballot_where_a_tool_might_have_been_called(request_: JSON) -> None:
    assert label(PROSE, **request_) == SAID
    assert label(said("The answer is 42."), **request_) not in (SAID, None)
    assert label(said("The answer is 42."), AnswerSpec("tool_calls"), **request_) == SAID
    assert label(said(""), **request_) is None
    assert label(said("I'm sorry, but I can't help with that."), **request_) == REFUSAL


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"tools": []},
        {"tools": TOOLS, "tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": "none"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "find"}}},
        {"functions": [{"name": "find"}], "function_call": {"name": "find"}},
        {"tools": TOOLS, **wanted(NUMBER)},
    ],
)
def test_prose_is_no_answer_where_it_is_not_what_was_asked_for(request_: JSON) -> None:
    assert label(PROSE, **request_) is None


def test_a_short_text_is_no_answer_where_a_call_was_required() -> None:
    assert label(said("42"), tools=TOOLS, tool_choice="required") is None
    assert label(said("42"), tools=TOOLS, tool_choice="none") == label(said("42")) is not None
    assert label(said("I'm sorry, but I can't help with that."), tools=TOOLS, tool_choice="required") == REFUSAL


def test_the_kin_of_a_label_tell_refusing_from_calling_from_saying() -> None:
    assert kin(REFUSAL) == ("refusal",)
    assert kin(label(calling(("b", {"x": 1}), ("a", {})))) == ("answer", "call", ("a", "b"))
    assert kin(SAID) == kin(label(said("42"))) == ("answer", "said")


# documents of many ---------------------------------------------------------------------------------------------------


def first(places: Sequence[int]) -> int:
    return places[0]


def composed(*texts: str | None, schema: JSON | None = None, ignore: tuple[str, ...] = ()) -> Composed | None:
    request = {"response_format": {"type": "json_object"}} if schema is None else wanted(schema)
    documents = Documents(AnswerSpec("json", per_field=True, ignore=ignore), request)
    choices = [
        None if text is None else Choice(0, {"content": text, "k": 1}, "stop", {"content": []}) for text in texts
    ]
    return compose(choices, documents, first)


def test_every_field_is_what_most_samples_say() -> None:
    found = composed('{"a":1,"b":1,"c":{"d":2}}', '{"a":1,"b":2,"c":{"d":1}}', '{"c":{"d":1},"b":1,"a":2}')
    assert found == Composed(0, Choice(0, {"content": '{"a": 1, "b": 1, "c": {"d": 1}}', "k": 1}, "stop"), made=True)


def test_a_sample_that_says_just_that_is_returned_as_it_is() -> None:
    texts = ('{"a":1,"b":2}', '{"a": 1.0,   "b":1}', '{"a":2,"b":1}')
    found = composed(*texts)
    assert found == Composed(1, Choice(0, {"content": texts[1], "k": 1}, "stop", {"content": []}), made=False)


def test_the_keys_are_in_the_order_of_the_closest_sample() -> None:
    found = composed(
        '{"x":9,"a":1,"b":2}', '{"b":1,"a":1,"c":5,"x":1}', '{"a":3,"x":1,"b":1,"c":0}', '{"c":0,"a":1,"b":7}'
    )
    assert found is not None
    assert (found.place, found.choice.content) == (1, '{"b": 1, "a": 1, "c": 0, "x": 1}')


def test_to_leave_a_field_out_is_a_vote_too() -> None:
    found = composed('{"a":1,"b":1}', '{"a":2}', '{"a":1,"c":3}')
    assert found is not None
    assert (found.made, json.loads(found.choice.content)) == (True, {"a": 1})


def test_lists_vote_as_a_whole_and_ties_go_to_what_came_first() -> None:
    found = composed('{"a":[1,2],"b":1}', '{"a":[2,1],"b":2}', '{"a":[2,1],"b":3}')
    assert found is not None
    assert json.loads(found.choice.content) == {"a": [2, 1], "b": 1}


def test_ignored_fields_are_those_of_the_closest_sample() -> None:
    texts = ('{"id":1,"a":1,"b":0}', '{"a":1,"b":2,"id":2}', '{"id":3,"a":9,"b":2}')
    found = composed(*texts, ignore=("id",))
    assert found is not None
    assert (found.place, found.made, found.choice.content) == (1, False, texts[1])
    found = composed('{"id":1,"a":1,"b":0}', '{"b":2,"id":2,"a":3}', '{"id":3,"a":1,"b":2,"c":1}', ignore=("id",))
    assert found is not None
    assert json.loads(found.choice.content) == {"id": 1, "a": 1, "b": 2}


def test_a_composition_that_does_not_fit_gives_way_to_the_closest_sample() -> None:
    either: JSON = {
        "enum": [{"a": 1, "b": 1, "c": 2}, {"a": 1, "b": 2, "c": 1}, {"a": 2, "b": 1, "c": 1}],
    }
    texts = ['{"a":1,"b":1,"c":2}', '{"a":1,"b":2,"c":1}', '{"a":2,"b":1,"c":1}']
    found = composed(*texts, schema=either)
    assert found is not None
    assert (found.made, found.choice.content) == (False, texts[0])


def test_samples_that_do_not_fit_have_no_say_in_any_field() -> None:
    found = composed('{"n":-1,"s":"x"}', '{"n":-1,"s":"x"}', '{"n":1,"s":"y"}', None, schema=NUMBER)
    assert found is not None
    assert (found.place, found.choice.content) == (2, '{"n":1,"s":"y"}')
    assert composed('{"n":-1}', None, "no", schema=NUMBER) is None


fields = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(-1, 2),
        "s": st.sampled_from(["x", "y", "z", None]),
        "o": st.fixed_dictionaries({}, optional={"p": st.integers(0, 2), "q": st.sampled_from(["u", 1.0, 1])}),
        "id": st.integers(0, 3),
        "l": st.lists(st.integers(0, 1), max_size=2),
    },
)
ANY_OF = {
    "anyOf": [
        {"required": ["n"], "properties": {"n": {"minimum": 0}, "l": False}},
        {"required": ["o", "l"], "properties": {"o": {"minProperties": 1}, "s": {"enum": ["x", "y"]}}},
    ],
    "maxProperties": 4,
}


@given(
    st.lists(st.one_of(fields.map(json.dumps), st.sampled_from(["", "no", "[1]", '{"n":'])), min_size=1, max_size=7),
    st.sampled_from([NUMBER, ANY_OF, {"type": "object"}, {"required": ["id"], **ANY_OF}]),
    st.sampled_from([(), ("id",), ("o.p", "id"), ("l",)]),
)
def test_what_is_composed_fits_the_schema_whenever_any_sample_does(
    texts: list[str], schema: JSON, ignore: tuple[str, ...]
) -> None:
    request = wanted(schema)
    reader = Reader(AnswerSpec("json", per_field=True, ignore=ignore), request)
    documents = Documents(AnswerSpec("json"), request)
    fitting = [text for text in texts if documents.document(said(text)) is not None]
    found = reader.compose([said(text) for text in texts], first)
    assert (found is None) is (not fitting)
    if found is not None:
        assert documents.fits(found.choice.content)
        assert found.made is (found.choice.content != texts[found.place])


@given(st.lists(fields, min_size=1, max_size=7))
def test_a_field_of_the_vote_is_never_less_frequent_than_another_value_of_it(made: list[JSON]) -> None:
    voted = vote([Document(each, each) for each in made]).part
    assert isinstance(voted, dict)
    for name in ("n", "s", "id", "l"):
        said_ = [json.dumps(each.get(name, "absent")) for each in made]
        assert said_.count(json.dumps(voted.get(name, "absent"))) == max(map(said_.count, said_))


@given(fields, st.integers(1, 5))
def test_documents_that_are_all_alike_are_returned_as_they_are(document: JSON, times: int) -> None:
    text = json.dumps(document)
    found = composed(*[text] * times)
    assert found is not None
    assert (found.place, found.made, found.choice.content) == (0, False, text)


specs = st.builds(
    AnswerSpec,
    st.sampled_from(["auto", "json", "json_path", "tool_calls"]),
    path=st.sampled_from([None, "$.a", "$[*]['a',0]", "$"]),
    ignore=st.sampled_from([(), ("a",), ("a.b", "find.a"), (".", "a..b")]),
)


@given(messages, requests, specs, st.one_of(fields.map(json.dumps), st.just('{"a": [{"b": 1}]}')))
def test_any_message_is_read_and_composed_without_an_error(message: Any, request: Any, spec: Any, text: str) -> None:
    reader = Reader(spec, request)
    choices = [Choice(0, each, "stop") for each in (message, {"content": text})]
    for choice in choices:
        answer = reader.read(choice)
        if answer is not None:
            hash(kin(answer.label))
            answer.text.encode()
    found = reader.compose(choices, first)
    assert found is None or found.choice.content


# the sample that is returned -----------------------------------------------------------------------------------------

candidates = st.builds(
    Candidate,
    st.sampled_from(["a", "b"]),
    truncated=st.booleans(),
    score=st.sampled_from([None, 0.1, 0.9]),
    mean_logprob=st.sampled_from([None, -1.0, -0.1]),
    length=st.integers(0, 5),
    bare=st.booleans(),
)


@given(st.lists(candidates, min_size=1, max_size=8))
def test_of_the_winners_the_whole_the_bare_the_best_the_surest_and_the_median_one_is_returned(
    samples: list[Candidate],
) -> None:
    label = samples[0].label
    taken = samples[winner(samples, label)]
    left = [sample for sample in samples if sample.label == label]
    assert taken in left
    left = [sample for sample in left if not sample.truncated] or left
    middle = median(sample.length for sample in left)
    measures: list[Callable[[Candidate], float]] = [
        lambda sample: sample.bare,
        lambda sample: sample.score if sample.score is not None else -inf,
        lambda sample: sample.mean_logprob if sample.mean_logprob is not None else -inf,
        lambda sample: -abs(sample.length - middle),
    ]
    for keeps in measures:
        most = max(map(keeps, left))
        left = [sample for sample in left if keeps(sample) == most]
        assert taken in left
    assert taken == left[0]
