"""What a client sees of a provider's error: one table, both lanes, scaled and not, streamed and not."""

import json
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import httpx
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream import Endpoint
from proxy.upstream.scrub import scrub
from tests.fake.script import Step
from tests.fake_upstream import Call, Drop, FakeUpstream, Fault, Malformed, Reply
from tests.served import KEY, ServedTally, configuration, deployment

SECRET = "sk-live-ZqKxWvNnTtRrYyUuLpGgHhJj"
LANES = {"direct": "openai/small", "wide": "litellm_proxy/small"}
STRATEGIES = ("off", "self_consistency")
PATIENCE_S = 1.0

QUOTED = f"It did not work: {SECRET}, {SECRET[:7]}***{SECRET[-4:]}, {SECRET[:10]}..., ...{SECRET[-4:]} at BASE/chat."
SHOWN = "It did not work: ***, ***, ***, *** at ***."

Seen = tuple[int, dict[str, str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """What a provider does, and what its client sees. `waits` is Retry-After, `place` the end of the model's name."""

    step: Step | str
    status: int
    type: str = "upstream_error"
    code: str | None = None
    message: str = SHOWN
    param: str | None = None
    waits: str | None = None
    place: str = ""


def fails(status: int, **more: Any) -> Fault:
    return Fault(status, QUOTED, f"type_{status}", f"code_{status}", param="messages", **more)


def kept(status: int, waits: str | None = None, **more: Any) -> Row:
    """An error that comes through as it is, but for what is the operator's."""
    return Row(fails(status, **more), status, f"type_{status}", f"code_{status}", param="messages", waits=waits)


REFUSED = "The provider refused the proxy's credentials; the operator must mend them."
ROWS = {
    **{str(status): kept(status) for status in (400, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)},
    **{str(status): Row(fails(status), 502, code="upstream_auth", message=REFUSED) for status in (401, 403)},
    "429 in half a minute": kept(429, "30", retry_after=30),
    "429 in half a minute, to the thousandth": kept(
        429, "31", headers={"retry-after-ms": "30001", "retry-after": "99"}
    ),
    "503 in half a minute": kept(503, "30", retry_after=30),
    "a status of its own": Row(Fault(418, QUOTED, "teapot", None), 418, "teapot"),
    "a drop": Row(Drop(), 502, code="upstream_unreachable", message="the connection to the provider broke"),
    "nonsense": Row(Malformed("{oops"), 502, code="upstream_malformed", message="the provider's reply is not JSON"),
    "silence": Row(
        Reply(latency=60), 504, code="upstream_timeout", message="the provider did not answer in time", place="-slow"
    ),
    "nobody": Row("unheard", 502, code="upstream_unreachable", message="the provider cannot be reached", place="-gone"),
}
MIDWAY = {
    "an error midway": Row(
        Fault(500, QUOTED, "type", "code", param="n", after_chunks=2), 200, "type", "code", param="n"
    ),
    "a drop midway": Row(
        Drop(after_chunks=2), 200, code="upstream_unreachable", message="the connection to the provider broke"
    ),
    "silence midway": Row(
        Reply(("one two three",), per_token=60),
        200,
        code="upstream_timeout",
        message="the provider did not answer in time",
        place="-slow",
    ),
}
BY_PLACE = {
    "most count": ((422, 404, 422), 422),
    "ties go to the lowest": ((422, 404, 409, 404, 422), 404),
}


AT = Endpoint(
    "openai",
    "small",
    "http://gpu-7.internal:8000/v1",
    SECRET,
    {"extra_headers": {"x-pass": "open-sesame", "x-team": "red"}},
)
SCRUBBED = [
    (f"Bad key {SECRET}.", "Bad key ***."),
    (f"Bad key {SECRET[:9]}**** given.", "Bad key *** given."),
    (f"Bad key ****{SECRET[-3:]}.", "Bad key ***."),
    (f"Bad key {SECRET[:8]}…{SECRET[-4:]}", "Bad key ***"),
    (f"Bad key ending in {SECRET[-4:]}, starting with {SECRET[:9]}.", "Bad key ending in ***, starting with ***."),
    ("Say open-sesame", "Say ***"),
    ("POST http://gpu-7.internal:8000/v1/chat/completions: no", "POST ***: no"),
    ("Cannot connect to host gpu-7.internal:8000 ssl:default", "Cannot connect to host *** ssl:default"),
    ("('GPU-7.internal', 8000) and 10.1.2.3:99 on port 8000", "('***', ***) and *** on port ***"),
]
UNTOUCHED = [
    "The maximum context length is 8000 tokens... you sent 8001.",
    "Use **stop** or see https://platform.openai.com/docs/api-reference.",
    "Rate limit reached for small in 0.25 s; a 16.7.2 server of team red.",
    "Wanted ***, got 17.",
    "",
]


@pytest.mark.parametrize(("said", "shown"), SCRUBBED)
def test_what_belongs_to_the_operator_is_hidden(said: str, shown: str) -> None:
    assert scrub(said, AT) == shown


@pytest.mark.parametrize("said", UNTOUCHED)
def test_what_belongs_to_nobody_is_left_as_it_is(said: str) -> None:
    assert scrub(said, AT) == scrub(said, None) == said


def test_a_key_that_is_a_common_word_hides_itself_alone() -> None:
    assert scrub("any key, many", Endpoint("openai", "small", None, "any", {})) == "*** key, many"


@pytest.mark.parametrize(
    ("base", "key", "said", "shown"),
    [
        ("http://model:8000/v1", "any-key-at-all", "The model `x` does not exist.", "The model `x` does not exist."),
        ("http://model:8000/v1", "any-key-at-all", "Cannot connect to host model:8000", "Cannot connect to host ***"),
        ("http://model:8000/v1", "any-key-at-all", "POST http://model/v1/chat failed", "POST *** failed"),
        ("http://model:8000/v1", "any-key-at-all", "('model', 8000) refused", "('***', ***) refused"),
        (None, "test-key-12345678", "This is a test of the length.", "This is a test of the length."),
        (None, "test-key-12345678", "It began with test-key-1.", "It began with ***."),
        (None, "any-key-at-all", "no route to [fd00:1::2]:8000", "no route to ***"),
        (None, "any-key-at-all", "no route to fe80::1%eth0, at 10:20:30", "no route to ***, at 10:20:30"),
        ("http://[fd00::1]:8000/v1", "any-key-at-all", "at http://[fd00::1]:8000/v1/x", "at ***"),
    ],
)
def test_words_that_are_also_a_hosts_or_a_keys_stay_and_private_addresses_go(
    base: str | None, key: str, said: str, shown: str
) -> None:
    assert scrub(said, Endpoint("openai", "small", base, key, {})) == shown


@given(st.text(st.sampled_from("sk-live *…./:ab7\n"), max_size=400), st.integers(0, 400))
def test_wherever_a_key_stands_nothing_of_it_is_left(around: str, place: int) -> None:
    assert SECRET not in scrub(around[:place] + SECRET + around[place:], AT)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to make: a row by its name, on a lane."""

    row: str
    lane: str
    strategy: str
    stream: bool

    def body(self) -> dict[str, Any]:
        place = {**ROWS, **MIDWAY}[self.row].place if self.row not in BY_PLACE else "-single"
        samples = len(BY_PLACE[self.row][0]) if self.row in BY_PLACE else 3
        return {
            "model": self.lane + place,
            "messages": [{"role": "user", "content": self.row}],
            "stream": self.stream,
            "seed": 0,
            "tally": {"samples": samples},
        }


ASKED = [Asked(row, lane, strategy, stream) for row in ROWS for lane in LANES for strategy in STRATEGIES
         for stream in (False, True)]  # fmt: skip
ASKED_MIDWAY = [Asked(row, lane, "off", stream=True) for row in MIDWAY for lane in LANES]
ASKED_BY_PLACE = [Asked(row, lane, "self_consistency", stream=False) for row in BY_PLACE for lane in LANES]


def named(asked: Asked) -> str:
    return f"{asked.row}-{asked.lane}-{asked.strategy}-{'streamed' if asked.stream else 'plain'}"


@dataclass(slots=True)
class Heard:
    """What came of every request, and what was logged meanwhile. `port` is the upstream's."""

    port: str
    lines: list[str] = field(default_factory=list)
    seen: dict[Asked, Seen] = field(default_factory=dict)

    def hides(self, text: str) -> bool:
        """Whether a text says nothing of the upstream's key and address."""
        # ids are random, and five digits may well be among theirs
        port = re.search(rf"(?<![0-9a-z]){self.port}(?![0-9a-z])", text)
        return port is None and not any(part in text for part in (SECRET, SECRET[:8], SECRET[-4:], "127.0.0.1"))


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


@contextmanager
def listening(lines: list[str]) -> Iterator[None]:
    """Take down what is logged as a server at `log_level: info` would: its own lines, and warnings of libraries."""
    handler = _Lines(lines)
    logging.getLogger().addHandler(handler)
    try:
        with structlog.testing.capture_logs() as own:
            yield
        lines += [repr(line) for line in own]
    finally:
        logging.getLogger().removeHandler(handler)


class _Provider:
    """Does what the row says that a call's prompt names; `base` is what its messages quote as its address."""

    def __init__(self) -> None:
        self.base = ""

    def __call__(self, call: Call) -> Step | str:
        if call.question in BY_PLACE:
            statuses = BY_PLACE[call.question][0]
            return Fault(statuses[call.body["seed"]], "No.", "type", None, retry_after=60)
        step = {**ROWS, **MIDWAY}[call.question].step
        return replace(step, message=step.message.replace("BASE", self.base)) if isinstance(step, Fault) else step


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    """Everything is asked at once, for what may pass is tried again, and that takes its time."""
    provider = _Provider()
    with ExitStack() as stack:
        upstream = stack.enter_context(FakeUpstream(provider))
        base = provider.base = upstream.base_url
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))
        models = [
            entry
            for lane, model in LANES.items()
            for entry in (
                entry_of(lane, model, base),
                entry_of(f"{lane}-slow", model, base, timeout=PATIENCE_S),
                entry_of(f"{lane}-gone", model, f"http://127.0.0.1:{closed.getsockname()[1]}/v1"),
                entry_of(f"{lane}-single", model, base, info={"max_n": 1}),
            )
        ]
        heard = Heard(base.split(":")[2].removesuffix("/v1"))
        with listening(heard.lines):
            config = configuration(base, tmp_path_factory.mktemp("errors"), model_list=models)
            tally = stack.enter_context(ServedTally(config))
            anyio.run(ask_all, tally.url, heard.seen)
            upstream.wait(lambda: not tally.balance().reserved.nano and not upstream.in_flight)
            assert tally.balance().ok
    return heard


