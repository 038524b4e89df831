"""The plan of a request, from its wish, its tenant and the configuration."""

from decimal import Decimal
from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import parse_config
from proxy.errors import ConfigError, NotAllowed, RequestInvalid
from proxy.plan import Planner, Wish
from proxy.types import STRATEGIES, AnswerKind, AnswerSpec, Key, Limits, Pick, StrategyName, Tenant, Votable
from proxy.upstream.catalogue import Catalogue
from proxy.upstream.direct import DirectLane
from proxy.upstream.prices import PriceMap

ASK: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "What is 6 x 7?"}]}


def planner(model: dict[str, Any] | None = None, **scaling: Any) -> Planner:
    params = {"model": "openai/small", "api_base": "http://127.0.0.1:9"}
    data = {"model_list": [{"model_name": "small", "litellm_params": params, **(model or {})}], "scaling": scaling}
    config = parse_config(data, "test", {})
    lane = DirectLane()
    return Planner(config, Catalogue(config, direct=lane, litellm=lambda: lane, prices=PriceMap, environ={}))


PLANNER = planner(samples=8, max_samples=32)

names = st.sampled_from(STRATEGIES) | st.none()
samples = st.integers(1, 1024) | st.none()
nano = st.integers(0, 10**12)
specs = st.builds(
    AnswerSpec,
    st.sampled_from(get_args(AnswerKind)),
    st.sampled_from(get_args(Votable)),
    pick=st.sampled_from(get_args(Pick)),
)
wishes = st.builds(
    Wish,
    strategy=names,
    samples=samples,
    max_samples=samples,
    max_cost_usd=st.none() | nano.filter(bool).map(lambda amount: Decimal(amount) / 10**9),
    answer=specs | st.none(),
    show=st.booleans(),
)
tenants = st.builds(
    Tenant,
    name=st.just("acme"),
    strategy=names,
    max_samples=samples,
    max_request_nano=nano | st.none(),
)


