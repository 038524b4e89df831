"""What a request had drawn when its client went is what its retry starts from: paid once, and told as reused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from proxy.core.batch import Draw
from proxy.core.strategies import batch_for
from proxy.keeping import EMPTY, Claim, Keeper, Kept, Key, Stock, Try, fingerprint
from proxy.ledger.reports import RequestLine, verdicts
from proxy.purse import Purse
from proxy.query import Query
from proxy.types import JSON, STRATEGIES, Choice
from tests.fake_upstream import Call, FakeUpstream, Reply
from tests.served import KEY, RATES, ServedTally, configuration
from tests.staged import ASK, Stage, staged, told
from tests.wired import Bench, bench

pytestmark = pytest.mark.anyio

A, B = ("acme", "a"), ("acme", "b")
OTHER_KEY, THIRD_KEY = "sk-acme-other-0123", "sk-zeta-0123456789"
SLOW = "one two three four five six seven eight nine ten"
HALF = Reply(["42", SLOW], per_token=0.1)
"""Of several choices every other one is finished after two tenths of a second, the rest only after a second."""


class Clock:
    """A clock that is put on by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder: Path = tmp_path_factory.mktemp("retries")
    tenants = [{"name": "acme", "keys": [KEY, OTHER_KEY]}, {"name": "zeta", "keys": [THIRD_KEY]}]
    with staged(folder, tenants=tenants) as made:
        yield made


def lines(stage: Stage) -> list[RequestLine]:
    with stage.tally.books() as books:
        return verdicts(books, limit=1000)


@asynccontextmanager
async def asking(
    stage: Stage, body: JSON, *, strategy: str = "self_consistency", again: int = 0, patience: float | None = None
) -> AsyncIterator[list[httpx.Response]]:
    """A request that goes on beside the block, and whose client leaves with it; its reply is put into the list.

    It says that it was tried `again` times before, each given up after `patience` seconds.
    """
    replies: list[httpx.Response] = []
    async with httpx.AsyncClient(timeout=30) as client, anyio.create_task_group() as tasks:

        async def ask() -> None:
            headers = {"authorization": f"Bearer {KEY}", "x-stainless-retry-count": str(again)}
            headers |= {} if patience is None else {"x-stainless-read-timeout": str(patience)}
            url = f"{stage.tally.url}/{strategy}/v1/chat/completions"
            replies.append(await client.post(url, json=body, headers=headers))

        tasks.start_soon(ask)
        yield replies
        tasks.cancel_scope.cancel()


async def interrupted(stage: Stage, question: str, **more: Any) -> JSON:
    """A request whose client leaves when half of its eight samples are there; returns its body."""
    body = {"model": "small", "messages": [{"role": "user", "content": question}], "tally": {"samples": 8}, **more}
    stage.says(HALF)
    async with asking(stage, body):
        await stage.upstream.until(lambda: len(stage.calls) == 1 and stage.calls[0].completion_tokens >= 16)
    await stage.upstream.until(lambda: stage.calls[0].cancelled)
    stage.says("42")
    return body


def again(stage: Stage, body: JSON, *, strategy: str = "self_consistency", key: str = KEY) -> JSON:
    """The reply to the same body, asked once more."""
    reply = stage.post(body, path=f"/{strategy}/v1/chat/completions", key=key)
    assert reply.status_code == 200, reply.text
    found: JSON = reply.json()
    return found


