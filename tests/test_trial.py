"""Trying tally on a tenant: a share of its requests scaled, votes in the background, and what they were worth."""

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import openai
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from proxy.cli.ledger import ledger
from proxy.cli.tenants import tenant as tenant_group
from proxy.config import parse_config
from proxy.errors import ConfigError, RequestInvalid, UpstreamError
from proxy.ledger import RequestRow, Settlement
from proxy.ledger.books import Books
from proxy.ledger.comparing import Comparison, comparisons
from proxy.ledger.reports import RequestLine, draws, verdicts
from proxy.ledger.store import wall_clock
from proxy.plan import Wish
from proxy.query import Query
from proxy.trial import MOST_SHADOWS, Shadows, lot
from proxy.types import JSON, Tenant
from proxy.verdict import Verdict
from tests.fake_upstream import FakeUpstream, Fault, Reply
from tests.served import KEY, RATES, ServedTally, configuration
from tests.staged import ASK, Stage, staged, told
from tests.test_ledger import row, verdict, wish
from tests.test_plan import PLANNER
from tests.wired import bench

NONE_KEY, HALF_KEY, SHADOW_KEY, POOR_KEY = "sk-none-1234567", "sk-half-1234567", "sk-shadow-12345", "sk-poor-1234567"
VOTE = ["The answer is 41.", *["The answer is 42."] * 7]

bodies = st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(-9, 9) | st.lists(st.booleans()))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    tenants = [
        {"name": "acme", "keys": [KEY]},
        {"name": "none", "keys": [NONE_KEY], "scale_fraction": 0},
        {"name": "half", "keys": [HALF_KEY], "scale_fraction": 0.5},
        {"name": "shadow", "keys": [SHADOW_KEY], "shadow": True},
        {"name": "poor", "keys": [POOR_KEY], "shadow": True, "token_budget": 300},
    ]
    with staged(tmp_path, tenants=tenants) as made:
        yield made


@pytest.fixture
def books() -> Iterator[Books]:
    opened = Books.open(None, clock=wall_clock)
    yield opened
    opened.close()


def asked(number: int) -> JSON:
    return {"messages": [{"role": "user", "content": f"What is {number} + 1?"}]}


def written(stage: Stage, tenant: str = "shadow", reason: str | None = "shadow") -> RequestLine:
    """The tenant's last request, once it is written with `reason`."""
    found: list[RequestLine] = []

    def known() -> bool:
        with stage.tally.books() as books:
            found[:] = verdicts(books, tenant, 1)
        return bool(found) and found[0].reason == reason

    stage.upstream.wait(known)
    return found[0]


# which requests are scaled


@given(bodies, st.text(max_size=5))
def test_a_request_always_draws_the_same_lot_however_its_keys_are_ordered(body: JSON, tenant: str) -> None:
    place = lot(tenant, body)
    assert 0 <= place < 1
    assert lot(tenant, dict(reversed(body.items()))) == place
    assert lot(tenant, {**body, "one more": 1}) != place


def test_lots_are_even_and_each_tenants_are_its_own() -> None:
    lots = [lot("acme", asked(number)) for number in range(4000)]
    # ten bins of 400 each; the deviation of a count is 19
    assert all(abs(sum(int(10 * place) == tenth for place in lots) - 400) < 95 for tenth in range(10))
    both = sum(place < 0.5 and lot("other", asked(number)) < 0.5 for number, place in enumerate(lots))
    assert abs(both - 1000) < 140


@given(st.integers(), st.floats(0, 1), st.floats(0, 1))
def test_what_is_scaled_at_a_smaller_share_is_scaled_at_a_larger_one(number: int, one: float, other: float) -> None:
    request = {"model": "small", **asked(number)}
    plans = [
        PLANNER.plan(request, Wish(), Tenant("acme", scale_fraction=share)) for share in (*sorted((one, other)), 1.0)
    ]
    scaled = [plan.strategy.name != "off" for plan in plans]
    assert scaled == sorted(scaled)
    assert scaled[-1]
    assert all(plan.reason == ("trial" if plan.strategy.name == "off" else None) for plan in plans)
    assert not any(plan.probe and plan.strategy.name == "off" for plan in plans)


