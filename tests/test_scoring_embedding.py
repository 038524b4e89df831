"""Embeddings: through either lane, charged to the nano, and None where they cannot be had."""

import asyncio
import time

import pytest

from proxy.errors import UpstreamError
from proxy.scoring.embedding import Embedder
from proxy.types import JSON, Tenant
from proxy.upstream import Endpoint
from proxy.upstream.litellm import LiteLLMLane
from tests.fake.script import Script
from tests.fake_upstream import Drop, FakeUpstream, Fault, Malformed, Plain
from tests.served import RATES
from tests.wired import SECRET, Bench, bench

pytestmark = pytest.mark.anyio

TWO = Plain([{"embedding": [0.0, 1.0]}, {"embedding": [1, 0.5]}])


async def embed(made: Bench, *texts: str, seconds: float = 10.0) -> list[list[float]] | None:
    embedder = Embedder(made.meter, lambda: made.route, clock=time.monotonic)
    return await embedder.embed(made.purse(), texts, time.monotonic() + seconds)


async def charged(made: Bench, upstream: FakeUpstream) -> JSON:
    """The one row of the ledger, when it, the tenant's account and the provider's own meter agree."""
    standing = await made.standing()
    (row,) = await made.rows()
    assert row["cost_nano"] == standing.spent.nano == upstream.meter.cost_nano(RATES)
    assert (standing.reserved.nano, row["purpose"], row["completion_tokens"]) == (0, "embedding", 0)
    return row


async def test_texts_become_vectors_by_one_call_that_is_charged_for_its_prompt_alone() -> None:
    with FakeUpstream(TWO) as upstream:
        async with bench(upstream.base_url) as made:
            assert await embed(made, "one", "two") == [[0.0, 1.0], [1.0, 0.5]]
            row = await charged(made, upstream)
        (call,) = upstream.calls
    assert (call.path, call.body) == ("/v1/embeddings", {"model": "small", "input": ["one", "two"]})
    assert call.headers["authorization"] == f"Bearer {SECRET}"
    assert (row["prompt_tokens"], row["estimated"]) == (2, False)


async def test_litellm_embeds_for_every_other_provider() -> None:
    lane = LiteLLMLane()
    try:
        with FakeUpstream(TWO) as upstream:
            async with bench(lane=lane) as made:
                made.deployment.endpoint = Endpoint("together_ai", "small", upstream.base_url, SECRET, {})
                assert await embed(made, "one", "two") == [[0.0, 1.0], [1.0, 0.5]]
                await charged(made, upstream)
            (call,) = upstream.calls
        assert call.texts == ["one", "two"]
    finally:
        await lane.close()


async def test_vectors_go_by_their_index_and_not_by_their_place() -> None:
    swapped = Plain([{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [0.0]}])
    with FakeUpstream(swapped) as upstream:
        async with bench(upstream.base_url) as made:
            assert await embed(made, "zero", "one") == [[0.0], [1.0]]


async def test_no_texts_need_no_call() -> None:
    with FakeUpstream(TWO) as upstream:
        async with bench(upstream.base_url) as made:
            assert await embed(made) == []
    assert upstream.calls == []


async def test_of_a_long_text_the_end_is_sent_and_an_empty_one_is_no_empty_text() -> None:
    with FakeUpstream(TWO) as upstream:
        async with bench(upstream.base_url) as made:
            await embed(made, "x" * 100_000 + "end", "")
        (call,) = upstream.calls
    assert len(call.texts[0]) == 16_000
    assert call.texts[0].endswith("xend")
    assert call.texts[1] == " "


@pytest.mark.parametrize(
    "step",
    [
        Fault(500),
        Fault(404),
        Drop(),
        Malformed("{oops"),
        "a chat's reply",
        Plain([{"embedding": [0.0]}]),
        Plain([{"embedding": [0.0]}, {"embedding": [0.0, 1.0]}]),
        Plain([{"embedding": [0.0]}, {"embedding": [None]}]),
        Plain([{"embedding": [0.0]}, {"embedding": "AAAA"}]),
        Plain([{"embedding": [0.0]}, {"index": 0, "embedding": [0.0]}]),
        Plain([{"embedding": [0.0]}, {"index": [], "embedding": [0.0]}]),
    ],
)
async def test_a_failure_or_a_reply_of_another_shape_gives_none(step: Script) -> None:
    with FakeUpstream(step) as upstream:
        async with bench(upstream.base_url) as made:
            assert await embed(made, "one", "two") is None
            standing = await made.standing()
            assert (standing.reserved.nano, standing.ok) == (0, True)
            assert standing.spent.nano >= upstream.meter.cost_nano(RATES)


BOUND = 64 + 2 * 16 + len("onetwo")
"""Tokens that the texts can have at most: those of a template, of each text, and of its bytes."""


@pytest.mark.parametrize(("seconds", "charged"), [(-1.0, 0), (0.1, RATES.cost(BOUND, 0))])
async def test_what_does_not_come_in_time_gives_none_and_is_charged_whole_where_it_was_sent(
    seconds: float, charged: int
) -> None:
    with FakeUpstream(Plain(TWO.data, latency=30)) as upstream:
        async with bench(upstream.base_url) as made:
            assert await embed(made, "one", "two", seconds=seconds) is None
            standing = await made.standing()
            assert (standing.spent.nano, standing.reserved.nano) == (charged, 0)


async def test_a_call_that_is_cancelled_is_charged_whole_and_once() -> None:
    with FakeUpstream(Plain(TWO.data, latency=30)) as upstream:
        async with bench(upstream.base_url) as made:
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(embed(made, "one", "two"))
                await upstream.until(lambda: len(upstream.calls) == 1)
                assert (await made.standing()).reserved.nano == RATES.cost(BOUND, 0)
                task.cancel()
            standing = await made.standing()
            assert (standing.spent.nano, standing.reserved.nano, standing.ok) == (RATES.cost(BOUND, 0), 0, True)


async def test_litellm_has_no_rewards() -> None:
    with pytest.raises(UpstreamError, match="OpenAI-compatible"):
        await LiteLLMLane().post(Endpoint("together_ai", "small", None, None, {}), "/score", {}, 1.0)


async def test_a_wait_for_a_free_place_ends_at_the_deadline_and_costs_nothing() -> None:
    with FakeUpstream(TWO) as upstream:
        async with bench(upstream.base_url, limit=1, calls=1) as made:
            assert await embed(made, "one", "two", seconds=0.05) is None
            assert (await made.standing()).spent.nano == 0
    assert upstream.calls == []


async def test_a_budget_that_does_not_hold_the_call_gives_none() -> None:
    with FakeUpstream(TWO) as upstream:
        async with bench(upstream.base_url, tenants=(Tenant("acme", max_nano=10),)) as made:
            assert await embed(made, "one", "two") is None
    assert upstream.calls == []


async def test_a_usage_that_tells_the_sum_alone_is_charged_exactly() -> None:
    with FakeUpstream(Plain(TWO.data, usage="total")) as upstream:
        async with bench(upstream.base_url) as made:
            await embed(made, "one", "two")
            assert not (await charged(made, upstream))["estimated"]


async def test_where_no_usage_is_told_all_that_was_reserved_is_charged() -> None:
    with FakeUpstream(Plain(TWO.data, usage="none")) as upstream:
        async with bench(upstream.base_url) as made:
            await embed(made, "one", "two")
            (row,) = await made.rows()
    assert (row["prompt_tokens"], row["estimated"]) == (BOUND, True)
