"""One metered call: reserved, extended, cut and settled once, whatever happens at whichever step."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from typing import Any

import anyio
import orjson
import pytest

from proxy.errors import RequestInvalid, UpstreamError
from proxy.metering import UNKNOWN_OUTPUT, Errand, MeteredCall
from proxy.money import Kinds, Rates
from proxy.purse import Purse
from proxy.types import JSON, Choice, Tenant
from proxy.upstream.limits import Limits
from proxy.upstream.usage import prompt_bound
from tests.served import RATES
from tests.wired import Bench, bench

pytestmark = pytest.mark.anyio

BODY: JSON = {"model": "small", "messages": [{"role": "user", "content": "6 x 7?"}], "stream": True}
PROMPT = prompt_bound(BODY)
GUESS = -(-PROMPT // 2)  # where nothing is known of prompts yet


def word(index: int = 0) -> bytes:
    return orjson.dumps({"choices": [{"index": index, "delta": {"content": "word"}}]})


def finish(index: int = 0) -> bytes:
    return orjson.dumps({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]})


def usage(prompt: int, completion: int) -> bytes:
    return orjson.dumps({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})


class Tape:
    """A lane that plays chunks; it `waits` at chunk `stop` (None: never) until it is let `go`."""

    def __init__(self, chunks: Sequence[bytes], stop: int | None = None) -> None:
        self.played = 0
        self.closed = 0
        self.waits = anyio.Event()
        self.go = anyio.Event()
        self._chunks = chunks
        self._stop = stop

    async def complete(self, *_: Any, **__: Any) -> bytes:
        self.played += 1
        if self._stop is not None:
            self.waits.set()
            await self.go.wait()
        return self._chunks[0]

    async def stream(self, *_: Any, **__: Any) -> AsyncGenerator[bytes, None]:
        try:
            for place, chunk in enumerate(self._chunks):
                if place == self._stop:
                    self.waits.set()
                    await self.go.wait()
                self.played += 1
                yield chunk
                await asyncio.sleep(0)
        finally:
            self.closed += 1

    async def post(self, *_: Any, **__: Any) -> bytes:
        return b"{}"

    async def close(self) -> None:
        pass


async def read(made: Bench, purse: Purse, *, choices: int = 1, body: JSON = BODY) -> list[Choice]:
    """One call from its reservation to its settlement."""
    async with opened(made, purse, choices, body) as call:
        if not call.granted:
            return []
        return [choice async for choice in call.choices(5.0)]


async def read_all(call: MeteredCall) -> list[Choice]:
    return [choice async for choice in call.choices(5.0)]


def opened(made: Bench, purse: Purse, choices: int = 1, body: JSON = BODY) -> AbstractAsyncContextManager[MeteredCall]:
    return made.meter.call(
        purse, made.deployment, body, Errand("draw"), choices=choices, deadline=time.monotonic() + 10
    )


async def reserved(made: Bench) -> int:
    return (await made.standing()).reserved.nano


async def test_a_call_is_charged_what_the_provider_told() -> None:
    async with bench(lane=Tape([word(), word(), finish(), usage(7, 2)])) as made:
        purse = made.purse()
        (choice,) = await read(made, purse)
        standing = await made.standing()
    assert choice.content == "wordword"
    assert purse.spent == standing.spent.nano == RATES.cost(7, 2)
    assert (purse.held, standing.reserved.nano, standing.ok) == (0, 0, True)


async def test_a_choice_whose_provider_is_done_and_says_no_reason_is_finished() -> None:
    async with bench(lane=Tape([word(), word(), usage(7, 2)])) as made:
        purse = made.purse()
        (choice,) = await read(made, purse)
    assert (choice.content, choice.finish_reason, purse.spent) == ("wordword", "stop", RATES.cost(7, 2))


async def test_a_streamed_call_holds_its_prompt_and_a_slice() -> None:
    tape = Tape([word(), finish()], stop=1)
    async with bench(lane=tape, slice_tokens=100) as made, asyncio.TaskGroup() as tasks:
        purse = made.purse()
        tasks.create_task(read(made, purse, choices=3))
        await tape.waits.wait()
        held = RATES.cost(PROMPT, 0) + 3 * RATES.cost(0, 100)
        assert await reserved(made) == purse.held == held
        tape.go.set()


@pytest.mark.parametrize(
    ("known", "body", "output"),
    [
        ({}, {"max_tokens": 50, "stream": False}, 50),
        ({"max_output": 300}, {"stream": False}, 300),
        ({}, {"stream": False}, UNKNOWN_OUTPUT),
        ({"hidden_reasoning": True, "max_output": 300}, {}, 300),
        ({}, {"max_tokens": 5}, 5),
    ],
)
async def test_a_call_that_cannot_be_sliced_holds_its_worst_case(known: JSON, body: JSON, output: int) -> None:
    async with bench(lane=Tape([]), slice_tokens=100, **known) as made:
        async with opened(made, made.purse(), 1, {**BODY, **body}):
            assert await reserved(made) == RATES.cost(PROMPT, 0) + RATES.cost(0, output)
        assert await reserved(made) == 0


async def test_a_reservation_grows_before_it_is_used_up_and_never_beyond_what_may_come() -> None:
    body = {**BODY, "max_tokens": 130}
    async with bench(lane=Tape([*[word()] * 130, finish(), usage(7, 130)]), slice_tokens=50) as made:
        seen = []
        async with opened(made, made.purse(), 1, body) as call:
            async for _ in call.payloads(5.0):
                count = call.assembled.tokens(0)
                held = await reserved(made)
                assert held >= RATES.cost(0, count)
                seen.append(held)
        spent = (await made.standing()).spent.nano
    assert max(seen) == RATES.cost(PROMPT, 0) + RATES.cost(0, 130)
    assert spent == RATES.cost(7, 130)


async def test_a_stream_that_just_ends_after_its_usage_is_charged_as_told() -> None:
    class Abrupt(Tape):
        async def stream(self, *_: Any, **__: Any) -> AsyncGenerator[bytes, None]:
            async for chunk in super().stream():
                yield chunk
            raise UpstreamError("it just ended", status=502, sent=True)

    async with bench(lane=Abrupt([word(), finish(), usage(7, 1)])) as made:
        purse = made.purse()
        (choice,) = await read(made, purse)
    assert (choice.content, purse.spent) == ("word", RATES.cost(7, 1))


async def test_an_upstream_that_ignores_max_tokens_is_cut_where_the_budget_ends() -> None:
    budget = RATES.cost(PROMPT, 0) + RATES.cost(0, 100)
    tape = Tape([word()] * 1000)
    async with bench(lane=tape, slice_tokens=50, tenants=(Tenant("acme", max_nano=budget),)) as made:
        (choice,) = await read(made, made.purse(), body={**BODY, "max_tokens": 1})
        standing = await made.standing()
    assert choice.finish_reason == "length"
    assert standing.spent.nano <= budget


@pytest.mark.parametrize(("limit", "tenant"), [(10**9, None), (None, 10**9)])
async def test_a_limit_in_money_is_no_limit_where_the_price_is_unknown(limit: int | None, tenant: int | None) -> None:
    paying = Tenant("acme", max_nano=tenant)
    async with bench(lane=Tape([word(), finish()]), rates=None, tenants=(paying,)) as made:
        with pytest.raises(RequestInvalid, match="no known price"):
            await read(made, made.purse(limit, paying))


async def test_a_lost_call_is_paid_and_is_no_part_of_the_usage_that_the_client_sees() -> None:
    async with bench(lane=Tape([word(), finish(), usage(7, 1)])) as made:
        purse = made.purse()
        with suppress(UpstreamError):
            async with opened(made, purse) as call:
                made.deployment.lane = Tape([b"{oops"])
                await read_all(call)
        made.deployment.lane = Tape([word(), finish(), usage(7, 1)])
        await read(made, purse)
    assert purse.paid.completion > 1024
    assert (purse.prompt_tokens, purse.drawn_tokens) == (7, 1)


async def test_a_call_is_cut_where_the_budget_ends_and_its_reservation_is_not_passed() -> None:
    budget = RATES.cost(PROMPT, 0) + RATES.cost(0, 100)
    tape = Tape([word()] * 1000)
    async with bench(lane=tape, slice_tokens=50, tenants=(Tenant("acme", max_nano=budget),)) as made:
        (choice,) = await read(made, made.purse())
        standing = await made.standing()
        statuses = [row["status"] for row in await made.rows()]
    assert choice.finish_reason == "length"
    assert (tape.closed, statuses) == (1, ["cut"])
    assert 0 < standing.spent.nano <= budget
    assert standing.reserved.nano == 0


async def test_the_cap_of_a_request_cuts_its_call_too() -> None:
    limit = RATES.cost(PROMPT, 0) + RATES.cost(0, 100)
    async with bench(lane=Tape([word()] * 1000), slice_tokens=50) as made:
        purse = made.purse(limit)
        (choice,) = await read(made, purse)
    assert choice.finish_reason == "length"
    assert purse.spent <= limit


async def test_calls_of_one_request_at_once_never_hold_more_than_its_cap() -> None:
    limit = 2 * RATES.cost(PROMPT, 0) + 3 * RATES.cost(0, 100)
    async with bench(slice_tokens=100) as made:
        purse = made.purse(limit)
        granted = []

        async def hold() -> None:
            async with opened(made, purse, 2) as call:
                granted.append(call.granted)
                assert purse.held <= limit
                await anyio.sleep(0.01)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(hold())
    assert sum(granted) == 3
    assert purse.held == 0


async def test_extensions_of_one_request_at_once_never_hold_more_than_its_cap() -> None:
    limit = 2 * RATES.cost(PROMPT, 0) + 3 * RATES.cost(0, 100)
    async with bench(lane=Tape([word()] * 1000), slice_tokens=100) as made:
        purse = made.purse(limit)
        highest = []

        async def draw() -> None:
            async with opened(made, purse) as call:
                highest.extend([purse.held async for _ in call.payloads(5.0)])

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(draw())
            tasks.create_task(draw())
        standing = await made.standing()
    assert max(highest) <= limit
    assert purse.spent == standing.spent.nano <= limit
    assert purse.held == standing.reserved.nano == 0


async def test_a_call_that_fails_unsent_costs_nothing_and_one_whose_fate_is_unknown_its_reservation() -> None:
    class Failing(Tape):
        def __init__(self, *, sent: bool) -> None:
            super().__init__([])
            self._sent = sent

        async def complete(self, *_: Any, **__: Any) -> bytes:
            raise UpstreamError("no", status=500, sent=self._sent)

    body = {**BODY, "stream": False, "max_tokens": 40}
    for sent, cost in ((False, 0), (True, RATES.cost(PROMPT, 40))):
        async with bench(lane=Failing(sent=sent)) as made:
            purse = made.purse()
            with pytest.raises(UpstreamError):
                await read(made, purse, body=body)
            assert (await made.standing()).spent.nano == purse.spent == cost
            assert purse.held == await reserved(made) == 0


CHUNKS = [word(), word(), word(), word(), finish(), usage(7, 4)]


@pytest.mark.parametrize("steps", range(40))
@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_cancelled_at_any_step_is_settled_once_and_never_below_what_came(stream: bool, steps: int) -> None:
    choice = {"index": 0, "message": {"content": "w"}, "finish_reason": "stop"}
    told = {"prompt_tokens": 7, "completion_tokens": 4}
    whole = orjson.dumps({"choices": [choice], "usage": told})
    tape = Tape(CHUNKS if stream else [whole], stop=None)
    async with bench(lane=tape, slice_tokens=2) as made:
        purse = made.purse()
        body = BODY if stream else {**BODY, "stream": False, "max_tokens": 9}
        task = asyncio.get_running_loop().create_task(read(made, purse, body=body))
        for step in range(steps):
            # the ledger writes in a thread of its own: now and then it is waited for
            await (made.ledger.flush() if step % 4 == 3 else asyncio.sleep(0))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        standing = await made.standing()
        rows = await made.rows()
    assert standing.ok
    assert standing.reserved.nano == purse.held == 0
    assert standing.spent.nano == purse.spent == sum(row["cost_nano"] for row in rows)
    assert (tape.played > 0) <= len(rows) <= 1
    assert standing.spent.nano >= (RATES.cost(0, min(tape.played, 4)) if stream else RATES.cost(0, tape.played))


@pytest.mark.parametrize("stop", range(len(CHUNKS)))
async def test_a_stream_cancelled_while_it_waits_is_charged_what_was_counted(stop: int) -> None:
    tape = Tape(CHUNKS, stop=stop)
    async with bench(lane=tape) as made:
        purse = made.purse()
        task = asyncio.get_running_loop().create_task(read(made, purse))
        await tape.waits.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        standing = await made.standing()
        (row,) = await made.rows()
    assert (row["status"], row["estimated"], tape.closed) == ("cancelled", 1, 1)
    assert row["completion_tokens"] == min(stop, 4)
    assert row["prompt_tokens"] == GUESS
    assert standing.ok
    assert standing.reserved.nano == 0


async def test_a_plain_call_cancelled_on_its_way_is_charged_its_reservation() -> None:
    tape = Tape([b"{}"], stop=0)
    async with bench(lane=tape) as made:
        purse = made.purse()
        body = {**BODY, "stream": False, "max_tokens": 9}
        task = asyncio.get_running_loop().create_task(read(made, purse, body=body))
        await tape.waits.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        standing = await made.standing()
    assert standing.spent.nano == purse.spent == RATES.cost(PROMPT, 9)
    assert standing.reserved.nano == 0


async def test_the_costs_of_a_calls_rows_sum_to_its_cost_exactly() -> None:
    chunks = [word(0), word(1), word(2), word(2), finish(0), finish(1), finish(2), usage(7, 4)]
    async with bench(lane=Tape(chunks)) as made:
        await read(made, made.purse(), choices=3)
        rows = await made.rows()
    assert [row["completion_tokens"] for row in rows] == [1, 1, 2]
    assert [row["prompt_tokens"] for row in rows] == [7, 0, 0]
    assert sum(row["cost_nano"] for row in rows) == RATES.cost(7, 4)


KINDS = Kinds(cache_write=200, reasoning=7_000)
SERVED = Rates(100, 4_000, 10, KINDS, services=(("priority", Rates(150, 8_000, 15, KINDS)),))
LONG = replace(SERVED, tiers=((10, Rates(300, 9_000, 30, KINDS)),))
DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


def detailed(prompt: int, completion: int, service: str | None = None) -> bytes:
    told = {"prompt_tokens": prompt, "completion_tokens": completion, **DETAILS}
    return orjson.dumps({"choices": [], "usage": told, "service_tier": service})


@pytest.mark.parametrize(
    ("rates", "prompt", "service", "asked", "pico"),
    [
        (SERVED, 9, None, None, 4 * 100 + 3 * 10 + 2 * 200 + 4_000 + 7_000),
        (SERVED, 9, "priority", None, 4 * 150 + 3 * 15 + 2 * 200 + 8_000 + 7_000),
        (SERVED, 9, "default", "priority", 4 * 100 + 3 * 10 + 2 * 200 + 4_000 + 7_000),
        (SERVED, 9, None, "priority", 4 * 150 + 3 * 15 + 2 * 200 + 8_000 + 7_000),
        (LONG, 11, None, None, 6 * 300 + 3 * 30 + 2 * 200 + 9_000 + 7_000),
    ],
)
async def test_a_call_is_charged_by_kinds_of_token_tiers_and_the_service_that_was_given(
    rates: Rates, prompt: int, service: str | None, asked: str | None, pico: int
) -> None:
    chunks = [word(0), word(1), finish(0), finish(1), detailed(prompt, 2, service)]
    async with bench(lane=Tape(chunks), rates=rates) as made:
        purse = made.purse()
        await read(made, purse, choices=2, body={**BODY, "service_tier": asked})
        rows, standing = await made.rows(), await made.standing()
    assert sum(row["cost_nano"] for row in rows) == purse.spent == standing.spent.nano == -(-pico // 1000)
    assert [(row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"]) for row in rows] == [
        (prompt, 3, 1),
        (0, 0, 1),
    ]
    assert standing.ok


@pytest.mark.parametrize(
    ("body", "rates", "dearest"),
    [
        ({}, SERVED, (200, 8_000)),
        ({"service_tier": "default"}, SERVED, (200, 7_000)),
        ({"service_tier": "default"}, LONG, (300, 9_000)),
        ({"service_tier": "flex"}, replace(SERVED, kinds=Kinds(audio_input=900)), (100, 4_000)),
    ],
)
async def test_a_call_holds_the_dearest_that_may_be_billed(body: JSON, rates: Rates, dearest: tuple[int, int]) -> None:
    asked = {**BODY, **body}
    held = Rates(*dearest).cost(prompt_bound(asked), 0) + Rates(*dearest).cost(0, 100)
    async with bench(lane=Tape([]), rates=rates, slice_tokens=100) as made:
        async with opened(made, made.purse(), 1, asked):
            assert await reserved(made) == held
        assert await reserved(made) == 0


async def test_a_call_whose_cost_nobody_can_know_is_charged_what_was_held_for_it() -> None:
    tape = Tape([b"{}"], stop=0)
    body = {**BODY, "stream": False, "max_tokens": 20}
    async with bench(lane=tape, rates=LONG) as made:
        purse = made.purse()
        task = asyncio.get_running_loop().create_task(read(made, purse, body=body))
        await tape.waits.wait()
        held = await reserved(made)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        (row,) = await made.rows()
        standing = await made.standing()
    # the prompt and the choice were rounded up each for itself
    assert held - 1 <= standing.spent.nano == row["cost_nano"] <= held
    assert row["estimated"]


@pytest.mark.parametrize(("limit", "tenant"), [(10**9, None), (None, 10**9)])
async def test_what_no_rate_pays_for_is_not_sold_to_a_budget_in_money(limit: int | None, tenant: int | None) -> None:
    body = {**BODY, "web_search_options": {}}
    paying = Tenant("acme", max_nano=tenant)
    async with bench(lane=Tape([word(), finish(), usage(7, 1)]), tenants=(paying,)) as made:
        with pytest.raises(RequestInvalid, match="web_search_options: what this costs") as caught:
            await read(made, made.purse(limit, paying), body=body)
        assert caught.value.code == "feature_unpriced"
        made.deployment.rates = Rates(0, 0)
        assert await read(made, made.purse(limit, paying), body=body)


async def test_who_is_not_limited_in_money_may_turn_on_what_no_rate_pays_for() -> None:
    async with bench(lane=Tape([word(), finish(), usage(7, 1)])) as made:
        assert await read(made, made.purse(), body={**BODY, "web_search_options": {}})


async def test_the_prompt_of_a_cancelled_draw_is_estimated_by_what_the_first_one_had() -> None:
    async with bench(lane=Tape([word(), finish(), usage(20, 1)])) as made:
        purse = made.purse()
        await read(made, purse)
        made.deployment.lane = tape = Tape(CHUNKS, stop=2)
        task = asyncio.get_running_loop().create_task(read(made, purse))
        await tape.waits.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert [row["prompt_tokens"] for row in await made.rows()] == [20, 20]


async def test_a_stream_that_breaks_after_its_last_word_gives_its_answer() -> None:
    class Breaking(Tape):
        async def stream(self, *_: Any, **__: Any) -> AsyncGenerator[bytes, None]:
            async for chunk in super().stream():
                yield chunk
            raise UpstreamError("gone", status=502, sent=True)

    async with bench(lane=Breaking([word(), finish()])) as made:
        (choice,) = await read(made, made.purse())
        standing = await made.standing()
    assert choice.content == "word"
    assert standing.spent.nano == RATES.cost(GUESS, 1)


async def test_a_model_without_a_price_is_not_sold_to_a_budget_in_money() -> None:
    async with bench(rates=None, lane=Tape([]), tenants=(Tenant("acme", max_nano=10**9),)) as made:
        with pytest.raises(RequestInvalid, match="no known price"):
            await read(made, made.purse())


async def test_the_ledgers_line_of_a_draw_names_what_was_drawn() -> None:
    async with bench(lane=Tape([word(), finish(), usage(7, 1)])) as made:
        purse = made.purse()
        await read(made, purse)
        (row,) = await made.rows()
    assert (row["purpose"], row["status"], row["finish_reason"]) == ("draw", "ok", "stop")
    assert (row["model"], row["deployment"], row["request"]) == ("openai/small", "small", purse.account.request)


async def test_a_call_that_is_never_sent_takes_no_part_of_a_minute() -> None:
    limits = Limits(1, 10_000, clock=time.monotonic)
    async with bench(lane=Tape([word(), finish()])) as made:
        poor, deadline = made.purse(), time.monotonic() + 10

        async def held(choices: int = 1) -> None:
            taken = limits.take(100)
            call = made.meter.call(
                poor, made.deployment, BODY, Errand("draw"), choices=choices, deadline=deadline, taken=taken
            )
            async with call:
                pass

        await held()
        assert limits.used == limits.wait(100) == 0
        poor.limit = 0
        await held()
        assert limits.used == limits.wait(100) == 0
        made.deployment.rates = None
        with pytest.raises(RequestInvalid):
            await held()
        assert limits.used == limits.wait(100) == 0


async def test_a_reservation_that_is_given_up_takes_no_part_of_a_minute() -> None:
    limits = Limits(1, 10_000, clock=time.monotonic)
    async with bench(lane=Tape([word(), finish()])) as made, asyncio.TaskGroup() as tasks:
        taken = limits.take(100)

        async def hold() -> None:
            deadline = time.monotonic() + 10
            async with made.meter.call(
                made.purse(), made.deployment, BODY, Errand("draw"), choices=1, deadline=deadline, taken=taken
            ):
                raise AssertionError

        waiting = tasks.create_task(hold())
        await asyncio.sleep(0)
        waiting.cancel()
    assert limits.used == limits.wait(100) == 0
