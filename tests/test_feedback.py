"""`POST /v1/feedback`: whose word counts, where it is kept, and what it teaches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.core.calibration import FEWEST
from proxy.ledger.feedback import recent_outcomes
from tests.fake_upstream import FakeUpstream, Fault, Scripted
from tests.served import KEY, ServedTally, configuration
from tests.staged import Stage, staged, told

OTHER, FRESH = "sk-other-0123456789", "sk-fresh-0123456789"
TENANTS = [{"name": name, "keys": [key]} for name, key in (("acme", KEY), ("other", OTHER), ("fresh", FRESH))]
SPLIT = ["\\boxed{42}", "\\boxed{42}", "\\boxed{42}", "\\boxed{41}"]
PATH = "/v1/feedback"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("feedback"), tenants=TENANTS, scaling={"samples": 4}) as made:
        yield made


def answered(stage: Stage, key: str = KEY, **more: Any) -> str:
    """A new answer's id."""
    stage.says(Scripted({"six": SPLIT}))
    return stage.ask(key=key, **more).id


def kept(stage: Stage, identity: str) -> Any:
    """What the ledger holds of the answer with this id."""
    # it is written in order: what came before this answer is on disk
    stage.post({"id": "chatcmpl-none", "correct": True}, path=PATH)
    with stage.tally.books() as books:
        row = books.row("SELECT feedback FROM requests WHERE id = ?", identity.removeprefix("chatcmpl-"))
    assert row is not None
    return row["feedback"]


def test_the_last_word_on_an_answer_is_kept_and_costs_nothing(stage: Stage) -> None:
    identity = answered(stage)
    assert kept(stage, identity) is None
    spent = stage.tally.balance().spent
    for correct in (True, False, False):
        response = stage.post({"id": identity, "correct": correct}, path=PATH)
        assert response.status_code == 200, response.text
        assert response.json() == {"id": identity, "object": "feedback", "correct": correct}
        assert response.headers["x-request-id"].startswith("req_")
        assert kept(stage, identity) == int(correct)
    assert stage.tally.balance().spent == spent
    assert len(stage.calls) == 1


def test_it_is_taken_where_a_strategy_stands_in_the_path(stage: Stage) -> None:
    identity = answered(stage)
    assert stage.post({"id": identity, "correct": True}, path=f"/adaptive{PATH}").status_code == 200
    assert kept(stage, identity) == 1
    assert stage.post({"id": identity, "correct": True}, path=f"/best{PATH}").status_code == 400


def test_a_streamed_answers_id_will_do(stage: Stage) -> None:
    stage.says(Scripted({"six": SPLIT}))
    with stage.client("self_consistency").chat.completions.create(
        model="small", messages=[{"role": "user", "content": "six?"}], stream=True
    ) as chunks:
        (identity,) = {chunk.id for chunk in chunks}
    assert stage.post({"id": identity, "correct": True}, path=PATH).status_code == 200
    assert kept(stage, identity) == 1


def test_another_tenants_answer_is_not_found_and_stays_as_it_was(stage: Stage) -> None:
    identity = answered(stage)
    refused = stage.post({"id": identity, "correct": True}, path=PATH, key=OTHER)
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "not_found"
    assert kept(stage, identity) is None


def test_a_relayed_replys_own_id_is_not_found_and_the_error_says_why(stage: Stage) -> None:
    stage.says("\\boxed{42}")
    identity = stage.ask("off").id
    refused = stage.post({"id": identity, "correct": True}, path=PATH)
    assert refused.status_code == 404
    assert "passed through (strategy off) has its provider's" in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] == "id"


def test_a_request_without_an_answer_takes_no_feedback(stage: Stage) -> None:
    stage.says(Fault(400, "No."))
    failed = stage.post({"model": "small", "messages": [{"role": "user", "content": "?"}]})
    assert failed.status_code == 400
    identity = failed.headers["x-request-id"].removeprefix("req_")
    assert kept(stage, identity) is None
    assert stage.post({"id": f"chatcmpl-{identity}", "correct": True}, path=PATH).status_code == 404
    assert kept(stage, identity) is None


@pytest.mark.parametrize("identity", ["chatcmpl-nothing", "chatcmpl-", "nothing", "%", "' OR 1=1 --"])
def test_an_unknown_id_is_not_found(stage: Stage, identity: str) -> None:
    assert stage.post({"id": identity, "correct": True}, path=PATH).status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"correct": True}, "id"),
        ({"id": "chatcmpl-1"}, "correct"),
        ({"id": "chatcmpl-1", "correct": "yes"}, "correct"),
        ({"id": "chatcmpl-1", "correct": 1}, "correct"),
        ({"id": 1, "correct": True}, "id"),
        ({"id": "", "correct": True}, "id"),
        ({"id": "chatcmpl-1", "correct": True, "why": "because"}, "why"),
        ([], None),
        (b"{", None),
    ],
)
def test_a_wrong_body_is_refused_and_the_error_names_the_field(stage: Stage, body: Any, param: str | None) -> None:
    refused = stage.post(body, path=PATH)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert refused.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_long_and_a_wrong_key_and_another_method_are_refused(stage: Stage) -> None:
    assert stage.post({"id": "x" * 5000, "correct": True}, path=PATH).status_code == 413
    assert stage.post({"id": "chatcmpl-1", "correct": True}, path=PATH, key="sk-wrong-0123456789").status_code == 401
    assert stage.post({"id": "chatcmpl-1", "correct": True}, path=PATH, key=None).status_code == 401
    assert stage.get(PATH).status_code == 405


def test_feedback_outlives_a_restart_and_then_replies_tell_their_chance_of_being_right(tmp_path: Path) -> None:
    """The confidence of three against one is 0.8125; six of ten such answers were right."""
    with FakeUpstream(Scripted({"six": SPLIT})) as upstream:
        config = configuration(upstream.base_url, tmp_path, tenants=TENANTS, scaling={"samples": 4})
        with ServedTally(config) as tally, tally.client() as client:
            for number in range(FEWEST):
                reply = client.chat.completions.create(model="small", messages=[{"role": "user", "content": "six?"}])
                assert told(reply)["chance_right"] is None
                body = {"id": reply.id, "correct": number % 10 < 6}
                assert tally.post(body, path=PATH).status_code == 200
            with tally.books() as books:
                assert recent_outcomes(books, "acme", "small", 4) == [(0.8125, False)] * 4
                assert len(recent_outcomes(books, "acme", "small", 500)) == FEWEST
                assert recent_outcomes(books, "acme", "large", 500) == []
                assert recent_outcomes(books, "other", "small", 500) == []
        with ServedTally(config) as tally, tally.client() as client, tally.client(key=FRESH) as fresh:
            asked: Any = {"model": "small", "messages": [{"role": "user", "content": "six?"}]}
            found = told(client.chat.completions.create(**asked))
            assert found["confidence"] == 0.8125
            assert 0.6 < found["chance_right"] < 0.72
            assert told(fresh.chat.completions.create(**asked))["chance_right"] is None
