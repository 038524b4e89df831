"""How answers are to be found: options in the file, the tenant, the rules and the body, and their mistakes."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.wire import check_chat, wish
from proxy.cli.tenants import tenant
from proxy.config import AnswerConfig, Config, parse_config
from proxy.errors import ConfigError, RequestInvalid
from proxy.ledger.books import Books
from proxy.ledger.store import wall_clock
from proxy.plan import Planner, Wish
from proxy.types import AnswerSpec, Tenant
from proxy.upstream.catalogue import Catalogue
from proxy.upstream.direct import DirectLane
from proxy.upstream.prices import PriceMap

NUMBER: dict[str, Any] = {"kind": "number", "tolerance": 0.01}


def config(model: dict[str, Any] | None = None, **scaling: Any) -> Config:
    params = {"model": "openai/small", "api_base": "http://127.0.0.1:9"}
    entry = {"model_name": "small", "litellm_params": params, **(model or {})}
    return parse_config({"model_list": [entry], "scaling": scaling}, "test", {})


def planned(config: Config, text: str, tenant: Tenant | None = None, wish: Wish | None = None) -> AnswerSpec:
    lane = DirectLane()
    catalogue = Catalogue(config, direct=lane, litellm=lambda: lane, prices=PriceMap, environ={})
    request = {"model": "small", "messages": [{"role": "user", "content": text}]}
    return Planner(config, catalogue).plan(request, wish or Wish(), tenant or Tenant("acme")).answer


def body(**answer: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tally": {"answer": answer}}


def test_the_body_comes_before_the_tenant_before_the_rules_before_the_model_before_the_default() -> None:
    rules = [{"match": "(?i)how (much|many)", "answer": {"kind": "number"}}]
    own = config({"answer": {"kind": "math"}}, answer={"kind": "choice"}, answer_rules=rules)
    assert planned(config(answer={"kind": "choice"}), "Hello").kind == "choice"
    assert planned(own, "Hello").kind == "math"
    assert planned(own, "How much is it?").kind == "number"
    labelled = Tenant("acme", answer=AnswerSpec("label"))
    assert planned(own, "How much is it?", labelled).kind == "label"
    assert planned(own, "How much is it?", labelled, Wish(answer=AnswerSpec("code"))).kind == "code"


def test_the_first_rule_that_matches_counts_and_rules_see_all_turns() -> None:
    rules = [
        {"match": r"Answer with one of: (?P<labels>\w+)", "answer": {"kind": "label", "options": ["yes", "no"]}},
        {"match": "Answer", "answer": {"kind": "math"}},
    ]
    ruled = config(answer_rules=rules)
    assert planned(ruled, "Answer with one of: yes, no").options == ("yes", "no")
    assert planned(ruled, "Answer!").kind == "math"
    lane = DirectLane()
    planner = Planner(ruled, Catalogue(ruled, direct=lane, litellm=lambda: lane, prices=PriceMap, environ={}))
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "Answer in LaTeX."}]},
        {"role": "user", "content": "1+1"},
    ]
    assert planner.plan({"model": "small", "messages": turns}, Wish(), Tenant("acme")).answer.kind == "math"


@given(text=st.text())
def test_without_rules_no_prompt_changes_how_answers_are_found(text: str) -> None:
    assert planned(config(), text) == AnswerSpec()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"kind": "regex"}, "kind: regex needs a pattern"),
        ({"kind": "json_path"}, "kind: json_path needs a path"),
        ({"kind": "regex", "pattern": "(?=a)"}, "invalid perl operator"),
        ({"kind": "regex", "pattern": "a" * 1001}, "at most 1000 characters"),
        ({"kind": "json_path", "path": "$..a"}, "only names, indices and [*] are served"),
        ({"kind": "json_path", "path": "$.["}, "expected"),
        ({"kind": "math", "tolerance": 0.1}, "tolerance has no effect with kind: math; it is for number"),
        ({"kind": "number", "tolerance": 1}, "less than 1"),
        ({"kind": "label", "options": [""]}, "at least 1 character"),
        ({"kind": "label", "pick": "central"}, "it is for text"),
        ({"kind": "number", "unit": "km"}, "unit"),
        ({"kind": "sum"}, "Input should be"),
        ({"kind": "text", "votable": "always"}, "say pick: central or universal"),
    ],
)
def test_options_that_make_no_sense_are_told_by_name_in_file_and_body(answer: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as told:
        config(answer=answer)
    assert told.value.problems[0].key.startswith("scaling.answer")
    assert reason in str(told.value)
    with pytest.raises(RequestInvalid, match=r"^tally\.answer") as refused:
        check_chat(body(**answer), 10)
    assert reason in refused.value.message
    assert "Value error" not in refused.value.message


def test_a_body_says_all_that_a_file_may_say() -> None:
    asked = wish(check_chat(body(kind="json_path", path="$.a[*].b"), 10), None, None)
    assert asked.answer == AnswerSpec("json_path", path="$.a[*].b")
    assert wish(check_chat(body(**NUMBER), 10), None, None).answer == AnswerConfig(**NUMBER).spec()


def test_a_tenants_options_outlive_the_ledger_that_wrote_them(tmp_path: Path) -> None:
    spec = AnswerConfig(kind="label", options=("yes", "no")).spec()
    books = Books.open(tmp_path / "tally.db", clock=wall_clock, synchronous="OFF")
    books.add_tenant(Tenant("acme", answer=spec))
    books.add_tenant(Tenant("beta"))
    books.close()
    again = Books.open(tmp_path / "tally.db", clock=wall_clock, synchronous="OFF")
    assert (again.tenant("acme").answer, again.tenant("beta").answer) == (spec, None)
    again.close()


def test_options_that_a_newer_version_has_stored_are_left_out(tmp_path: Path) -> None:
    with closing(Books.open(tmp_path / "tally.db", clock=wall_clock, synchronous="OFF")) as books:
        books.add_tenant(Tenant("acme", answer=AnswerSpec("label", options=("yes", "no"))))
        stored = json.dumps({"kind": "label", "options": ["yes", "no"], "spelling": "british"})
        books.row("UPDATE tenants SET answer = ? RETURNING name", stored)
        assert books.tenant("acme").answer == AnswerSpec("label", options=("yes", "no"))


def test_the_command_line_sets_shows_and_takes_away_how_a_tenants_answers_are_found(tmp_path: Path) -> None:
    file = tmp_path / "tally.json"
    file.write_text(json.dumps({"general_settings": {"database_url": f"sqlite:///{tmp_path / 'tally.db'}"}}))

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(tenant, [*words, "--config", str(file)])
        return result.exit_code, result.output

    assert run("add", "acme", "--answer", json.dumps(NUMBER))[0] == 0
    assert "kind number, tolerance 0.01" in run("show", "acme")[1]
    assert run("update", "acme", "--answer", "code")[0] == 0
    assert "kind code" in run("show", "acme")[1]
    assert run("update", "acme", "--answer", "none")[0] == 0
    assert "as the model or the server has them" in run("show", "acme")[1]
    for wrong in ("sum", "{", '{"kind": "regex"}'):
        status, output = run("update", "acme", "--answer", wrong)
        assert status == 2, output
        assert "--answer" in output
        assert "Value error" not in output
