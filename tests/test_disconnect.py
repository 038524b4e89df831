"""A client that goes away at any stage: the upstream is stopped, everything is settled, and the request is recorded."""

import asyncio
import random
import re
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import httpx
import pytest
import yaml

from proxy.api.serving import Reply as Made
from proxy.api.serving import Served as Serving
from proxy.ledger.books import Books
from proxy.ledger.checking import TenantCheck, check
from proxy.ledger.reports import RequestLine, verdicts
from proxy.ledger.store import wall_clock
from proxy.types import JSON
from tests.fake.script import Step
from tests.fake_upstream import Call, FakeUpstream, Fault, Plain, Reply, Script
from tests.process import serving
from tests.served import KEY, RATES, ServedTally, configuration, deployment

pytestmark = pytest.mark.anyio

SLOW = Reply(["one two three four five six seven eight"], per_token=0.2)
STUCK = Reply(latency=30)


class Says:
    """What the upstream says now."""

    def __init__(self) -> None:
        self.step: Script = "42"

    def __call__(self, call: Call) -> Any:
        return self.step(call) if callable(self.step) else self.step


@pytest.fixture(scope="module")
def says() -> Says:
    return Says()


@pytest.fixture(scope="module")
def upstream(says: Says) -> Iterator[FakeUpstream]:
    with FakeUpstream(says) as server:
        yield server


@pytest.fixture(scope="module")
def tally(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedTally]:
    folder: Path = tmp_path_factory.mktemp("disconnect")
    queued = deployment(upstream.base_url, model_name="queued", litellm_params={"max_parallel_requests": 1})
    models = [deployment(upstream.base_url), queued]
    with ServedTally(configuration(upstream.base_url, folder, model_list=models)) as server:
        yield server


def recorded(tally: ServedTally) -> list[RequestLine]:
    with tally.books() as books:
        return verdicts(books, limit=1000)


async def leave(tally: ServedTally, upstream: FakeUpstream, path: str, *, seconds: float = 0.1, **more: Any) -> None:
    """Ask, wait until the upstream is at work, and a little, and go."""
    before = len(upstream.calls)
    body = {"model": "small", "messages": [{"role": "user", "content": "What is 6 x 7?"}], **more}
    async with httpx.AsyncClient() as client, anyio.create_task_group() as tasks:

        async def ask() -> None:
            headers = {"authorization": f"Bearer {KEY}"}
            async with client.stream("POST", f"{tally.url}{path}", json=body, headers=headers, timeout=30) as reply:
                async for _ in reply.aiter_bytes():
                    pass

        tasks.start_soon(ask)
        await upstream.until(lambda: len(upstream.calls) > before)
        await anyio.sleep(seconds)
        tasks.cancel_scope.cancel()


async def settled(tally: ServedTally, upstream: FakeUpstream, requests: int) -> RequestLine:
    """The last request, when it is recorded: nothing is reserved, and nothing that was served is not charged."""
    await upstream.until(lambda: len(recorded(tally)) == requests + 1 and not tally.balance().reserved.nano)
    balance = tally.balance()
    assert balance.ok
    assert balance.spent.nano >= upstream.meter.cost_nano(RATES)
    return recorded(tally)[0]


@pytest.mark.parametrize(
    ("step", "path", "more"),
    [
        pytest.param(SLOW, "/v1", {}, id="the probe"),
        pytest.param(SLOW, "/self_consistency/v1", {}, id="a streamed draw"),
        pytest.param(SLOW, "/self_consistency/v1", {"stream": True}, id="a streamed draw of a streamed reply"),
        pytest.param(STUCK, "/dynscaling/v1", {}, id="a draw that says nothing yet"),
        pytest.param(STUCK, "/self_consistency/v1", {"max_tokens": 20}, id="a plain draw"),
        pytest.param(SLOW, "/off/v1", {"stream": True}, id="a live stream"),
        pytest.param(STUCK, "/off/v1", {"stream": True}, id="a live stream that has not begun"),
        pytest.param(STUCK, "/off/v1", {"max_tokens": 20}, id="a plain call"),
        pytest.param(STUCK, "/off/v1", {"max_tokens": 20, "n": 3}, id="several plain choices"),
    ],
)
async def test_a_client_that_leaves_stops_the_upstream_and_owes_what_was_served(  # noqa: PLR0917 - fixtures and cases
    says: Says, upstream: FakeUpstream, tally: ServedTally, step: Script, path: str, more: dict[str, Any]
) -> None:
    says.step = step
    first, requests = len(upstream.calls), len(recorded(tally))
    await leave(tally, upstream, f"{path}/chat/completions", **more)
    await upstream.until(lambda: all(call.cancelled for call in upstream.calls[first:]))
    found = await settled(tally, upstream, requests)
    assert (found.status, found.samples) == (499, 0)
    assert len(upstream.calls) == first + 1


