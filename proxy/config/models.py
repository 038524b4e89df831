"""What the operator's file may say, section by section.

The format is LiteLLM's `model_list`, plus `scaling`, `tenants` and `general_settings`.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PositiveInt,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from proxy import patterns
from proxy.config.limits import MOST_SAMPLES, LimitsConfig, Name, Section
from proxy.config.litellm import UNUSED
from proxy.types import (
    JSON,
    Activation,
    AnswerKind,
    AnswerSpec,
    Confidence,
    Pick,
    PriorSource,
    Reduction,
    RewardApi,
    ScorerKind,
    Strategy,
    StrategyName,
    Tenant,
    Uncertainty,
    VerdictRule,
    Votable,
)

_WEAK_KEYS = frozenset({"sk-1234", "sk-12345678", "changeme", "password", "secret", "master", "test"})
_MIN_MASTER_KEY = 16
_MIN_KEY = 6
_MAX_HEADERS = 2**20
_MAX_COUNT = 10**15
_MAX_OPTIONS = 256
KEY_TEXT, KEY_OPTIONS = "key-as-text", "key-with-options"
"""The two ways to write a key, as validation calls them; no key of a file is called so."""
_OPTIONS_OF: dict[str, tuple[AnswerKind, ...]] = {
    "pattern": ("regex",),
    "path": ("json_path",),
    "options": ("choice", "label"),
    "tolerance": ("number",),
    "ignore": ("auto", "tool_calls", "json"),
    "per_field": ("auto", "json"),
    "pick": ("text",),
}
"""Options of an answer, and the kinds that they are for."""

_PRICE = re.compile(r"(^|_)cost(_|$)|_pricing$")
_FRAMING = frozenset({"connection", "content-length", "expect", "transfer-encoding"})
_RATE_MORE = re.compile(r"(in|out)put_cost_per_\w*token\w*|cache_(read|creation)_input_\w+")
"""Names of prices: all of them, and those of tokens that are no fields, with thresholds or a grade of service."""


def _key_form(value: object) -> str:
    return KEY_TEXT if isinstance(value, str) else KEY_OPTIONS


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return text.rstrip("/")


def _strong(key: str) -> str:
    if len(key) < _MIN_MASTER_KEY or key.lower() in _WEAK_KEYS or len(set(key)) < 6:
        raise ValueError(f"is too weak: use at least {_MIN_MASTER_KEY} random characters")
    return key


def _database(url: str) -> str:
    if not url.startswith(("sqlite://", "postgres://", "postgresql://")):
        raise ValueError(
            "must be sqlite:///FILE (four slashes for an absolute path), sqlite:// for memory, or postgresql://..."
        )
    return url


def _pattern(text: str) -> str:
    patterns.pattern(text)
    return text


def _path(text: str) -> str:
    patterns.path(text)
    return text


Rate = Annotated[Decimal, Field(ge=0, le=1, allow_inf_nan=False)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
MasterKey = Annotated[str, AfterValidator(_strong)]
Key = Annotated[str, Field(min_length=_MIN_KEY, pattern=r"^\S+$")]
Pattern = Annotated[str, AfterValidator(_pattern)]
JSONPath = Annotated[str, AfterValidator(_path)]
Option = Annotated[str, Field(min_length=1, max_length=1_000)]
StoredDays = Annotated[int, Field(ge=1, le=3650)]


class AnswerConfig(Section):
    """How answers are found in replies."""

    kind: AnswerKind = "auto"
    votable: Votable = "auto"
    pattern: Pattern | None = Field(
        default=None, description="for regex: RE2; the answer is its first group, or else all of the last match"
    )
    path: JSONPath | None = Field(
        default=None, description="for json_path: names, indices and [*], as in $.items[0].id"
    )
    options: Annotated[tuple[Option, ...], Field(max_length=_MAX_OPTIONS)] = Field(
        default=(), description="for choice and label: the texts to choose from; none given: those in the prompt"
    )
    tolerance: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="for number: the relative difference up to which two numbers are one answer"
    )
    ignore: Annotated[tuple[Option, ...], Field(max_length=_MAX_OPTIONS)] = Field(
        default=(), description="arguments of tools and fields of JSON that do not count, as in id or user.id"
    )
    per_field: bool = Field(
        default=False, description="every field of a JSON object votes by itself; the result may be no sample's"
    )
    pick: Pick = Field(
        default="none",
        description="for text: central returns the sample most like the others, universal asks the model for it",
    )

    @model_validator(mode="after")
    def _complete(self) -> "AnswerConfig":
        needed = {"regex": ("pattern", self.pattern), "json_path": ("path", self.path)}
        name, value = needed.get(self.kind, ("", ""))
        if value is None:
            raise ValueError(f"kind: {self.kind} needs a {name}")
        if self.kind == "text" and self.votable == "always" and self.pick == "none":
            raise ValueError("kind: text has nothing to vote on; say pick: central or universal")
        for option, kinds in _OPTIONS_OF.items():
            if self.kind not in kinds and getattr(self, option) != type(self).model_fields[option].default:
                raise ValueError(f"{option} has no effect with kind: {self.kind}; it is for {' and '.join(kinds)}")
        return self

    def spec(self) -> AnswerSpec:
        """The same as a value for the other rooms."""
        return AnswerSpec(**dict(self))


class AnswerRule(Section):
    """What a prompt says of its answers: the first rule that matches counts."""

    match: Pattern = Field(description="RE2, searched for in the texts of the messages, joined by lines")
    answer: AnswerConfig


class LiteLLMParams(BaseModel):
    """What LiteLLM calls `litellm_params`. Keys not named here go to the provider as they are, but for prices.

    Prices have LiteLLM's names, also those with thresholds (`input_cost_per_token_above_200k_tokens`) and grades of
    service (`..._priority`, `..._flex`). The prices of tokens in and out go together and stand for all of them; without
    the two, any other stands in place of the price list's own.
    """

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=(), defer_build=True)

    model: Name
    api_base: HttpUrl | None = None
    api_key: str | None = None
    input_cost_per_token: Rate | None = None
    output_cost_per_token: Rate | None = None
    cache_read_input_token_cost: Rate | None = None
    cache_creation_input_token_cost: Rate | None = None
    cache_creation_input_token_cost_above_1hr: Rate | None = None
    output_cost_per_reasoning_token: Rate | None = None
    input_cost_per_audio_token: Rate | None = None
    output_cost_per_audio_token: Rate | None = None
    max_parallel_requests: PositiveInt | None = None
    timeout: Annotated[float, Field(gt=0, le=3600)] | None = None
    weight: Annotated[float, Field(gt=0, le=10**6, allow_inf_nan=False)] = Field(
        default=1.0, description="its share of the calls, in proportion to those of the model's other deployments"
    )
    rpm: Annotated[int, Field(ge=1, le=_MAX_COUNT)] | None = Field(default=None, description="calls a minute")
    tpm: Annotated[int, Field(ge=1, le=_MAX_COUNT)] | None = Field(default=None, description="tokens a minute")

    @model_validator(mode="after")
    def _both_rates(self) -> "LiteLLMParams":
        if (self.input_cost_per_token is None) != (self.output_cost_per_token is None):
            raise ValueError("input_cost_per_token and output_cost_per_token go together")
        return self

    @model_validator(mode="after")
    def _more_rates(self) -> "LiteLLMParams":
        for name, price in (self.__pydantic_extra__ or {}).items():
            if name == "tiered_pricing":
                raise ValueError("tiered_pricing: say it as input_cost_per_token_above_128k_tokens, and so on")
            if _RATE_MORE.fullmatch(name):
                try:
                    rate = Decimal(str(price))
                except InvalidOperation:
                    rate = Decimal(-1)
                if not (rate.is_finite() and 0 <= rate <= 1):
                    raise ValueError(f"{name} must be dollars a token, from 0 to 1")
        return self

    @model_validator(mode="after")
    def _headers(self) -> "LiteLLMParams":
        headers = self.extra.get("extra_headers", {})
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise ValueError("extra_headers must map names to text")
        if framing := sorted(name for name in headers if name.lower() in _FRAMING):
            raise ValueError(f"extra_headers may not set {framing[0]}: it tells how a request is sent")
        return self

    @property
    def extra(self) -> JSON:
        """The keys that go to the provider as they are."""
        return {name: value for name, value in (self.__pydantic_extra__ or {}).items() if not _PRICE.search(name)}

    @property
    def prices(self) -> JSON:
        """What it says of prices, by LiteLLM's names; those that are not given are left out."""
        said = {**{name: getattr(self, name) for name in type(self).model_fields}, **(self.__pydantic_extra__ or {})}
        return {name: price for name, price in said.items() if price is not None and _PRICE.search(name)}


