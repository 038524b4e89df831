"""JSON Schema in full where its cost can be told, and a shallow look where it cannot."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answers.schema import MOST_STEPS, Schema
from proxy.answers.weights import Weights

STRICT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "pattern": r"^[a-z]+(-\d{1,4})?$"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
        "size": {"$ref": "#/$defs/size"},
    },
    "required": ["name", "size"],
    "additionalProperties": False,
    "$defs": {"size": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]}},
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                "right": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["left", "right"],
            "additionalProperties": False,
        }
    },
}
TWICE: dict[str, Any] = {"type": "object", "properties": {"c": {"$ref": "#/$defs/n"}}}
BRANCHING: dict[str, Any] = {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [TWICE, {**TWICE, "required": ["c"]}]}}}


def nested(depth: int, leaf: object = 1) -> object:
    value = leaf
    for _ in range(depth):
        value = {"c": value}
    return value


def tree(depth: int) -> object:
    return {"left": tree(depth - 1), "right": tree(depth - 1)} if depth else None


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"name": "ab", "size": 3}, True),
        ({"name": "ab-12", "size": None, "tags": ["b", "a"]}, True),
        ({"name": "ab", "size": 3.0}, True),
        ({"name": "a", "size": 3}, False),
        ({"name": "AB", "size": 3}, False),
        ({"name": "ab", "size": -1}, False),
        ({"name": "ab", "size": "3"}, False),
        ({"name": "ab", "size": 3, "tags": ["c"]}, False),
        ({"name": "ab", "size": 3, "tags": ["a", "a"]}, False),
        ({"name": "ab", "size": 3, "more": 1}, False),
        ({"size": 3}, False),
        ([], False),
    ],
)
def test_a_schema_is_checked_in_full(value: object, fits: bool) -> None:
    schema = Schema(STRICT)
    assert schema.checks(value)
    assert schema.fits(value) is fits


def test_a_schema_that_follows_the_document_is_checked_however_large_it_is() -> None:
    schema = Schema(TREE)
    assert schema.checks(tree(9))
    assert schema.fits(tree(9))
    assert not schema.fits({"left": tree(8), "right": {"left": None}})


def test_the_schema_says_which_draft_it_is_of() -> None:
    old = Schema({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}]})
    assert old.fits([1, "a"])
    assert not old.fits(["a"])


def test_format_is_a_remark_and_not_checked() -> None:
    assert Schema({"$schema": "http://json-schema.org/draft-07/schema#", "format": "date"}).fits("never")


SHALLOW = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    "more",
    [
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "file:///etc/hostname"},
        {"$ref": "other.json"},
        {"$ref": "#/nowhere"},
        {"$ref": "#anchor"},
        {"$ref": 5},
        {"$ref": "#"},
        {"$schema": "http://127.0.0.1:9/meta"},
        {"patternProperties": {"(?=x)": {}}},
        {"patternProperties": {r"(\w{1000}){1000}": {}}},
        {"patternProperties": {"(": {}}},
        {"minProperties": "many"},
        {"unevaluatedProperties": False},
        {"allOf": [{"$dynamicRef": "#x"}]},
        {"allOf": [{"$id": "http://127.0.0.1:9/inner", "$ref": "#/x"}]},
        {"allOf": [{"minProperties": number} for number in range(2_001)]},
    ],
)
def test_where_a_schema_cannot_be_checked_types_and_required_keys_are_still_looked_at(more: dict[str, Any]) -> None:
    schema = Schema({**SHALLOW, **more})
    assert not schema.checks({"a": 1})
    assert schema.fits({"a": 1})
    assert schema.fits({"a": 1.0})
    assert not schema.fits({"a": True})
    assert not schema.fits({"a": 1.5})
    assert not schema.fits({"b": 1})
    assert not schema.fits([])


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(0.1)
        yield made


@pytest.mark.parametrize("keyword", ["$ref", "$schema", "$dynamicRef"])
def test_no_schema_makes_the_proxy_call_anybody(listener: socket.socket, keyword: str) -> None:
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/schema.json"
    assert Schema({keyword: address}).fits({})
    assert Schema({"properties": {"a": {keyword: address}}}).fits({"a": 1})
    with pytest.raises(TimeoutError):
        listener.accept()


def doubling(levels: int) -> dict[str, Any]:
    both = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]} for i in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**both, f"d{levels}": {"type": "string"}}}


HOSTILE: list[tuple[str, dict[str, Any], object]] = [
    ("in place", doubling(60), 1),
    ("in depth", BRANCHING, nested(60)),
    ("wide", {"items": {"allOf": [{"not": {"type": "string", "maxLength": i}} for i in range(900)]}}, [1] * 90_000),
    ("constants", {"items": {"enum": [{"x": [i]} for i in range(900)]}}, [{"x": [899]}] * 15_000),
    ("automaton", {"pattern": "[ab]*a[ab]{200}c"}, "ab" * 99_000),
    ("nested repetition", {"pattern": "([ab]*a([ab]{9}){9}){9}c"}, "ab" * 99_000),
    ("many patterns", {"patternProperties": {f"{i}.*x": {} for i in range(64)}}, {"1" * 90_000: 1, "2" * 90_000: 1}),
    ("chains of recursions", {}, nested(60)),
    ("deep", TREE, nested(900)),
    ("many names", {"allOf": [{"minProperties": i} for i in range(900)]}, {f"n{i}": 1 for i in range(20_000)}),
]
CHAINED = {
    f"d{i}": {"properties": {"c": {"allOf": [{"$ref": f"#/$defs/d{i}"}, {"$ref": f"#/$defs/d{min(i + 1, 60)}"}]}}}
    for i in range(61)
}


@pytest.mark.parametrize(("name", "schema", "value"), HOSTILE)
def test_a_hostile_schema_costs_little_time(name: str, schema: dict[str, Any], value: object) -> None:
    made = Schema(schema or {"$ref": "#/$defs/d0", "$defs": CHAINED})
    begun = time.thread_time()
    assert not made.checks(value)
    made.fits(value)
    # several times what the slowest takes; unbounded, each of them takes seconds or for ever
    assert time.thread_time() - begun < 0.25, name


# What a check costs is never underrated: a checker that counts its steps stays within what was told.

names = st.sampled_from("ab")
leaves = st.sampled_from([{"type": "integer"}, {"type": "object"}, {}, {"$ref": "#/$defs/x"}, {"$ref": "#/$defs/y"}])


def grown(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(names, inner, min_size=1, max_size=2),
            "additionalProperties": inner,
            "items": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=3),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
        },
    )


schemas = st.recursive(leaves, grown, max_leaves=8)
values = st.recursive(
    st.sampled_from([1, "a", None]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=2),
    max_leaves=10,
)


class TooMany(Exception):
    pass


class Counting:
    """Applies every subschema to everything it is for, without a short cut, and counts."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.steps = 0

    def apply(self, schema: dict[str, Any], value: object) -> None:
        self.steps += 1
        if self.steps > 20_000:
            raise TooMany
        if "$ref" in schema:
            self.apply(self.root["$defs"][schema["$ref"].rpartition("/")[2]], value)
        for part in [*schema.get("anyOf", ()), *schema.get("allOf", ()), *([schema["not"]] if "not" in schema else ())]:
            self.apply(part, value)
        if isinstance(value, list) and "items" in schema:
            for item in value:
                self.apply(schema["items"], item)
        for name, item in value.items() if isinstance(value, dict) else ():
            named = schema.get("properties", {})
            if name in named:
                self.apply(named[name], item)
            elif "additionalProperties" in schema:
                self.apply(schema["additionalProperties"], item)