def test_the_retry_of_the_official_client_after_its_time_out_draws_and_pays_only_what_is_missing(stage: Stage) -> None:
    stage.says(lambda call: HALF if call.n == 8 else Reply())
    before = len(lines(stage))
    spent = stage.tally.balance().spent.nano
    client = stage.client("self_consistency").with_options(max_retries=1, timeout=0.6)
    reply = client.chat.completions.create(model="small", messages=ASK)  # type: ignore[arg-type]  # plain dicts
    assert [call.n for call in stage.calls] == [8, 4]
    found = told(reply)
    assert (found["samples"], found["reused"], found["votes"]) == (8, 4, [{"answer": "42", "count": 8}])
    stage.upstream.wait(lambda: len(lines(stage)) == before + 2)
    new, old = stage.calls[1], lines(stage)[1]
    assert found["paid"]["completion_tokens"] == new.completion_tokens
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == new.prompt_tokens
    assert reply.usage.completion_tokens == 8
    assert (old.status, old.samples) == (499, 4)
    line = lines(stage)[0]
    assert (line.status, line.samples) == (200, 8)
    stage.upstream.wait(lambda: not stage.tally.balance().reserved.nano)
    balance = stage.tally.balance()
    assert balance.ok
    assert balance.spent.nano - spent == line.cost_nano + old.cost_nano
    assert line.cost_nano == round(found["cost_usd"] * 1e9) == RATES.cost(new.prompt_tokens, new.completion_tokens, 0)
    assert stage.cost_nano <= line.cost_nano + old.cost_nano


async def test_a_retry_says_how_many_samples_it_reused_and_a_third_try_nothing_of_the_kind(stage: Stage) -> None:
    body = await interrupted(stage, "Once more?")
    first, second = again(stage, body), again(stage, body)
    assert first["tally"]["reused"] == 4
    assert "reused" not in second["tally"]
    assert [call.n for call in stage.calls] == [4, 8]


async def test_a_streamed_retry_starts_from_the_samples_of_a_streamed_request(stage: Stage) -> None:
    body = await interrupted(stage, "And streamed?", stream=True)
    reply = stage.post(body, path="/self_consistency/v1/chat/completions")
    assert '"reused":4' in reply.text
    assert [call.n for call in stage.calls] == [4]


async def test_samples_are_never_given_to_another_key_of_the_same_tenant_nor_to_another_tenant(stage: Stage) -> None:
    body = await interrupted(stage, "Whose is it?")
    for key in (OTHER_KEY, THIRD_KEY):
        assert "reused" not in again(stage, body, key=key)["tally"]
    assert again(stage, body)["tally"]["reused"] == 4


async def test_another_body_or_another_strategy_starts_from_nothing(stage: Stage) -> None:
    body = await interrupted(stage, "What else?")
    assert "reused" not in again(stage, {**body, "temperature": 0.9})["tally"]
    assert "reused" not in again(stage, body, strategy="best_of_n")["tally"]
    assert again(stage, body)["tally"]["reused"] == 4


async def test_new_draws_have_seeds_that_no_earlier_try_used(stage: Stage) -> None:
    body = await interrupted(stage, "Which seeds?", seed=100)
    assert again(stage, body)["tally"]["samples"] == 8
    assert [(call.body["seed"], call.n) for call in stage.calls] == [(108, 4)]


async def test_a_retry_that_is_given_up_as_well_hands_on_the_samples_of_both(stage: Stage) -> None:
    body = await interrupted(stage, "And a third time?")
    stage.says(HALF)
    async with asking(stage, body, again=1):
        await stage.upstream.until(lambda: len(stage.calls) == 1 and stage.calls[0].completion_tokens >= 8)
    await stage.upstream.until(lambda: stage.calls[0].cancelled)
    stage.says("42")
    found = again(stage, body)["tally"]
    assert (found["samples"], found["reused"]) == (8, 6)
    assert [call.n for call in stage.calls] == [2]


async def test_a_retry_that_comes_before_the_first_client_is_seen_to_leave_waits_for_its_samples(stage: Stage) -> None:
    stage.says(lambda call: HALF if call.n == 8 else Reply())
    body = {"model": "small", "messages": [{"role": "user", "content": "Still there?"}], "tally": {"samples": 8}}
    begun = anyio.Event()

    async def retry() -> None:
        await begun.wait()
        async with asking(stage, body, again=1) as replies:
            await stage.upstream.until(lambda: bool(replies))
            assert replies[0].json()["tally"]["reused"] == 4

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(retry)
        async with asking(stage, body):
            await stage.upstream.until(lambda: len(stage.calls) == 1 and stage.calls[0].completion_tokens >= 12)
            begun.set()
            await anyio.sleep(0.1)
            assert len(stage.calls) == 1
    assert [call.n for call in stage.calls] == [8, 4]


