"""What a server stores of what it is asked and says: nothing, but for tenants that want it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.ledger.samples import stored
from tests.fake.call import Call
from tests.fake.script import Reply
from tests.served import KEY, MASTER_KEY
from tests.staged import Stage, staged

JSON = dict[str, Any]
SECRET_ASKED, SECRET_SAID = "Quokkas?", "Wombats."
PROMPT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": SECRET_ASKED}]
OTHER = "sk-other-0123456789"
STORING = {"store_samples": True, "store_samples_days": 7}
TENANTS = [{"name": "acme", "keys": [KEY], **STORING}, {"name": "other", "keys": [OTHER]}]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("samples"), tenants=TENANTS) as stage:
        yield stage


def said(_: Call) -> Reply:
    """Two samples of three say the same."""
    return Reply(tuple(f"{SECRET_SAID}\n\nThe answer is {number}." for number in (41, 42, 42)))


def written(stage: Stage) -> int:
    """How many requests are in the ledger."""
    with stage.tally.books() as books:
        row = books.row("SELECT count(*) AS number FROM requests")
    return 0 if row is None else int(row["number"])


def ask(stage: Stage, path: str, key: str | None = KEY, **body: Any) -> httpx.Response:
    """The reply to a request, once that is in the ledger."""
    before = written(stage)
    reply = stage.post({"model": "small", **body}, path=path, key=key)
    assert reply.status_code == 200, reply.text
    stage.upstream.wait(lambda: written(stage) == before + 1)
    return reply


def lines(stage: Stage, tenant: str = "acme") -> list[JSON]:
    """What is stored of the tenant's last request."""
    with stage.tally.books() as books:
        found = list(stored(books, tenant))
    return [line for line in found if line["request"] == found[-1]["request"]] if found else []


def last(stage: Stage, tenant: str) -> tuple[Any, ...]:
    """The labels, the answer and the question in the ledger of the tenant's last request."""
    with stage.tally.books() as books:
        row = books.row("SELECT * FROM requests WHERE tenant = ? ORDER BY recorded_at DESC LIMIT 1", tenant)
        assert row is not None
        draws = books.rows('SELECT label FROM draws WHERE request = ? ORDER BY "index"', row["id"]).fetchall()
    return [draw["label"] for draw in draws], row["answer"], row["first_answer"], row["question"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_vote_of_a_tenant_that_stores_is_stored_whole(stage: Stage, stream: bool) -> None:
    stage.says(said)
    ask(stage, "/self_consistency/v1/chat/completions", messages=PROMPT, stream=stream, tally={"samples": 3})
    prompt, *samples = lines(stage)
    assert (prompt["draw"], prompt["messages"]) == (None, PROMPT)
    assert prompt["expires_at"] - prompt["recorded_at"] == 7 * 86_400
    assert sorted(sample["message"]["content"][-3:] for sample in samples) == ["41.", "42.", "42."]
    assert all(sample["draw"] and sample["message"]["role"] == "assistant" for sample in samples)
    labels, answer, _, question = last(stage, "acme")
    assert (sorted(labels), answer, question) == (["41", "42", "42"], "42", SECRET_ASKED)


@pytest.mark.parametrize("stream", [False, True])
def test_one_sample_that_is_passed_through_is_stored_too(stage: Stage, stream: bool) -> None:
    stage.says("The answer is 7.")
    ask(stage, "/off/v1/chat/completions", messages=PROMPT, stream=stream)
    prompt, sample = lines(stage)
    assert (prompt["messages"], sample["message"]["content"]) == (PROMPT, "The answer is 7.")


def test_the_other_dialects_are_stored_as_the_chats_they_become(stage: Stage) -> None:
    stage.says("The answer is 8.")
    bodies: dict[str, JSON] = {"completions": {"prompt": SECRET_ASKED}, "responses": {"input": SECRET_ASKED}}
    for path, body in bodies.items():
        ask(stage, f"/off/v1/{path}", **body)
        prompt, sample = lines(stage)
        assert SECRET_ASKED in json.dumps(prompt["messages"])
        assert sample["message"]["content"] == "The answer is 8."


def test_a_vote_of_a_tenant_that_does_not_store_leaves_names_alone(stage: Stage) -> None:
    stage.says(said)
    reply = ask(stage, "/self_consistency/v1/chat/completions", OTHER, messages=PROMPT, tally={"samples": 3}).json()
    assert SECRET_SAID in reply["choices"][0]["message"]["content"]
    labels, answer, first, question = last(stage, "other")
    assert [vote["count"] for vote in reply["tally"]["votes"]] == [2, 1]
    assert (labels, answer, first, question) == (["#1", "#2", "#2"], "#2", "#1", None)
    assert lines(stage, "other") == []


def test_what_a_tenant_stores_is_told_by_the_admin_api(stage: Stage) -> None:
    admin = {"authorization": f"Bearer {MASTER_KEY}"}
    made = stage.post({"team_id": "beta", "store_samples": True}, path="/team/new", key=None, headers=admin).json()
    assert (made["store_samples"], made["store_samples_days"]) == (True, 30)
    changes = {"team_id": "beta", "store_samples": False, "store_samples_days": 3650}
    changed = stage.post(changes, path="/team/update", key=None, headers=admin).json()["data"]
    assert (changed["store_samples"], changed["store_samples_days"]) == (False, 3650)
    for days in (0, 3651, None):
        wrong = {"team_id": "beta", "store_samples_days": days}
        refused = stage.post(wrong, path="/team/update", key=None, headers=admin)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "store_samples_days")


@pytest.mark.parametrize("strategy", ["self_consistency", "off"])
def test_no_word_of_what_is_asked_and_said_is_in_the_files_of_a_server_that_stores_nothing(
    tmp_path: Path, strategy: str
) -> None:
    with staged(tmp_path) as stage:
        stage.says(f"{SECRET_SAID} The answer is {SECRET_SAID}")
        for stream in (False, True):
            answer = {"kind": "label", "options": [SECRET_SAID]}
            path = f"/{strategy}/v1/chat/completions"
            assert SECRET_SAID in ask(stage, path, messages=PROMPT, stream=stream, tally={"answer": answer}).text
        assert last(stage, "acme")[1] == "#1"
        kept = b"".join(file.read_bytes() for file in tmp_path.iterdir()).lower()
    assert b"acme" in kept
    assert b"quokkas" not in kept
    assert b"wombats" not in kept


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("storing", [True, False])
def test_requests_of_no_tenant_are_stored_where_the_general_settings_say_so(
    tmp_path: Path, keyed: bool, storing: bool
) -> None:
    master = MASTER_KEY if keyed else None
    settings = {"store_samples": storing, "master_key": master}
    with staged(tmp_path, tenants=[], general_settings=settings) as stage:
        stage.says("The answer is 9.")
        ask(stage, "/off/v1/chat/completions", master, messages=PROMPT)
        assert len(lines(stage, "master" if keyed else "local")) == (2 if storing else 0)