class ModelInfo(BaseModel):
    """What is known of a deployment; LiteLLM's other `model_info` keys are accepted and not read."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=(), defer_build=True)

    max_output_tokens: PositiveInt | None = Field(
        default=None, description="the most the model ever generates in one choice"
    )
    max_n: PositiveInt | None = Field(
        default=None, description="the largest n the deployment takes; learned when not given"
    )
    usage: Literal["total", "per_choice"] = Field(
        default="total", description="per_choice: usage counts the first choice only when n > 1"
    )
    stream: bool = Field(default=True, description="false: never stream from this deployment")
    hidden_reasoning: bool = Field(default=False, description="true: tokens are spent that the stream does not show")


class ModelEntry(Section):
    """One deployment of a model."""

    model_name: Name
    litellm_params: LiteLLMParams
    model_info: ModelInfo = ModelInfo()
    strategy: StrategyName | None = None
    answer: AnswerConfig | None = None


_SCORER_OPTIONS_OF: dict[str, tuple[ScorerKind, ...]] = {
    "model": ("judge", "reward"),
    "api": ("reward",),
    "reduce": ("reward",),
    "activation": ("reward",),
    "separator": ("reward",),
    "confidence": ("logprobs",),
    "window": ("logprobs",),
}
"""Options of a scorer, and the kinds that they are for."""


class ScorerConfig(Section):
    """How good a sample looks, in [0, 1], for the strategies and votes that go by scores."""

    kind: ScorerKind = Field(
        default="logprobs",
        description="logprobs: the model's own confidence; judge: an LLM grades; reward: a reward model's server;"
        " agreement: the share of ballots that say the same",
    )
    model: Name | None = Field(
        default=None,
        description="for judge and reward: the model_name to ask; a reward model's api_base is that of a server with"
        " vLLM's /score, /classify or /pooling at its root (a /v1 at the end of api_base is left out)",
    )
    api: RewardApi = Field(
        default="score",
        description="for reward: score sends text_1 and text_2, classify one input, pooling messages (steps, too)",
    )
    reduce: Reduction = Field(default="last", description="for api: pooling: how the rewards of the steps become one")
    activation: Activation = Field(
        default="auto",
        description="for reward: sigmoid puts rewards through the logistic function; auto does so from the first one"
        " outside [0, 1] on; none cuts off what is outside",
    )
    separator: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="for api: pooling: what the model wants to see after each step, such as <extra_0>"
    )
    confidence: Confidence = Field(
        default="mean",
        description="for logprobs: the mean over all tokens, or lowest_group, the least sure passage, as in DeepConf",
    )
    window: Annotated[int, Field(ge=1, le=_MAX_COUNT)] = Field(
        default=2048, description="for confidence: lowest_group: tokens of a passage"
    )

    @model_validator(mode="after")
    def _complete(self) -> "ScorerConfig":
        if self.kind in ("judge", "reward") and self.model is None:
            raise ValueError(f"kind: {self.kind} needs a model")
        for option, kinds in _SCORER_OPTIONS_OF.items():
            if self.kind not in kinds and self._says(option):
                raise ValueError(f"{option} has no effect with kind: {self.kind}; it is for {' and '.join(kinds)}")
        for option in ("reduce", "separator"):
            if self.api != "pooling" and self._says(option):
                raise ValueError(f"{option} has no effect with api: {self.api}; it is for pooling")
        if self.confidence == "mean" and self._says("window"):
            raise ValueError("window has no effect with confidence: mean; it is for lowest_group")
        return self

    def _says(self, option: str) -> bool:
        return bool(getattr(self, option) != type(self).model_fields[option].default)


class ScalingConfig(Section):
    """How requests are scaled unless the request, its tenant or its model says otherwise."""

    strategy: StrategyName = "adaptive"
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = Field(default=8, description="N of the fixed-N strategies")
    unit: Annotated[int, Field(ge=2, le=256)] = Field(default=8, description="DynScaling's B_unit, in samples")
    mean_samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = Field(
        default=16, validate_default=True, description="what a query credits to its batch; at least unit"
    )
    max_samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = Field(
        default=32, validate_default=True, description="the most that any request draws"
    )
    max_rounds: Annotated[int, Field(ge=1, le=64)] = Field(default=6, description="waves of draws, one after the other")
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    batch_window_ms: Annotated[float, Field(ge=0, le=10_000)] = 50.0
    batch_max_queries: Annotated[int, Field(ge=1, le=4096)] = 32
    thought_length: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4, description="DynScaling's k: earlier answers shown"
    )
    exploration: Annotated[float, Field(ge=0, le=10)] = Field(default=0.25, description="DynScaling's c")
    uncertainty: Uncertainty = Field(default="variation_ratio", description="DynScaling's measure of doubt")
    subset: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="most units of DynScaling in flight beyond first ones; none given: by the rounds left"
    )
    votes: Literal["all", "conditioned"] = Field(
        default="all", description="conditioned: only DynScaling's draws that saw others vote"
    )
    integrated: bool = Field(default=True, description="false: no draw of DynScaling sees another")
    dynamic: bool = Field(default=True, description="false: DynScaling spends mean_samples on every query alike")
    target: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        default=0.95, description="confidence that ends a live query early"
    )
    s_min: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.95, description="OptScale's quality to reach")
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.9, description="OptScale's alpha")
    prior: PriorSource = Field(
        default="none",
        description="what OptScale believes of a question's scores: nothing, the tenant's and model's history, or what"
        " a trained predictor says",
    )
    predictor: Path | None = Field(default=None, description="the file of `tally predictor train`, for prior: trained")
    refit: Literal["always", "once"] = Field(
        default="always", description="whether OptScale fits anew after every score, or once after the first draws"
    )
    verdict: VerdictRule = Field(
        default="majority",
        description="the vote: majority, weighted by score, or the best-scored answer; best_of_n always takes the best,"
        " sp3 its own grades",
    )
    threshold: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        default=0.95, description="confidence that ends adaptive_consistency"
    )
    window: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = Field(
        default=5, description="draws that must agree to end early_stopping"
    )
    chains: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = Field(
        default=4, description="first answers that sp1, sp2, sp3 and multi_round revise"
    )
    judge_model: Name | None = Field(
        default=None, description="a model_name that scores where log-probabilities are missing"
    )
    scorer: ScorerConfig = ScorerConfig()
    embedding_model: Name | None = Field(
        default=None, description="a model_name that embeds texts, for pick: central; none given: overlap of words"
    )
    universal_model: Name | None = Field(
        default=None, description="a model_name that picks, for pick: universal; none given: the request's own"
    )
    slice_tokens: Annotated[int, Field(ge=16)] = Field(default=1024, description="output tokens reserved at a time")
    cache_first: bool = Field(
        default=False,
        description="where a long prompt goes out in several calls, one goes first, and the others once its reply has"
        " begun: they find the prompt in the provider's cache",
    )
    calibration: Path | None = Field(
        default=None, description="the calibration.json of `tally eval`: from confidence to the chance of being right"
    )
    answer: AnswerConfig = AnswerConfig()
    answer_rules: tuple[AnswerRule, ...] = ()

    @field_validator("mean_samples")
    @classmethod
    def _holds_a_unit(cls, mean_samples: int, others: ValidationInfo) -> int:
        unit = others.data.get("unit", 1)
        if mean_samples < unit:
            raise ValueError(f"{mean_samples} is below the unit of DynScaling ({unit})")
        return mean_samples

    @field_validator("max_samples")
    @classmethod
    def _holds_the_samples(cls, most: int, others: ValidationInfo) -> int:
        samples = others.data.get("samples", 1)
        # the default is for those who say neither, and gives way
        if samples > most and samples != cls.model_fields["samples"].default:
            raise ValueError(f"{most} is below samples ({samples})")
        return most

    @model_validator(mode="after")
    def _predictor_given(self) -> "ScalingConfig":
        if self.prior == "trained" and self.predictor is None:
            raise ValueError("prior: trained needs predictor: the file that `tally predictor train` wrote")
        if self.predictor is not None and self.prior != "trained":
            raise ValueError(f"predictor has no effect with prior: {self.prior}; say prior: trained")
        return self

    @model_validator(mode="after")
    def _scores_when_needed(self) -> "ScalingConfig":
        kind = self.scorer.kind
        if self.judge_model is not None and kind != "logprobs":
            raise ValueError(f"judge_model has no effect with scorer.kind: {kind}; it is for logprobs")
        if self.strategy == "optscale" and kind == "agreement":
            raise ValueError("strategy: optscale needs scores while it draws, and agreement is known only at the end")
        return self

    def default(self) -> Strategy:
        """The default strategy with its parameters."""
        shared = Strategy.__dataclass_fields__.keys() & type(self).model_fields.keys()
        values = {name: getattr(self, name) for name in shared}
        return Strategy(name=self.strategy, **values)


class KeyConfig(LimitsConfig):
    """A key with limits of its own, beside those of its tenant."""

    key: Key
    alias: Name | None = Field(default=None, description="what people call it")
    expires: datetime | None = Field(default=None, description="from when on it is worthless (UTC)")

    @field_validator("expires")
    @classmethod
    def _utc(cls, moment: datetime | None) -> datetime | None:
        return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment

    @property
    def expires_at(self) -> float | None:
        """The same in seconds since 1970."""
        return None if self.expires is None else self.expires.timestamp()


class TenantOptions(LimitsConfig):
    """What may be said of a tenant, wherever it is."""

    answer: AnswerConfig | None = Field(default=None, description="how answers are found in its replies")
    scale_fraction: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="the share of this tenant's requests that is scaled; none given: all"
    )
    shadow: bool = Field(
        default=False, description="true: answer with one sample, and vote in the background, for the ledger alone"
    )
    store_samples: bool = Field(default=False, description="true: the ledger keeps what is asked and said")
    store_samples_days: StoredDays = Field(default=30, description="days that each text is kept")

    def changes(self) -> dict[str, Any]:
        """What is said here, by the names of `Tenant`; what is not said is not there."""
        found = {name: getattr(self, name) for name in TenantOptions.__annotations__ if name in self.model_fields_set}
        if found.get("answer") is not None:
            found["answer"] = found["answer"].spec()
        return super().changes() | found


class TenantConfig(TenantOptions):
    """Who pays, and how much at most."""

    name: Name
    alias: Name | None = Field(default=None, description="what people call it")
    keys: tuple[
        Annotated[Annotated[Key, Tag(KEY_TEXT)] | Annotated[KeyConfig, Tag(KEY_OPTIONS)], Discriminator(_key_form)], ...
    ] = Field(default=(), description="its keys: texts, or with alias, expires and limits of their own")

    def tenant(self) -> Tenant:
        """The same as a value for the other rooms."""
        return Tenant(name=self.name, alias=self.alias, managed=True, **self.changes())

    def owned(self) -> tuple[KeyConfig, ...]:
        """Its keys, each in the long form."""
        return tuple(each if isinstance(each, KeyConfig) else KeyConfig(key=each) for each in self.keys)


class GeneralSettings(Section):
    """The server's own settings."""

    master_key: MasterKey | None = None
    database_url: Annotated[str, AfterValidator(_database)] = "sqlite:///tally.db"
    max_request_bytes: PositiveInt = 20 * 1024 * 1024
    max_messages: PositiveInt = 4096
    max_in_flight: PositiveInt = Field(default=1000, description="requests served at a time; the next ones get a 503")
    max_header_bytes: Annotated[int, Field(ge=1024, le=_MAX_HEADERS)] = Field(
        default=65_536, description="the most that a request's first line and headers take together"
    )
    read_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=60.0, description="seconds that a request's headers, and then its body, have to come in"
    )
    write_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=60.0, description="seconds that a client may take nothing of its reply, before it counts as gone"
    )
    keep_samples_s: Annotated[float, Field(ge=0, le=600)] = Field(
        default=30.0,
        description="seconds that samples are kept for the retry of a client that went away; 0: they are not",
    )
    budget_exceeded_status_code: Annotated[int, Field(ge=400, le=499)] = 402
    usage: Literal["samples", "paid"] = Field(
        default="samples",
        description="what a scaled reply's usage counts. samples: the prompt once, and every sample's completion; paid:"
        " every token that was paid for",
    )
    store_samples: bool = Field(
        default=False,
        description="the same as a tenant's, for requests of none: without keys, or with the master key",
    )
    store_samples_days: StoredDays = 30
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    shutdown_s: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=130, description="seconds a stopped server has, at most, to finish what it has begun"
    )


