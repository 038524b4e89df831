"""The price table: names, providers, limits and exact rates, without importing LiteLLM."""

import subprocess
import sys
from collections import Counter
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.money import Kinds, Rates
from proxy.types import Usage
from proxy.upstream.billing import bill
from proxy.upstream.entry import billable, read_rates
from proxy.upstream.prices import PriceMap, default_path


@pytest.fixture(scope="module")
def prices() -> PriceMap:
    return PriceMap()


@pytest.fixture
def own(tmp_path: Path) -> PriceMap:
    path = tmp_path / "prices.json"
    path.write_bytes(
        orjson.dumps(
            {
                "sample_spec": {"mode": "chat", "input_cost_per_token": 0, "output_cost_per_token": 0},
                "free": {"mode": "chat", "input_cost_per_token": 0.0, "output_cost_per_token": 0, "max_tokens": 512},
                "half": {"mode": "chat", "input_cost_per_token": 1e-6},
                "tiered": {"mode": "chat", "litellm_provider": "acme", "tiered_pricing": [{}]},
                "noisy": {
                    "mode": "chat",
                    "input_cost_per_token": 4.0000000000000003e-07,
                    "output_cost_per_token": 1e-12,
                },
                "acme/*": {"mode": "chat", "litellm_provider": "acme"},
                "ft:base": {"mode": "chat", "litellm_provider": "acme"},
                "big": {"mode": "chat", "litellm_provider": "acme-large-models"},
                "acme/small": {"mode": "chat", "litellm_provider": "acme"},
                "pixels": {
                    "mode": "image_generation",
                    "litellm_provider": "acme",
                    "input_cost_per_token": 1e-6,
                    "output_cost_per_token": 0,
                },
            }
        )
    )
    return PriceMap(path)


def test_reading_the_table_does_not_import_litellm() -> None:
    code = (
        "import sys\n"
        "from proxy.upstream.prices import PriceMap\n"
        "assert PriceMap().rates('gpt-4o-mini')\n"
        "sys.exit('litellm' in sys.modules or 'openai' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_known_model_has_its_published_rates(prices: PriceMap) -> None:
    dear = Rates(250_000, 1_000_000, 125_000)
    assert prices.rates("gpt-4o-mini") == Rates(150_000, 600_000, 75_000, services=(("priority", dear),))


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o-mini", "openai"),
        ("openai/gpt-4o-mini", "openai"),
        ("anthropic/claude-opus-4-5", "anthropic"),
        ("claude-opus-4-5", "anthropic"),
        ("azure/gpt-4o-mini", "azure"),
        ("mistral/mistral-medium-latest", "mistral"),
        ("vertex_ai/claude-opus-4-7@default", "vertex_ai"),
    ],
)
def test_names_are_found_with_and_without_their_provider(prices: PriceMap, model: str, provider: str) -> None:
    assert prices.provider(model) == provider
    assert prices.rates(model) is not None
    assert (prices.max_output_tokens(model) or 0) >= 1024


@pytest.mark.parametrize("model", ["openai/claude-opus-4-5", "openai/small", "nobody", "sample_spec", "openai/", ""])
def test_an_unknown_model_or_another_providers_has_no_price(prices: PriceMap, model: str) -> None:
    assert prices.rates(model) is None
    assert prices.provider(model) is None
    assert prices.max_output_tokens(model) is None


def test_every_rate_of_the_table_is_a_whole_number_of_pico_dollars() -> None:
    seen = 0
    for name, entry in orjson.loads(default_path().read_bytes()).items():
        for key, price in entry.items():
            if billable(key) and isinstance(price, float) and price:
                pico = Decimal(f"{price:.15g}") * 10**12
                assert pico == pico.to_integral_value(), (name, key)
                seen += 1
    assert seen > 8_000


KINDS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "output_cost_per_reasoning_token": "reasoning",
}
FORMS = [("", 0, ""), ("_priority", 0, "priority"), ("_flex", 0, "flex")] + [
    (f"_above_{kilo}k_tokens", kilo * 1000, "") for kilo in (100, 128, 200, 272, 512)
]


def rate_of(rates: Rates, kind: str) -> int:
    plain = rates.output if kind in ("output", "reasoning", "audio_output") else rates.input
    own = None if kind in ("input", "output") else rates.rate(kind)
    return plain if own is None else own