@pytest.mark.parametrize("trial", [{"scale_fraction": 0.0}, {"shadow": True}])
def test_what_could_not_be_scaled_anyway_keeps_its_own_reason(trial: Any) -> None:
    plan = PLANNER.plan({"model": "small", **asked(1), "temperature": 0}, Wish(), Tenant("acme", **trial))
    assert (plan.strategy.name, plan.reason, plan.shadow) == ("off", "temperature 0", None)
    plan = PLANNER.plan({"model": "small", **asked(1)}, Wish(strategy="off"), Tenant("acme", **trial))
    assert (plan.strategy.name, plan.reason, plan.shadow) == ("off", None, None)


@pytest.mark.parametrize("trial", [{"scale_fraction": 0.0}, {"shadow": True}])
def test_what_must_be_refused_below_some_confidence_is_always_scaled(trial: Any) -> None:
    wanted = Wish(min_confidence=0.9, low_confidence="refuse")
    plan = PLANNER.plan({"model": "small", **asked(1)}, wanted, Tenant("acme", **trial))
    assert (plan.strategy.name, plan.shadow) == ("adaptive", None)


def test_a_shadow_is_taken_of_the_share_that_would_be_scaled() -> None:
    tenant = Tenant("acme", scale_fraction=0.5, shadow=True)
    plans = [PLANNER.plan({"model": "small", **asked(number)}, Wish(), tenant) for number in range(200)]
    assert {plan.strategy.name for plan in plans} == {"off"}
    assert {plan.reason for plan in plans} == {"trial"}
    assert 70 < sum(plan.shadow is not None for plan in plans) < 130


def test_the_share_left_out_gets_one_sample_and_is_told_why(stage: Stage) -> None:
    stage.says("The answer is 42.")
    for strategy in ("self_consistency", None):
        raw = stage.raw(strategy, key=NONE_KEY)
        assert (raw.headers["x-tally-strategy"], raw.headers["x-tally-reason"]) == ("off", "trial")
        assert (told(raw.parse())["reason"], told(raw.parse())["samples"]) == ("trial", 1)
    assert [made.n for made in stage.calls] == [1, 1]
    streamed = [json.loads(item) for item in _events(stage, NONE_KEY)[:-1]]
    assert streamed[-1]["tally"]["reason"] == "trial"


def _events(stage: Stage, key: str) -> list[str]:
    response = stage.post({"model": "small", "messages": ASK, "stream": True}, key=key)
    assert response.headers["x-tally-reason"] == "trial"
    return [part.removeprefix("data: ") for part in response.text.split("\n\n") if part.startswith("data: ")]


def test_the_same_request_falls_on_the_same_side_again(stage: Stage) -> None:
    stage.says("The answer is 42.")

    def sides() -> list[str]:
        return [told(stage.ask(key=HALF_KEY, **asked(number)))["strategy"] for number in range(16)]

    found = sides()
    assert set(found) == {"off", "self_consistency"}
    assert sides() == found


@pytest.mark.parametrize("key", [NONE_KEY, SHADOW_KEY])
def test_a_client_on_trial_that_leaves_pays_no_more_than_one_that_is_scaled(stage: Stage, key: str) -> None:
    tenant = "none" if key == NONE_KEY else "shadow"
    # eighty tokens, the first at once
    stage.says(Reply(["one two three four " * 20], per_token=0.05))
    url = f"{stage.tally.url}/v1/chat/completions"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json={"model": "small", "messages": ASK}, headers=bearer(key), timeout=0.5)
    assert written(stage, tenant, "client_gone").status == 499
    stage.upstream.wait(lambda: not stage.tally.balance(tenant).reserved.nano)
    (call,) = stage.calls
    assert call.cancelled
    assert call.completion_tokens < 80
    assert stage.tally.balance(tenant).spent.nano < 2 * RATES.cost(call.prompt_tokens, 80, 0)


