"""Streams as a client sees them, byte by byte: `tests/golden` holds them, with their ids and times made equal.

`TALLY_GOLDEN=write` in the environment writes them anew; look at the difference before you commit it.
"""

import json
import os
import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from proxy.api import serving
from tests.fake.script import Fault, Reply, Script
from tests.served import KEY, deployment
from tests.staged import ASK, JSON, Stage, staged

FOLDER = Path(__file__).parent / "golden"
WRITE = os.environ.get("TALLY_GOLDEN") == "write"

ANSWER = "The answer is 42."
BOTH = ("off", "self_consistency")
SCALED = ("self_consistency",)
PAIR: JSON = {
    "type": "object",
    "properties": {"left": {"type": "integer"}, "right": {"type": "integer"}},
    "required": ["left", "right"],
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": PAIR}} for name in ("multiply", "add")]


def _calls(*names: str) -> list[JSON]:
    return [{"name": name, "arguments": '{"left": 6, "right": 7}'} for name in names]


@dataclass(frozen=True, slots=True)
class Case:
    """What the upstream says, what is asked, by which strategies; `status` is of a reply that is no stream."""

    says: Script
    asked: JSON = field(default_factory=dict)
    strategies: tuple[str, ...] = BOTH
    path: str = "chat/completions"
    status: int = 200
    fails: bool = False


CASES = {
    "text": Case([ANSWER, "The answer is 41.", ANSWER, ANSWER]),
    "usage": Case(ANSWER, {"stream_options": {"include_usage": True}}, strategies=(*BOTH, "adaptive")),
    "tools": Case(Reply(tool_calls=_calls("multiply")), {"tools": TOOLS}),
    "parallel_tools": Case(Reply(tool_calls=_calls("multiply", "add")), {"tools": TOOLS}),
    "json_schema": Case(
        ['{"left": 6, "right": 7}', '{"left": 6,', '{"right":7,"left":6}', '{"left": 6, "right": 8}'],
        {"response_format": {"type": "json_schema", "json_schema": {"name": "pair", "strict": True, "schema": PAIR}}},
    ),
    "choices": Case(["42", "41", "42", "42"], {"n": 2}),
    "logprobs": Case("It is 42.", {"logprobs": True}),
    "refusal": Case(Reply(refusal="I cannot help with that.")),
    "reasoning": Case(Reply([ANSWER], reasoning_content="Six sevens.")),
    "length": Case(Reply(["forty two and"], finish_reason="length")),
    "tally_field": Case(ANSWER, {"tally": {"detail": True}}),
    "progress": Case(["42", "41", "42", "42"], {"tally": {"progress": True}}),
    "progress_adaptive": Case("42", {"tally": {"progress": True}}, strategies=("adaptive",)),
    "error_before": Case(
        Fault(400, "Not so.", "invalid_request_error", "bad_thing", param="user"), status=400, fails=True
    ),
    "error_opened": Case(
        Fault(400, "Not so.", "invalid_request_error", "bad_thing", param="user"),
        {"tally": {"progress": True}},
        strategies=SCALED,
        fails=True,
    ),
    "error_between": Case(
        Fault(500, "It broke.", "server_error", None, after_chunks=3), strategies=("off",), fails=True
    ),
    "completions": Case("It is 42.", path="completions"),
    "completions_usage": Case(
        "It is 42.", {"stream_options": {"include_usage": True}, "logprobs": 1}, path="completions"
    ),
}
EACH = [(name, strategy) for name, case in CASES.items() for strategy in case.strategies]


def _model(name: str) -> str:
    """A model of its own for each case: what a bank has kept for one changes what another draws."""
    return f"golden-{name}"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    names = [_model(name) for name in (*CASES, "pings")]

    def models(base_url: str) -> list[JSON]:
        # with names that are the upstream's own, so that what can be passed on as it is, is
        own = [(name, {"model": f"openai/{name}"}) for name in names]
        return [{**deployment(base_url, litellm_params=params), "model_name": name} for name, params in own]

    with staged(tmp_path_factory.mktemp("golden"), models=models, scaling={"samples": 4}) as made:
        yield made


def asking(case: Case, model: str) -> JSON:
    """The body of a case's request."""
    prompt = {"prompt": ASK[0]["content"], "max_tokens": 20} if case.path == "completions" else {"messages": ASK}
    return {"model": model, "stream": True, **prompt, **case.asked}


def normal(raw: str) -> str:
    """A transcript with ids and times that are the same in every run."""
    raw = re.sub(r'("id": ?"(?:chatcmpl|cmpl)-)[^"]*"', r'\1ID"', raw)
    raw = re.sub(r'("created": ?)\d+', r"\g<1>0", raw)
    # the upstream numbers its calls
    return re.sub(r'"call_\d+_(\d+_\d+)"', r'"call_\1"', raw)


def compare(name: str, transcript: str) -> None:
    """Hold a transcript to the one that is kept, or keep it."""
    kept = FOLDER / name
    if WRITE:
        kept.write_bytes(transcript.encode())
    assert transcript.encode() == kept.read_bytes()


def parts(transcript: str) -> list[str]:
    """What stands between blank lines: comments and data, a line each, and nothing else that SSE knows."""
    assert transcript.endswith("\n\n")
    found = transcript.removesuffix("\n\n").split("\n\n")
    assert all(re.fullmatch(r": [ -~]+|data: [^\n\r]+", part) for part in found)
    return found


def payloads(transcript: str, *, fails: bool) -> list[JSON]:
    """The data of a stream: JSON, and last of all `[DONE]`, or an error object that takes its place."""
    *data, last = [part.removeprefix("data: ") for part in parts(transcript) if not part.startswith(":")]
    if fails:
        assert json.loads(last)["error"].keys() == {"message", "type", "param", "code"}
    else:
        assert last == "[DONE]"
    return [json.loads(item) for item in data]


def check_rules(transcript: str, case: Case) -> None:
    """What clients rely on, in whatever words a stream is told."""
    found = payloads(transcript, fails=case.fails)
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in found}) <= 1
    choices = [choice for chunk in found for choice in chunk["choices"]]
    _check_usage(found, asked="stream_options" in case.asked)
    for index in {choice["index"] for choice in choices}:
        own = [choice for choice in choices if choice["index"] == index]
        if case.path == "chat/completions":
            assert own[0]["delta"]["role"] == "assistant"
            assert all("role" not in choice["delta"] for choice in own[1:])
        ends = [place for place, choice in enumerate(own) if choice["finish_reason"]]
        assert ends == ([] if case.fails else [len(own) - 1])
    if not case.fails:
        assert {choice["index"] for choice in choices} == set(range(case.asked.get("n", 1)))


