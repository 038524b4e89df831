"""What will be done with a request, from its wish, its tenant and the configuration; never from its prompt's text."""

from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal
from math import ceil

from proxy.answers import declared, prompt_text
from proxy.answers.central import picks
from proxy.config import Config
from proxy.errors import BudgetExceeded, NotAllowed, RequestInvalid
from proxy.money import nano_usd
from proxy.patterns import pattern
from proxy.trial import lot
from proxy.types import JSON, AnswerSpec, Key, LowConfidence, Plan, Strategy, StrategyName, Tenant, VerdictRule
from proxy.upstream.catalogue import Catalogue
from proxy.values import value
from proxy.verdict import SHADOW

_UNSCALED = ("store", "prediction", "web_search_options")
"""Fields whose requests are passed through as they are; an empty object turns a feature on, too."""

_BY_SAMPLES = frozenset({"self_consistency", "best_of_n", "adaptive"})
"""Strategies for which `samples` counts: 1 is one sample. All others draw up to `max_samples`."""

_UNCOUNTED = "no votes to adapt to"
_FIXED = frozenset({"off", "self_consistency", "best_of_n"})
"""Strategies that do not look at votes while they draw. Where texts are chosen from there are none to look at."""

TRIAL = "trial"
"""Why a request that could have been scaled was answered by one sample: its tenant only tries tally."""

BUDGET = "budget"
"""Why a request that could have been scaled was answered by one sample: its tenant's budget runs short."""

_MOST_KNOWN = 1024
_SINGLE_BELOW = 0.02
_SHORT = ((0.05, 0.25), (0.1, 0.5))
"""Below which share of a budget which share of samples and rounds is drawn."""
_FEWEST = 3
"""Two samples never help a vote."""

_COLD = 0.1
"""Up to this temperature samples would be alike (some clients send 0.1 for 0)."""


@value(frozen=True, slots=True)
class Wish:
    """What the request itself asks of tally: body, header and path. None: nothing."""

    strategy: StrategyName | None = None
    samples: int | None = None
    max_samples: int | None = None
    max_cost_usd: Decimal | None = None
    answer: AnswerSpec | None = None
    verdict: VerdictRule | None = None
    show: bool = False
    detail: bool = False
    min_confidence: float | None = None
    low_confidence: LowConfidence = "mark"