def test_a_retry_of_a_client_on_trial_starts_from_what_its_first_try_had(stage: Stage) -> None:
    stage.says(Reply(latency=0.6))
    body = {"model": "small", "messages": ASK}

    def ask(again: int) -> httpx.Response:
        headers = {**bearer(NONE_KEY), "x-stainless-retry-count": str(again)}
        return httpx.post(f"{stage.tally.url}/v1/chat/completions", json=body, headers=headers, timeout=30)

    with ThreadPoolExecutor() as threads:
        first = threads.submit(ask, 0)
        stage.upstream.wait(lambda: len(stage.calls) == 1)
        second = ask(1)
    assert first.result().json()["tally"]["samples"] == 1
    assert second.json()["tally"]["reused"] == 1
    assert len(stage.calls) == 1


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# the shadow


def test_a_shadows_client_gets_the_first_sample_and_the_vote_over_it_is_recorded(stage: Stage) -> None:
    stage.says(VOTE)
    raw = stage.raw(key=SHADOW_KEY)
    reply = raw.parse()
    assert reply.choices[0].message.content == VOTE[0]
    assert reply.id.startswith("chatcmpl-fake-")
    assert (raw.headers["x-tally-strategy"], raw.headers["x-tally-samples"]) == ("off", "1")
    assert (told(reply)["reason"], told(reply)["samples"]) == ("trial", 1)
    found = written(stage)
    assert (found.strategy, found.samples, found.status) == ("self_consistency", 8, 200)
    # the tenant stores nothing: there are names that tell which answers are the same
    assert (found.answer, found.first_answer) == ("#2", "#1")
    assert sum(made.n for made in stage.calls) == 8
    assert found.cost_nano == stage.cost_nano
    with stage.tally.books() as books:
        rows = [line for line in draws(books, "shadow") if line["request"] == found.request]
    assert len({line["id"] for line in rows}) == 8
    assert sorted(line["index"] for line in rows) == list(range(8))
    assert [line["label"] for line in sorted(rows, key=lambda line: line["index"])] == ["#1", *["#2"] * 7]


def test_a_shadow_delays_no_answer_streamed_or_not(stage: Stage) -> None:
    first = len(stage.upstream.calls)
    stage.says(
        lambda made: Reply(VOTE[:1] if made.index == first else VOTE[1:], latency=0.0 if made.index == first else 1)
    )
    started = time.monotonic()
    assert stage.ask(key=SHADOW_KEY).choices[0].message.content == VOTE[0]
    assert time.monotonic() - started < 0.9
    assert written(stage).samples == 8
    first = len(stage.upstream.calls)
    started = time.monotonic()
    events = _events(stage, SHADOW_KEY)
    assert time.monotonic() - started < 0.9
    assert "".join(c["delta"].get("content") or "" for e in events[:-1] for c in json.loads(e)["choices"]) == VOTE[0]
    assert events[-1] == "[DONE]"
    stage.upstream.wait(lambda: len(stage.upstream.calls) > first + 1 and stage.upstream.in_flight == 0)


def test_a_shadow_whose_draws_fail_votes_with_the_answer_it_has(stage: Stage) -> None:
    first = len(stage.upstream.calls)
    stage.says(lambda made: "The answer is 42." if made.index == first else Fault(400, "No more."))
    assert stage.ask(key=SHADOW_KEY).choices[0].message.content == "The answer is 42."
    found = written(stage)
    assert (found.status, found.samples, found.first_answer) == (200, 1, "#1")
    assert len(stage.calls) >= 2


def test_a_failed_answer_has_no_shadow(stage: Stage) -> None:
    stage.says("42")
    # an upstream that never streamed is asked once more without, where it refuses
    stage.ask()
    stage.says(Fault(400, "Too odd.", "odd", "too_odd"))
    with pytest.raises(openai.BadRequestError, match="Too odd"):
        stage.ask(key=SHADOW_KEY)
    found = written(stage, reason="too_odd")
    assert (found.status, found.strategy) == (400, "off")
    assert len(stage.calls) == 1