@given(schemas, schemas, schemas, values)
def test_a_check_never_takes_more_steps_than_was_told(root: Any, x: Any, y: Any, value: object) -> None:
    schema = {**root, "$defs": {"x": x, "y": y}}
    try:
        told = Weights(schema).of(value, 10**9)
    except ValueError:
        return
    counting = Counting(schema)
    try:
        counting.apply(schema, value)
    except TooMany:
        assert told > 20_000
    else:
        assert counting.steps <= told


@given(schemas, schemas, schemas, values)
def test_what_is_checked_in_full_is_judged_as_by_the_specification(root: Any, x: Any, y: Any, value: object) -> None:
    schema = {**root, "$defs": {"x": x, "y": y}}
    made = Schema(schema)
    if made.checks(value):
        assert made.fits(value) is jsonschema_rs.validator_for(schema, offline=True).is_valid(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keywords = st.sampled_from(
    [
        "type",
        "properties",
        "items",
        "$ref",
        "anyOf",
        "not",
        "pattern",
        "enum",
        "const",
        "required",
        "$id",
        "if",
        "$defs",
    ]
)


@given(st.dictionaries(keywords, json_values, max_size=4), json_values)
def test_any_schema_at_all_gives_a_judgement_and_no_error(schema: Any, value: object) -> None:
    assert isinstance(Schema(schema).fits(value), bool)


def test_text_that_is_no_unicode_fits_nothing() -> None:
    assert not Schema({"type": "string"}).fits("\ud800")


def test_the_limit_leaves_room_for_tables() -> None:
    fields = {f"f{i}": {"type": ["string", "null"]} for i in range(20)}
    row = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    value = [dict.fromkeys(fields, "some text")] * 100
    assert Weights({"type": "array", "items": row}).of(value, MOST_STEPS) < MOST_STEPS