class Planner:
    """Plans requests under one configuration."""

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        self._default = config.scaling.default()
        self._answer = config.scaling.answer.spec()
        self._rules = [(pattern(rule.match), rule.answer.spec()) for rule in config.scaling.answer_rules]
        self._catalogue = catalogue
        # a strategy has two dozen parameters, and most requests have the same
        self._known: dict[tuple[object, ...], Strategy] = {}

    def plan(
        self,
        request: JSON,
        wish: Wish,
        tenant: Tenant,
        *,
        key: Key | None = None,
        left: float = 1.0,
        soft: bool = False,
    ) -> Plan:
        """The plan for `request` of a tenant of whose budget the share `left` is left.

        `key` is the one to which the tenant is narrowed already; `soft`: a soft budget is used up with which scaling
        ends.

        Raises NotAllowed for a model or a strategy off the tenant's list, RequestInvalid for an `n` over a cap, and
        where an answer is to be refused below a confidence that it cannot have, BudgetExceeded where the budget holds
        no vote and the tenant wants nothing less.
        """
        model = request["model"]
        check_model(tenant, model, key)
        choices = _choices(request, wish, tenant)
        answer = wish.answer or tenant.answer or self._ruled(request) or self._catalogue.answer(model) or self._answer
        name = wish.strategy or tenant.strategy or self._catalogue.strategy(model) or self._default.name
        blind = picks(answer) and name not in _FIXED
        if wish.strategy is not None:
            check_strategy(tenant, name, key)
        elif tenant.strategies is not None and name not in tenant.strategies:
            # what nobody asked for by name is what the tenant may have
            name = next(iter(tenant.strategies), "off")
        strategy = self._capped("self_consistency" if blind else name, wish, tenant, choices)
        if picks(answer) and strategy.verdict == "weighted":
            # texts have no votes to weigh, and scores that nobody looks at would be paid for all the same
            strategy = replace(strategy, verdict="majority")
        reason = None if name == "off" else _unscalable(request, strategy, answer)
        if reason is not None:
            strategy = self._capped("off", wish, tenant, choices)
        elif blind:
            reason = _UNCOUNTED
        _check_confidence(wish, strategy, answer, reason)
        plan = Plan(
            tenant=tenant,
            model=model,
            strategy=strategy,
            answer=answer,
            max_request_nano=request_limit(tenant, wish.max_cost_usd),
            reason=reason,
            probe=strategy.name != "off" and wish.strategy is None and not (declared(answer, request) or picks(answer)),
            stream=bool(request.get("stream")),
            include_usage=bool((request.get("stream_options") or {}).get("include_usage")),
            show_tally=wish.show or name != "off",
            detail=wish.detail,
            min_confidence=wish.min_confidence,
            low_confidence=wish.low_confidence,
            choices=choices,
        )
        return self._on_trial(self._degraded(plan, wish, left=left, soft=soft), request, wish)

    def _degraded(self, plan: Plan, wish: Wish, *, left: float, soft: bool) -> Plan:
        """The same while there is budget; as it runs short fewer draws and rounds, then one sample."""
        tenant, strategy = plan.tenant, plan.strategy
        if strategy.name == "off":
            return plan
        if soft or left < _SINGLE_BELOW:
            if tenant.on_exhausted == "refuse":
                raise BudgetExceeded("The budget holds no vote, and this tenant wants no single sample.")
            single = self._capped("off", wish, tenant, plan.choices)
            return replace(plan, strategy=single, reason=BUDGET, probe=False, degraded="single")
        share = next((share for below, share in _SHORT if left < below), None)
        if share is None:
            return plan
        fewer = {name: ceil(getattr(strategy, name) * share) for name in ("samples", "max_samples", "max_rounds")}
        fewer |= {name: max(plan.choices, fewer[name], _FEWEST) for name in ("samples", "max_samples")}
        capped = {name: min(number, getattr(strategy, name)) for name, number in fewer.items()}
        return replace(plan, strategy=replace(strategy, **capped), degraded="rounds")

    def _on_trial(self, plan: Plan, request: JSON, wish: Wish) -> Plan:
        """The same, or one sample where the tenant is on trial, beside a vote in the background where it is shadowed.

        What must be refused below some confidence is always scaled: one sample has none.
        """
        tenant = plan.tenant
        if plan.strategy.name == "off" or wish.low_confidence == "refuse":
            return plan
        left_out = tenant.scale_fraction is not None and lot(tenant.name, request) >= tenant.scale_fraction
        if not left_out and not tenant.shadow:
            return plan
        strategy = self._capped("off", wish, tenant, plan.choices)
        single = replace(plan, strategy=strategy, reason=TRIAL, probe=False)
        if left_out:
            return single
        unseen = replace(plan, reason=SHADOW, stream=False, choices=1, detail=False, min_confidence=None)
        return replace(single, shadow=unseen)

    def _ruled(self, request: JSON) -> AnswerSpec | None:
        """What the first rule that matches the prompt says of its answers. Rules are the operator's alone."""
        if not self._rules:
            return None
        text = prompt_text(request)
        return next((spec for rule, spec in self._rules if rule.search(text) is not None), None)

    def _capped(self, name: StrategyName, wish: Wish, tenant: Tenant, choices: int) -> Strategy:
        key = name, wish.samples, wish.max_samples, wish.verdict, tenant.max_samples, tenant.max_rounds, choices
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[key] = self._made(name, wish, tenant, choices)
        return found

    def _made(self, name: StrategyName, wish: Wish, tenant: Tenant, choices: int) -> Strategy:
        # the server's own cap is for samples that nobody asked for
        most = max(choices, min([self._default.max_samples, *_caps(wish, tenant)]))
        samples = max(choices, min(wish.samples or self._default.samples, most))
        rounds = min(self._default.max_rounds, tenant.max_rounds or self._default.max_rounds)
        verdict = wish.verdict or self._default.verdict
        return replace(self._default, name=name, samples=samples, max_samples=most, max_rounds=rounds, verdict=verdict)


