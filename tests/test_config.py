"""The operator's file: what it says when it is good, and every mistake by file, key and reason."""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config import Config, load_config, parse_config
from proxy.config.limits import FIELDS, LimitsConfig, shown
from proxy.errors import ConfigError
from proxy.types import Budget, Limits, Strategy, Tenant

EXAMPLE = """
model_list:
  - model_name: small
    litellm_params: {model: openai/small, api_base: http://127.0.0.1:9000/v1/, api_key: os.environ/UPSTREAM_KEY,
      input_cost_per_token: 1e-7, output_cost_per_token: 4.0e-7, extra_headers: {x-team: os.environ/TEAM}, top_k: 5}
    answer: {kind: math}
    strategy: dynscaling
scaling: {strategy: adaptive, samples: 4, mean_samples: 16, max_samples: 32, max_rounds: 6, deadline_s: 120,
  batch_window_ms: 50, batch_max_queries: 32}
tenants:
  - {name: acme, keys: [os.environ/ACME_KEY], max_budget: 10.0, budget_duration: 1d, rpm_limit: 600}
general_settings: {master_key: os.environ/TALLY_MASTER_KEY, database_url: "sqlite:///tally.db"}
"""
ENVIRON = {
    "UPSTREAM_KEY": "sk-upstream",
    "TEAM": "blue",
    "ACME_KEY": "sk-acme-1",
    "TALLY_MASTER_KEY": "sk-0123456789abcdef",
}


def load(text: str, folder: Path, name: str = "tally.yaml", **environ: str) -> Config:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_config(path, environ)


def mistakes(text: str, folder: Path, name: str = "tally.yaml") -> list[tuple[str, str]]:
    """Key and reason of every mistake; each one names the file."""
    with pytest.raises(ConfigError) as caught:
        load(text, folder, name)
    for problem in caught.value.problems:
        assert problem.file == str(folder / name)
        assert str(problem) in str(caught.value)
    return [(problem.key, problem.reason) for problem in caught.value.problems]


def test_an_example_with_everything_is_good(tmp_path: Path) -> None:
    config = load(EXAMPLE, tmp_path, **ENVIRON)
    (model,) = config.model_list
    assert model.litellm_params.api_base == "http://127.0.0.1:9000/v1"
    assert model.litellm_params.api_key == "sk-upstream"
    assert model.litellm_params.input_cost_per_token == Decimal("1e-7")
    assert model.litellm_params.extra == {"extra_headers": {"x-team": "blue"}, "top_k": 5}
    assert model.answer is not None
    assert (model.answer.kind, model.strategy) == ("math", "dynscaling")
    tenant = config.tenants[0].tenant()
    assert (tenant.max_nano, tenant.duration, tenant.rpm_limit, tenant.managed) == (10**10, "1d", 600, True)
    assert config.tenants[0].keys == ("sk-acme-1",)
    assert config.scaling.default().samples == 4


def test_json_says_the_same_as_yaml(tmp_path: Path) -> None:
    text = json.dumps(yaml.safe_load(EXAMPLE))
    assert load(text, tmp_path, "tally.json", **ENVIRON) == load(EXAMPLE, tmp_path, **ENVIRON)


@pytest.mark.parametrize(("text", "name"), [("", "a.yaml"), ("# nothing\n", "a.yml"), ("{}", "a.json")])
def test_an_empty_file_is_the_defaults(tmp_path: Path, text: str, name: str) -> None:
    assert load(text, tmp_path, name) == Config()


def test_the_defaults_are_those_of_the_readme() -> None:
    config = load_config(None, {})
    assert config.scaling.default() == Strategy("adaptive")
    assert (config.scaling.batch_window_ms, config.scaling.batch_max_queries) == (50, 32)
    assert config.general_settings.database_url == "sqlite:///tally.db"
    assert config.general_settings.budget_exceeded_status_code == 402