def test_every_rate_in_use_is_the_published_price(prices: PriceMap) -> None:
    seen = Counter[str]()
    for name, entry in orjson.loads(default_path().read_bytes()).items():
        rates = prices.rates(name)
        for (key, kind), (ending, above, service) in product(KINDS.items(), FORMS):
            if rates is not None and entry.get(key + ending):
                pico = Decimal(repr(float(entry[key + ending]))) * 10**12
                # what separates the two is floating-point noise of the table, far below one pico-dollar
                found = rate_of(rates.at(above + 1 if above else 0, service), kind)
                assert abs(pico - found) < Decimal("1e-6"), (name, key + ending)
                seen[ending or key] += 1
    assert seen["input_cost_per_token"] > 2_500
    assert min(seen[ending] for ending in ("_priority", "_flex", "_above_200k_tokens", "_above_272k_tokens")) > 200
    assert min(seen[key] for key in KINDS) > 10


def test_a_price_of_zero_is_free_and_no_price_is_none(own: PriceMap) -> None:
    assert own.rates("free") == Rates(0, 0)
    assert own.rates("half") is None
    assert own.rates("tiered") is None


def test_floating_point_noise_in_the_table_costs_nothing(own: PriceMap) -> None:
    assert own.rates("noisy") == Rates(400_000, 1)


def test_embedding_models_are_priced_by_the_token_in_or_not_at_all(prices: PriceMap, tmp_path: Path) -> None:
    assert prices.rates("text-embedding-3-small") == Rates(20_000, 0)
    path = tmp_path / "embeddings.json"
    plain = {"mode": "embedding", "input_cost_per_token": 1e-7, "input_cost_per_token_batches": 5e-8}
    table = {
        "texts": plain,
        "images": {**plain, "input_cost_per_image": 0.0001},
        "queries": {**plain, "input_cost_per_query": 0.002},
        "none": {"mode": "embedding"},
        "ranks": {**plain, "mode": "rerank"},
    }
    path.write_bytes(orjson.dumps(table))
    own = PriceMap(path)
    assert {name: own.rates(name) for name in table} == dict.fromkeys(table) | {"texts": Rates(100_000, 0)}


def test_models_that_write_no_text_have_no_token_price(own: PriceMap) -> None:
    assert own.rates("pixels") is None


def test_chat_models_are_named_with_their_provider_and_leave_out_patterns(own: PriceMap) -> None:
    assert own.chat_models("acme") == ["acme/big", "acme/small", "acme/tiered"]
    assert own.chat_models("nobody") == []


def test_every_listed_chat_model_can_be_looked_up(prices: PriceMap) -> None:
    listed = prices.chat_models("openai")
    assert "openai/gpt-4o-mini" in listed
    assert {prices.provider(name) for name in listed} == {"openai"}


