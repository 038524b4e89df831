"""The price table: names, providers, limits and exact rates, without importing LiteLLM."""

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import orjson
import pytest

from proxy.money import Rates
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
    assert prices.rates("gpt-4o-mini") == Rates(150_000, 600_000, 75_000)


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


def test_every_rate_in_use_is_the_published_price_in_whole_pico_dollars(prices: PriceMap) -> None:
    fields = {
        "input_cost_per_token": "input",
        "output_cost_per_token": "output",
        "cache_read_input_token_cost": "cached_input",
    }
    seen = 0
    for name, entry in orjson.loads(default_path().read_bytes()).items():
        rates = prices.rates(name)
        for key, attribute in fields.items():
            if rates is not None and entry.get(key):
                pico = Decimal(repr(float(entry[key]))) * 10**12
                # what separates the two is floating-point noise of the table, far below one pico-dollar
                assert abs(pico - getattr(rates, attribute)) < Decimal("1e-6"), (name, key)
                seen += 1
    assert seen > 5_000


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
