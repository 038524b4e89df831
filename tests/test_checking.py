"""Models that a configuration names and that cannot be served, or not to everybody."""

from functools import cache
from typing import Any

import pytest

from proxy.config import parse_config
from proxy.errors import ConfigError
from proxy.types import JSON
from proxy.upstream.checking import check_models
from proxy.upstream.prices import PriceMap

PRICES = cache(PriceMap)
URL = "http://127.0.0.1:9/v1"
WHERE = "model_list[0].litellm_params"


def found(params: JSON, tenant: JSON | None = None, environ: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """Key and reason of every note on one model `m` and at most one tenant."""
    data: dict[str, Any] = {"model_list": [{"model_name": "m", "litellm_params": params}]}
    if tenant is not None:
        data["model_list"].append({"model_name": "free", "litellm_params": {"model": "openai/gpt-4o-mini"}})
        data["tenants"] = [{"name": "acme", **tenant}]
    notes = check_models(parse_config(data, "file", {}), "file", environ=environ or {}, prices=PRICES)
    return [(note.key, note.reason) for note in notes]


@pytest.mark.parametrize("model", ["hosted_vllm/m", "custom_openai/m"])
def test_a_server_of_ones_own_needs_an_address(model: str) -> None:
    with pytest.raises(ConfigError) as caught:
        found({"model": model})
    (problem,) = caught.value.problems
    assert (problem.file, problem.key) == ("file", f"{WHERE}.api_base")
    assert model in problem.reason
    assert found({"model": model, "api_base": URL}) == []


def test_an_address_in_the_environment_will_do() -> None:
    assert found({"model": "hosted_vllm/m"}, environ={"HOSTED_VLLM_API_BASE": URL}) == []
    assert found({"model": "openai/gpt-4o"}) == []


@pytest.mark.parametrize("limit", [{"max_budget": 1}, {"max_cost_usd": 0}])
@pytest.mark.parametrize("models", [{}, {"models": ["m"]}])
def test_a_missing_price_is_noted_where_it_keeps_a_tenant_from_its_model(limit: JSON, models: JSON) -> None:
    ((key, reason),) = found({"model": "openai/unheard-of", "api_base": URL}, limit | models)
    assert key == WHERE
    assert "'acme', limited in money, will be refused it" in reason
    prices = {"input_cost_per_token": 0, "output_cost_per_token": 0}
    assert found({"model": "openai/unheard-of", "api_base": URL, **prices}, limit | models) == []


def test_why_a_price_is_not_known_is_told() -> None:
    ((_, reason),) = found({"model": "openai/gpt-4o-search-preview"}, {"max_budget": 1, "models": ["m"]})
    assert "(its calls cost more than their tokens: search_context_cost_per_query)" in reason
    ((_, reason),) = found({"model": "openai/gpt-4o", "input_cost_per_second": 1}, {"max_budget": 1, "models": ["m"]})
    assert "input_cost_per_second" in reason


def test_what_an_entry_turns_on_and_no_rate_pays_for_is_noted_for_those_limited_in_money() -> None:
    params = {"model": "openai/gpt-4o", "web_search_options": {}}
    ((_, reason),) = found(params, {"max_budget": 1, "models": ["m"]})
    assert "what web_search_options costs is not known, so 'acme'" in reason
    assert found(params, {"token_budget": 1}) == []
    free = {"input_cost_per_token": 0, "output_cost_per_token": 0}
    assert found(params | free, {"max_budget": 1}) == []


@pytest.mark.parametrize(
    ("params", "noted"),
    [
        ({"model": "openai/gpt-5.6", "api_base": "https://eu.api.openai.com/v1"}, True),
        ({"model": "openai/gpt-5.6", "api_base": "https://api.openai.com/v1"}, False),
        ({"model": "openai/gpt-4o", "api_base": "https://eu.api.openai.com/v1"}, False),
        ({"model": "vertex_ai/gemini-3.5-flash"}, True),
        ({"model": "vertex_ai/gemini-3.5-flash", "vertex_location": "global"}, False),
        ({"model": "vertex_ai/gemini-3.5-flash", "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}, False),
    ],
)
def test_a_region_that_is_dearer_than_the_list_price_is_noted(params: JSON, noted: bool) -> None:
    assert [("1.1 times its list price" in reason) for _, reason in found(params)] == [True] * noted


def test_a_missing_price_is_nothing_to_tenants_that_it_does_not_keep_from_a_model() -> None:
    params = {"model": "openai/unheard-of", "api_base": URL}
    assert found(params, {"max_budget": 1, "models": ["free"]}) == []
    assert found(params, {"token_budget": 1}) == []
    assert found(params) == []


@pytest.mark.parametrize(("kind", "good"), [("reward", False), ("judge", True)])
def test_a_reward_model_needs_a_server_that_speaks_vllms_interfaces(kind: str, good: bool) -> None:
    scorer = {"kind": kind, "model": "verifier"}

    def check(model: str) -> None:
        entry = {"model_name": "verifier", "litellm_params": {"model": model, "api_base": URL}}
        config = parse_config({"model_list": [entry], "scaling": {"scorer": scorer}}, "file", {})
        assert check_models(config, "file", environ={}, prices=PRICES) == ()

    check("hosted_vllm/prm")
    if good:
        check("cohere/rerank")
        return
    with pytest.raises(ConfigError) as caught:
        check("cohere/rerank")
    (problem,) = caught.value.problems
    assert problem.key == f"{WHERE}.model"
    assert "cohere/rerank is no reward model's server" in problem.reason


def test_every_mistake_is_named_at_once() -> None:
    homeless = ("custom_openai", "hosted_vllm")
    with pytest.raises(ConfigError) as caught:
        check_models(
            parse_config(
                {"model_list": [{"model_name": name, "litellm_params": {"model": f"{name}/m"}} for name in homeless]},
                "file",
                {},
            ),
            "file",
            environ={},
            prices=PRICES,
        )
    assert [problem.key for problem in caught.value.problems] == [
        f"model_list[{index}].litellm_params.api_base" for index in range(2)
    ]


@pytest.mark.parametrize("key", ["num_retries", "max_retries"])
def test_retries_of_one_deployment_are_not_honoured_and_what_is_honoured_is_named(key: str) -> None:
    ((where, reason),) = found({"model": "openai/gpt-4o", key: 1})
    assert (where, "router_settings" in reason) == (f"{WHERE}.{key}", True)


def test_limits_and_weights_are_honoured_without_a_note() -> None:
    assert found({"model": "openai/gpt-4o", "rpm": 5, "tpm": 1000, "weight": 0.5}) == []


@pytest.mark.parametrize(
    ("key", "value"), [("weight", 0), ("weight", -1), ("weight", "nan"), ("rpm", 0), ("rpm", 1.5), ("tpm", 0)]
)
def test_limits_and_weights_without_a_meaning_are_mistakes_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        found({"model": "openai/gpt-4o", key: value})
    (problem,) = caught.value.problems
    assert problem.key == f"{WHERE}.{key}"


@pytest.mark.parametrize("section", ["router_settings", "litellm_settings"])
def test_fallbacks_of_and_to_unknown_models_are_mistakes_by_name(section: str) -> None:
    fallbacks = [{"m": ["n", "m"]}, {"nobody": ["m"]}, {"m": []}]
    listed = [{"model_name": "m", "litellm_params": {"model": "openai/gpt-4o"}}]
    with pytest.raises(ConfigError) as caught:
        parse_config({"model_list": listed, section: {"fallbacks": fallbacks}}, "file", {})
    assert {problem.key: problem.reason for problem in caught.value.problems} == {
        f"{section}.fallbacks[0].m[0]": "'n' is not in model_list",
        f"{section}.fallbacks[1].nobody": "'nobody' is not in model_list",
        f"{section}.fallbacks[2].m": "'m' has fallbacks twice",
    }


def test_a_key_that_the_router_does_not_know_is_a_mistake_by_name() -> None:
    with pytest.raises(ConfigError, match=r"router_settings.alowed_fails: .*did you mean allowed_fails"):
        parse_config({"router_settings": {"alowed_fails": 1}}, "file", {})


def notes(entries: list[JSON], **config: Any) -> list[tuple[str, str]]:
    data = {"model_list": entries, "tenants": [{"name": "acme", "max_budget": 1, "models": ["m"]}], **config}
    return [
        (note.key, note.reason)
        for note in check_models(parse_config(data, "file", {}), "file", environ={}, prices=PRICES)
    ]


def test_a_missing_price_is_noted_for_what_it_does_where_others_of_the_name_have_one_or_it_is_a_fallback() -> None:
    unpriced = {"model": "openai/unheard-of", "api_base": URL}
    priced = {"model": "openai/gpt-4o", "api_base": URL}
    ((key, reason),) = notes([{"model_name": "m", "litellm_params": each} for each in (priced, unpriced)])
    assert key == "model_list[1].litellm_params"
    assert "'acme', limited in money, go to its other deployments" in reason
    listed = [{"model_name": name, "litellm_params": each} for name, each in (("m", priced), ("n", unpriced))]
    assert notes(listed) == []
    ((key, reason),) = notes(listed, router_settings={"fallbacks": [{"m": ["n"]}]})
    assert key == "model_list[1].litellm_params"
    assert "it is no fallback for 'acme', limited in money" in reason


def test_fallbacks_of_a_reward_model_must_be_such_servers_as_well() -> None:
    entries = [
        {"model_name": "prm", "litellm_params": {"model": "hosted_vllm/prm", "api_base": URL}},
        {"model_name": "other", "litellm_params": {"model": "cohere/rerank"}},
        {"model_name": "m", "litellm_params": {"model": "openai/gpt-4o"}},
    ]
    scaling = {"scorer": {"kind": "reward", "model": "prm"}}
    notes(entries, scaling=scaling, tenants=[])
    with pytest.raises(ConfigError, match=r"model_list\[1\].litellm_params.model: .*no reward model's server"):
        notes(entries, scaling=scaling, tenants=[], litellm_settings={"fallbacks": [{"prm": ["other"]}]})


@pytest.mark.parametrize("section", ["router_settings", "litellm_settings"])
def test_litellms_other_settings_are_noted_and_what_stands_beside_them_counts(section: str) -> None:
    said: Any = {"routing_strategy": "simple-shuffle", "drop_params": True, "timeout": 30, "num_retries": 1}
    config = parse_config({section: said}, "file", {})
    assert config.router().num_retries == 1
    found = check_models(config, "file", environ={}, prices=PRICES)
    assert [(note.key, note.reason) for note in found] == [
        (f"{section}.{key}", "has no effect here") for key in ("drop_params", "routing_strategy", "timeout")
    ]


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("input_cost_per_tokens", "input_cost_per_token"),
        ("output_cost_per_tokens_flex", "output_cost_per_token_flex"),
        ("cache_read_input_tokens_cost", "cache_read_input_token_cost"),
        ("cost_per_token", "input_cost_per_token"),
        # neither is spelt like a price, and each would go to the provider
        ("input_costs_per_token", "input_cost_per_token"),
        ("output_cost_pertoken", "output_cost_per_token"),
    ],
)
def test_a_price_by_a_mistyped_name_is_a_mistake_that_says_what_was_meant(key: str, instead: str) -> None:
    prices = {"input_cost_per_token": 0, "output_cost_per_token": 0, key: 1e-6}
    with pytest.raises(ConfigError) as caught:
        found({"model": "openai/m", "api_base": URL, **prices})
    (problem,) = caught.value.problems
    assert (problem.key, problem.reason) == (f"{WHERE}.{key}", f"is no price that is known; did you mean {instead}?")


def test_a_price_that_nobody_has_heard_of_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"zzz_cost_qqq: is no price that is known$"):
        found({"model": "openai/m", "api_base": URL, "zzz_cost_qqq": 1})


