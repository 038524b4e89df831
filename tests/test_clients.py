"""The harness of the client checks: its provider, and what it makes of what a check program tells."""

import io
import json
import re
import stat
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.clients.checking import Told, check
from tests.clients.environments import Client, Environments, NotInstalled, Program, clients
from tests.clients.report import DOCUMENTS, markdown, show, write
from tests.clients.schemas import filled
from tests.clients.serving import STRATEGIES
from tests.clients.upstream import Provider
from tests.fake.call import Call
from tests.fake.script import Fault, Plain, Reply, Step

ASK = [{"role": "user", "content": "What is 6 x 7?"}]
JSON = dict[str, Any]

_leaves = st.sampled_from(
    [
        {"type": "integer"},
        {"type": "number", "minimum": 50, "maximum": 60},
        {"type": "string", "minLength": 5},
        {"type": "string", "format": "date"},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["a", "b"]},
        {"const": 3},
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        {"$ref": "#/$defs/part"},
    ]
)
_schemas = st.recursive(
    _leaves,
    lambda inner: (
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda properties: {"type": "object", "properties": properties, "required": list(properties)}
        )
        | inner.map(lambda item: {"type": "array", "items": item, "minItems": 2})
    ),
    max_leaves=6,
)


@given(inner=_schemas, odd=st.booleans())
def test_what_fills_a_schema_is_valid_against_it(inner: JSON, *, odd: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"it": inner},
        "required": ["it"],
        "$defs": {"part": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}},
    }
    jsonschema_rs.validate(schema, filled(schema, "What is 6 x 7?", odd=odd))


def asked(model: str, provider: Provider | None = None, **more: Any) -> Step:
    call = Call(0, "/v1/chat/completions", {}, {"model": model, "messages": ASK, **more})
    return (provider or Provider())(call)


def test_one_of_three_samples_dissents_and_a_single_one_does_not() -> None:
    voted, single = asked("text", n=3), asked("text")
    assert isinstance(voted, Reply)
    assert isinstance(single, Reply)
    assert list(voted.contents) == ["42", "41", "42"]
    assert list(single.contents) == ["42"]


def test_the_forced_tool_is_called_with_arguments_that_its_schema_allows() -> None:
    schema = {"type": "object", "properties": {"left": {"type": "integer"}}}
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in ("other", "multiply")]
    reply = asked("tool", tools=tools, tool_choice={"type": "function", "function": {"name": "multiply"}})
    assert isinstance(reply, Reply)
    [content] = reply.contents
    assert content == {"tool_calls": [{"name": "multiply", "arguments": '{"left": 6}'}]}


def test_a_tool_result_is_answered_with_text() -> None:
    tools = [{"type": "function", "function": {"name": "multiply"}}]
    reply = asked("tool", tools=tools, messages=[*ASK, {"role": "tool", "tool_call_id": "1", "content": "42"}])
    assert isinstance(reply, Reply)
    assert list(reply.contents) == ["42"]


@pytest.mark.parametrize(("url", "whole"), [("iVBORw0KGgpJRU5ErkJggg==", True), ("iVBORw0KGgpJRU4=", False)])
def test_an_image_counts_only_if_it_is_whole(url: str, *, whole: bool) -> None:
    content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{url}"}}]
    reply = asked("image", messages=[{"role": "user", "content": content}])
    assert isinstance(reply, Reply if whole else Fault)


def test_a_limited_question_is_refused_for_most_of_a_second_and_again_when_nobody_has_asked_it_for_long() -> None:
    now = [100.0]
    provider = Provider(lambda: now[0])
    seen = []
    for now[0] in (100.0, 100.8, 101.0, 101.5, 104.0):
        seen.append(isinstance(asked("limited", provider), Fault))
    assert seen == [True, True, False, False, True]


def test_embeddings_come_in_base64_where_that_is_asked_for() -> None:
    call = Call(0, "/v1/embeddings", {}, {"model": "embed", "input": ["a", "b"], "encoding_format": "base64"})
    step = Provider()(call)
    assert isinstance(step, Plain)
    assert [item["embedding"] for item in step.data] == ["AACAPgAAAL8AAIA/"] * 2