def test_a_shadow_keeps_to_the_budget_and_refuses_nobody(stage: Stage) -> None:
    stage.says("The answer is 42.")
    assert stage.ask(key=POOR_KEY, max_tokens=50).choices[0].message.content == "The answer is 42."
    assert written(stage, "poor").samples < 8
    balance = stage.tally.balance("poor")
    assert balance.ok
    assert balance.spent.tokens <= 300


def test_several_choices_of_a_shadowed_request_all_come_through_and_all_vote(stage: Stage) -> None:
    stage.says(VOTE)
    reply = stage.ask(key=SHADOW_KEY, n=3)
    assert [choice.message.content for choice in reply.choices] == VOTE[:3]
    assert written(stage).samples == 8
    assert sum(made.n for made in stage.calls) == 8


def test_a_server_that_stops_waits_for_its_shadows(tmp_path: Path) -> None:
    tenants = [{"name": "acme", "keys": [KEY], "shadow": True}]
    with FakeUpstream(lambda made: Reply(VOTE[1:], latency=0.5 if made.index else 0.0)) as upstream:
        config = configuration(upstream.base_url, tmp_path, tenants=tenants)
        with ServedTally(config) as tally:
            assert tally.post({"model": "small", "messages": ASK}).status_code == 200
            upstream.wait(lambda: upstream.in_flight > 0)
        with tally.books() as books:
            (found,) = verdicts(books)
    assert (found.samples, found.reason, found.status) == (8, "shadow", 200)


def test_a_shadow_that_is_stopped_leaves_the_record_of_the_answer_as_it_was(tmp_path: Path) -> None:
    tenants = [{"name": "acme", "keys": [KEY], "shadow": True}]
    with FakeUpstream(lambda made: Reply(VOTE[1:], latency=30 if made.index else 0.0)) as upstream:
        config = configuration(upstream.base_url, tmp_path, tenants=tenants, general_settings={"shutdown_s": 1})
        with ServedTally(config) as tally:
            assert tally.post({"model": "small", "messages": ASK}).status_code == 200
            upstream.wait(lambda: upstream.in_flight > 0)
        upstream.wait(lambda: upstream.in_flight == 0)
        with tally.books() as books:
            (found,) = verdicts(books)
        assert tally.balance().ok
        assert tally.balance().reserved.nano == 0
    assert (found.samples, found.reason, found.status, found.strategy) == (1, "trial", 200, "off")


@pytest.mark.anyio
async def test_a_server_waits_for_shadows_only_so_long_and_stops_what_they_draw() -> None:
    ended: list[Query] = []
    with FakeUpstream(Reply(latency=30)) as upstream:
        async with bench(upstream.base_url) as made:
            query = made.query()
            with anyio.fail_after(5):
                async with Shadows(made.batcher.submit, patience=lambda: 0.05) as shadows:
                    assert shadows.start(lambda: _ready(query), ended.append)
                    await upstream.until(lambda: upstream.in_flight > 0)
                await upstream.until(lambda: upstream.in_flight == 0)
    assert ended == [query]


@pytest.mark.anyio
@pytest.mark.parametrize("error", [UpstreamError("no", status=502), ZeroDivisionError()])
async def test_what_goes_wrong_in_a_shadow_ends_no_other(error: Exception) -> None:
    async def fails() -> Query:
        raise error

    ended: list[Query] = []
    with FakeUpstream("42") as upstream:
        async with bench(upstream.base_url) as made:
            query = made.query()
            async with Shadows(made.batcher.submit, patience=lambda: 5) as shadows:
                with capture_logs() as logged:
                    assert shadows.start(fails, ended.append)
                    await asyncio.sleep(0.01)
                assert shadows.start(lambda: _ready(query), ended.append)
    assert [line["event"] for line in logged] == ["shadow_failed"]
    assert ended == [query]
    assert len(query.drawn) == 4