@pytest.mark.parametrize(
    ("key", "instead"), [("api_bse", "api_base"), ("wieght", "weight"), ("temperatur", "temperature")]
)
def test_a_mistyped_name_is_a_mistake_that_says_what_was_meant(key: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: is not a known name; did you mean {instead}\?$"):
        found({"model": "openai/m", "api_base": URL, key: 1})


def test_a_name_that_nobody_knows_is_noted() -> None:
    free = {"input_cost_per_token": 0, "output_cost_per_token": 0}
    assert found({"model": "openai/m", "api_base": URL, **free, "zzz_qqq": 1}) == [
        (f"{WHERE}.zzz_qqq", "is sent to the provider as it is")
    ]


def test_what_is_said_of_tenants_and_does_nothing_is_noted() -> None:
    key = {"key": "sk-abcdef", "expires": "2020-01-01"}
    tenants = [{"name": "a", "store_samples_days": 3, "keys": [key]}, {"name": "b", "store_samples": True}]
    config = parse_config({"tenants": tenants}, "file", {})
    found = check_models(config, "file", environ={}, prices=PRICES, now=1.6e9)
    assert [note.key for note in found] == ["tenants[0].keys[0].expires", "tenants[0].store_samples_days"]
    assert len(check_models(config, "file", environ={}, prices=PRICES, now=1.5e9)) == 1


@pytest.mark.parametrize(
    "key",
    [
        "input_cost_per_token_above_333k_tokens",
        "output_cost_per_token_above_200k_tokens_priority",
        "input_cost_per_token_batches",
        "input_cost_per_query",
        "output_cost_per_audio_per_second",
        "google_maps_grounding_cost_per_query",
        "top_k",
        "max_input_tokens",
    ],
)
def test_names_that_litellm_has_and_what_goes_to_the_provider_are_no_mistakes(key: str) -> None:
    prices = {"input_cost_per_token": 0, "output_cost_per_token": 0}
    assert found({"model": "openai/m", "api_base": URL, **prices, key: 0}) == []
