"""Batches at work: who shares one, when it closes, and how nobody in it suffers from another."""

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import replace
from math import log
from typing import Any

import anyio
import pytest

from proxy.core.batch import Batch, Limits
from proxy.core.fixed import FixedBatch
from proxy.core.prior import Prior
from proxy.errors import TallyError, UpstreamError, UpstreamTimeout
from proxy.query import Query
from proxy.scoring.logprobs import LogprobScorer
from proxy.types import JSON, AnswerSpec, Strategy, Tenant
from proxy.verdict import Verdict, verdict
from tests.fake_upstream import Call, FakeUpstream, Fault, InOrder, Reply, Turns
from tests.served import RATES
from tests.wired import Bench, bench

pytestmark = pytest.mark.anyio


class Watched:
    """Makes fixed batches and remembers which queries joined which."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, strategy: Strategy) -> Batch:
        joined: list[int] = []
        self.batches.append(joined)

        class Noting(FixedBatch):
            def join(
                self, query: int, *, probe: bool = False, prior: Prior | None = None, overhead: float = 0.0
            ) -> None:
                joined.append(query)
                super().join(query, probe=probe, prior=prior, overhead=overhead)

        return Noting(strategy.samples, Limits())


class Broken:
    """A scorer with a bug."""

    async def score(self, *_: Any, **__: Any) -> float | None:
        raise ZeroDivisionError


class Slow:
    """A scorer that never answers."""

    async def score(self, *_: Any, **__: Any) -> float | None:
        await anyio.sleep_forever()
        return None


async def answers(made: Bench, queries: list[Query]) -> list[Verdict | BaseException]:
    return await asyncio.gather(*(made.batcher.submit(query) for query in queries), return_exceptions=True)


def asking(content: str) -> JSON:
    return {"messages": [{"role": "user", "content": content}]}


async def test_queries_of_one_window_share_a_batch_and_later_ones_do_not() -> None:
    watched = Watched()
    with FakeUpstream() as upstream:
        async with bench(upstream.base_url, make=watched) as made:
            await answers(made, [made.query() for _ in range(3)])
            await anyio.sleep(0.02)
            await answers(made, [made.query()])
    assert [len(batch) for batch in watched.batches] == [3, 1]


async def test_a_full_batch_is_closed_before_its_window_ends() -> None:
    watched = Watched()
    with FakeUpstream() as upstream:
        async with bench(upstream.base_url, make=watched, window_s=60, max_queries=2) as made:
            found = await answers(made, [made.query() for _ in range(5)])
    assert [len(batch) for batch in watched.batches] == [2, 2, 1]
    assert all(isinstance(one, Verdict) for one in found)


async def test_tenants_and_strategies_never_share_a_batch() -> None:
    watched = Watched()
    tenants = (Tenant("acme"), Tenant("zeta"))
    with FakeUpstream() as upstream:
        async with bench(upstream.base_url, make=watched, window_s=0.05, tenants=tenants) as made:
            queries = [made.query(tenant=tenants[i % 2], parameters={"samples": 2 + i // 2}) for i in range(4)]
            await answers(made, [*queries, made.query(parameters={"samples": 2})])
    assert sorted(len(batch) for batch in watched.batches) == [1, 1, 1, 2]


async def test_first_draws_start_at_arrival_and_not_at_the_windows_end() -> None:
    with FakeUpstream() as upstream:
        async with bench(upstream.base_url, window_s=60) as made:
            found = await made.batcher.submit(made.query())
    assert found.samples == 4


async def test_leaving_the_batcher_waits_for_what_is_in_flight() -> None:
    with FakeUpstream(Reply(latency=0.1)) as upstream:
        async with bench(upstream.base_url, window_s=60) as made:
            task = asyncio.get_running_loop().create_task(made.batcher.submit(made.query()))
            await upstream.until(lambda: upstream.in_flight == 1)
        assert (await task).samples == 4


async def test_a_fault_in_a_batch_answers_all_of_its_queries_and_no_others() -> None:
    with FakeUpstream(lambda call: Reply(latency=30 if call.question == "slow" else 0.05)) as upstream:
        async with bench(upstream.base_url, window_s=0.02) as made:
            sick = [made.query(scorer=Broken()), made.query(**asking("slow"))]
            well = made.query(parameters={"samples": 3})
            found = await answers(made, [*sick, well])
            after = await made.batcher.submit(made.query())
            standing = await made.standing()
    assert [type(one) for one in found] == [TallyError, TallyError, Verdict]
    assert all(one.code == "internal_error" for one in found[:2] if isinstance(one, TallyError))
    assert after.samples == 4
    assert standing.ok
    assert standing.reserved.nano == 0


async def test_a_failing_request_harms_no_neighbour_in_its_batch() -> None:
    def script(call: Call) -> Reply | Fault:
        return Fault(400, "no") if "bad" in call.question else Reply()

    with FakeUpstream(script) as upstream:
        async with bench(upstream.base_url, window_s=0.05) as made:
            queries = [made.query(**asking(name)) for name in ("one", "bad", "two")]
            found = await answers(made, queries)
            standing = await made.standing()
    assert [type(one) for one in found] == [Verdict, UpstreamError, Verdict]
    assert standing.spent.nano == upstream.meter.cost_nano(RATES)
    assert standing.reserved.nano == 0


async def test_the_vote_goes_on_without_lost_samples() -> None:
    gone = Fault(404, "no such thing")
    with FakeUpstream(Turns("42", gone, "42", "41")) as upstream:
        async with bench(upstream.base_url, max_n=1, limit=1) as made:
            found = await made.batcher.submit(made.query())
            (request,) = await made.requests()
    assert (found.votes, found.samples, request.status) == ((("42", 2), ("41", 1)), 3, 200)


@pytest.mark.parametrize(
    ("statuses", "answered"), [([404, 404, 418, 410], 404), ([418, 410, 418, 410], 410), ([404, 418, 418, 418], 418)]
)
async def test_where_all_failed_differently_the_most_frequent_status_answers_ties_to_the_lowest(
    statuses: list[int], answered: int
) -> None:
    with FakeUpstream(Turns(*(Fault(status, f"It was {status}.") for status in statuses))) as upstream:
        async with bench(upstream.base_url, max_n=1, limit=1) as made:
            with pytest.raises(UpstreamError, match=f"It was {answered}") as caught:
                await made.batcher.submit(made.query())
            (request,) = await made.requests()
    assert caught.value.status == request.status == answered


async def test_errors_weigh_as_many_as_the_draws_they_lost() -> None:
    def script(call: Call) -> Fault:
        return Fault(418 if call.n == 3 else 404)

    with FakeUpstream(script) as upstream:
        async with bench(upstream.base_url, max_n=3) as made:
            with pytest.raises(UpstreamError) as caught:
                await made.batcher.submit(made.query(parameters={"samples": 5}))
    assert caught.value.status == 418


@pytest.mark.parametrize("stream", [True, False])
async def test_at_the_deadline_the_answer_is_what_is_in_hand(stream: bool) -> None:
    with FakeUpstream(Turns("42", Reply(latency=30))) as upstream:
        async with bench(upstream.base_url, max_n=1, limit=1, streams=stream, max_output=9) as made:
            found = await made.batcher.submit(made.query(deadline_s=0.4))
            standing = await made.standing()
        assert (found.samples, found.answer, found.reason) == (1, "42", "deadline")
        assert standing.ok
        assert standing.reserved.nano == 0
        assert standing.spent.nano >= upstream.meter.cost_nano(RATES)
        await upstream.until(lambda: upstream.in_flight == 0)


async def test_choices_of_one_call_that_came_before_the_deadline_are_in_hand() -> None:
    with FakeUpstream(Reply(["42", "1 2 3 4 5 6 7 8"], per_token=0.1)) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query(deadline_s=0.4))
        await upstream.until(lambda: upstream.calls[0].cancelled)
    assert (found.samples, found.answer, found.reason) == (2, "42", "deadline")


async def test_samples_whose_score_does_not_come_in_time_are_in_hand_all_the_same() -> None:
    with FakeUpstream() as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query("optscale", deadline_s=0.3, scorer=Slow()))
    assert (found.answer, found.reason) == ("42", "deadline")


async def test_with_nothing_in_hand_at_the_deadline_it_is_a_timeout() -> None:
    with FakeUpstream(Reply(latency=30)) as upstream:
        async with bench(upstream.base_url) as made:
            with pytest.raises(UpstreamTimeout):
                await made.batcher.submit(made.query(deadline_s=0.1))
            (request,) = await made.requests()
            standing = await made.standing()
        await upstream.until(lambda: upstream.calls[0].cancelled)
    assert (request.status, standing.reserved.nano) == (504, 0)
    assert standing.spent.nano >= upstream.meter.cost_nano(RATES)


async def test_a_deadline_that_has_passed_before_the_first_draw_sends_nothing_that_is_not_settled() -> None:
    with FakeUpstream() as upstream:
        async with bench(upstream.base_url) as made:
            with suppress(UpstreamTimeout):
                await made.batcher.submit(made.query(deadline_s=0.0))
            assert (await made.standing()).reserved.nano == 0


async def test_a_client_that_leaves_stops_its_own_draws_and_not_its_neighbours() -> None:
    with FakeUpstream(Reply(["42"], latency=0.2)) as upstream:
        async with bench(upstream.base_url, window_s=0.02) as made:
            leaving = asyncio.get_running_loop().create_task(made.batcher.submit(made.query(**asking("leaving"))))
            staying = asyncio.get_running_loop().create_task(made.batcher.submit(made.query(**asking("staying"))))
            await upstream.until(lambda: upstream.in_flight == 2)
            leaving.cancel()
            assert (await staying).samples == 4
            standing = await made.standing()
            statuses = [request.status for request in await made.requests()]
    assert {call.question: call.cancelled for call in upstream.calls} == {"leaving": True, "staying": False}
    assert sorted(statuses) == [200, 499]
    assert standing.ok
    assert standing.reserved.nano == 0


async def test_a_content_filter_stops_the_other_draws() -> None:
    filtered = Reply([{"refusal": "No."}], finish_reason="content_filter")
    with FakeUpstream(Turns(filtered, Reply(latency=30))) as upstream:
        async with bench(upstream.base_url, max_n=1) as made:
            found = await made.batcher.submit(made.query())
    assert (found.reason, found.samples) == ("content filter", 1)


async def test_prose_gets_no_second_draw() -> None:
    essay = "It was the best of times, it was the worst of times. " * 12
    with FakeUpstream(essay) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query(probe=True))
            (request,) = await made.requests()
    assert (found.samples, found.reason, len(upstream.calls)) == (1, "prose", 1)
    assert request.cost_nano == upstream.meter.cost_nano(RATES)


async def test_a_probe_that_shows_an_answer_is_the_first_of_the_samples() -> None:
    with FakeUpstream(["42", "41", "42", "42"]) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query(probe=True))
    assert ([call.n for call in upstream.calls], found.first_answer, found.samples) == ([1, 3], "42", 4)


async def test_a_vote_over_very_many_fields_leaves_the_event_loop_to_others() -> None:
    documents = [json.dumps({f"{number}": [number % (place + 2)] for number in range(900)}) for place in range(16)]
    gaps = [0.0]

    async def watch() -> None:
        while True:
            before = time.monotonic()
            await anyio.sleep(0.002)
            gaps.append(time.monotonic() - before)

    with FakeUpstream(documents) as upstream:
        async with bench(upstream.base_url) as made, anyio.create_task_group() as tasks:
            # in one piece: a stream of so many words is slow
            made.deployment.streams = False
            query = made.query(parameters={"samples": 16})
            query = replace(query, plan=replace(query.plan, answer=AnswerSpec("json", per_field=True)))
            tasks.start_soon(watch)
            found = await made.batcher.submit(query)
            # a last gap is told when it is over
            await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    assert found.composed
    began = time.monotonic()
    verdict(query, None)
    alone = time.monotonic() - began
    assert max(gaps) < alone / 2, alone


@pytest.mark.parametrize("strategy", ["dynscaling", "optscale"])
async def test_queries_that_are_decided_early_are_charged_exactly_what_they_took(strategy: str) -> None:
    with FakeUpstream(Reply(["Answer: 42"], logprobs=[-0.001])) as upstream:
        async with bench(upstream.base_url, window_s=0.02) as made:
            queries = [made.query(strategy, scorer=LogprobScorer(), **asking(name)) for name in ("one", "two")]
            found = await answers(made, queries)
            standing = await made.standing()
    assert all(isinstance(one, Verdict) and one.answer == "42" for one in found)
    assert {one.reason for one in found if isinstance(one, Verdict)} <= {"confident", "quality reached"}
    assert (standing.ok, standing.reserved.nano) == (True, 0)
    assert standing.spent.nano == upstream.meter.cost_nano(RATES)


async def test_draws_in_flight_of_a_decided_query_are_cancelled_and_charged_what_was_counted() -> None:
    scores = iter([0.4, 0.9, 0.6, 0.95, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0])

    def script(_: Call) -> Reply:
        score = next(scores, None)
        return Reply(["1 2 3"], per_token=5.0) if score is None else Reply(["Answer: 42"], logprobs=[log(score)])

    with FakeUpstream(script) as upstream:
        async with bench(upstream.base_url, max_n=1) as made:
            query = made.query("optscale", scorer=LogprobScorer(), parameters={"max_samples": 16})
            found = await made.batcher.submit(query)
            standing = await made.standing()
            statuses = [row["status"] for row in await made.rows()]
        await upstream.until(lambda: upstream.in_flight == 0)
    assert (found.reason, found.answer) == ("quality reached", "42")
    # a draw may be cancelled after its reservation and before the upstream has seen it
    assert statuses.count("cancelled") >= sum(call.cancelled for call in upstream.calls) > 0
    assert standing.ok
    assert standing.reserved.nano == 0
    assert standing.spent.nano >= upstream.meter.cost_nano(RATES)


async def test_the_same_samples_give_the_same_verdict_in_whatever_order_they_come() -> None:
    verdicts = []
    for delays in ([0.0, 0.05, 0.1, 0.15], [0.15, 0.1, 0.05, 0.0]):

        def script(call: Call, delays: list[float] = delays) -> Reply:
            place = call.body["seed"]
            return Reply([f"Answer: {place % 2}, as I said {place} times"], latency=delays[place])

        with FakeUpstream(script) as upstream:
            async with bench(upstream.base_url, max_n=1) as made:
                found = await made.batcher.submit(made.query(seed=0))
        verdicts.append((found.choice.content, found.winner, found.votes, found.first_answer))
    assert verdicts[0] == verdicts[1]


async def test_a_batch_of_many_queries_is_charged_exactly_what_it_took() -> None:
    with FakeUpstream(InOrder(["Answer: 1", "Answer: 2 or so", "Answer: 1"])) as upstream:
        async with bench(upstream.base_url, window_s=0.02) as made:
            found = await answers(made, [made.query("dynscaling", **asking(f"q{i}")) for i in range(6)])
            standing = await made.standing()
    assert all(isinstance(one, Verdict) for one in found)
    assert standing.spent.nano == upstream.meter.cost_nano(RATES)
    assert (standing.reserved.nano, standing.ok) == (0, True)
