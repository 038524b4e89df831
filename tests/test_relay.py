"""`off`: calls passed through as they are, inside the budget."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.errors import BudgetExceeded, UpstreamError
from proxy.query import Query
from proxy.relay import Relay, relayable, sliceable
from proxy.types import JSON, Tenant
from proxy.upstream.group import Group
from proxy.upstream.routing import Route
from proxy.upstream.sse import EventParser
from proxy.upstream.usage import prompt_bound
from tests.fake_upstream import Drop, FakeUpstream, Fault, Malformed, Reply
from tests.one_piece import OnePiece
from tests.served import RATES
from tests.wired import QUESTION, Bench, bench

pytestmark = pytest.mark.anyio

LONG = "one two three four five six seven eight nine ten"


def relay(made: Bench) -> Relay:
    return Relay(made.meter, made.ledger, clock=time.monotonic)


def payloads(events: list[bytes]) -> list[JSON]:
    """The JSON of each event but `[DONE]`, which must be the last."""
    data = [event.removeprefix(b"data: ").removesuffix(b"\n\n") for event in events]
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2 for event in events)
    assert data[-1] == b"[DONE]"
    return [orjson.loads(item) for item in data[:-1]]


async def stream(made: Bench, query: Query) -> list[bytes]:
    return [event async for event in relay(made).stream(query)]


class Played:
    """A lane that plays chunks."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    async def complete(self, *_: Any, **__: Any) -> bytes:
        return self._chunks[0]

    async def stream(self, *_: Any, **__: Any) -> AsyncGenerator[bytes, None]:
        for chunk in self._chunks:
            yield chunk

    async def post(self, *_: Any, **__: Any) -> bytes:
        return b"{}"

    async def close(self) -> None:
        pass


def text(chunks: list[JSON]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def test_a_plain_reply_is_passed_on_byte_for_byte_and_charged_exactly() -> None:
    choice = b'{"index": 0, "message": {"content": "hm", "odd": [1]}, "finish_reason": "stop"}'
    body = b'{ "id":"x", "choices": [%s], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}' % choice
    with OnePiece(body) as server:
        async with bench(server.base_url) as made:
            raw, found = await relay(made).complete(made.query("off"))
            standing = await made.standing()
            (request,) = await made.requests()
    assert raw == body
    assert standing.spent.nano == request.cost_nano == RATES.cost(9, 4)
    assert (found.strategy, found.samples, request.status) == ("off", 1, 200)


async def test_a_stream_is_passed_on_without_the_usage_that_nobody_asked_for() -> None:
    with FakeUpstream(LONG) as upstream:
        async with bench(upstream.base_url) as made:
            chunks = payloads(await stream(made, made.query("off", stream=True)))
            standing = await made.standing()
    assert text(chunks) == LONG
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
    assert upstream.calls[0].body["stream_options"] == {"include_usage": True}
    assert standing.spent.nano == upstream.meter.cost_nano(RATES)
    assert standing.reserved.nano == 0


@pytest.mark.parametrize("asked", [1, 3])
async def test_several_choices_are_passed_on_and_all_are_charged(asked: int) -> None:
    with FakeUpstream(["a", "b", "c"]) as upstream:
        async with bench(upstream.base_url) as made:
            raw, found = await relay(made).complete(made.query("off", n=asked))
            standing = await made.standing()
    assert [choice["message"]["content"] for choice in orjson.loads(raw)["choices"]] == ["a", "b", "c"][:asked]
    assert (found.samples, upstream.calls[0].n) == (asked, asked)
    assert standing.spent.nano == upstream.meter.cost_nano(RATES)


@pytest.mark.parametrize("kind", ["plain", "stream"])
@pytest.mark.parametrize("fault", [Fault(429, "Slow down.", retry_after=3), Fault(400, "No.", code="bad"), Drop()])
async def test_an_error_is_not_tried_again_and_keeps_its_status(kind: str, fault: Fault | Drop) -> None:
    with FakeUpstream(fault) as upstream:
        async with bench(upstream.base_url) as made:
            query = made.query("off", stream=kind == "stream")
            with pytest.raises(UpstreamError) as caught:
                await (stream(made, query) if kind == "stream" else relay(made).complete(query))
            (request,) = await made.requests()
            assert (await made.standing()).reserved.nano == 0
    expected = fault.status if isinstance(fault, Fault) else 502
    assert caught.value.status == request.status == expected
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("step", [Drop(after_chunks=2), Fault(500, "It broke.", after_chunks=2)])
async def test_a_stream_that_breaks_gives_what_came_and_then_the_error(step: Drop | Fault) -> None:
    events: list[bytes] = []
    with FakeUpstream(step) as upstream:
        async with bench(upstream.base_url) as made:

            async def read() -> None:
                async for event in relay(made).stream(made.query("off", stream=True)):
                    events.append(event)  # noqa: PERF401 - what came before the error is wanted

            with pytest.raises(UpstreamError):
                await read()
            standing = await made.standing()
            (request,) = await made.requests()
    assert b"one" in b"".join(events)
    assert request.status == 502
    assert standing.reserved.nano == 0
    assert standing.spent.nano >= upstream.meter.cost_nano(RATES)


@pytest.mark.parametrize("kind", ["plain", "stream"])
async def test_a_reply_that_is_no_json_is_an_error_of_the_provider(kind: str) -> None:
    with FakeUpstream(Malformed("{oops")) as upstream:
        async with bench(upstream.base_url) as made:
            query = made.query("off", stream=kind == "stream")
            with pytest.raises(UpstreamError) as caught:
                await (stream(made, query) if kind == "stream" else relay(made).complete(query))
    assert (caught.value.status, caught.value.code) == (502, "upstream_malformed")


async def test_a_server_that_answers_a_stream_in_one_piece_is_passed_on_as_a_stream() -> None:
    tool = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "42", "tool_calls": [tool]}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 9, "completion_tokens": 4}
    body = {"object": "chat.completion", "choices": choices, "usage": usage}
    with OnePiece(orjson.dumps(body, option=orjson.OPT_INDENT_2)) as server:
        async with bench(server.base_url) as made:
            (chunk,) = payloads(await stream(made, made.query("off", stream=True)))
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["choices"][0]["delta"] == {**message, "tool_calls": [{"index": 0, **tool}]}
    assert chunk["choices"][0]["finish_reason"] == "stop"