def test_without_a_file_the_environment_is_read() -> None:
    environ = {"TALLY_MASTER_KEY": "sk-0123456789abcdef", "TALLY_DATABASE_URL": "sqlite:///x.db"}
    found = load_config(None, environ).general_settings
    assert (found.master_key, found.database_url) == ("sk-0123456789abcdef", "sqlite:///x.db")
    with pytest.raises(ConfigError, match=r"environment: general_settings\.master_key: is too weak"):
        load_config(None, {"TALLY_MASTER_KEY": "sk-1234"})


MODEL = "model_list: [{model_name: a, litellm_params: {model: openai/x%s}}]"


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("[]", "", "must be a mapping"),
        ("5", "", "must be a mapping"),
        ("general_setings: {}", "general_setings", "is not a known key; did you mean general_settings?"),
        ("wholly_other: {}", "wholly_other", "is not a known key; known are model_list,"),
        ("model_list: 5", "model_list", "must be a list"),
        ("model_list: [5]", "model_list[0]", "must be an object"),
        ("model_list: [{model_name: a}]", "model_list[0].litellm_params", "is missing"),
        ("model_list: [{model_name: a, litellm_params: {}}]", "model_list[0].litellm_params.model", "is missing"),
        (MODEL % ", api_base: localhost", "model_list[0].litellm_params.api_base", "must begin with http://"),
        (MODEL % ", input_cost_per_token: 1e-7", "model_list[0].litellm_params", "go together"),
        (MODEL % ", timeout: .inf", "model_list[0].litellm_params.timeout", "less than"),
        (MODEL % ", extra_headers: [x]", "model_list[0].litellm_params", "extra_headers must map"),
        ("scaling: {strategy: best}", "scaling.strategy", "'adaptive'"),
        ("scaling: {sample: 3}", "scaling.sample", "did you mean samples?"),
        ("scaling: {samples: many}", "scaling.samples", "valid integer"),
        ("scaling: {samples: 0}", "scaling.samples", "greater than"),
        ("scaling: {samples: 1025}", "scaling.samples", "less than"),
        ("scaling: {samples: 40}", "scaling.max_samples", "32 is below samples (40)"),
        ("scaling: {samples: 4, max_samples: 3}", "scaling.max_samples", "3 is below samples (4)"),
        ("tenants: [{name: a, keys: [5]}]", "tenants[0].keys[0]", "must be an object"),
        ("tenants: [{name: a, max_budget: 1e-12}]", "tenants[0].max_budget", "is smaller than a nano-dollar"),
        (
            "tenants: [{name: a, max_budget: 5, budget_duration: 1d, budgets: [{max_budget: 6, budget_duration: 1d}]}]",
            "tenants[0].budgets",
            "two different amounts for one window: 1d",
        ),
        ("scaling: {mean_samples: 4}", "scaling.mean_samples", "4 is below the unit of DynScaling (8)"),
        ("scaling: {unit: 20}", "scaling.mean_samples", "16 is below the unit of DynScaling (20)"),
        ("general_settings: {shutdown_s: 0}", "general_settings.shutdown_s", "greater than"),
        ("scaling: {target: .nan}", "scaling.target", "less than 1"),
        ("scaling: {answer: {kinds: math}}", "scaling.answer.kinds", "did you mean kind?"),
        ("tenants: [{name: a, rpm_limits: 1}]", "tenants[0].rpm_limits", "did you mean rpm_limit?"),
        ("tenants: [{name: local}]", "tenants[0].name", "'local' is tally's own"),
        ("tenants: [{name: a}, {name: a}]", "tenants[1].name", "'a' stands at tenants[0] too"),
        ("tenants: [{name: a, keys: [x]}]", "tenants[0].keys[0]", "at least 6 characters"),
        ("tenants: [{name: a, keys: ['with space']}]", "tenants[0].keys[0]", "match pattern"),
        ("tenants: [{name: a, keys: [abcdef]}, {name: b, keys: [abcdef]}]", "tenants[1].keys[0]", "a key of 'a' too"),
        ("tenants: [{name: a, keys: [os.environ/NONE]}]", "tenants[0].keys[0]", "variable NONE is not set"),
        ("tenants: [{name: a, max_budget: -1}]", "tenants[0].max_budget", "greater than"),
        ("tenants: [{name: a, max_budget: .inf}]", "tenants[0].max_budget", "finite"),
        ("tenants: [{name: a, max_budget: much}]", "tenants[0].max_budget", "valid decimal"),
        ("tenants: [{name: a, token_budget: 99999999999999999999}]", "tenants[0].token_budget", "less than"),
        ("tenants: [{name: a, rpm_limit: 99999999999999999999}]", "tenants[0].rpm_limit", "less than"),
        ("tenants: [{name: a, budget_duration: 1d}]", "tenants[0].budget_duration", "needs max_budget"),
        (
            "tenants: [{name: a, budgets: [{budget_duration: 1d}]}]",
            "tenants[0].budgets[0].budget_duration",
            "needs max",
        ),
        ("tenants: [{name: a, soft_budget: 2, max_budget: 1}]", "tenants[0].soft_budget", "is above max_budget"),
        ("tenants: [{name: a, scale_until: soft}]", "tenants[0].scale_until", "needs a soft_budget"),
        ("tenants: [{name: a, scale_until: firm}]", "tenants[0].scale_until", "'hard' or 'soft'"),
        ("tenants: [{name: a, on_exhausted: x}]", "tenants[0].on_exhausted", "'single' or 'refuse'"),
        ("tenants: [{name: a, strategy: sp1, strategies: [pets]}]", "tenants[0].strategy", "is not among its"),
        ("tenants: [{name: a, keys: [{alias: x}]}]", "tenants[0].keys[0].key", "is missing"),
        (
            "tenants: [{name: a, keys: [{key: abcdef, rpm_limits: 1}]}]",
            "tenants[0].keys[0].rpm_limits",
            "did you mean rpm_limit?",
        ),
        (
            "tenants: [{name: a, keys: [{key: abcdef, budget_duration: 1d}]}]",
            "tenants[0].keys[0].budget_duration",
            "needs max_budget",
        ),
        ("tenants: [{name: a, keys: [{key: abcdef, expires: soon}]}]", "tenants[0].keys[0].expires", "datetime"),
        ("tenants: [{name: a, keys: [abcdef, {key: abcdef}]}]", "tenants[0].keys[1]", "a key of 'a' too"),
        (
            MODEL % "" + "\ntenants: [{name: a, keys: [{key: abcdef, models: [b]}]}]",
            "tenants[0].keys[0].models[0]",
            "'b' is not in model_list",
        ),
        ("tenants: [{name: a, max_budget: 1, budget_duration: 1y}]", "tenants[0].budget_duration", "not a duration"),
        (MODEL % "" + "\ntenants: [{name: a, models: [b]}]", "tenants[0].models[0]", "'b' is not in model_list"),
        (MODEL % "" + "\nscaling: {judge_model: b}", "scaling.judge_model", "'b' is not in model_list"),
        ("general_settings: {master_key: sk-1234}", "general_settings.master_key", "is too weak"),
        ("general_settings: {master_key: aaaaaaaaaaaaaaaaaaaa}", "general_settings.master_key", "is too weak"),
        ("general_settings: {database_url: tally.db}", "general_settings.database_url", "must be sqlite:///FILE"),
        ("general_settings: {log_level: loud}", "general_settings.log_level", "'debug'"),
        ("general_settings: {budget_exceeded_status_code: 200}", "general_settings.budget_exceeded_status_code", "400"),
        ("a: [", "line 1", "is not YAML"),
        ("scaling:\n\tsamples: 3", "line 2", "is not YAML"),
        ("tenants: []\nscaling: {}\ntenants: []", "line 3", "the key 'tenants' stands twice"),
        ("scaling: {samples: 3, samples: 4}", "line 1", "the key 'samples' stands twice"),
        ("x: !!python/object/apply:os.getcwd []", "line 1", "is not YAML"),
        ("x: &x [*x]", "", "nested too deeply"),
        ("[" * 3000, "", "nested too deeply"),
        ("x: 2026-13-45", "", "month"),
        (f"x: {'9' * 5000}", "", "digits"),
    ],
)
def test_a_mistake_is_named_by_its_key_and_reason(tmp_path: Path, text: str, key: str, reason: str) -> None:
    ((found, why),) = mistakes(text, tmp_path)
    assert found == key
    assert reason in why


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ('{"scaling": {},\n "tenants": [}', "line 2", "is not JSON"),
        ('{"scaling": {"samples": 1, "samples": 2}}', "", "the key 'samples' stands twice"),
        ('{"tenants": [{"name": "a", "max_budget": NaN}]}', "tenants[0].max_budget", "finite"),
        ('{"tenants": [{"name": "\\ud800"}]}', "tenants[0].name", "unicode"),
        ("[" * 100_000, "", "nested too deeply"),
        ('{"x": ' + "9" * 5000 + "}", "", "digits"),
        ("null", "", "must be a mapping"),
    ],
)
def test_a_mistake_in_json_is_named_too(tmp_path: Path, text: str, key: str, reason: str) -> None:
    ((found, why),) = mistakes(text, tmp_path, "tally.json")
    assert found == key
    assert reason in why