async def test_a_retry_joins_the_first_request_where_that_is_answered_after_all(stage: Stage) -> None:
    stage.says(Reply(latency=0.3))
    body = {"model": "small", "messages": [{"role": "user", "content": "Both of us?"}]}
    async with asking(stage, body) as first:
        await stage.upstream.until(lambda: len(stage.calls) == 1)
        async with asking(stage, body, again=1) as second:
            await stage.upstream.until(lambda: bool(first and second))
    assert len(stage.calls) == 1
    assert "reused" not in first[0].json()["tally"]
    assert second[0].json()["tally"]["reused"] == 8
    assert float(second[0].headers["x-tally-cost-usd"]) == 0


async def test_equal_requests_at_the_same_time_that_are_no_retries_draw_for_themselves(stage: Stage) -> None:
    stage.says(Reply(latency=0.2))
    body = {"model": "small", "messages": [{"role": "user", "content": "Twice?"}]}
    async with asking(stage, body) as first, asking(stage, body) as second:
        await stage.upstream.until(lambda: bool(first and second))
    assert [call.n for call in stage.calls] == [8, 8]


@pytest.mark.parametrize("patience", [None, 600])
async def test_equal_requests_at_the_same_time_that_were_refused_before_draw_for_themselves(
    stage: Stage, patience: float | None
) -> None:
    numbers = count()
    stage.says(lambda call: Reply([str(next(numbers)) for _ in range(call.n)], latency=0.2))
    body = {"model": "small", "messages": [{"role": "user", "content": f"Ten of {patience}?"}], "tally": {"samples": 2}}
    async with AsyncExitStack() as stack:
        replies = [await stack.enter_async_context(asking(stage, body, again=1, patience=patience)) for _ in range(8)]
        await stage.upstream.until(lambda: all(replies))
    found = [reply[0].json() for reply in replies]
    assert len({reply["choices"][0]["message"]["content"] for reply in found}) == 8
    assert not any("reused" in reply["tally"] for reply in found)


async def test_a_retry_joins_no_request_that_is_younger_than_its_client_is_patient(stage: Stage) -> None:
    stage.says(Reply(latency=0.3))
    body = {"model": "small", "messages": [{"role": "user", "content": "Somebody else?"}]}
    async with asking(stage, body) as first:
        await stage.upstream.until(lambda: len(stage.calls) == 1)
        async with asking(stage, body, again=1, patience=600) as second:
            await stage.upstream.until(lambda: bool(first and second))
    assert [call.n for call in stage.calls] == [8, 8]


def test_the_official_clients_that_a_full_server_sends_away_get_samples_of_their_own(tmp_path: Path) -> None:
    numbers = count()

    def each(call: Call) -> Reply:
        return Reply([str(next(numbers)) for _ in range(call.n)], latency=0.2)

    async def ask_all(tally: ServedTally) -> list[ChatCompletion]:
        async with tally.async_client("self_consistency").with_options(max_retries=9) as client:
            asked = [client.chat.completions.create(model="small", messages=ASK) for _ in range(6)]  # type: ignore[arg-type]  # plain dicts
            return await asyncio.gather(*asked)

    with FakeUpstream(each) as upstream:
        settings = {"max_in_flight": 3}
        config = configuration(upstream.base_url, tmp_path, scaling={"samples": 2}, general_settings=settings)
        with ServedTally(config) as tally:
            replies = asyncio.run(ask_all(tally))
    assert len({reply.choices[0].message.content for reply in replies}) == 6
    assert not any("reused" in told(reply) for reply in replies)


@pytest.mark.parametrize("said", ["soon", "-1", "nan", "1e999", ""])
async def test_what_a_client_says_of_its_tries_may_be_nonsense(stage: Stage, said: str) -> None:
    stage.says("42")
    body = {"model": "small", "messages": ASK}
    headers = {"x-stainless-retry-count": said, "x-stainless-read-timeout": said}
    assert stage.post(body, headers=headers).status_code == 200


