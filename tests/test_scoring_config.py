"""The `scaling.scorer` section: what it may say, and every mistake by its reason."""

import pytest

from proxy.api.wire import check_chat, wish
from proxy.config import ScorerConfig, parse_config
from proxy.errors import ConfigError, RequestInvalid
from proxy.types import JSON

MODELS = [{"model_name": "a", "litellm_params": {"model": "openai/x"}}]


@pytest.mark.parametrize(
    "scorer",
    [
        {},
        {"kind": "logprobs", "confidence": "lowest_group", "window": 512},
        {"kind": "judge", "model": "a"},
        {"kind": "reward", "model": "a"},
        {"kind": "reward", "model": "a", "api": "classify", "activation": "sigmoid"},
        {"kind": "reward", "model": "a", "api": "pooling", "reduce": "min", "separator": "<extra_0>"},
        {"kind": "agreement"},
    ],
)
def test_a_scorer_may_say_what_its_kind_knows(scorer: JSON) -> None:
    config = parse_config({"model_list": MODELS, "scaling": {"scorer": scorer}}, "test", {})
    assert config.scaling.scorer == ScorerConfig(**scorer)


@pytest.mark.parametrize(
    ("scaling", "key", "reason"),
    [
        ({"scorer": {"kind": "best"}}, "scaling.scorer.kind", "'logprobs'"),
        ({"scorer": {"kinds": "judge"}}, "scaling.scorer.kinds", "did you mean kind?"),
        ({"scorer": {"kind": "judge"}}, "scaling.scorer", "kind: judge needs a model"),
        ({"scorer": {"kind": "reward"}}, "scaling.scorer", "kind: reward needs a model"),
        ({"scorer": {"kind": "judge", "model": "b"}}, "scaling.scorer.model", "'b' is not in model_list"),
        ({"scorer": {"model": "a"}}, "scaling.scorer", "model has no effect with kind: logprobs"),
        ({"scorer": {"kind": "agreement", "window": 5}}, "scaling.scorer", "window has no effect with kind: agreement"),
        ({"scorer": {"window": 5}}, "scaling.scorer", "window has no effect with confidence: mean"),
        ({"scorer": {"confidence": "lowest_group", "window": 0}}, "scaling.scorer.window", "greater than"),
        (
            {"scorer": {"kind": "judge", "model": "a", "activation": "none"}},
            "scaling.scorer",
            "activation has no effect with kind: judge; it is for reward",
        ),
        (
            {"scorer": {"kind": "reward", "model": "a", "reduce": "min"}},
            "scaling.scorer",
            "reduce has no effect with api: score; it is for pooling",
        ),
        (
            {"scorer": {"kind": "reward", "model": "a", "separator": "x"}},
            "scaling.scorer",
            "separator has no effect with api: score",
        ),
        ({"judge_model": "a", "scorer": {"kind": "agreement"}}, "scaling", "judge_model has no effect"),
        ({"strategy": "optscale", "scorer": {"kind": "agreement"}}, "scaling", "optscale needs scores while it draws"),
    ],
)
def test_every_mistake_of_a_scorer_is_told_by_its_key_and_reason(scaling: JSON, key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_config({"model_list": MODELS, "scaling": scaling}, "test", {})
    (problem,) = wrong.value.problems
    assert problem.key == key
    assert reason in problem.reason


@pytest.mark.parametrize("section", ["model_list", "tenants"])
def test_optscale_has_no_agreement_to_go_by_at_a_model_or_a_tenant_either(section: str) -> None:
    data: JSON = {"model_list": [dict(MODELS[0])], "tenants": [{"name": "acme"}]}
    data[section][0]["strategy"] = "optscale"
    parse_config(data, "test", {})
    with pytest.raises(ConfigError) as wrong:
        parse_config({**data, "scaling": {"scorer": {"kind": "agreement"}}}, "test", {})
    (problem,) = wrong.value.problems
    assert problem.key == f"{section}[0].strategy"
    assert "optscale needs scores while it draws" in problem.reason


def test_a_body_may_ask_for_a_vote() -> None:
    body: JSON = {"model": "a", "messages": [{"role": "user", "content": "x"}]}
    for asked in ("majority", "weighted", "best"):
        assert wish(check_chat({**body, "tally": {"verdict": asked}}, 10), None, None).verdict == asked
    assert wish(check_chat(body, 10), None, None).verdict is None
    with pytest.raises(RequestInvalid, match=r"tally\.verdict"):
        check_chat({**body, "tally": {"verdict": "loudest"}}, 10)
