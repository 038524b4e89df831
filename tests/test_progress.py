"""A stream that tells the votes while its samples are still being drawn, in comments that no client trips over."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fake_upstream import Call, Fault, Reply
from tests.served import KEY
from tests.staged import ASK, JSON, Stage, staged, told

WANTED = {"tally": {"progress": True, "samples": 4}}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder: Path = tmp_path_factory.mktemp("progress")
    with staged(folder, model={"model_info": {"max_n": 1}}) as made:
        yield made


def staggered(*contents: str, each: float = 0.15) -> Any:
    """Each further call of a request takes longer than the one before."""
    taken = iter(range(len(contents)))

    def script(_: Call) -> Reply:
        place = next(taken)
        return Reply([contents[place]], latency=each * (place + 1))

    return script


def parts(stage: Stage, strategy: str = "self_consistency", **more: Any) -> list[str]:
    """The parts of one stream's body, between its blank lines."""
    body = {"model": "small", "messages": ASK, "stream": True, **WANTED, **more}
    reply = stage.post(body, path=f"/{strategy}/v1/chat/completions")
    assert reply.status_code == 200, reply.text
    assert reply.text.endswith("\n\n")
    return reply.text.removesuffix("\n\n").split("\n\n")


def notes(found: list[str]) -> list[JSON]:
    """What the stream tells of its votes."""
    return [json.loads(part.removeprefix(": tally ")) for part in found if part.startswith(": tally ")]


def test_every_finished_sample_sends_the_votes_so_far_as_a_comment(stage: Stage) -> None:
    stage.says(staggered("42", "41", "41", "41", each=0.05))
    found = parts(stage)
    assert notes(found) == [
        {"votes": [{"answer": "42", "count": 1}], "samples": 1},
        {"votes": [{"answer": "42", "count": 1}, {"answer": "41", "count": 1}], "samples": 2},
        {"votes": [{"answer": "41", "count": 2}, {"answer": "42", "count": 1}], "samples": 3},
        {"votes": [{"answer": "41", "count": 3}, {"answer": "42", "count": 1}], "samples": 4},
    ]


def test_comments_are_single_lines_of_ascii_and_come_before_the_first_event(stage: Stage) -> None:
    stage.says("\\boxed{naïve\u2028line}")
    found = parts(stage, tally={"progress": True, "samples": 4, "answer": {"kind": "math"}})
    comments = [part for part in found if part.startswith(":")]
    assert len(notes(found)) == 4
    assert notes(found)[-1]["votes"][0]["count"] == 4
    assert all(part.isascii() and len(part.splitlines()) == 1 for part in comments)
    events = [part for part in found if part.startswith("data: ")]
    assert found == [*comments, *events]
    assert events[-1] == "data: [DONE]"


def test_the_stream_opens_at_once_and_tells_each_sample_when_it_is_there(stage: Stage) -> None:
    stage.says(staggered("42", "42", "42", "42", each=0.3))
    body = {"model": "small", "messages": ASK, "stream": True, **WANTED}
    headers = {"authorization": f"Bearer {KEY}"}
    url = f"{stage.tally.url}/self_consistency/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=10) as reply:
        assert all(call.finished is None for call in stage.calls)
        lines = reply.iter_lines()
        assert next(lines) == ": ping"
        assert next(line for line in lines if line).startswith(": tally ")
        assert sum(call.finished is not None for call in stage.calls) < 4


def test_the_official_client_reads_a_stream_with_progress_as_any_other(stage: Stage) -> None:
    stage.says(staggered("42", "41", "42", "42", each=0.03))
    stream: Any = stage.client("self_consistency").chat.completions.create(
        model="small",
        messages=ASK,  # type: ignore[arg-type]  # plain dicts
        stream=True,
        extra_body=WANTED,
    )
    with stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "42"
    assert (chunks[-1].model_extra or {})["tally"]["samples"] == 4


def test_feedback_and_replaced_answers_of_a_chain_have_no_vote(stage: Stage) -> None:
    stage.says(lambda call: "It looks wrong." if "say what is wrong" in call.question else "42")
    found = notes(parts(stage, "sp2", tally={"progress": True, "max_samples": 3}))
    assert [(note["samples"], note["votes"]) for note in found] == [
        (1, [{"answer": "42", "count": 1}]),
        (2, [{"answer": "42", "count": 1}]),
        (3, [{"answer": "42", "count": 1}]),
    ]


def test_an_error_after_the_stream_was_opened_is_an_event(stage: Stage) -> None:
    stage.says(Fault(400, "No.", "invalid_request_error", "nonsense"))
    found = parts(stage, messages=[{"role": "user", "content": "Is this wrong?"}])
    assert not notes(found)
    assert json.loads(found[-1].removeprefix("data: "))["error"]["message"] == "No."


@pytest.mark.parametrize(
    "more", [{"stream": False}, {"tally": {"samples": 4, "progress": False}}, {"tally": {"samples": 4}}]
)
def test_nobody_gets_comments_who_did_not_ask_for_them_in_a_stream(stage: Stage, more: JSON) -> None:
    stage.says("42")
    reply = stage.post(
        {"model": "small", "messages": ASK, "stream": True, **WANTED, **more},
        path="/self_consistency/v1/chat/completions",
    )
    assert ": tally" not in reply.text
    assert ": ping" not in reply.text


def test_what_is_passed_through_has_no_votes_to_tell(stage: Stage) -> None:
    stage.says("42")
    found = parts(stage, "off")
    assert not notes(found)
    assert found[-1] == "data: [DONE]"


def test_progress_is_a_boolean(stage: Stage) -> None:
    reply = stage.post({"model": "small", "messages": ASK, "tally": {"progress": "yes"}})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tally.progress")


def test_progress_of_a_whole_reply_changes_nothing(stage: Stage) -> None:
    stage.says("42")
    assert told(stage.ask(extra_body=WANTED))["samples"] == 4