async def test_a_retry_whose_wait_runs_out_draws_in_the_time_that_is_left(tmp_path: Path) -> None:
    with staged(tmp_path, scaling={"samples": 2, "deadline_s": 2}) as stage:
        stage.says(lambda call: Reply(latency=30 if call.index == 0 else 0.0))
        body = {"model": "small", "messages": ASK}
        async with asking(stage, body):
            await stage.upstream.until(lambda: len(stage.calls) == 1)
            async with asking(stage, body, again=1) as second:
                await stage.upstream.until(lambda: bool(second))
    assert (second[0].status_code, second[0].json()["tally"]["samples"]) == (200, 2)


async def test_a_retry_whose_client_leaves_while_it_waits_is_recorded_and_draws_nothing(stage: Stage) -> None:
    stage.says(Reply(latency=0.6))
    body = {"model": "small", "messages": [{"role": "user", "content": "Gone again?"}]}
    gone = sum(line.status == 499 for line in lines(stage))
    async with asking(stage, body) as first:
        await stage.upstream.until(lambda: len(stage.calls) == 1)
        async with asking(stage, body, again=1):
            await anyio.sleep(0.1)
        await stage.upstream.until(lambda: sum(line.status == 499 for line in lines(stage)) == gone + 1)
        await stage.upstream.until(lambda: bool(first))
    assert len(stage.calls) == 1


SHAPES: list[tuple[str, JSON]] = [
    ("self_consistency", {"samples": 6}),
    ("best_of_n", {"samples": 6}),
    ("adaptive", {"samples": 6}),
    ("adaptive_consistency", {"max_samples": 12}),
    ("early_stopping", {"window": 4}),
    ("pets", {"mean_samples": 4}),
    ("dynscaling", {"unit": 4, "mean_samples": 8, "max_samples": 12}),
    ("optscale", {"max_samples": 8}),
    ("sp1", {"max_samples": 8, "chains": 2}),
    ("sp2", {"max_samples": 10, "chains": 2}),
    ("sp3", {"max_samples": 8, "chains": 2}),
    ("multi_round", {"max_samples": 8, "chains": 2}),
]


class Mixed:
    """Answers that do not agree, a grade where one is asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, call: Call) -> Reply:
        start, self.asked = self.asked, self.asked + call.n
        if "How likely is your answer" in call.question:
            return Reply(["80"])
        return Reply([("42", "41", "42", "40")[(start + i) % 4] for i in range(call.n)])


class Scores:
    """A verifier that keeps count of what it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def score(self, *_: Any, **__: Any) -> float:
        self.asked += 1
        return 0.3 + 0.1 * (self.asked % 3)


def lots() -> Any:
    """Makes batches that draw other lots each time."""
    seeds = count()
    return lambda strategy: batch_for(strategy, lambda: np.random.default_rng(next(seeds)))


def scorer_for(strategy: str) -> Scores | None:
    return Scores() if strategy in {"optscale", "best_of_n"} else None


@pytest.mark.parametrize(("strategy", "parameters"), SHAPES)
async def test_a_retry_with_every_sample_at_hand_draws_nothing_and_finds_the_same(
    strategy: str, parameters: JSON
) -> None:
    with FakeUpstream(Mixed()) as upstream:
        async with bench(upstream.base_url, make=lots()) as made:
            scorer = scorer_for(strategy)
            first = made.query(strategy, parameters=parameters, scorer=scorer)
            found = await made.batcher.submit(first)
            calls, scored = len(upstream.calls), scorer.asked if scorer else 0
            second = made.query(strategy, parameters=parameters, scorer=scorer)
            second.start_from(first.remains())
            retried = await made.batcher.submit(second)
            assert len(upstream.calls) == calls
            assert scorer is None or scorer.asked == scored
    assert (retried.samples, retried.votes, retried.winner) == (found.samples, found.votes, found.winner)
    assert retried.reused == retried.samples
    assert retried.purse.spent == 0
    assert retried.confidence == found.confidence
    assert [sample.choice for sample in second.in_order()] == [sample.choice for sample in first.in_order()]
    assert retried.usage["prompt_tokens"] == found.usage["prompt_tokens"] > 0