def entry_of(name: str, model: str, base: str, *, info: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    entry = deployment(base, litellm_params={"model": model, "api_key": SECRET, **params})
    return {**entry, "model_name": name, "model_info": info or {}}


async def ask_all(url: str, seen: dict[Asked, Seen]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60, headers={"authorization": f"Bearer {KEY}"}) as client:
        # the library behind one lane is imported at its first call, which takes longer than some rows wait
        await client.post("/off/v1/chat/completions", json=Asked("400", "wide", "off", stream=False).body())
        async with anyio.create_task_group() as tasks:
            for asked in (*ASKED, *ASKED_MIDWAY, *ASKED_BY_PLACE):
                tasks.start_soon(ask, client, asked, seen)


async def ask(client: httpx.AsyncClient, asked: Asked, seen: dict[Asked, Seen]) -> None:
    response = await client.post(f"/{asked.strategy}/v1/chat/completions", json=asked.body())
    text = response.text
    if response.headers["content-type"].startswith("text/event-stream"):
        *_, text = [part.removeprefix("data: ") for part in text.split("\n\n") if part.startswith("data: ")]
    seen[asked] = (response.status_code, dict(response.headers), json.loads(text))


@pytest.mark.parametrize("asked", [*ASKED, *ASKED_MIDWAY], ids=named)
def test_an_error_is_told_as_the_table_says(heard: Heard, asked: Asked) -> None:
    row = {**ROWS, **MIDWAY}[asked.row]
    status, headers, body = heard.seen[asked]
    assert (status, body) == (
        row.status,
        {"error": {"message": row.message, "type": row.type, "param": row.param, "code": row.code}},
    )
    assert headers.get("retry-after") == row.waits
    assert heard.hides(json.dumps(body) + json.dumps(headers))


@pytest.mark.parametrize("asked", ASKED_BY_PLACE, ids=named)
def test_where_draws_fail_differently_the_most_frequent_status_is_told(heard: Heard, asked: Asked) -> None:
    assert heard.seen[asked][0] == BY_PLACE[asked.row][1]


def test_no_line_of_the_log_tells_the_key_or_the_address(heard: Heard) -> None:
    assert len(heard.lines) > len(ASKED)
    assert [line for line in heard.lines if not heard.hides(line)] == []
