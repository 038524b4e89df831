"""Every kind of token that a provider bills, through the whole proxy: the ledger has the sum made by hand."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from proxy.ledger.reports import draws
from proxy.types import JSON
from tests.fake_upstream import FakeUpstream, Reply
from tests.served import ServedTally, configuration, deployment

PRICES = {
    "input_cost_per_token": "1e-6",
    "output_cost_per_token": "4e-6",
    "cache_read_input_token_cost": "1e-7",
    "cache_creation_input_token_cost": "1.25e-6",
    "cache_creation_input_token_cost_above_1hr": "2e-6",
    "output_cost_per_reasoning_token": "5e-6",
    "input_cost_per_audio_token": "3e-5",
    "output_cost_per_audio_token": "6e-5",
    "input_cost_per_token_above_1k_tokens": "2e-6",
    "output_cost_per_token_above_1k_tokens": "8e-6",
    "input_cost_per_token_priority": "3e-6",
    "output_cost_per_token_priority": "1.2e-5",
    "input_cost_per_token_flex": "5e-7",
    "output_cost_per_token_flex": "2.000001e-6",
}
# a reply, what its request asks for, and the cost of the call in nano-USD
CASES: dict[str, tuple[Reply, JSON, int]] = {
    "plain": (Reply(prompt_tokens=100, completion_tokens=10), {}, 100 * 1000 + 10 * 4000),
    "cached": (
        Reply(prompt_tokens=100, completion_tokens=10, cached_tokens=60),
        {},
        40 * 1000 + 60 * 100 + 10 * 4000,
    ),
    "written": (
        Reply(
            prompt_tokens=100,
            completion_tokens=10,
            kinds={
                "cache_creation_input_tokens": 50,
                "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 20},
            },
        ),
        {},
        50 * 1000 + 30 * 1250 + 20 * 2000 + 10 * 4000,
    ),
    "thought": (
        Reply(prompt_tokens=100, completion_tokens=10, kinds={"completion_tokens_details": {"reasoning_tokens": 7}}),
        {},
        100 * 1000 + 3 * 4000 + 7 * 5000,
    ),
    "sound": (
        Reply(
            prompt_tokens=100,
            completion_tokens=10,
            kinds={
                "prompt_tokens_details": {"audio_tokens": 80},
                "completion_tokens_details": {"audio_tokens": 9},
            },
        ),
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
        20 * 1000 + 80 * 30_000 + 1 * 4000 + 9 * 60_000,
    ),
    "long": (Reply(prompt_tokens=1001, completion_tokens=10), {}, 1001 * 2000 + 10 * 8000),
    "priority": (
        Reply(prompt_tokens=100, completion_tokens=10, service_tier="priority"),
        {"service_tier": "auto"},
        100 * 3000 + 10 * 12_000,
    ),
    # 2,000.001 nano-dollars a token: rounded up once, when all are added up
    "flex": (
        Reply(prompt_tokens=100, completion_tokens=10, service_tier="flex"),
        {"service_tier": "flex"},
        100 * 500 + 10 * 2000 + 1,
    ),
    "downgraded": (
        Reply(prompt_tokens=100, completion_tokens=10, service_tier="default"),
        {"service_tier": "priority"},
        100 * 1000 + 10 * 4000,
    ),
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    def reply(call: Any) -> Reply:
        return CASES[call.question][0]

    with FakeUpstream(reply) as server:
        yield server


@pytest.fixture(scope="module")
def tally(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedTally]:
    priced = deployment(upstream.base_url, litellm_params=PRICES)
    tenant = {"max_budget": 1000}
    with ServedTally(
        configuration(upstream.base_url, tmp_path_factory.mktemp("prices"), model_list=[priced], tenant=tenant)
    ) as served:
        yield served


def spent(tally: ServedTally, upstream: FakeUpstream) -> int:
    """What the tenant has spent, in nano-USD, when all is settled and the account adds up."""
    upstream.wait(lambda: tally.balance().reserved.nano == 0)
    found = tally.balance()
    assert found.ok
    assert found.spent.nano == found.ledger.nano
    return found.spent.nano


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", CASES)
def test_a_reply_is_charged_by_what_its_usage_tells(
    tally: ServedTally, upstream: FakeUpstream, case: str, stream: bool
) -> None:
    before = spent(tally, upstream)
    reply, asked, nano = CASES[case]
    # long enough that its bound is beyond the threshold, as that of any prompt of so many tokens
    filler = {"role": "system", "content": "x" * 2000}
    body = {"model": "small", "messages": [filler, {"role": "user", "content": case}], "stream": stream, **asked}
    response = tally.post(body, path="/off/v1/chat/completions")
    assert response.status_code == 200, response.text
    assert spent(tally, upstream) - before == nano
    with tally.books() as books:
        row = list(draws(books))[-1]
    assert (row["cost_nano"], row["prompt_tokens"], row["completion_tokens"]) == (nano, reply.prompt_tokens, 10)
    assert not row["estimated"]


def test_the_samples_of_a_vote_are_charged_as_one_call(tally: ServedTally, upstream: FakeUpstream) -> None:
    before = spent(tally, upstream)
    body: JSON = {"model": "small", "messages": [{"role": "user", "content": "thought"}], "max_tokens": 20}
    found = tally.post({**body, "tally": {"strategy": "self_consistency", "samples": 4}}).json()["tally"]
    # four choices of ten tokens in one call, seven of all of them reasoning
    nano = 100 * 1000 + 33 * 4000 + 7 * 5000
    assert spent(tally, upstream) - before == nano == round(found["cost_usd"] * 1e9)


def test_a_search_that_no_rate_pays_for_is_refused_before_anything_is_sent(
    tally: ServedTally, upstream: FakeUpstream
) -> None:
    calls = len(upstream.calls)
    with pytest.raises(openai.BadRequestError) as caught:
        tally.client().chat.completions.create(
            model="small", messages=[{"role": "user", "content": "plain"}], web_search_options={}
        )
    assert (caught.value.code, caught.value.param) == ("feature_unpriced", "web_search_options")
    assert len(upstream.calls) == calls