@pytest.mark.parametrize(("strategy", "parameters"), SHAPES)
@pytest.mark.parametrize("share", [0.3, 0.7])
async def test_a_retry_draws_what_an_interrupted_request_lacks(strategy: str, parameters: JSON, share: float) -> None:
    with FakeUpstream(Mixed()) as upstream:
        async with bench(upstream.base_url, make=lots()) as made:
            first = made.query(strategy, parameters=parameters, scorer=scorer_for(strategy))
            found = await made.batcher.submit(first)
            stock = first.remains()
            few = stock.samples[: max(1, int(share * len(stock.samples)))]
            second = made.query(strategy, parameters=parameters, scorer=scorer_for(strategy))
            second.start_from(replace(stock, samples=few))
            before = sum(call.n for call in upstream.calls)
            retried = await made.batcher.submit(second)
            new = sum(call.n for call in upstream.calls) - before
            standing = await made.standing()
    assert retried.reused == len(few)
    assert retried.samples == retried.reused + new
    assert retried.samples >= min(found.samples, len(few) + 1)
    assert standing.ok
    assert len({sample.place for sample in second.in_order()}) == retried.samples


async def test_conditioned_samples_are_reused_with_what_they_were_shown() -> None:
    parameters = {"unit": 8, "mean_samples": 8, "max_samples": 8, "thought_length": 2}
    with FakeUpstream(Mixed()) as upstream:
        async with bench(upstream.base_url, make=lots()) as made:
            first = made.query("dynscaling", parameters=parameters)
            await made.batcher.submit(first)
            second = made.query("dynscaling", parameters=parameters)
            second.start_from(first.remains())
            await made.batcher.submit(second)

    def shown(query: Query) -> list[list[int]]:
        return [[query.drawn[each].place for each in sample.draw.given] for sample in query.in_order()]

    assert shown(second) == shown(first)
    assert any(shown(first))


async def test_a_sample_whose_score_never_came_is_scored_by_the_retry() -> None:
    with FakeUpstream(Mixed()) as upstream:
        async with bench(upstream.base_url) as made:
            first = made.query("best_of_n", scorer=Scores())
            await made.batcher.submit(first)
            stock = first.remains()
            unscored = replace(stock.samples[0], score=None)
            scorer = Scores()
            second = made.query("best_of_n", scorer=scorer)
            second.start_from(replace(stock, samples=(unscored, *stock.samples[1:])))
            await made.batcher.submit(second)
    assert scorer.asked == 1
    assert all(sample.score is not None for sample in second.in_order())


async def test_the_samples_of_a_batch_that_had_a_fault_are_no_start_for_a_retry() -> None:
    class Broken:
        async def score(self, *_: Any, **__: Any) -> float | None:
            raise ZeroDivisionError

    keeper = Keeper(clock=Clock())
    with FakeUpstream() as upstream:
        async with bench(upstream.base_url) as made:
            query = made.query("best_of_n", scorer=Broken())
            query.claim = await keeper.claim(A)
            with pytest.raises(Exception, match="failed on this request"):
                await made.batcher.submit(query)
            query.claim.left()
    assert query.drawn
    assert (await keeper.claim(A)).stock is EMPTY


def sample(place: int, text: str = "42", **more: Any) -> Kept:
    kept = Kept(place, (), 1, "answer", f"r.{place}", Choice(0, {"content": text}, "stop", tokens=1), None)
    return replace(kept, **more)


def stock_of(*texts: str) -> Stock:
    return Stock(tuple(sample(place, text) for place, text in enumerate(texts)), len(texts))


async def kept(keeper: Keeper, key: Key, stock: Stock) -> None:
    claim = await keeper.claim(key)
    claim.settled(lambda: stock)
    claim.left()