async def test_a_stream_is_cut_with_finish_reason_length_where_the_budget_ends() -> None:
    prompt = prompt_bound({"messages": [{"role": "user", "content": QUESTION}]})
    tenant = Tenant("acme", max_nano=RATES.cost(prompt, 0) + RATES.cost(0, 30))
    endless = Reply(["word " * 500], per_token=0.002)
    with FakeUpstream(endless) as upstream:
        async with bench(upstream.base_url, tenants=(tenant,), slice_tokens=16) as made:
            chunks = payloads(await stream(made, made.query("off", stream=True)))
            standing = await made.standing()
        await upstream.until(lambda: upstream.calls[0].cancelled)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "length"
    assert text(chunks).startswith("word word")
    assert tenant.max_nano is not None
    assert RATES.cost(0, 10) < standing.spent.nano <= tenant.max_nano
    assert standing.reserved.nano == 0


async def test_a_stream_that_the_budget_cut_says_so() -> None:
    prompt = prompt_bound({"messages": [{"role": "user", "content": QUESTION}]})
    tenant = Tenant("acme", max_nano=RATES.cost(prompt, 0) + RATES.cost(0, 30))
    with FakeUpstream(Reply(["word " * 500], per_token=0.002)) as upstream:
        async with bench(upstream.base_url, tenants=(tenant,), slice_tokens=16) as made:
            query = made.query("off", stream=True)
            query.plan = replace(query.plan, stream=True, show_tally=True)
            told = payloads(await stream(made, query))
            (request,) = await made.requests()
    assert told[-1]["tally"]["reason"] == request.reason == "budget"


async def test_what_the_budget_does_not_hold_is_refused_unsent() -> None:
    with FakeUpstream() as upstream:
        async with bench(upstream.base_url, tenants=(Tenant("acme", max_nano=10),)) as made:
            with pytest.raises(BudgetExceeded):
                await relay(made).complete(made.query("off", max_tokens=50))
            (request,) = await made.requests()
    assert (upstream.calls, request.status) == ([], 402)


