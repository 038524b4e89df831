"""`min_confidence`: what a request asks for at least, and what becomes of an answer that is less sure."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, UnprocessableEntityError

from proxy.calibration import calibration_file
from proxy.core.calibration import Calibration
from proxy.errors import ConfigError
from tests.fake_upstream import Call, Reply, Scripted
from tests.served import ServedTally, configuration
from tests.staged import ASK, Stage, staged, told

SPLIT = ["\\boxed{42}", "\\boxed{42}", "\\boxed{42}", "\\boxed{41}"]
SURE = 0.8125
PROSE = "It was a bright cold day in April, and the clocks were striking thirteen. " * 6


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("low"), scaling={"samples": 4}) as made:
        yield made


def wants(least: float | None = None, **more: Any) -> dict[str, Any]:
    return {"tally": {**({} if least is None else {"min_confidence": least}), **more}}


def split(stage: Stage) -> None:
    """From now on three of four samples say 42."""
    stage.says(Scripted({"six": SPLIT}))


def last_row(stage: Stage) -> dict[str, Any]:
    """The ledger's newest request."""
    # it is written in order: what came before this answer is on disk
    assert stage.post({"id": "chatcmpl-none", "correct": True}, path="/v1/feedback").status_code == 404
    with stage.tally.books() as books:
        row = books.row("SELECT * FROM requests ORDER BY recorded_at DESC LIMIT 1")
    assert row is not None
    return dict(row)


@pytest.mark.parametrize(("least", "low"), [(0.0, False), (SURE, False), (0.82, True), (1.0, True)])
def test_an_answer_is_marked_as_low_below_what_was_asked(stage: Stage, least: float, low: bool) -> None:
    split(stage)
    raw = stage.raw(extra_body=wants(least))
    found = told(raw.parse())
    assert (found["confidence"], found["chance_right"], found["low_confidence"]) == (SURE, None, low)
    assert raw.headers.get("x-tally-low-confidence") == ("true" if low else None)


def test_where_nothing_is_asked_nothing_is_marked(stage: Stage) -> None:
    split(stage)
    raw = stage.raw()
    assert "low_confidence" not in told(raw.parse())
    assert "x-tally-low-confidence" not in raw.headers


@pytest.mark.parametrize("least", [0.5, 0.9])
def test_a_streams_last_chunk_tells_it_too(stage: Stage, least: float) -> None:
    split(stage)
    body = {"model": "small", "messages": ASK, "stream": True, **wants(least)}
    response = stage.post(body, path="/self_consistency/v1/chat/completions")
    last = json.loads(response.text.split("\n\n")[-3].removeprefix("data: "))
    assert last["tally"]["low_confidence"] is (least > SURE)
    assert response.headers.get("x-tally-low-confidence") == ("true" if least > SURE else None)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_less_sure_is_refused_where_that_is_asked_and_what_it_took_is_paid(
    stage: Stage, stream: bool
) -> None:
    split(stage)
    last_row(stage)
    spent = stage.tally.balance().spent.nano
    with pytest.raises(UnprocessableEntityError) as raised:
        stage.ask(stream=stream, extra_body=wants(0.9, low_confidence="refuse"))
    error = raised.value
    assert (error.status_code, error.type, error.code) == (422, "low_confidence", "low_confidence")
    assert error.param == "tally.min_confidence"
    assert "0.8125" in error.message
    assert "0.9" in error.message
    assert error.response.headers["x-should-retry"] == "false"
    row = last_row(stage)
    assert (row["status"], row["reason"], row["answer"]) == (422, "low_confidence", "#1")
    assert (row["samples"], row["confidence"]) == (4, SURE)
    assert row["cost_nano"] == stage.cost_nano == stage.tally.balance().spent.nano - spent > 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_sure_enough_is_not_refused(stage: Stage, stream: bool) -> None:
    split(stage)
    asked = wants(0.8, low_confidence="refuse")
    if stream:
        assert "42" in "".join(stage.events(**asked))
    else:
        assert told(stage.ask(extra_body=asked))["low_confidence"] is False
    assert last_row(stage)["status"] == 200


def test_a_refused_answer_takes_no_feedback(stage: Stage) -> None:
    split(stage)
    with pytest.raises(UnprocessableEntityError) as raised:
        stage.ask(extra_body=wants(0.9, low_confidence="refuse"))
    identity = raised.value.response.headers["x-request-id"].replace("req_", "chatcmpl-")
    assert stage.post({"id": identity, "correct": True}, path="/v1/feedback").status_code == 404


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"strategy": "off"}, "not scaled (off)"),
        ({"answer": {"votable": "never"}}, "not scaled (not votable)"),
        ({"answer": {"kind": "text", "pick": "central"}}, "texts are not"),
        ({"max_samples": 1}, "not scaled (one sample)"),
    ],
)
def test_what_can_have_no_confidence_is_refused_before_anything_is_spent(
    stage: Stage, more: dict[str, Any], why: str
) -> None:
    split(stage)
    with pytest.raises(BadRequestError) as raised:
        stage.ask(None, extra_body=wants(0.5, low_confidence="refuse", **more))
    assert raised.value.param == "tally.min_confidence"
    assert why in raised.value.message
    assert stage.calls == []