async def test_the_samples_in_hand_of_a_client_that_left_are_recorded_with_it(
    says: Says, upstream: FakeUpstream, tally: ServedTally
) -> None:
    requests = len(recorded(tally))
    says.step = Reply(["42", "one two three four five six seven eight nine ten"], per_token=0.1)
    await leave(tally, upstream, "/self_consistency/v1/chat/completions", seconds=0.4)
    found = await settled(tally, upstream, requests)
    assert found.status == 499
    assert found.samples == 4


async def test_clients_that_leave_while_they_wait_for_their_turn_send_nothing(
    says: Says, upstream: FakeUpstream, tally: ServedTally
) -> None:
    requests = len(recorded(tally))
    says.step = STUCK
    first = len(upstream.calls)

    async def come_and_go(strategy: str) -> None:
        await leave(tally, upstream, f"/{strategy}/v1/chat/completions", model="queued", seconds=0.3)

    async with anyio.create_task_group() as tasks:
        for strategy in ("off", "self_consistency", "off"):
            tasks.start_soon(come_and_go, strategy)
    await upstream.until(lambda: len(recorded(tally)) == requests + 3 and not tally.balance().reserved.nano)
    await upstream.until(lambda: all(call.cancelled for call in upstream.calls[first:]))
    assert [one.status for one in recorded(tally)[:3]] == [499] * 3
    assert tally.balance().ok


async def test_the_next_request_after_all_that_is_served_as_ever(
    says: Says, upstream: FakeUpstream, tally: ServedTally
) -> None:
    says.step = "42"
    async with tally.async_client("self_consistency") as client:
        reply = await client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "What is 6 x 7?"}]
        )
    assert reply.choices[0].message.content == "42"