TENANT = """
tenants:
  - name: acme
    alias: Acme Inc.
    max_budget: 10
    soft_budget: 8
    budget_duration: 1mo
    token_budget: 1000
    sample_budget: 50
    budgets: [{budget_duration: 1d, max_budget: 1}, {token_budget: 9}]
    rpm_limit: 60
    tpm_limit: 900
    max_parallel_requests: 3
    models: [small]
    strategies: [adaptive, pets]
    strategy: pets
    max_samples: 8
    max_rounds: 2
    max_cost_usd: 0.05
    scale_until: soft
    on_exhausted: refuse
    keys:
      - sk-plain-1
      - {key: os.environ/ACME_KEY, alias: ci, expires: 2999-01-01, max_budget: 0.5, rpm_limit: 6, blocked: true}
"""


def test_a_tenant_of_the_file_takes_every_limit_and_its_keys_take_them_too(tmp_path: Path) -> None:
    (found,) = load(TENANT, tmp_path, **ENVIRON).tenants
    assert found.tenant() == Tenant(
        name="acme",
        alias="Acme Inc.",
        managed=True,
        max_nano=10**10,
        soft_nano=8 * 10**9,
        duration="1mo",
        max_tokens=1000,
        max_drawn=50,
        budgets=(Budget("1d", 10**9), Budget(None, None, 9)),
        rpm_limit=60,
        tpm_limit=900,
        max_parallel=3,
        models=("small",),
        strategies=("adaptive", "pets"),
        strategy="pets",
        max_samples=8,
        max_rounds=2,
        max_request_nano=50_000_000,
        scale_until="soft",
        on_exhausted="refuse",
    )
    plain, other = found.owned()
    assert (plain.key, plain.alias, plain.expires_at, plain.limits()) == ("sk-plain-1", None, None, Limits())
    assert (other.key, other.alias) == ("sk-acme-1", "ci")
    assert other.limits() == Limits(max_nano=500_000_000, rpm_limit=6, blocked=True)
    assert other.expires_at == datetime(2999, 1, 1, tzinfo=UTC).timestamp()