def test_to_refuse_needs_something_to_refuse_by(stage: Stage) -> None:
    split(stage)
    with pytest.raises(BadRequestError, match="needs a min_confidence"):
        stage.ask(extra_body=wants(low_confidence="refuse"))
    assert stage.calls == []


def test_prose_that_a_probe_cannot_vote_on_is_low_and_refused_where_that_is_asked(stage: Stage) -> None:
    stage.says(PROSE)
    raw = stage.raw(None, extra_body=wants(0.0))
    found = told(raw.parse())
    assert (found["reason"], found["confidence"], found["low_confidence"]) == ("prose", None, True)
    assert raw.headers["x-tally-low-confidence"] == "true"
    with pytest.raises(UnprocessableEntityError, match="has no confidence"):
        stage.ask(None, extra_body=wants(0.0, low_confidence="refuse"))
    assert last_row(stage)["status"] == 422


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_is_passed_through_has_no_confidence_and_is_marked(stage: Stage, stream: bool) -> None:
    stage.says("\\boxed{42}")
    body = {"model": "small", "messages": ASK, "stream": stream, **wants(0.5)}
    response = stage.post(body, path="/off/v1/chat/completions")
    assert response.headers["x-tally-low-confidence"] == "true"
    told_so = json.loads(response.text.split("\n\n")[-3].removeprefix("data: ")) if stream else response.json()
    assert (told_so["tally"]["confidence"], told_so["tally"]["low_confidence"]) == (None, True)


def test_where_there_is_a_calibration_the_chance_of_being_right_is_what_counts(tmp_path: Path) -> None:
    """Three against one is 0.8125 sure; by this file such an answer is right less than half the time."""
    path = tmp_path / "calibration.json"
    found = Calibration(-2.0, 1.0, 100)
    path.write_bytes(calibration_file({("small", "self_consistency"): found}))
    chance = found.chance(SURE)
    assert 0.3 < chance < 0.5
    with staged(tmp_path, scaling={"samples": 4, "calibration": str(path)}) as stage:
        split(stage)
        marked = told(stage.ask(extra_body=wants(0.5)))
        assert (marked["confidence"], marked["chance_right"]) == (SURE, pytest.approx(chance))
        assert marked["low_confidence"] is True
        assert told(stage.ask(extra_body=wants(0.3)))["low_confidence"] is False
        with pytest.raises(UnprocessableEntityError, match=f"chance of being right is {chance:.4f}"):
            stage.ask(extra_body=wants(0.5, low_confidence="refuse"))
        assert last_row(stage)["confidence"] == SURE
        assert told(stage.ask("adaptive_consistency"))["chance_right"] is None
        assert told(stage.ask("off", extra_body=wants(0.3)))["chance_right"] is None


def test_a_calibration_that_cannot_be_read_keeps_the_server_from_starting(tmp_path: Path) -> None:
    config = configuration("http://127.0.0.1:9", tmp_path, scaling={"calibration": str(tmp_path / "none.json")})
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read"), ServedTally(config):
        pass


def test_an_answer_whose_fields_were_put_together_has_no_confidence_of_its_own(stage: Stage) -> None:
    """Three objects that no two samples share, and fields that two of three agree on."""
    objects = ['{"a": 1, "b": 1, "c": 2}', '{"a": 1, "b": 2, "c": 1}', '{"a": 2, "b": 1, "c": 1}']
    stage.says(Scripted({"six": objects}))
    asked = wants(0.1, samples=3, answer={"kind": "json", "per_field": True})
    reply = stage.ask(extra_body=asked)
    assert json.loads(reply.choices[0].message.content or "") == {"a": 1, "b": 1, "c": 1}
    found = told(reply)
    assert (found["composed"], found["confidence"], found["low_confidence"]) == (True, None, True)


def test_the_confidence_is_that_of_the_answer_returned_though_another_has_more_votes(tmp_path: Path) -> None:
    """The best-scored sample says 41, which one of four says: it is the mode with a chance of 3/16."""
    samples = iter([("42", -1.0), ("41", -0.01), ("42", -1.0), ("42", -1.0)])

    def says(_: Call) -> Reply:
        answer, logprob = next(samples)
        return Reply([f"\\boxed{{{answer}}}"], logprobs=[logprob])

    with staged(tmp_path, scaling={"samples": 4}, model={"model_info": {"max_n": 1}}) as stage:
        stage.says(says)
        found = told(stage.ask("best_of_n", extra_body=wants(0.5)))
    assert (found["answer"], found["votes"][0]["count"]) == ("41", 1)
    assert (found["confidence"], found["low_confidence"]) == (0.1875, True)