@pytest.mark.anyio
async def test_no_more_shadows_run_at_once_than_there_is_room_for_and_the_log_tells_of_those_left_out() -> None:
    free = asyncio.Event()

    async def waits(query: Query) -> Verdict:
        await free.wait()
        raise UpstreamError("no", status=502)

    async with bench() as made:
        query = made.query()
        async with Shadows(waits, patience=lambda: 5) as shadows:
            with capture_logs() as logged:
                started = [shadows.start(lambda: _ready(query), lambda _: None) for _ in range(MOST_SHADOWS + 1)]
            assert started == [True] * MOST_SHADOWS + [False]
            assert logged == [{"event": "shadow_left_out", "log_level": "warning", "running": MOST_SHADOWS}]
            free.set()
            await asyncio.sleep(0.01)
            assert shadows.start(lambda: _ready(query), lambda _: None)


async def _ready(query: Query) -> Query:
    return query


# where it is said


@pytest.mark.parametrize("wrong", [{"scale_fraction": 1.5}, {"scale_fraction": float("nan")}, {"shadow": 3}])
def test_a_wrong_trial_is_named_in_the_configuration(wrong: JSON) -> None:
    with pytest.raises(ConfigError, match=rf"tenants\[0\]\.{next(iter(wrong))}"):
        parse_config({"tenants": [{"name": "acme", **wrong}]}, "test", {})


def test_a_tenant_is_kept_with_its_trial(books: Books) -> None:
    made = Tenant("acme", scale_fraction=0.25, shadow=True)
    books.add_tenant(made)
    assert books.tenant("acme") == made
    assert books.update_tenant("acme", scale_fraction=None, shadow=False) == Tenant("acme") == books.tenant("acme")
    with pytest.raises(RequestInvalid, match="scale_fraction must be from 0 to 1"):
        books.update_tenant("acme", scale_fraction=-0.1)


def run(group: Any, folder: Path, *words: str) -> Result:
    config = folder / "tally.json"
    config.write_text(json.dumps({"general_settings": {"database_url": f"sqlite:///{folder / 'tally.db'}"}}))
    return CliRunner(env={"COLUMNS": "200"}).invoke(group, [*words, "--config", str(config)])


def test_a_trial_is_set_and_shown_at_the_command_line(tmp_path: Path) -> None:
    assert run(tenant_group, tmp_path, "add", "acme", "--scale-fraction", "0.1", "--shadow").exit_code == 0
    assert "0.1 of its requests, in the background" in run(tenant_group, tmp_path, "show", "acme").stdout
    assert run(tenant_group, tmp_path, "update", "acme", "--no-shadow").exit_code == 0
    assert "0.1 of its requests\n" in _unframed(run(tenant_group, tmp_path, "show", "acme").stdout)
    assert run(tenant_group, tmp_path, "update", "acme", "--scale-fraction", "none").exit_code == 0
    assert "all requests" in run(tenant_group, tmp_path, "show", "acme").stdout
    for wrong in ("1.1", "-0.1", "nan", "much"):
        refused = run(tenant_group, tmp_path, "update", "acme", "--scale-fraction", wrong)
        assert refused.exit_code == 2
        assert "is not a number from 0 to 1" in refused.output


def _unframed(table: str) -> str:
    return "\n".join(line.rstrip(" │") for line in table.splitlines()) + "\n"


# what it was worth


def request(books: Books, name: str, *, nano: tuple[int, ...] = (10, 30), **more: Any) -> RequestRow:
    """A recorded request whose draws cost `nano`, in order of their places; the first one says 41, the vote 42."""
    tenant = more.pop("tenant", "acme")
    made = verdict(name, tenant=tenant)
    for place, cost in enumerate(nano):
        attempt = f"{tenant}/{name}.{place}"
        books.reserve(replace(wish(attempt, cost, tenant=tenant), account=replace(made.account, key=None)))
        books.settle(
            Settlement(attempt, made.account, (replace(row(attempt, nano=cost), purpose="draw", index=place),))
        )
    made = replace(made, **{"cost_nano": sum(nano), **more})
    books.record(made)
    return made