def check_model(tenant: Tenant, model: str, key: Key | None = None) -> None:
    """Raises NotAllowed for a model off the list of a tenant, which is narrowed to `key` already."""
    if tenant.models is not None and model not in tenant.models:
        whose = _whose(tenant, key, forbids=key is not None and _off(model, key.models))
        raise NotAllowed(f"{whose} may not use the model {model!r}.", code="model_not_allowed", param="model")


def _whose(tenant: Tenant, key: Key | None, *, forbids: bool) -> str:
    """Who is told to forbid something: the key where its own list does, else the tenant."""
    return f"The key {key.id!r}" if key is not None and forbids else f"The tenant {tenant.name!r}"


def _off(name: str, names: Collection[str] | None) -> bool:
    return names is not None and name not in names


def request_limit(tenant: Tenant, asked: Decimal | None) -> int | None:
    """The most nano-USD that a request may cost: the tenant's limit or what was `asked`, in US dollars, if lower."""
    limits = [tenant.max_request_nano, None if asked is None else nano_usd(asked)]
    return min((limit for limit in limits if limit is not None), default=None)


def check_strategy(tenant: Tenant, name: StrategyName, key: Key | None = None) -> None:
    """Raises NotAllowed for a strategy off the list of a tenant, narrowed to `key`; one sample is always allowed."""
    if tenant.strategies is not None and name != "off" and name not in tenant.strategies:
        whose = _whose(tenant, key, forbids=key is not None and _off(name, key.strategies))
        raise NotAllowed(
            f"{whose} may not use the strategy {name!r}.",
            code="strategy_not_allowed",
            param="tally.strategy",
        )


def _caps(wish: Wish, tenant: Tenant) -> list[int]:
    return [cap for cap in (wish.max_samples, tenant.max_samples) if cap is not None]


def _choices(request: JSON, wish: Wish, tenant: Tenant) -> int:
    """A client's own `n`, which is a number of samples like any other. Raises RequestInvalid over a cap."""
    choices: int = request.get("n") or 1
    caps = _caps(wish, tenant)
    if caps and choices > min(caps):
        raise RequestInvalid(f"n: at most {min(caps)} samples are allowed.", param="n", code="invalid_value")
    return choices


def _check_confidence(wish: Wish, strategy: Strategy, answer: AnswerSpec, reason: str | None) -> None:
    """An answer may be refused only where it can have a confidence. Raises RequestInvalid where it cannot."""
    if wish.low_confidence != "refuse":
        return
    why = None
    if wish.min_confidence is None:
        why = "low_confidence: refuse needs a min_confidence"
    elif strategy.name == "off":
        why = f"only an answer that was voted on has a confidence, and this request is not scaled ({reason or 'off'})"
    elif answer.kind == "text":
        why = "only an answer that was voted on has a confidence, and texts are not"
    if why is not None:
        raise RequestInvalid(f"tally.min_confidence: {why}.", param="tally.min_confidence", code="no_confidence")


def _unscalable(request: JSON, strategy: Strategy, answer: AnswerSpec) -> str | None:
    """Why more than one sample of this request is no use or no possibility, or None."""
    temperature = request.get("temperature")
    most = strategy.samples if strategy.name in _BY_SAMPLES else strategy.max_samples
    checks = {
        f"temperature {temperature}": temperature is not None and temperature <= _COLD,
        "not votable": answer.votable == "never" or (answer.kind == "text" and not picks(answer)),
        "one sample": most == 1,
        **{name: request.get(name) not in (None, False) for name in _UNSCALED},
        "audio": request.get("audio") is not None or "audio" in (request.get("modalities") or ()),
    }
    return next((reason for reason, holds in checks.items() if holds), None)