@pytest.mark.parametrize(
    ("model", "usage", "pico"),
    [
        # plain: 1,000 tokens in at 0.50 dollars a million, 200 out at 1.50
        ("gpt-3.5-turbo", Usage(1_000, 200), 1_000 * 500_000 + 200 * 1_500_000),
        # tiers: above 272,000 tokens of prompt all of the call costs more; 1,000 of them were cached
        ("gpt-5.4", Usage(272_000, 10, cached=1_000), 271_000 * 2_500_000 + 1_000 * 250_000 + 10 * 15_000_000),
        ("gpt-5.4", Usage(272_001, 10, cached=1_000), 271_001 * 5_000_000 + 1_000 * 500_000 + 10 * 22_500_000),
        # priority and flex: cached tokens too
        ("gpt-5", Usage(100, 10, cached=40, service="priority"), 60 * 2_500_000 + 40 * 250_000 + 10 * 20_000_000),
        ("gpt-5", Usage(100, 10, cached=40, service="flex"), 60 * 625_000 + 40 * 62_500 + 10 * 5_000_000),
        # writes to a cache: 30 for five minutes, 20 for an hour, beside 40 that were read
        (
            "claude-sonnet-4-5",
            Usage(100, 10, cached=40, cache_write=50, cache_write_1h=20),
            10 * 3_000_000 + 40 * 300_000 + 30 * 3_750_000 + 20 * 6_000_000 + 10 * 15_000_000,
        ),
        # reasoning
        (
            "dashscope/qwen-plus-2025-04-28",
            Usage(100, 50, reasoning=30),
            100 * 400_000 + 20 * 1_200_000 + 30 * 4_000_000,
        ),
        # sound in and out
        (
            "gpt-audio",
            Usage(100, 50, audio_input=60, audio_output=45),
            40 * 2_500_000 + 60 * 32_000_000 + 5 * 10_000_000 + 45 * 64_000_000,
        ),
    ],
)
def test_calls_cost_what_their_kinds_of_token_cost(prices: PriceMap, model: str, usage: Usage, pico: int) -> None:
    rates = prices.rates(model)
    assert rates is not None
    assert bill(rates, usage) == -(-pico // 1000)


BASE: dict[str, Any] = {"input_cost_per_token": "1e-6", "output_cost_per_token": "4e-6"}


def test_what_has_no_price_of_its_own_in_a_tier_or_a_service_costs_what_it_usually_does() -> None:
    more = {
        "cache_read_input_token_cost": "1e-7",
        "output_cost_per_reasoning_token": "9e-6",
        "input_cost_per_token_above_200k_tokens": "2e-6",
        "output_cost_per_token_priority": "8e-6",
        "input_cost_per_token_priority_above_128k_tokens": "3e-6",
    }
    rates = read_rates(BASE | more)
    assert rates is not None
    kinds = Kinds(reasoning=9_000_000)
    assert rates.at(1) == rates
    assert rates.at(200_001) == Rates(2_000_000, 4_000_000, 100_000, kinds)
    # reasoning is a part of the output whose price the service sets
    assert rates.at(128_001, "priority") == Rates(3_000_000, 8_000_000, 100_000)
    assert rates.at(200_001, "priority") == Rates(3_000_000, 8_000_000, 100_000)


def test_a_service_without_a_price_above_a_threshold_is_not_cheaper_there(prices: PriceMap) -> None:
    rates = prices.rates("gpt-5.5")
    assert rates is not None
    below, above, usual = rates.at(272_000, "priority"), rates.at(272_001, "priority"), rates.at(272_001)
    assert (below.input, above.input, usual.input) == (12_500_000, 12_500_000, 10_000_000)
    assert above.output >= max(below.output, usual.output)


def test_where_a_provider_says_so_a_tier_begins_at_its_threshold() -> None:
    tier = BASE | {"input_cost_per_token_above_200k_tokens": "2e-6"}
    usual, inclusive = read_rates(tier), read_rates(tier | {"litellm_provider": "xai"})
    assert usual is not None
    assert inclusive is not None
    assert [each.at(200_000).input for each in (usual, inclusive)] == [1_000_000, 2_000_000]


def test_a_list_of_tiers_is_read_as_thresholds(prices: PriceMap) -> None:
    rates = prices.rates("dashscope/qwen-flash")
    assert rates is not None
    assert [rates.at(prompt).input for prompt in (1, 256_000, 256_001)] == [50_000, 50_000, 250_000]


def test_tokens_that_a_cache_takes_for_nothing_are_prompt_tokens_all_the_same(prices: PriceMap) -> None:
    rates = prices.rates("deepseek/deepseek-chat")
    assert rates is not None
    assert bill(rates, Usage(100, 0, cache_write=100)) == bill(rates, Usage(100, 0)) == 28_000


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("gpt-4o-search-preview", "search_context_cost_per_query"),
        ("perplexity/sonar", "search_context_cost_per_query"),
        ("perplexity/sonar-deep-research", "citation_cost_per_token"),
        ("perplexity/pplx-7b-online", "input_cost_per_request"),
        ("gemini/lyria-3-pro-preview", "output_cost_per_image"),
    ],
)
def test_a_model_whose_every_call_costs_more_than_its_tokens_has_no_known_price(
    prices: PriceMap, model: str, why: str
) -> None:
    assert why in prices.obstacles(model)
    assert prices.rates(model) is None


def test_what_a_request_must_turn_on_leaves_the_price_known(prices: PriceMap) -> None:
    for model in ("gpt-4o", "gemini-2.5-pro", "claude-sonnet-4-5", "gemini-3.1-pro-preview"):
        assert prices.obstacles(model) == []
        assert prices.rates(model) is not None