async def test_samples_are_kept_for_their_time_and_not_longer() -> None:
    clock = Clock()
    keeper = Keeper(clock=clock, seconds=30)
    await kept(keeper, A, stock_of("1"))
    clock.now += 29.9
    await kept(keeper, B, stock_of("2"))
    clock.now += 0.2
    assert (await keeper.claim(A)).stock is EMPTY
    assert (await keeper.claim(B)).stock == stock_of("2")
    assert (await keeper.claim(B)).stock is EMPTY


@given(
    sizes=st.lists(st.integers(0, 60), max_size=12),
    most=st.integers(1, 4),
    most_bytes=st.integers(1, 300),
)
def test_what_is_kept_stays_within_its_bounds_and_the_latest_stays_longest(
    sizes: list[int], most: int, most_bytes: int
) -> None:
    async def run() -> None:
        keeper = Keeper(clock=Clock(), most=most, most_bytes=most_bytes)
        stocks = [stock_of("x" * size) for size in sizes]
        for key, stock in enumerate(stocks):
            await kept(keeper, ("acme", key), stock)
        found = [(await keeper.claim(("acme", key))).stock for key in range(len(stocks))]
        there = [stock for stock in found if stock is not EMPTY]
        assert len(there) <= most
        assert sum(stock.size for stock in there) <= most_bytes
        assert there == stocks[len(stocks) - len(there) :]
        fits = bool(stocks) and stocks[-1].size <= most_bytes
        assert bool(there) == fits

    asyncio.run(run())


@pytest.mark.parametrize("bounds", [{"most": 4}, {"most_bytes": 4 * stock_of("x").size}])
async def test_whoever_leaves_many_requests_loses_its_own_samples_and_nobody_elses(bounds: dict[str, int]) -> None:
    keeper = Keeper(clock=Clock(), **bounds)
    await kept(keeper, ("zeta", 0), stock_of("z"))
    for number in range(8):
        await kept(keeper, ("acme", number), stock_of("x"))
    assert (await keeper.claim(("zeta", 0))).stock == stock_of("z")
    there = [(await keeper.claim(("acme", number))).stock is not EMPTY for number in range(8)]
    assert there == [False] * 5 + [True] * 3


async def test_nothing_is_kept_where_the_time_is_nought_and_nobody_waits() -> None:
    keeper = Keeper(clock=Clock(), seconds=0)
    running = await keeper.claim(A)
    await kept(keeper, A, stock_of("1"))
    assert (await keeper.claim(A, Try(1))).stock is EMPTY
    assert not running.over.is_set()


async def test_a_request_waits_for_one_that_is_being_stopped_and_for_no_other() -> None:
    keeper = Keeper(clock=Clock())
    first, other = await keeper.claim(A), await keeper.claim(B)
    free = await keeper.claim(A)
    free.answered()
    first.left()
    found: list[Claim] = []

    async def claim() -> None:
        found.append(await keeper.claim(A))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(claim)
        await anyio.wait_all_tasks_blocked()
        assert not found
        first.settled(lambda: stock_of("1"))
    assert found[0].stock == stock_of("1")
    assert not other.over.is_set()


