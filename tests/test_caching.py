"""Draws that wait for a prompt cache: what that saves by the provider's own meter, and when nobody waits."""

import time
from typing import Any

import anyio
import pytest

from proxy.money import Rates
from proxy.types import JSON
from tests.fake_upstream import Call, FakeUpstream, Fault, Reply
from tests.wired import bench

pytestmark = pytest.mark.anyio

CHEAPER = Rates(100_000, 400_000, cached_input=10_000)
LONG = [{"role": "user", "content": "What is six times seven? " + "A long story. " * 1000}]
READ_S = 0.2


class Caching:
    """A provider that has a prompt in its cache once it has read it, which takes a while."""

    def __init__(self, **reply: Any) -> None:
        self.came: list[float] = []
        self._reply = {"n": "refuse", "per_token": 0.05, **reply}

    def __call__(self, _call: Call) -> Reply:
        now = time.monotonic()
        first = self.came[0] if self.came else now
        self.came.append(now)
        cached = 2_900 if now - first >= READ_S else 0
        return Reply(["4 2"], latency=READ_S, prompt_tokens=3_000, cached_tokens=cached, **self._reply)


async def drawn(upstream: FakeUpstream, *, cache_first: bool = True, rates: Rates = CHEAPER, **asked: Any) -> JSON:
    """What eight samples cost, by the ledger and by the provider's meter, and how they were asked for."""
    async with bench(upstream.base_url, cache_first=cache_first, rates=rates, max_n=1) as made:
        query = made.query(parameters={"samples": 8}, **{"messages": LONG, **asked})
        began = time.monotonic()
        found = await made.batcher.submit(query)
        took = time.monotonic() - began
        standing = await made.standing()
    assert standing.ok
    assert standing.reserved.nano == 0
    assert standing.spent.nano == upstream.meter.cost_nano(rates)
    return {
        "nano": standing.spent.nano,
        "samples": found.samples,
        "cached": [bool(call.cached_tokens) for call in upstream.calls],
        "streamed": upstream.calls[0].stream,
        "took": took,
    }


async def test_all_draws_but_the_first_find_the_prompt_in_the_cache() -> None:
    with FakeUpstream(Caching()) as upstream:
        plain = await drawn(upstream, cache_first=False)
    with FakeUpstream(Caching()) as upstream:
        first = await drawn(upstream)
    assert plain["cached"] == [False] * 8
    assert first["cached"] == [False] + [True] * 7
    assert first["samples"] == plain["samples"] == 8
    assert first["nano"] < plain["nano"] * 0.4


async def test_a_stream_that_has_begun_is_enough() -> None:
    """The others do not wait for its end."""
    with FakeUpstream(Caching(per_token=0.5)) as upstream:
        told = await drawn(upstream)
        first = upstream.calls[0]
        ends = first.finished
    assert told["streamed"]
    assert all(told["cached"][1:])
    assert ends is not None
    assert max(call.started for call in upstream.calls) < ends


async def test_a_call_in_one_piece_is_waited_for_to_its_end() -> None:
    with FakeUpstream(Caching()) as upstream:
        told = await drawn(upstream, max_tokens=50)
    assert not told["streamed"]
    assert told["cached"] == [False] + [True] * 7


@pytest.mark.parametrize(
    ("rates", "messages"),
    [
        (Rates(100_000, 400_000), LONG),
        (Rates(100_000, 400_000, cached_input=100_000), LONG),
        (CHEAPER, [{"role": "user", "content": "What is six times seven?"}]),
    ],
)
async def test_nobody_waits_where_a_cache_saves_nothing(rates: Rates, messages: list[JSON]) -> None:
    caching = Caching()
    with FakeUpstream(caching) as upstream:
        await drawn(upstream, rates=rates, messages=messages)
    assert len(caching.came) == 8
    assert max(caching.came) - min(caching.came) < READ_S


async def test_a_first_call_that_fails_keeps_nobody_waiting() -> None:
    caching, calls = Caching(), []

    def script(call: Call) -> Reply | Fault:
        calls.append(call)
        return Fault(400, "not this one") if len(calls) == 1 else caching(call)

    with FakeUpstream(script) as upstream:
        told = await drawn(upstream)
    assert told["samples"] >= 7


async def test_a_first_call_that_hangs_keeps_the_others_waiting_for_a_part_of_the_time_alone() -> None:
    came: list[float] = []

    def script(_call: Call) -> Reply:
        came.append(time.monotonic())
        return Reply(["42"], latency=30.0 if len(came) == 1 else 0.0, n="refuse")

    with FakeUpstream(script) as upstream:
        async with bench(upstream.base_url, cache_first=True, rates=CHEAPER, max_n=1) as made:
            query = made.query(messages=LONG, deadline_s=2.0)
            with anyio.fail_after(10):
                found = await made.batcher.submit(query)
    assert found.samples == 3
    assert 0.4 < came[1] - came[0] < 1.5
