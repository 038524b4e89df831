"""Values that several rooms hand to each other."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

from proxy.values import value

T = TypeVar("T")

JSON = dict[str, Any]
"""A JSON object, as a client or an upstream sent it."""

StrategyName = Literal[
    "off",
    "self_consistency",
    "adaptive",
    "dynscaling",
    "optscale",
    "best_of_n",
    "adaptive_consistency",
    "early_stopping",
    "pets",
    "sp1",
    "sp2",
    "sp3",
    "multi_round",
]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)

Uncertainty = Literal["variation_ratio", "normalised_entropy", "inverse_margin"]
VerdictRule = Literal["majority", "weighted", "best"]
PriorSource = Literal["none", "history", "trained"]

AnswerKind = Literal[
    "auto",
    "math",
    "number",
    "choice",
    "label",
    "json",
    "json_path",
    "tool_calls",
    "regex",
    "code",
    "text",
]
Votable = Literal["auto", "always", "never"]
Pick = Literal["none", "central", "universal"]
LowConfidence = Literal["mark", "refuse"]
ScaleUntil = Literal["hard", "soft"]
OnExhausted = Literal["single", "refuse"]
Degraded = Literal["rounds", "single"]

ScorerKind = Literal["logprobs", "judge", "reward", "agreement"]
Confidence = Literal["mean", "lowest_group"]
RewardApi = Literal["score", "classify", "pooling"]
Reduction = Literal["mean", "min", "last", "product"]
Activation = Literal["auto", "none", "sigmoid"]


@dataclass(frozen=True, slots=True)
class AnswerSpec:
    """How to find the answer in a reply. `auto`: whatever the reply itself shows.

    `pattern` is RE2's (kind regex), `path` a JSONPath (json_path); `options` are the texts to choose from (choice,
    label), else the prompt's own; `tolerance` is relative, in [0, 1) (number); `ignore` names arguments and fields that
    do not count (tool_calls, json); `per_field` has every field of an object vote by itself (json); `pick` says how one
    of several texts is chosen (text).
    """

    kind: AnswerKind = "auto"
    votable: Votable = "auto"
    pattern: str | None = None
    path: str | None = None
    options: tuple[str, ...] = ()
    tolerance: float = 0.0
    ignore: tuple[str, ...] = ()
    per_field: bool = False
    pick: Pick = "none"


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent in each window of `duration` (`30s`, `24h`, `1d`, `1mo`, `weekly`; None: for ever).

    Money in nano-USD, tokens of prompts and completions together, samples as draws that were billed; None: no limit.
    """

    duration: str | None = None
    max_nano: int | None = None
    max_tokens: int | None = None
    max_samples: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a tenant, or one of its keys, may do; None means no limit. Money in nano-USD, tokens in tokens.

    `max_nano`, `max_tokens` and `max_drawn` (samples) are for each window of `duration`; `budgets` are further windows
    that hold beside it. From `soft_nano` of the first window on an alert is told, and with `scale_until` soft nothing
    is scaled. `max_samples`, `max_rounds` and `max_request_nano` are for one request. `on_exhausted` says what becomes
    of a request for which the budget holds no more than one sample: it gets that one, or it is refused.
    """

    max_nano: int | None = None
    max_tokens: int | None = None
    max_drawn: int | None = None
    duration: str | None = None
    soft_nano: int | None = None
    budgets: tuple[Budget, ...] = ()
    rpm_limit: int | None = None
    tpm_limit: int | None = None
    max_parallel: int | None = None
    models: tuple[str, ...] | None = None
    strategies: tuple[StrategyName, ...] | None = None
    strategy: StrategyName | None = None
    max_samples: int | None = None
    max_rounds: int | None = None
    max_request_nano: int | None = None
    scale_until: ScaleUntil = "hard"
    on_exhausted: OnExhausted = "single"
    blocked: bool = False

    @property
    def windows(self) -> tuple[Budget, ...]:
        """All of its budget windows; the first one is always there, with or without a limit."""
        return Budget(self.duration, self.max_nano, self.max_tokens, self.max_drawn), *self.budgets

    @property
    def limits_anything(self) -> bool:
        """Whether any budget window has a limit."""
        return any((each.max_nano, each.max_tokens, each.max_samples) != (None, None, None) for each in self.windows)

    @property
    def limits_money(self) -> bool:
        """Whether a limit in money holds, so that what has no price may not be bought."""
        # asked at every call, so that no window is made for it
        return self.max_nano is not None or any(budget.max_nano is not None for budget in self.budgets)


@dataclass(frozen=True, slots=True)
class Tenant(Limits):
    """Who pays.

    `name` is unique, `alias` what people call it. `managed` tenants come from the configuration file and are edited
    there alone.
    `metadata` is what the operator keeps beside it, a JSON object as text.
    `scale_fraction` in [0, 1] is the share of its requests that is scaled (None: all); `shadow`: what is scaled only
    runs in the background, and the client gets one sample.
    `store_samples`: the ledger keeps what is asked and said, each for `store_samples_days`.
    """

    name: str
    alias: str | None = None
    answer: AnswerSpec | None = None
    managed: bool = False
    scale_fraction: float | None = None
    shadow: bool = False
    metadata: str | None = None
    store_samples: bool = False
    store_samples_days: int = 30

    def narrowed(self, key: Limits) -> "Tenant":
        """The same with what one of its keys may do at most; the key's own strategy is the default.

        A soft budget and what it ends stay those of the tenant: the key has its own beside it.
        """
        return replace(
            self,
            budgets=(*self.budgets, *(budget for budget in key.windows if budget != Budget())),
            models=_both(self.models, key.models),
            strategies=_both(self.strategies, key.strategies),
            strategy=key.strategy or self.strategy,
            max_samples=_least(self.max_samples, key.max_samples),
            max_rounds=_least(self.max_rounds, key.max_rounds),
            max_request_nano=_least(self.max_request_nano, key.max_request_nano),
            on_exhausted="refuse" if "refuse" in (self.on_exhausted, key.on_exhausted) else "single",
            blocked=self.blocked or key.blocked,
        )


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _both(first: "tuple[T, ...] | None", second: "tuple[T, ...] | None") -> "tuple[T, ...] | None":
    if first is None or second is None:
        return second if first is None else first
    return tuple(each for each in first if each in second)


@dataclass(frozen=True, slots=True)
class Key(Limits):
    """A bearer key of a tenant, whose limits hold beside the tenant's own. Times are in seconds since 1970.

    `id` is public, `hint` the last four characters of the key, `alias` what people call it; `managed` keys come from
    the configuration file. `metadata` is what the operator keeps beside it, a JSON object as text.
    """

    id: str
    tenant: str
    hint: str = ""
    alias: str | None = None
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    managed: bool = False
    metadata: str | None = None

    def valid(self, now: float) -> bool:
        """Whether the key is good at `now`."""
        return (self.revoked_at is None or now < self.revoked_at) and (self.expires_at is None or now < self.expires_at)


@value(frozen=True, slots=True)
class Account:
    """Whom one request's draws are charged to, and under which request."""

    tenant: str
    key: str | None
    request: str