def test_votes_are_compared_with_their_first_samples_by_tenant_model_and_strategy(books: Books) -> None:
    for name in ("acme", "zeta"):
        books.add_tenant(Tenant(name))
    request(books, "1")
    request(books, "2", first_answer="42")
    request(books, "3", strategy="dynscaling", nano=(5, 5, 5))
    request(books, "4", model="big")
    request(books, "1", tenant="zeta", nano=(0, 0))
    found = comparisons(books)
    assert found == [
        Comparison("acme", "big", "self_consistency", 1, 1, 40, 10),
        Comparison("acme", "small", "dynscaling", 1, 1, 15, 5),
        Comparison("acme", "small", "self_consistency", 2, 1, 80, 20),
        Comparison("zeta", "small", "self_consistency", 1, 1, 0, 0),
    ]
    assert [each.multiple for each in found] == [4.0, 3.0, 4.0, None]
    assert comparisons(books, "zeta") == found[3:]


def test_only_requests_of_which_both_answers_and_the_first_samples_cost_are_known_are_compared(books: Books) -> None:
    books.add_tenant(Tenant("acme"))
    request(books, "no vote", answer=None)
    request(books, "no first answer", first_answer=None)
    request(books, "no draws", nano=())
    request(books, "one sample", samples=1)
    request(books, "off", strategy="off")
    request(books, "refused", status=422)
    assert comparisons(books) == []


def test_a_first_sample_that_was_lost_and_made_again_counts_once(books: Books) -> None:
    books.add_tenant(Tenant("acme"))
    made = request(books, "1")
    for attempt, status, cost in (("lost", "lost", 70), ("judge", "ok", 50)):
        books.reserve(replace(wish(attempt, cost), account=replace(made.account, key=None)))
        again = replace(row(attempt, nano=cost), purpose="judge" if attempt == "judge" else "draw", status=status)
        books.settle(Settlement(attempt, made.account, (again,)))
    assert [each.first_nano for each in comparisons(books)] == [10]


def test_the_comparison_is_shown_as_a_table_and_as_json(tmp_path: Path) -> None:
    books = Books.open(tmp_path / "tally.db", clock=wall_clock)
    books.add_tenant(Tenant("acme"))
    for number in range(10):
        request(books, str(number), first_answer="41" if number < 2 else "42")
    books.close()
    (found,) = json.loads(run(ledger, tmp_path, "show", "--compare", "--json").stdout)["compared"]
    low, high = found.pop("low"), found.pop("high")
    # Wilson's interval of 2 in 10, as tables have it
    assert (low, high) == (pytest.approx(0.0567, abs=5e-5), pytest.approx(0.5098, abs=5e-5))
    assert found == {
        "tenant": "acme",
        "model": "small",
        "strategy": "self_consistency",
        "requests": 10,
        "differing": 2,
        "share": 0.2,
        "cost_nano_usd": 400,
        "first_nano_usd": 100,
        "times": 4.0,
    }
    table = run(ledger, tmp_path, "show", "--compare", "--tenant", "acme").stdout
    assert "5.7 - 51.0" in table
    assert "4.00" in table
    assert run(ledger, tmp_path, "show", "--json").exit_code == 2
    assert run(ledger, tmp_path, "show", "--compare", "--tenant", "nobody").exit_code == 2


def test_a_served_shadow_is_compared(stage: Stage) -> None:
    stage.says("The answer is 42.")
    stage.ask("best_of_n", key=SHADOW_KEY)
    written(stage)
    with stage.tally.books() as books:
        found = {each.strategy: each for each in comparisons(books, "shadow")}
    assert found["best_of_n"].requests == 1
    multiple = found["best_of_n"].multiple
    assert multiple is not None
    assert 4 < multiple <= 9