def test_the_tenants_of_the_documentation_have_no_mistake() -> None:
    page = (Path(__file__).parent.parent / "docs" / "tenants.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (found,) = parse_config(yaml.safe_load(text), "tenants.md", ENVIRON).tenants
    assert [key.alias for key in found.owned()] == [None, "ci"]
    assert [name for name in FIELDS if f"`{name}`" not in page] == []


def test_every_limit_has_a_name_and_is_told_in_the_schema() -> None:
    assert set(FIELDS.values()) == set(Limits.__dataclass_fields__)
    told = Config.model_json_schema()["$defs"]
    for section in ("TenantConfig", "KeyConfig"):
        assert {name for name in FIELDS if "description" not in told[section]["properties"][name]} == set()


def test_limits_are_shown_by_the_names_that_they_are_written_in(tmp_path: Path) -> None:
    (found,) = load(TENANT, tmp_path, **ENVIRON).tenants
    assert LimitsConfig.model_validate(shown(found.tenant())).limits() == found.limits()


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    text = "scaling: {sample: 3, samples: 0, mean_samples: 4}\ntenants: [{name: '', keys: [os.environ/NONE]}]"
    assert [key for key, _ in mistakes(text, tmp_path)] == [
        "tenants[0].keys[0]",
        "scaling.samples",
        "scaling.mean_samples",
        "scaling.sample",
        "tenants[0].name",
    ]


def test_variables_that_are_not_set_are_the_only_mistake_of_their_keys(tmp_path: Path) -> None:
    text = "tenants: [{name: a, keys: [os.environ/A]}, {name: b, keys: [os.environ/B], max_budget: os.environ/C}]"
    found = mistakes(text, tmp_path)
    assert [key for key, _ in found] == ["tenants[0].keys[0]", "tenants[1].keys[0]", "tenants[1].max_budget"]
    assert all("is not set" in reason for _, reason in found)


def test_the_master_key_is_nobodys_key(tmp_path: Path) -> None:
    text = "general_settings: {master_key: sk-0123456789abcdef}\ntenants: [{name: a, keys: [sk-0123456789abcdef]}]"
    assert mistakes(text, tmp_path) == [("tenants[0].keys[0]", "is the master key")]


def test_a_merged_mapping_may_say_a_key_anew(tmp_path: Path) -> None:
    text = """
model_list:
  - {model_name: a, litellm_params: &base {model: openai/a, api_base: "http://x"}}
  - {model_name: b, litellm_params: {<<: *base, model: openai/b}}
"""
    first, second = load(text, tmp_path).model_list
    assert (first.litellm_params.model, second.litellm_params.model) == ("openai/a", "openai/b")
    assert first.litellm_params.api_base == second.litellm_params.api_base


def test_no_mistake_repeats_a_secret(tmp_path: Path) -> None:
    text = (
        "general_settings: {master_key: hush-hush}\ntenants: [{name: a, keys: [{x: hush-hush}], max_budget: hush-hush}]"
    )
    assert all("hush" not in reason for _, reason in mistakes(text, tmp_path))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tally.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"tally\.yaml: cannot be read"):
        load_config(path, {})