@value(frozen=True, slots=True)
class Usage:
    """Tokens of one upstream call, all choices together. `estimated`: counted here, not told by the provider.

    Of the prompt, and never more than it: `cached` were read from a cache (`cached_audio` of them sound), `cache_write`
    written to one (`cache_write_1h` of them for an hour), and of the rest `audio_input` and `image_input` are sound and
    pictures. Of the completion: `reasoning`, `audio_output`, `image_output`. `service` is the grade of service that was
    given, where that may have a price of its own.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0
    estimated: bool = False
    cached_audio: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    image_input: int = 0
    audio_output: int = 0
    image_output: int = 0
    service: str = ""


@value(frozen=True, slots=True)
class Choice:
    """One finished choice of an upstream call: its own message, byte for byte what the provider said."""

    index: int
    message: JSON
    finish_reason: str | None
    logprobs: JSON | None = None
    tokens: int = 0

    @property
    def content(self) -> str:
        """The message's text, joined where the provider sent parts; empty when there is none."""
        content = self.message.get("content")
        if isinstance(content, list):
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            return "".join(text for text in texts if isinstance(text, str))
        return content if isinstance(content, str) else ""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A strategy with its parameters; equal ones may share a micro-batch.

    What a parameter means stands with the batch that takes it, in `proxy.core`.
    """

    name: StrategyName
    samples: int = 8
    mean_samples: int = 16
    max_samples: int = 32
    max_rounds: int = 6
    deadline_s: float = 120.0
    unit: int = 8
    thought_length: int = 4
    exploration: float = 0.25
    uncertainty: Uncertainty = "variation_ratio"
    subset: int | None = None
    votes: Literal["all", "conditioned"] = "all"
    integrated: bool = True
    dynamic: bool = True
    target: float = 0.95
    s_min: float = 0.95
    confidence: float = 0.9
    prior: PriorSource = "none"
    refit: Literal["always", "once"] = "always"
    verdict: VerdictRule = "majority"
    threshold: float = 0.95
    window: int = 5
    chains: int = 4


@value(frozen=True, slots=True)
class Plan:
    """What will be done with one request, decided before anything is spent.

    `min_confidence` in [0, 1] is what the client wants at least, `low_confidence` what becomes of an answer below it.
    `choices` is the client's own `n`. `degraded` tells what was taken away because the budget runs short. `shadow`
    is the plan of the vote that runs in the background, where there is one.
    """

    tenant: Tenant
    model: str
    strategy: Strategy
    answer: AnswerSpec = field(default_factory=AnswerSpec)
    max_request_nano: int | None = None
    reason: str | None = None
    probe: bool = False
    stream: bool = False
    include_usage: bool = False
    show_tally: bool = False
    detail: bool = False
    min_confidence: float | None = None
    low_confidence: LowConfidence = "mark"
    choices: int = 1
    degraded: Degraded | None = None
    shadow: "Plan | None" = None

    @property
    def unread(self) -> bool:
        """Whether nobody asks what the one sample says: it is passed through, and no pool is made of it."""
        return self.strategy.name == "off" and not (self.show_tally or self.tenant.store_samples)
