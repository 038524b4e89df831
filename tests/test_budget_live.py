"""Budgets, kept by the whole proxy against an upstream that meters what it really served."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from openai import APIStatusError, AsyncOpenAI

from tests.fake_upstream import Call, FakeUpstream, Reply
from tests.served import KEY, RATES, ServedTally, configuration, deployment

CLIENTS = 64
SAMPLES = 8


def _ask(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


def _sum_of(call: Call) -> Reply:
    """Most samples say the sum of the two numbers in the question, some are one off; a few are asked one by one."""
    first, second = (int(word) for word in str(call.body["messages"][-1]["content"]).split() if word.isdigit())
    right, wrong = f"The answer is {first + second}.", f"The answer is {first + second + 1}."
    return Reply((right, wrong, right, right, wrong, right, right, right))


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(_sum_of) as server:
        yield server


def _agree(tally: ServedTally, upstream: FakeUpstream) -> int:
    """At idle nothing is reserved, and the account, its rows and the upstream's meter are the same sum; returns it."""
    # a reply does not wait for its settlement to be on disk
    upstream.wait(lambda: tally.balance().reserved.nano == 0)
    balance = tally.balance()
    assert balance.ok
    assert (balance.reserved.nano, balance.reserved.tokens) == (0, 0)
    assert balance.spent.nano == balance.ledger.nano == upstream.meter.cost_nano(RATES)
    assert balance.spent.tokens == upstream.meter.prompt_tokens + upstream.meter.completion_tokens
    return balance.spent.nano


@pytest.mark.anyio
@pytest.mark.parametrize("strategy", ["self_consistency", "dynscaling"])
async def test_sixty_four_clients_are_answered_right_and_charged_to_the_nano_dollar(
    tmp_path: Path, upstream: FakeUpstream, strategy: str
) -> None:
    tenant = {"max_budget": 1.0, "budget_duration": "1d"}
    with ServedTally(configuration(upstream.base_url, tmp_path, tenant=tenant)) as tally:
        client = tally.async_client(strategy)
        answers: dict[int, str | None] = {}

        async def ask(number: int) -> None:
            reply = await client.chat.completions.create(model="small", messages=_ask(f"What is {number} plus 1000 ?"))
            answers[number] = reply.choices[0].message.content
            tokens = reply.usage.completion_tokens if reply.usage else 0
            assert tokens > 0

        async with anyio.create_task_group() as group:
            for number in range(CLIENTS):
                group.start_soon(ask, number)
        await client.close()
        assert answers == {number: f"The answer is {number + 1000}." for number in range(CLIENTS)}
        _agree(tally, upstream)
        if strategy == "self_consistency":
            # nor for its own line, which comes after it
            drawn = "SELECT sum(samples) FROM requests WHERE status = 200"
            upstream.wait(lambda: _told(tally, drawn) == (CLIENTS * SAMPLES,))


