"""A client that goes away at any stage: the upstream is stopped, everything is settled, and the request is recorded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from proxy.ledger.reports import RequestLine, verdicts
from tests.fake_upstream import Call, FakeUpstream, Reply, Script
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