@pytest.mark.parametrize("kind", ["plain", "stream"])
async def test_a_call_whose_client_leaves_is_stopped_settled_and_recorded(kind: str) -> None:
    with FakeUpstream(Reply([LONG], latency=30)) as upstream:
        async with bench(upstream.base_url) as made:
            query = made.query("off", **({"stream": True} if kind == "stream" else {"max_tokens": 20}))
            work = stream(made, query) if kind == "stream" else relay(made).complete(query)
            task = asyncio.get_running_loop().create_task(work)
            await upstream.until(lambda: upstream.in_flight == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            standing = await made.standing()
            (request,) = await made.requests()
        await upstream.until(lambda: upstream.calls[0].cancelled)
    assert (request.status, request.reason) == (499, "client_gone")
    assert (standing.ok, standing.reserved.nano) == (True, 0)
    assert standing.spent.nano == request.cost_nano >= upstream.meter.cost_nano(RATES)


async def test_a_stream_that_its_reader_closes_is_stopped_settled_and_recorded() -> None:
    with FakeUpstream(Reply([LONG], per_token=0.05)) as upstream:
        async with bench(upstream.base_url) as made:
            events = relay(made).stream(made.query("off", stream=True))
            for _ in range(4):
                await anext(events)
            await events.aclose()
            standing = await made.standing()
            (request,) = await made.requests()
        await upstream.until(lambda: upstream.calls[0].cancelled)
    assert request.status == 499
    assert standing.reserved.nano == 0
    assert standing.spent.nano >= upstream.meter.cost_nano(RATES)


async def test_a_call_that_finds_no_place_in_time_is_not_sent_and_costs_nothing() -> None:
    with FakeUpstream(Reply((LONG,), latency=5.0)) as upstream:
        async with bench(upstream.base_url, limit=1) as made, asyncio.TaskGroup() as tasks:
            first = tasks.create_task(relay(made).complete(made.query("off")))
            await upstream.until(lambda: upstream.in_flight == 1)
            with pytest.raises(UpstreamError) as caught:
                await relay(made).complete(made.query("off", deadline_s=0.05))
            first.cancel()
        assert len(upstream.calls) == 1
    assert (caught.value.status, caught.value.sent) == (504, False)


async def test_the_tally_object_comes_in_the_last_chunk_whatever_comes_after_the_usage() -> None:
    odd = b'{"choices": [], "x_provider": {"id": "1"}}'
    chunks = [
        b'{"id": "a", "choices": [{"index": 0, "delta": {"content": "42"}}]}',
        b'{"id": "a", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}',
        b'{"id": "a", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}',
        odd,
    ]
    async with bench(lane=Played(chunks)) as made:
        query = made.query("off", stream=True)
        query.plan = replace(query.plan, stream=True, show_tally=True)
        told = payloads(await stream(made, query))
    assert told[-1]["tally"]["answer"] == "42"
    assert [chunk for chunk in told if "x_provider" in chunk] == [told[-1]]


async def test_a_client_that_goes_after_the_verdict_changes_nothing_that_is_recorded() -> None:
    with FakeUpstream(LONG) as upstream:
        async with bench(upstream.base_url) as made:
            query = made.query("off", stream=True)
            query.plan = replace(query.plan, stream=True, show_tally=True)
            async with aclosing(relay(made).stream(query)) as events:
                async for event in events:
                    if b'"tally"' in event:
                        break
            (request,) = await made.requests()
    assert (request.status, request.samples) == (200, 1)


async def test_the_model_goes_by_its_own_name_here() -> None:
    with FakeUpstream() as upstream:
        async with bench(upstream.base_url) as made:
            made.route.model = "renamed"
            raw, _ = await relay(made).complete(made.query("off"))
            chunks = payloads(await stream(made, made.query("off", stream=True)))
    assert orjson.loads(raw)["model"] == "renamed"
    assert {chunk["model"] for chunk in chunks} == {"renamed"}
    assert {call.body["model"] for call in upstream.calls} == {"small"}


async def test_what_can_be_relayed_or_sliced_is_told_by_plan_and_deployment() -> None:
    async with bench() as made, bench(streams=False) as silent, bench(max_output=9) as bounded:
        assert relayable(made.query("off"))
        assert not relayable(made.query())
        assert sliceable(made.query("off"))
        assert not sliceable(made.query("off", max_tokens=9))
        assert not sliceable(made.query("off", n=2))
        assert relayable(silent.query("off"))
        assert not sliceable(silent.query("off"))
        assert not sliceable(bounded.query("off"))
        # nobody knows which one a call goes to
        both = Route("small", [Group((bounded.deployment, made.deployment))], clock=time.monotonic)
        assert sliceable(replace(made.query("off"), route=both))
        made.deployment.defaults = {"max_tokens": 9}
        assert not sliceable(made.query("off"))


async def test_chunks_that_are_written_on_several_lines_reach_the_client_whole() -> None:
    text = b'data: {"id":"c",\ndata: "choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
    chunks = EventParser().feed(b"".join(text % word for word in (b"six", b" times", b" seven")))
    async with bench(lane=Played(chunks)) as made:
        told = payloads(await stream(made, made.query("off", stream=True)))
    assert [chunk["choices"][0]["delta"]["content"] for chunk in told[:3]] == ["six", " times", " seven"]


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("name", ["small", "renamed"])
async def test_each_chunk_of_many_alike_is_passed_on_as_it_would_be_alone(name: str, usage: bool) -> None:
    def chunk(delta: JSON, end: str | None = None) -> JSON:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}
        return {"id": "c", "model": "small", "choices": [choice], "usage": None}

    texts = ["one", " two", "\n", ' "three"', "", " vier", " 五", " six", " seven"]
    told = [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": each}) for each in texts),
        chunk({}, "stop"),
    ]
    last = {"id": "c", "model": "small", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}
    lane = Played([orjson.dumps(each) for each in (*told, last)])
    async with bench(lane=lane) as made:
        made.route.model = name
        query = made.query("off", stream=True)
        query.plan = replace(query.plan, include_usage=usage)
        chunks = payloads(await stream(made, query))
        standing = await made.standing()
    expected = [*told, last] if usage else [{key: each[key] for key in each if key != "usage"} for each in told]
    assert chunks == [{**each, "model": name} for each in expected]
    assert standing.spent.nano == RATES.cost(9, 9)
