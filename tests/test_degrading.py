"""As a budget runs short rounds shrink, then scaling is off, then requests are refused; the reply says which."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth import CACHE_S
from proxy.errors import BudgetExceeded, NotAllowed
from proxy.plan import Wish
from proxy.types import STRATEGIES, StrategyName, Tenant
from tests.fake_upstream import FakeUpstream, Reply
from tests.served import RATES, ServedTally, configuration
from tests.test_plan import ASK, planner

PLANNER = planner(samples=8, max_samples=32, strategy="self_consistency")
ACME = Tenant("acme")


def test_a_full_budget_takes_nothing_away() -> None:
    plan = PLANNER.plan(ASK, Wish(), ACME, left=0.1)
    assert (plan.degraded, plan.strategy.samples, plan.strategy.max_rounds) == (None, 8, 6)


def test_a_budget_that_runs_short_shrinks_samples_and_rounds_then_ends_scaling() -> None:
    told = []
    for left in (0.09, 0.04, 0.01):
        plan = PLANNER.plan(ASK, Wish(), ACME, left=left)
        strategy = plan.strategy
        told.append((plan.degraded, strategy.name, strategy.samples, strategy.max_samples, strategy.max_rounds))
    assert told == [
        ("rounds", "self_consistency", 4, 16, 3),
        ("rounds", "self_consistency", 3, 8, 2),
        ("single", "off", 8, 32, 6),
    ]
    assert PLANNER.plan(ASK, Wish(), ACME, left=0.0).reason == "budget"


@given(st.floats(0, 1), st.booleans(), st.sampled_from(STRATEGIES), st.integers(1, 64))
def test_whatever_is_left_a_plan_never_grows(left: float, soft: bool, name: StrategyName, samples: int) -> None:
    wish = Wish(strategy=name, samples=samples)
    whole = PLANNER.plan(ASK, wish, ACME).strategy
    plan = PLANNER.plan(ASK, wish, ACME, left=left, soft=soft)
    assert plan.strategy.samples <= whole.samples
    assert plan.strategy.max_samples <= whole.max_samples
    assert plan.strategy.max_rounds <= whole.max_rounds
    assert (plan.degraded is None) == (plan.strategy == whole)


def test_a_soft_budget_with_which_scaling_ends_leaves_one_sample() -> None:
    soft = PLANNER.plan(ASK, Wish(), ACME, soft=True)
    assert (soft.degraded, soft.strategy.name) == ("single", "off")


def test_who_wants_no_single_sample_is_refused_where_no_vote_is_left() -> None:
    tenant = Tenant("acme", on_exhausted="refuse")
    assert PLANNER.plan(ASK, Wish(), tenant, left=0.03).degraded == "rounds"
    with pytest.raises(BudgetExceeded, match="no single sample"):
        PLANNER.plan(ASK, Wish(), tenant, left=0.01)
    # one sample was all that was asked for
    assert PLANNER.plan(ASK, Wish(strategy="off"), tenant, left=0.01).strategy.name == "off"


def test_a_tenant_has_the_strategies_of_its_list_and_one_sample() -> None:
    tenant = Tenant("acme", strategies=("adaptive",))
    assert PLANNER.plan(ASK, Wish(), tenant).strategy.name == "adaptive"
    assert PLANNER.plan(ASK, Wish(strategy="off"), tenant).strategy.name == "off"
    with pytest.raises(NotAllowed) as caught:
        PLANNER.plan(ASK, Wish(strategy="dynscaling"), tenant)
    assert caught.value.code == "strategy_not_allowed"
    assert PLANNER.plan(ASK, Wish(), Tenant("acme", strategies=())).strategy.name == "off"


def test_rounds_a_request_are_capped_by_the_tenant() -> None:
    assert PLANNER.plan(ASK, Wish(), Tenant("acme", max_rounds=2)).strategy.max_rounds == 2
    assert PLANNER.plan(ASK, Wish(), Tenant("acme", max_rounds=99)).strategy.max_rounds == 6


@dataclass
class Stage:
    tally: ServedTally
    upstream: FakeUpstream

    def ask(self, **more: Any) -> Any:
        body = {"model": "small", "messages": [{"role": "user", "content": "What is 6 x 7?"}], "max_tokens": 200}
        return self.tally.post({**body, **more})


SAMPLES = 200
ONE = RATES.cost(10, 200)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with FakeUpstream(Reply(("42",), prompt_tokens=10, completion_tokens=200)) as upstream:
        budget = {"max_budget": SAMPLES * ONE / 1e9, "budget_duration": "1d"}
        with ServedTally(configuration(upstream.base_url, tmp_path, tenant={**budget})) as tally:
            yield Stage(tally, upstream)


def test_every_reply_says_what_was_taken_away_and_the_budget_is_used_to_its_end(stage: Stage) -> None:
    def spend_until(left: float) -> None:
        while stage.tally.balance().spent.nano < (1 - left) * SAMPLES * ONE:
            assert stage.ask(tally={"strategy": "off"}).status_code == 200
        # what a key stands for is believed for a second
        time.sleep(CACHE_S + 0.05)

    seen = []
    for left in (1.0, 0.08, 0.018):
        spend_until(left)
        answer = stage.ask()
        assert answer.status_code == 200, answer.text
        seen.append((answer.headers.get("x-tally-degraded"), answer.json()["tally"].get("degraded")))
        seen.append((answer.headers["x-tally-strategy"], answer.headers["x-tally-samples"]))
    assert seen == [
        (None, None),
        ("self_consistency", "8"),
        ("rounds", "rounds"),
        ("self_consistency", "4"),
        ("single", "single"),
        ("off", "1"),
    ]
    while (answer := stage.ask(tally={"strategy": "off"})).status_code == 200:
        pass
    assert answer.status_code == 402
    balance = stage.tally.balance()
    assert balance.ok
    assert balance.spent.nano == stage.upstream.meter.cost_nano(RATES) <= SAMPLES * ONE


def test_draws_that_the_budget_denied_are_told_as_taken_away(tmp_path: Path) -> None:
    with FakeUpstream("42") as upstream:
        tenants: list[dict[str, Any]] = [
            {"name": "single", "keys": ["sk-single-0123"], "sample_budget": 1},
            {"name": "few", "keys": ["sk-few-0123"], "sample_budget": 5},
            {"name": "proud", "keys": ["sk-proud-0123"], "sample_budget": 1, "on_exhausted": "refuse"},
        ]
        with ServedTally(configuration(upstream.base_url, tmp_path, tenants=tenants)) as tally:
            body = {**ASK, "max_tokens": 20, "tally": {"strategy": "self_consistency"}}
            told = {tenant["name"]: tally.post(body, key=tenant["keys"][0]) for tenant in tenants}
            seen = {
                name: (answer.headers.get("x-tally-degraded"), answer.json()["tally"]["samples"])
                for name, answer in told.items()
                if answer.status_code == 200
            }
            assert seen == {"single": ("single", 1), "few": ("rounds", 5)}
            assert told["proud"].status_code == 402
            assert tally.balance("proud").spent.samples == 0
            assert sum(call.n for call in upstream.calls) == 6