async def test_of_several_retries_of_a_running_request_one_gets_its_samples_and_the_others_draw() -> None:
    keeper = Keeper(clock=Clock())
    first = await keeper.claim(A)
    waited: list[Claim] = []

    async def claim() -> None:
        waited.append(await keeper.claim(A, Try(1)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(claim)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(1):
            assert (await keeper.claim(A, Try(1))).stock is EMPTY
        assert not waited
        first.settled(lambda: stock_of("1"))
        first.answered()
    assert [claim.stock for claim in waited] == [stock_of("1")]


async def test_a_request_waits_for_an_earlier_try_alone() -> None:
    keeper = Keeper(clock=Clock())
    with anyio.fail_after(1):
        for number in (0, 2, 2, 1, 0):
            await keeper.claim(A, Try(number, patience_s=9))
        await keeper.claim(B, Try(1))
        await keeper.claim(B, Try(1))


@given(patience=st.integers(0, 100), age=st.integers(0, 100))
def test_a_request_younger_than_a_client_is_patient_is_not_its_earlier_try(patience: int, age: int) -> None:
    async def run() -> bool:
        clock = Clock()
        keeper = Keeper(clock=clock)
        first = await keeper.claim(A)
        first.settled(lambda: stock_of("1"))
        clock.now += age
        async with asyncio.TaskGroup() as tasks:
            later = tasks.create_task(keeper.claim(A, Try(1, patience)))
            await asyncio.sleep(0)
            first.answered()
        return later.result().stock == stock_of("1")

    assert asyncio.run(run()) == (age >= patience)


async def test_a_wait_that_runs_out_gives_a_claim_all_the_same_and_lets_another_wait() -> None:
    keeper = Keeper(clock=Clock())
    first = await keeper.claim(A)
    assert (await keeper.claim(A, Try(1), wait_s=0.01)).stock is EMPTY
    async with asyncio.TaskGroup() as tasks:
        later = tasks.create_task(keeper.claim(A, Try(1)))
        await asyncio.sleep(0)
        first.settled(lambda: stock_of("1"))
        first.answered()
    assert later.result().stock == stock_of("1")


async def test_what_was_answered_is_forgotten_unless_a_retry_waits_for_it() -> None:
    keeper = Keeper(clock=Clock())
    claim = await keeper.claim(A)
    claim.settled(lambda: stock_of("1"))
    claim.answered()
    claim.left()
    assert (await keeper.claim(A)).stock is EMPTY


def test_a_conditioned_draw_takes_a_sample_of_the_same_lot_first_and_then_one_of_the_same_round() -> None:
    lot = sample(4, given=(0, 1), round=2)
    same = sample(5, given=(1, 0), round=2)
    stock = Stock((sample(0), sample(1), lot, same), 6)
    asked = Draw(9, 1, (7, 8), 2)
    assert stock.find(asked, (1, 0), set(), [0, 1]) is same
    assert stock.find(asked, (1, 1), set(), [0, 1]) is lot
    assert stock.find(asked, (1, 1), {4}, [0, 1]) is same
    assert stock.find(asked, (1, 1), set(), [1]) is None
    assert stock.find(replace(asked, round=4), (1, 1), set(), [0, 1]) is None


def test_a_step_of_a_chain_takes_only_what_was_made_from_the_same_samples() -> None:
    feedback = sample(2, given=(0,), round=2, step="feedback")
    stock = Stock((sample(0), sample(1), feedback), 3)
    asked = Draw(9, 1, (7,), 2, "feedback")
    assert stock.find(asked, (0,), set(), [0, 1]) is feedback
    assert stock.find(asked, (1,), set(), [0, 1]) is None
    assert stock.find(replace(asked, step="rethink"), (0,), set(), [0, 1]) is None


def test_fingerprints_tell_bodies_apart() -> None:
    assert len({fingerprint(b"a"), fingerprint(b"b"), fingerprint(b"ab")}) == 3
    assert fingerprint(b"a") == fingerprint(b"a")


async def test_a_retry_is_charged_to_its_own_request_alone() -> None:
    with FakeUpstream() as upstream:
        async with bench(upstream.base_url) as made:
            first = made.query()
            await made.batcher.submit(first)
            second = made.query(parameters={"samples": 6})
            second.start_from(first.remains())
            await made.batcher.submit(second)
            rows = await _rows_of(made, second.purse)
            lines_ = await made.requests()
    assert [row["purpose"] for row in rows] == ["draw", "draw"]
    assert sum(row["cost_nano"] for row in rows) == second.purse.spent == lines_[0].cost_nano > 0
    assert [line.samples for line in lines_] == [6, 4]


async def _rows_of(made: Bench, purse: Purse) -> list[JSON]:
    return [row for row in await made.rows() if row["request"] == purse.account.request]


def test_every_strategy_that_scales_has_a_shape_here() -> None:
    assert {name for name, _ in SHAPES} == set(STRATEGIES) - {"off"}


async def test_what_a_retry_had_not_come_to_before_it_was_given_up_is_handed_on() -> None:
    async with bench() as made:
        query = made.query()
        query.start_from(stock_of("1", "2"))
        query.reuse([Draw(0, query.id)])
        assert query.remains() == stock_of("1", "2")