class RouterSettings(Section):
    """How calls go to deployments; the names are LiteLLM's, whose others are accepted and have no effect."""

    fallbacks: tuple[dict[Name, tuple[Name, ...]], ...] = Field(
        default=(), description="[{model: [other, ...]}]: where its calls go when all deployments of a model fail"
    )
    num_retries: Annotated[int, Field(ge=0, le=10)] = Field(
        default=2, description="how often a sample's call is tried again when all deployments failed"
    )
    allowed_fails: Annotated[int, Field(ge=0, le=MOST_SAMPLES)] = Field(
        default=3, description="failures in a minute that a deployment may have without a rest"
    )
    cooldown_time: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = Field(
        default=5.0, description="seconds that a deployment rests after one more, or a 429 without Retry-After"
    )

    _unused: tuple[str, ...] = ()

    @model_validator(mode="wrap")
    @classmethod
    def _leave_out(cls, data: Any, read: ModelWrapValidatorHandler["RouterSettings"]) -> "RouterSettings":  # noqa: ANN401 - any YAML value
        unused = sorted(UNUSED & data.keys()) if isinstance(data, dict) else []
        found = read({key: value for key, value in data.items() if key not in unused} if unused else data)
        found._unused = tuple(unused)
        return found

    @property
    def unused(self) -> tuple[str, ...]:
        """The keys of LiteLLM's that stand here and have no effect."""
        return self._unused

    def ways(self) -> dict[str, tuple[str, ...]]:
        """The fallbacks of each model that has some."""
        return {model: others for item in self.fallbacks for model, others in item.items()}


class Config(Section):
    """The whole file. Without a `model_list` every LiteLLM model name is served."""

    model_list: tuple[ModelEntry, ...] = ()
    router_settings: RouterSettings = RouterSettings()
    litellm_settings: RouterSettings = Field(
        default=RouterSettings(), description="the same, as LiteLLM has it in both places; router_settings come first"
    )
    scaling: ScalingConfig = ScalingConfig()
    tenants: tuple[TenantConfig, ...] = ()
    general_settings: GeneralSettings = GeneralSettings()

    def router(self) -> RouterSettings:
        """What the two sections on routing say together."""
        first, second = self.router_settings, self.litellm_settings
        said = {name: getattr(first, name) for name in first.model_fields_set}
        return second.model_copy(update=said)