@pytest.mark.parametrize("notes", [True, False])
async def test_a_stream_whose_client_leaves_just_when_it_has_begun_is_closed(*, notes: bool) -> None:
    gone, closed = asyncio.Event(), asyncio.Event()
    sent: list[Any] = []

    async def upstream_events() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            await asyncio.sleep(30)
        finally:
            closed.set()

    async def wrapped(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for event in events:
            yield event

    async def work() -> Made:
        source = upstream_events()
        await anext(source)
        gone.set()
        # who waits for the client to go hears of it before the reply is handed on
        await asyncio.sleep(0)
        return Made({}, events=wrapped(source), source=source)

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    statuses: list[int] = []
    queue: asyncio.Queue[bytes] | None = asyncio.Queue() if notes else None
    served = Serving(work, streamed=True, early={}, ended=statuses.append, notes=queue)
    await served({"type": "http"}, receive, send)
    assert closed.is_set()
    assert statuses == [499]


class Stages:
    """An upstream for many clients at once: what it says to each goes by the mark in its question.

    `calls` are by client; drafts of `judged` and `picked` are there at once, and their judges never come to an end.
    """

    def __init__(self) -> None:
        self.calls: dict[str, list[Call]] = defaultdict(list)

    def __call__(self, call: Call) -> Step:
        found = re.search(r"<(\w+) (\d+)>", str(call.body))
        assert found is not None
        stage, client = found.groups()
        self.calls[client].append(call)
        if stage == "warm":
            return Reply(["42"])
        if call.body["model"] in {"judge", "picker"} or stage == "headers":
            return STUCK
        if "input" in call.body:
            return Plain(latency=30)
        if stage == "retry":
            return Fault(retry_after=10)
        if stage == "second" and len(self.calls[client]) > 1:
            return SLOW
        # answers that differ are never sure enough to be given before the window ends
        return Reply(["42", "41", "40", "39"]) if stage in {"judged", "picked", "window", "second"} else SLOW


TRIES = 100
AT_ONCE = 5
UNLIMITED = httpx.Limits(max_connections=None)
CHAT, LEGACY = "chat/completions", "completions"
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("reserved", "self_consistency", {}),
    ("reserved", "off", {"stream": True}),
    ("slot", "self_consistency", {"model": "queued"}),
    ("slot", "off", {"model": "queued"}),
    ("window", "dynscaling", {}),
    ("headers", "self_consistency", {"max_tokens": 20}),
    ("headers", "adaptive", {"stream": True}),
    ("headers", "off", {}),
    ("streaming", "self_consistency", {}),
    ("streaming", "self_consistency", {"stream": True, "tally": {"progress": True}}),
    ("streaming", "sp1", {}),
    ("streaming", "off", {"stream": True}),
    ("judged", "best_of_n", {}),
    ("judged", "optscale", {"stream": True}),
    ("picked", "self_consistency", {"tally": {"answer": {"kind": "text", "pick": "universal"}}}),
    ("second", "dynscaling", {}),
    ("second", "dynscaling", {"stream": True}),
    ("second", "adaptive", {}),
    ("retry", "self_consistency", {}),
    ("retry", "adaptive", {"stream": True}),
    ("headers", "self_consistency", {"endpoint": LEGACY}),
    ("headers", "off", {"endpoint": LEGACY, "stream": True}),
    ("streaming", "optscale", {"endpoint": LEGACY, "max_tokens": 2000}),
    ("streaming", "off", {"endpoint": LEGACY, "max_tokens": 2000, "stream": True}),
    ("slot", "adaptive", {"endpoint": LEGACY, "model": "queued"}),
    ("passed", "off", {"endpoint": "embeddings"}),
    ("passed", "adaptive", {"endpoint": "moderations"}),
    ("passed", "off", {"endpoint": "rerank", "query": "", "documents": []}),
    ("slot", "off", {"endpoint": "embeddings", "model": "queued"}),
]
"""A stage of a request, the strategy that comes to it, and what else its body says, or where it is asked.

A body that does not come whole stands in `test_bad_requests`; a vote that is being sent has no upstream calls any more.
"""


def reached(stage: str, calls: list[Call]) -> bool:
    """Whether a client's calls show that its request has come to a stage."""
    if stage in {"judged", "picked"}:
        return any(call.body["model"] in {"judge", "picker"} for call in calls)
    if stage == "streaming":
        return any(call.completion_tokens for call in calls)
    if stage == "window":
        return bool(calls) and all(call.finished is not None for call in calls)
    if stage == "second":
        return len(calls) > 1
    if stage == "retry":
        return bool(calls) and all(call.finished is not None for call in calls)
    return stage in {"reserved", "slot"} or bool(calls)


def asked(question: str, endpoint: str, more: dict[str, Any]) -> dict[str, Any]:
    """A body for an endpoint."""
    texts: dict[str, JSON] = {CHAT: {"messages": [{"role": "user", "content": question}]}, LEGACY: {"prompt": question}}
    return {"model": "small", **texts.get(endpoint, {"input": question}), **more}


@pytest.mark.parametrize("more", [{}, {"stream": True}])
async def test_a_client_of_a_long_prompt_that_leaves_stops_the_upstream_too(more: JSON, tmp_path: Path) -> None:
    """Of a large body a server reads no further ahead than it must; that the client goes it hears nevertheless."""
    body = {"model": "small", "max_tokens": 20, "messages": [{"role": "user", "content": "x" * 400_000}], **more}
    with FakeUpstream(STUCK) as server:
        (tmp_path / "tally.yaml").write_text(yaml.safe_dump(staging(server, tmp_path)))
        with serving(server, tmp_path, "--config", "tally.yaml", environ={}) as running:
            async with httpx.AsyncClient(base_url=running.url, timeout=30) as client:
                asking = asyncio.get_running_loop().create_task(post(client, f"/off/v1/{CHAT}", body))
                await server.until(lambda: len(server.calls) == 1)
                asking.cancel()
                with suppress(asyncio.CancelledError):
                    await asking
                await server.until(lambda: server.calls[0].cancelled, timeout=5)