@pytest.mark.anyio
async def test_a_tight_budget_is_used_and_never_passed_by_many_clients_at_once(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    limit_usd = 0.0005
    with ServedTally(configuration(upstream.base_url, tmp_path, tenant={"max_budget": limit_usd})) as tally:
        client = tally.async_client("self_consistency")
        statuses: list[int] = []

        async with anyio.create_task_group() as group:
            for number in range(CLIENTS):
                group.start_soon(_status, client, number, statuses)
        # one by one what is left is used up, until not even one sample is granted
        while statuses[-1] == 200 or len(statuses) == CLIENTS:
            await _status(client, 7, statuses)
            assert len(statuses) < 500
        await client.close()
        assert set(statuses) == {200, 402}
        spent = _agree(tally, upstream)
        sample = RATES.cost(300, 60)
        assert limit_usd * 1e9 - sample <= spent <= limit_usd * 1e9


async def _status(client: AsyncOpenAI, number: int, statuses: list[int]) -> None:
    try:
        await client.chat.completions.create(model="small", messages=_ask(f"What is {number} plus 5 ?"), max_tokens=20)
        statuses.append(200)
    except APIStatusError as error:
        statuses.append(error.status_code)
        if error.status_code == 402:
            assert error.type == "budget_exceeded"
            assert error.response.headers["x-should-retry"] == "false"


def test_as_the_budget_runs_short_the_round_is_cut_before_the_request_is_refused(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    """A budget that holds three samples gives three; the next request is refused when it holds none."""
    tenant = {"max_budget": (RATES.cost(200, 0) + 3 * RATES.cost(0, 100)) / 1e9}
    with ServedTally(configuration(upstream.base_url, tmp_path, tenant=tenant)) as tally:
        body = {"model": "small", "messages": _ask("What is 1 plus 2 ?"), "max_tokens": 100}
        first = tally.post(body, path="/self_consistency/v1/chat/completions").json()["tally"]
        assert 1 <= first["samples"] < SAMPLES
        assert first["reason"] == "budget"
        while (reply := tally.post(body)).status_code == 200:
            assert reply.json()["tally"]["samples"] < SAMPLES
        assert reply.status_code == 402
        assert reply.json()["error"]["type"] == "budget_exceeded"
        _agree(tally, upstream)


def test_a_token_budget_is_kept_without_any_price(tmp_path: Path, upstream: FakeUpstream) -> None:
    unpriced = deployment(upstream.base_url)
    for name in ("input_cost_per_token", "output_cost_per_token"):
        del unpriced["litellm_params"][name]
    config = configuration(upstream.base_url, tmp_path, model_list=[unpriced], tenant={"token_budget": 1000})
    with ServedTally(config) as tally:
        body = {"model": "small", "messages": _ask("What is 1 plus 2 ?"), "max_tokens": 40}
        while tally.post(body).status_code == 200:
            pass
        upstream.wait(lambda: tally.balance().reserved.tokens == 0)
        balance = tally.balance()
        assert balance.ok
        assert 700 < balance.spent.tokens <= 1000
        assert balance.spent.tokens == upstream.meter.prompt_tokens + upstream.meter.completion_tokens


def test_a_model_without_a_price_is_refused_to_a_tenant_with_a_money_budget(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    unpriced = deployment(upstream.base_url)
    for name in ("input_cost_per_token", "output_cost_per_token"):
        del unpriced["litellm_params"][name]
    config = configuration(upstream.base_url, tmp_path, model_list=[unpriced], tenant={"max_budget": 10})
    with ServedTally(config) as tally:
        reply = tally.post({"model": "small", "messages": _ask("What is 1 plus 2 ?")})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "model_unpriced")
        assert not upstream.calls


def test_a_free_model_is_served_on_an_empty_budget(tmp_path: Path, upstream: FakeUpstream) -> None:
    free = deployment(upstream.base_url, litellm_params={"input_cost_per_token": 0, "output_cost_per_token": 0})
    config = configuration(upstream.base_url, tmp_path, model_list=[free], tenant={"max_budget": 0})
    with ServedTally(config) as tally:
        assert tally.post({"model": "small", "messages": _ask("What is 1 plus 2 ?")}).status_code == 200


def test_a_request_never_costs_more_than_its_own_cap(tmp_path: Path, upstream: FakeUpstream) -> None:
    with ServedTally(configuration(upstream.base_url, tmp_path)) as tally:
        cap = 0.0001
        body = {"model": "small", "messages": _ask("What is 1 plus 2 ?"), "max_tokens": 50}
        reply = tally.post({**body, "tally": {"samples": 32, "max_cost_usd": cap}}).json()["tally"]
        assert 1 <= reply["samples"] < 32
        assert reply["reason"] == "budget"
        assert reply["cost_usd"] <= cap
        refused = tally.post({**body, "tally": {"max_cost_usd": 1e-9}})
        assert (refused.status_code, refused.json()["error"]["type"]) == (402, "budget_exceeded")
        _agree(tally, upstream)


def test_the_status_over_budget_is_the_operators_to_choose(tmp_path: Path, upstream: FakeUpstream) -> None:
    settings = {"budget_exceeded_status_code": 422}
    config = configuration(upstream.base_url, tmp_path, tenant={"max_budget": 0}, general_settings=settings)
    with ServedTally(config) as tally:
        assert tally.post({"model": "small", "messages": _ask("What is 1 plus 2 ?")}).status_code == 422


def test_an_unscaled_call_whose_length_nobody_knows_is_paid_in_slices_when_it_cannot_be_reserved_whole(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    """16,384 tokens of output would cost 0.0066 dollars; the budget holds a tenth of that, and the call fits."""
    with ServedTally(configuration(upstream.base_url, tmp_path, tenant={"max_budget": 0.0007})) as tally:
        reply = tally.client("off").chat.completions.create(model="small", messages=_ask("What is 1 plus 2 ?"))
        assert reply.choices[0].message.content == "The answer is 3."
        assert reply.id == "chatcmpl-fake-0"
        _agree(tally, upstream)


def test_the_ledger_keeps_the_first_answer_beside_the_winners_and_every_ballot(tmp_path: Path) -> None:
    contents = ("Answer: 41", "Answer: 42", "Answer: 42")
    with (
        FakeUpstream(lambda _: Reply(contents)) as upstream,
        ServedTally(configuration(upstream.base_url, tmp_path, tenant={"store_samples": True})) as tally,
    ):
        body = {"model": "small", "messages": _ask("x"), "logprobs": True, "tally": {"strategy": "self_consistency"}}
        assert tally.post(body | {"tally": {"strategy": "self_consistency", "samples": 3}}).status_code == 200
        upstream.wait(lambda: _requests(tally) == 1)
        verdict = _told(tally, "SELECT answer, first_answer, samples, key FROM requests")
        with tally.books() as books:
            draws = books.rows("SELECT label, mean_logprob, cost_nano FROM draws ORDER BY number").fetchall()
        assert verdict[:3] == ("42", "41", 3)
        assert [row[0] for row in draws] == ["41", "42", "42"]
        assert all(row[1] is not None and row[1] < 0 for row in draws)
        assert KEY not in str(verdict)


def _requests(tally: ServedTally) -> object:
    return _told(tally, "SELECT count(*) FROM requests")[0]


def _told(tally: ServedTally, query: str) -> tuple[Any, ...]:
    with tally.books() as books:
        row = books.row(query)
    assert row is not None
    return tuple(row[name] for name in row.keys())  # noqa: SIM118 - a row is no dict


def test_a_budget_of_samples_is_used_and_never_passed(tmp_path: Path) -> None:
    with FakeUpstream("42") as upstream:
        config = configuration(upstream.base_url, tmp_path, tenant={"sample_budget": 11, "budget_duration": "1d"})
        with ServedTally(config) as tally:
            body = {"model": "small", "messages": _ask("What is 6 x 7 ?"), "max_tokens": 40}
            told = [tally.post({**body, "tally": {"strategy": "self_consistency"}}) for _ in range(3)]
            assert [answer.status_code for answer in told] == [200, 200, 402]
            drawn = [answer.json()["tally"]["samples"] for answer in told[:2]]
            assert drawn == [8, 3]
            assert sum(call.n for call in upstream.calls) == 11
            assert tally.balance().spent.samples == 11
            assert tally.balance().ok