@given(wish=wishes, tenant=tenants, text=st.text())
def test_no_wish_passes_a_cap_and_no_text_matters(wish: Wish, tenant: Tenant, text: str) -> None:
    plan = PLANNER.plan({**ASK, "messages": [{"role": "user", "content": text}]}, wish, tenant)
    assert plan == PLANNER.plan(ASK, wish, tenant)
    most = min(cap for cap in (32, wish.max_samples, tenant.max_samples) if cap is not None)
    assert plan.strategy.max_samples == most
    assert plan.strategy.samples <= most
    if tenant.max_request_nano is not None:
        assert plan.max_request_nano is not None
        assert plan.max_request_nano <= tenant.max_request_nano
    if wish.max_cost_usd is not None:
        assert plan.max_request_nano is not None
        assert plan.max_request_nano <= wish.max_cost_usd * 10**9
    wanted = wish.strategy or tenant.strategy or "adaptive"
    assert plan.strategy.name in {"off", "self_consistency" if plan.reason == "no votes to adapt to" else wanted}
    assert not (plan.probe and wish.strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_named_strategy_needs_no_probing_draw(strategy: StrategyName) -> None:
    assert not PLANNER.plan(ASK, Wish(strategy=strategy), Tenant("acme")).probe


def test_an_open_question_is_probed_and_a_declared_one_is_not() -> None:
    tenant = Tenant("acme", strategy="dynscaling")
    assert PLANNER.plan(ASK, Wish(), tenant).probe
    for more in (
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function"}], "tool_choice": "required"},
    ):
        assert not PLANNER.plan({**ASK, **more}, Wish(), tenant).probe
    assert not PLANNER.plan(ASK, Wish(answer=AnswerSpec("math")), tenant).probe
    assert PLANNER.plan({**ASK, "tools": [{"type": "function"}]}, Wish(), tenant).probe


def test_the_answers_kind_is_the_requests_then_the_models_then_the_servers() -> None:
    tenant = Tenant("acme")
    general = {"answer": {"kind": "math"}}
    assert planner(**general).plan(ASK, Wish(), tenant).answer == AnswerSpec("math")
    own = planner({"answer": {"kind": "choice"}}, **general)
    assert own.plan(ASK, Wish(), tenant).answer == AnswerSpec("choice")
    assert own.plan(ASK, Wish(answer=AnswerSpec("number")), tenant).answer == AnswerSpec("number")


def test_a_model_off_the_tenants_list_is_not_allowed() -> None:
    assert PLANNER.plan(ASK, Wish(), Tenant("acme", models=("small",))).model == "small"
    for models in ((), ("other",)):
        with pytest.raises(NotAllowed):
            PLANNER.plan(ASK, Wish(), Tenant("acme", models=models))


@pytest.mark.parametrize(
    ("tenant", "key", "whose"),
    [
        (Limits(), Limits(models=("other",), strategies=("off",)), "The key 'key_1'"),
        (Limits(models=("other",), strategies=("off",)), Limits(), "The tenant 'acme'"),
        (
            Limits(models=("other",), strategies=()),
            Limits(models=("small",), strategies=("pets",)),
            "The tenant 'acme'",
        ),
        (Limits(models=("other",), strategies=()), Limits(models=("other",), strategies=()), "The key 'key_1'"),
    ],
)
def test_what_is_not_allowed_names_whose_list_forbids_it(tenant: Limits, key: Limits, whose: str) -> None:
    own = Key("key_1", "acme", models=key.models, strategies=key.strategies)
    for name in ("models", "strategies"):
        caller = Tenant("acme", **{name: getattr(tenant, name)}).narrowed(Limits(**{name: getattr(key, name)}))
        with pytest.raises(NotAllowed) as caught:
            PLANNER.plan(ASK, Wish(strategy="pets"), caller, key=own)
        what = "model 'small'" if name == "models" else "strategy 'pets'"
        assert caught.value.message == f"{whose} may not use the {what}."


def test_the_tally_object_is_shown_unless_the_request_is_plainly_off() -> None:
    tenant = Tenant("acme")
    assert not PLANNER.plan(ASK, Wish(strategy="off"), tenant).show_tally
    assert PLANNER.plan(ASK, Wish(strategy="off", show=True), tenant).show_tally
    assert PLANNER.plan({**ASK, "temperature": 0}, Wish(), tenant).show_tally
    assert PLANNER.plan(ASK, Wish(), tenant).show_tally


def test_one_sample_is_off_whatever_the_strategy() -> None:
    for strategy in ("self_consistency", "dynscaling", "optscale"):
        plan = PLANNER.plan(ASK, Wish(strategy=strategy, max_samples=1), Tenant("acme"))
        assert (plan.strategy.name, plan.reason) == ("off", "one sample")


@pytest.mark.parametrize(
    ("wish", "tenant"), [(Wish(max_samples=2), Tenant("acme")), (Wish(), Tenant("acme", max_samples=2))]
)
def test_a_clients_own_n_is_held_to_the_same_cap(wish: Wish, tenant: Tenant) -> None:
    plan = PLANNER.plan({**ASK, "n": 2}, wish, tenant)
    assert (plan.choices, plan.strategy.samples, plan.strategy.max_samples) == (2, 2, 2)
    with pytest.raises(RequestInvalid, match="at most 2"):
        PLANNER.plan({**ASK, "n": 3}, wish, tenant)


@pytest.mark.parametrize("pick", ["central", "universal"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_texts_to_be_picked_from_are_drawn_at_once_whatever_adapts_to_votes(
    strategy: StrategyName, pick: Literal["central", "universal"]
) -> None:
    wish = Wish(strategy=strategy, samples=5, answer=AnswerSpec("text", pick=pick))
    plan = PLANNER.plan(ASK, wish, Tenant("acme"))
    fixed = {"off", "self_consistency", "best_of_n"}
    assert plan.strategy.name == (strategy if strategy in fixed else "self_consistency")
    assert plan.reason == (None if strategy in fixed else "no votes to adapt to")
    assert plan.strategy.samples == 5
    assert not plan.probe


@pytest.mark.parametrize(
    ("request_", "answer", "reason"),
    [
        ({}, AnswerSpec("text"), "not votable"),
        ({}, AnswerSpec("text", "never", pick="central"), "not votable"),
        ({"temperature": 0}, AnswerSpec("text", pick="central"), "temperature 0"),
        ({"store": True}, AnswerSpec("text", pick="universal"), "store"),
    ],
)
def test_prose_is_scaled_only_to_be_picked_from_and_only_where_samples_differ(
    request_: dict[str, Any], answer: AnswerSpec, reason: str
) -> None:
    plan = PLANNER.plan({**ASK, **request_}, Wish(answer=answer), Tenant("acme"))
    assert (plan.strategy.name, plan.reason, plan.probe) == ("off", reason, False)


def test_texts_that_are_picked_from_need_no_strategy_of_their_own_and_no_probe() -> None:
    made = planner(answer={"kind": "text", "pick": "central"}, samples=4, max_samples=4)
    plan = made.plan(ASK, Wish(), Tenant("acme"))
    assert (plan.strategy.name, plan.strategy.samples, plan.probe) == ("self_consistency", 4, False)
    assert made.plan(ASK, Wish(samples=1), Tenant("acme")).reason == "one sample"


@pytest.mark.parametrize("name", ["universal_model", "embedding_model"])
def test_a_model_that_picks_or_embeds_must_be_one_of_the_models(name: str) -> None:
    unknown: dict[str, Any] = {name: "nobody"}
    with pytest.raises(ConfigError, match=f"scaling.{name}: 'nobody' is not in model_list"):
        planner(**unknown)