def test_the_schema_knows_every_section() -> None:
    assert Config.model_json_schema()["properties"].keys() == {
        "model_list",
        "router_settings",
        "litellm_settings",
        "scaling",
        "tenants",
        "general_settings",
    }


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=10,
)
sections: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "model_list": values | st.lists(st.fixed_dictionaries({"model_name": values, "litellm_params": values})),
        "scaling": values | st.dictionaries(st.sampled_from(["strategy", "samples", "answer", "unit"]), values),
        "tenants": values | st.lists(st.dictionaries(st.sampled_from(["name", "keys", "models"]), values)),
        "general_settings": values,
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(sections | values)
def test_anything_is_a_configuration_or_a_named_mistake(data: object) -> None:
    try:
        assert isinstance(parse_config(data, "file", {}), Config)
    except ConfigError as error:
        assert error.problems


def test_a_strategy_and_a_boolean_may_be_written_as_in_any_yaml(tmp_path: Path) -> None:
    text = "{scaling: {strategy: off}, tenants: [{name: a, strategy: off, shadow: yes, blocked: false}]}"
    config = load(text, tmp_path)
    assert (config.scaling.strategy, config.tenants[0].strategy) == ("off", "off")
    assert (config.tenants[0].shadow, config.tenants[0].blocked) == (True, False)
