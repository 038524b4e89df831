"""Which deployment serves a model name, and what is known of it."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from proxy.config import parse_config
from proxy.errors import ConfigError, NotFound
from proxy.money import Kinds, Rates
from proxy.types import JSON, AnswerSpec
from proxy.upstream.catalogue import Catalogue
from proxy.upstream.direct import DirectLane
from proxy.upstream.litellm import LiteLLMLane
from proxy.upstream.prices import PriceMap

DIRECT = DirectLane()
PRICES = cache(PriceMap)
URL = "http://127.0.0.1:9/v1"


def entry(model: str = "openai/small", *, info: JSON | None = None, name: str = "m", **params: Any) -> JSON:
    made: JSON = {"model_name": name, "litellm_params": {"model": model, **params}}
    return made | ({"model_info": info} if info else {})


def catalogue(*entries: JSON, environ: dict[str, str] | None = None, **more: JSON) -> Catalogue:
    config = parse_config({"model_list": list(entries), **more} if entries else {**more}, "test", environ or {})
    return Catalogue(config, direct=DIRECT, litellm=cache(LiteLLMLane), prices=PRICES, environ=environ or {})


def test_an_entry_tells_where_a_model_is_and_what_it_costs() -> None:
    priced = entry(api_base=URL + "/", api_key="sk-1", input_cost_per_token="1e-7", output_cost_per_token=4e-7)
    found = catalogue(priced).find("m").first
    assert (found.endpoint.provider, found.endpoint.model) == ("openai", "small")
    assert (found.endpoint.api_base, found.endpoint.api_key) == (URL, "sk-1")
    assert found.rates == Rates(100_000, 400_000)
    assert found.lane is DIRECT


def test_prices_in_an_entry_stand_for_the_tables_and_do_not_go_to_the_provider() -> None:
    both: JSON = {"input_cost_per_token": "1e-7", "output_cost_per_token": 4e-7}
    more: JSON = {"cache_creation_input_token_cost": "2e-7", "input_cost_per_token_above_200k_tokens": 3e-7}
    more |= {"output_cost_per_token_priority": "8e-7", "output_cost_per_image_token": "1e-6"}
    whole = catalogue(entry("openai/gpt-4o-mini", **both, **more)).find("m").first
    kinds = Kinds(cache_write=200_000, image_output=1_000_000)
    usual, above = Rates(100_000, 400_000, kinds=kinds), Rates(300_000, 400_000, kinds=kinds)
    dear = (replace(usual, output=800_000), replace(above, output=800_000))
    priority = replace(dear[0], tiers=((200_000, dear[1]),))
    assert whole.rates == replace(usual, tiers=((200_000, above),), services=(("priority", priority),))
    assert (whole.defaults, whole.endpoint.params) == ({}, {})
    part = catalogue(entry("openai/gpt-4o-mini", cache_read_input_token_cost=0)).find("m").first
    assert part.rates is not None
    assert (part.rates.input, part.rates.cached_input) == (150_000, 0)


def test_a_price_by_the_second_makes_the_price_unknown() -> None:
    priced: JSON = {"input_cost_per_token": 0, "output_cost_per_token": 0}
    assert catalogue(entry(api_base=URL, input_cost_per_second=0.1, **priced)).find("m").first.rates is None
    assert catalogue(entry("openai/gpt-4o-mini", input_cost_per_second=0.1)).find("m").first.rates is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_cost_per_token_flex", -1),
        ("output_cost_per_token_above_200k_tokens", "much"),
        ("cache_creation_input_token_cost_priority", float("nan")),
        ("output_cost_per_audio_token", 2),
        ("tiered_pricing", []),
    ],
)
def test_what_is_no_price_is_a_mistake_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        catalogue(entry(**dict[str, Any]({key: value})))


def test_what_is_known_of_a_deployment_is_told_by_the_configuration() -> None:
    info = {"max_output_tokens": 99, "max_n": 4, "usage": "per_choice", "stream": False, "hidden_reasoning": True}
    found = catalogue(entry(api_base=URL, info=info, timeout=7, max_parallel_requests=3)).find("m").first
    assert (found.max_output, found.max_n, found.usage_per_choice) == (99, 4, True)
    assert (found.streams, found.hidden_reasoning, found.timeout, found.limit) == (False, True, 7, 3)


def test_parameters_that_tally_does_not_read_go_to_the_provider_and_the_requests_own_come_first() -> None:
    found = catalogue(entry(api_base=URL, temperature=0.5, top_k=40, extra_headers={"x-a": "b"})).find("m").first
    sent = found.body({"model": "m", "temperature": 0.9, "tally": {}})
    assert sent == {"model": "small", "temperature": 0.9, "top_k": 40}
    assert found.endpoint.params == {"extra_headers": {"x-a": "b"}}


def test_entries_of_one_name_are_deployments_of_one_model_with_limits_and_weights_of_their_own() -> None:
    offered = catalogue(
        entry(api_base=URL, weight=3),
        entry("openai/other", api_base=URL, rpm=5, tpm=100),
        entry(name="b", api_base=URL),
    )
    first, second = offered.find("m").own
    assert [each.endpoint.model for each in (first, second)] == ["small", "other"]
    assert (first.weight, first.limits, second.weight) == (3.0, None, 1.0)
    assert second.limits is not None
    assert second.limits.fit(40, 20, 8) == 3
    assert second.defaults == {}
    assert len(offered.find("m").groups) == 1


def test_the_ledger_calls_an_entry_by_its_models_name_unless_another_has_name_and_model() -> None:
    named = entry("openai/a", api_base=URL) | {"model_info": {"id": "berlin"}}
    entries = [entry("openai/a", api_base=URL), entry("openai/b", api_base=URL), named, entry("openai/a", name="n")]
    offered = catalogue(*entries)
    assert [each.name for each in offered.find("m").own] == ["m#1", "m", "berlin"]
    assert offered.find("n").first.name == "n"


@pytest.mark.parametrize("section", ["router_settings", "litellm_settings"])
def test_fallbacks_come_in_order_each_followed_by_its_own_and_every_model_once(section: str) -> None:
    said: Any = {section: {"fallbacks": [{"a": ["b", "d"]}, {"b": ["c", "a"], "d": ["b"]}], "num_retries": 4}}
    offered = catalogue(*(entry(name=name, api_base=URL) for name in "abcd"), **said)

    def ways(model: str) -> str:
        return "".join(group.deployments[0].model_name for group in offered.find(model).groups)

    assert [ways(model) for model in "abcd"] == ["abcd", "bcad", "c", "dbca"]
    assert offered.find("a").groups[1] is offered.find("b").groups[0]
    assert offered.find("a").retries == 4


def test_what_the_router_settings_say_comes_before_what_the_litellm_settings_say() -> None:
    said = {"router_settings": {"num_retries": 0}, "litellm_settings": {"num_retries": 5, "allowed_fails": 1}}
    router = parse_config(said, "test", {}).router()
    assert (router.num_retries, router.allowed_fails, router.cooldown_time) == (0, 1, 5.0)


def test_other_providers_go_through_litellm() -> None:
    found = catalogue(entry("mistral/mistral-small-latest", api_key="k", top_k=3)).find("m").first
    assert isinstance(found.lane, LiteLLMLane)
    assert found.endpoint.params == {"top_k": 3}
    assert found.defaults == {}


def test_a_bare_model_with_a_base_url_is_openais_kind() -> None:
    found = catalogue(entry("small", api_base=URL)).find("m").first
    assert (found.endpoint.provider, found.endpoint.model, found.lane) == ("openai", "small", DIRECT)


@pytest.mark.parametrize("name", ["other", "openai/small", ""])
def test_a_name_off_the_list_does_not_exist(name: str) -> None:
    with pytest.raises(NotFound) as caught:
        catalogue(entry(api_base=URL)).find(name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_without_a_list_any_providers_model_is_found_with_the_key_of_the_environment() -> None:
    offered = catalogue(environ={"OPENAI_API_KEY": "sk-2", "OPENAI_BASE_URL": URL + "/"})
    found = offered.find("openai/gpt-4o-mini").first
    assert (found.endpoint.model, found.endpoint.api_key, found.endpoint.api_base) == ("gpt-4o-mini", "sk-2", URL)
    assert found.rates is not None
    assert (found.rates.input, found.rates.output, found.rates.cached_input) == (150_000, 600_000, 75_000)
    assert found.max_output == 16_384
    assert offered.find("openai/gpt-4o-mini").first is found
    assert offered.find("gpt-4o-mini").first.endpoint == found.endpoint


def test_without_a_list_a_name_of_nobodys_does_not_exist() -> None:
    with pytest.raises(NotFound, match="PROVIDER/MODEL"):
        catalogue().find("no-such-model-anywhere")


def test_the_names_on_offer_are_the_list_or_what_the_keys_open() -> None:
    assert catalogue(entry(api_base=URL), entry(name="b", api_base=URL)).names() == ["m", "b"]
    opened = catalogue(environ={"OPENAI_API_KEY": "sk-2", "MISTRAL_API_KEY": ""}).names()
    assert "openai/gpt-4o-mini" in opened
    assert all(name.startswith("openai/") for name in opened)


def test_a_models_own_strategy_and_answer_are_told() -> None:
    made = entry(api_base=URL) | {"strategy": "optscale", "answer": {"kind": "number"}}
    offered = catalogue(made, entry(name="b", api_base=URL))
    assert (offered.strategy("m"), offered.strategy("b"), offered.strategy("x")) == ("optscale", None, None)
    assert (offered.answer("m"), offered.answer("b")) == (AnswerSpec("number"), None)


def test_a_thousand_odd_names_keep_nobody_from_a_model() -> None:
    open_to_all = catalogue()
    for number in range(1200):
        open_to_all.find(f"openai/odd-{number}")
    assert open_to_all.find("openai/gpt-4o-mini").first.rates is not None