class Scripted(Environments):
    """An environment that is there already, whose check program is a text."""

    def __init__(self, folder: Path, source: str | None) -> None:
        super().__init__(folder)
        self._source = source

    def program(self, client: Client) -> Program:  # noqa: ARG002 - there is one for all
        if self._source is None:
            raise NotInstalled("no such release")
        file = self._scripted / "check.py"
        file.write_text(self._source, encoding="utf-8")
        return Program([sys.executable, str(file)], self._scripted, {})

    @property
    def _scripted(self) -> Path:
        return self._folder


CLIENT = Client(Path("some-client"))
LINE = {"client": "some-client", "version": "1.0", "strategy": "off", "feature": "text", "ok": True, "told": ""}


def ran(tmp_path: Path, source: str | None) -> list[Told]:
    return check(CLIENT, Scripted(tmp_path, source))


def test_each_line_that_a_program_prints_is_a_check(tmp_path: Path) -> None:
    assert ran(tmp_path, f"print({json.dumps(json.dumps(LINE))})") == [
        Told("some-client", "1.0", "off", "text", ok=True)
    ]


def test_a_program_that_breaks_off_fails_after_what_it_told(tmp_path: Path) -> None:
    told = ran(tmp_path, f"print({json.dumps(json.dumps(LINE))})\nraise SystemExit('it broke')")
    assert [(line.feature, line.ok) for line in told] == [("text", True), ("finishes", False)]
    assert "it broke" in told[1].told


def test_a_program_that_tells_nothing_fails(tmp_path: Path) -> None:
    [told] = ran(tmp_path, "")
    assert (told.feature, told.ok) == ("finishes", False)


def test_a_client_that_cannot_be_installed_fails(tmp_path: Path) -> None:
    [told] = ran(tmp_path, None)
    assert (told.feature, told.ok, told.told) == ("installs", False, "no such release")


def test_a_program_finds_the_proxy_its_keys_and_the_strategies_in_its_environment(tmp_path: Path) -> None:
    source = (
        "import json, os, urllib.request\n"
        "url = os.environ['TALLY_URL'] + '/off/v1/models'\n"
        "asked = urllib.request.Request(url, headers={'authorization': 'Bearer ' + os.environ['TALLY_KEY']})\n"
        "found = {model['id'] for model in json.load(urllib.request.urlopen(asked))['data']}\n"
        "told = ' '.join([os.environ['TALLY_STRATEGIES'], *sorted(found & {'text', 'embed'})])\n"
        f"print(json.dumps({LINE!r} | {{'told': told}}))\n"
    )
    [told] = ran(tmp_path, source)
    assert told.told == f"{','.join(STRATEGIES)} embed text"


TOLD = [
    Told("b", "2.0", "off", "text", ok=True),
    Told("b", "2.0", "adaptive", "text", ok=True),
    Told("b", "2.0", "off", "b: its test", ok=True),
    Told("a", "1.0", "off", "tools", ok=False, told="no call"),
]


def test_the_table_for_people_counts_by_strategy_and_says_why() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    show(TOLD, console)
    shown = console.export_text()
    assert re.search(r"b +2\.0 +2/2 +- +- +- +1/1", shown)
    assert "a, off, tools: no call" in shown
    assert "3 of 4 checks passed" in shown


def test_the_table_for_documents_names_what_passed_once() -> None:
    assert markdown(TOLD).splitlines()[3:] == ["| b | 2.0 | text, its own integration tests |"]


def test_the_table_is_written_between_its_markers_and_again(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- clients -->\n<!-- /clients -->\nafter\n", encoding="utf-8")
    write(TOLD, [page])
    once = page.read_text(encoding="utf-8")
    write(TOLD, [page])
    assert once == page.read_text(encoding="utf-8")
    assert once.startswith("before\n<!-- clients -->\n| client |")
    assert once.endswith("|\n<!-- /clients -->\nafter\n")


def test_every_client_is_in_both_documents() -> None:
    for page in DOCUMENTS:
        text = page.read_text(encoding="utf-8")
        assert [client.name for client in clients() if f"| {client.name} " not in text] == []


def test_every_client_has_a_lock_that_names_no_address() -> None:
    for client in clients():
        lock = client.folder / ("package-lock.json" if client.node else "requirements.txt")
        text = lock.read_text(encoding="utf-8")
        assert ("integrity" if client.node else "--hash=sha256:") in text
        assert not re.search(r'"resolved"|--index-url|--find-links', text)


def test_the_command_of_the_stage_can_be_run() -> None:
    command = DOCUMENTS[0].parent / ".ci" / "clients"
    assert command.stat().st_mode & stat.S_IXUSR