async def test_no_call_is_alive_half_a_second_after_its_client_left_in_a_hundred_of_a_hundred_tries(
    tmp_path: Path,
) -> None:
    stages, lots = Stages(), random.Random(5)
    left: dict[str, float] = {}
    places = asyncio.Semaphore(AT_ONCE)

    async def come_and_go(client: httpx.AsyncClient, server: FakeUpstream, number: int) -> None:
        async with places:
            await visit(client, server, number, *CASES[number % len(CASES)])

    async def visit(  # noqa: PLR0917 - a case is three things
        client: httpx.AsyncClient, server: FakeUpstream, number: int, stage: str, strategy: str, more: JSON
    ) -> None:
        endpoint = more.get("endpoint", CHAT)
        rest = {name: value for name, value in more.items() if name != "endpoint"}
        body = asked(f"What is 6 x 7? <{stage} {number}>", endpoint, rest)
        asking = asyncio.get_running_loop().create_task(post(client, f"/{strategy}/v1/{endpoint}", body))
        await server.until(lambda: reached(stage, stages.calls[str(number)]), timeout=10)
        await anyio.sleep(lots.uniform(0, 0.02 if stage == "reserved" else 0.2))
        left[str(number)] = time.monotonic()
        assert not asking.done(), f"{stage} of {strategy}: the reply came before its client could leave"
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking

    config = tmp_path / "tally.yaml"
    with FakeUpstream(stages) as server:
        config.write_text(yaml.safe_dump(staging(server, tmp_path)))
        # a process of its own: how long a stop takes is measured, and the test and its upstream are busy themselves
        with serving(server, tmp_path, "--config", str(config), environ={}) as running:
            async with httpx.AsyncClient(base_url=running.url, timeout=30, limits=UNLIMITED) as client:
                # the first vote of a server has something to import, which holds everybody up
                await post(client, f"/dynscaling/v1/{CHAT}", asked("<warm 0>", CHAT, {}))
                async with anyio.create_task_group() as tasks:
                    for number in range(1, TRIES + 1):
                        tasks.start_soon(come_and_go, client, server, number)
                begun = len(server.calls)
                await anyio.sleep(0.5)
                assert (server.in_flight, len(server.calls)) == (0, begun)
                assert not [call for call in server.calls if call.finished is None]
            path = tmp_path / "tally.db"
            await server.until(lambda: not balanced(path).reserved.nano)
            balance, lines = balanced(path), written(path)
        cost = server.meter.cost_nano(RATES)
    took = [
        (CASES[int(name) % len(CASES)][:2], (call.finished or time.monotonic()) - left[name], call.started - left[name])
        for name, calls in stages.calls.items()
        for call in calls
        if call.cancelled
    ]
    assert len(took) > 50
    assert not [late for late in took if late[1] >= 0.5]
    assert median(seconds for _, seconds, _ in took) < 0.1
    assert balance.ok
    assert balance.spent.nano == sum(line.cost_nano for line in lines) >= cost
    assert sorted(line.status for line in lines) == [200, *[499] * (len(lines) - 1)]
    assert len(stages.calls) > 80


def balanced(path: Path) -> TenantCheck:
    with closing(Books.open_read_only(path, clock=wall_clock)) as books:
        return next(found for found in check(books) if found.tenant == "acme")


def written(path: Path) -> list[RequestLine]:
    with closing(Books.open_read_only(path, clock=wall_clock)) as books:
        return verdicts(books, limit=1000)


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    async with client.stream("POST", path, json=body, headers={"authorization": f"Bearer {KEY}"}) as reply:
        async for _ in reply.aiter_bytes():
            pass


def staging(server: FakeUpstream, folder: Path) -> dict[str, Any]:
    named = [
        deployment(server.base_url, model_name=name, litellm_params={"model": f"openai/{name}"})
        for name in ("small", "judge", "picker")
    ]
    queued = deployment(server.base_url, model_name="queued", litellm_params={"max_parallel_requests": 2})
    scaling = {
        "scorer": {"kind": "judge", "model": "judge"},
        "universal_model": "picker",
        "batch_window_ms": 4000,
        "batch_max_queries": 200,
    }
    return configuration(server.base_url, folder, model_list=[*named, queued], scaling=scaling)