def _check_usage(found: list[JSON], *, asked: bool) -> None:
    empty = [place for place, chunk in enumerate(found) if not chunk["choices"]]
    assert empty == ([len(found) - 1] if asked else [])
    assert [place for place, chunk in enumerate(found) if chunk.get("usage")] == empty
    assert all(("usage" in chunk) == asked for chunk in found)


@pytest.mark.parametrize(("name", "strategy"), EACH, ids=[".".join(each) for each in EACH])
def test_a_stream_is_what_it_was_to_the_byte_and_keeps_the_rules(stage: Stage, name: str, strategy: str) -> None:
    case = CASES[name]
    stage.says(case.says)
    reply = stage.post(asking(case, _model(name)), path=f"/{strategy}/v1/{case.path}")
    assert reply.status_code == case.status
    transcript = normal(reply.text)
    if case.status != 200:
        assert reply.headers["content-type"] == "application/json"
        assert json.loads(transcript)["error"].keys() == {"message", "type", "param", "code"}
        compare(f"{name}.{strategy}.json", transcript)
        return
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    check_rules(transcript, case)
    compare(f"{name}.{strategy}.sse", transcript)


@pytest.mark.anyio
async def test_a_stream_that_takes_long_is_opened_with_pings_that_are_comments(stage: Stage) -> None:
    """The proxy's own stream, held back here for a shorter time than it holds its streams."""
    stage.says(Reply(["42"], latency=0.1))
    case = Case("42")

    async def work() -> serving.Reply:
        async with httpx.AsyncClient(base_url=stage.tally.url, headers={"authorization": f"Bearer {KEY}"}) as client:
            reply = await client.post(
                "/self_consistency/v1/chat/completions", json=asking(case, _model("pings")), timeout=30
            )
        return serving.Reply({}, events=_once(reply.content))

    transcript = normal(await _served(serving.Served(work, streamed=True, early={}, hold_s=0.01)))
    check_rules(transcript, case)
    # how many there are is a matter of time
    compare("pings.self_consistency.sse", re.sub(r"(: ping\n\n)+", r"\1", transcript))


def test_every_transcript_that_is_kept_is_of_a_case() -> None:
    known = {f"{name}.{strategy}" for name, strategy in EACH} | {"pings.self_consistency"}
    assert {path.stem for path in FOLDER.iterdir()} == known


async def _once(raw: bytes) -> AsyncGenerator[bytes, None]:
    yield raw


async def _served(served: serving.Served) -> str:
    """What a client that stays would read."""
    body = bytearray()

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        body.extend(message.get("body", b""))

    await served({"type": "http"}, receive, send)
    return body.decode()
