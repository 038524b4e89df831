"""The operator's file: what it may say, and every mistake in it by file, key and reason.

The format is LiteLLM's `model_list` with `os.environ/NAME` references, plus `scaling` and `tenants`; YAML or JSON.
"""

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from yaml.composer import ComposerError

from proxy.errors import ConfigError, Problem
from proxy.money import nano_usd
from proxy.types import JSON, AnswerKind, AnswerSpec, Strategy, StrategyName, Tenant, Votable
from proxy.windows import parse_duration

_REFERENCE = "os.environ/"
_WEAK_KEYS = frozenset({"sk-1234", "sk-12345678", "changeme", "password", "secret", "master", "test"})
_MIN_MASTER_KEY = 16
_MIN_KEY = 6
_MAX_N = 1024
_MAX_COUNT = 10**15
_RESERVED = frozenset({"local", "master"})


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return text.rstrip("/")


def _strong(key: str) -> str:
    if len(key) < _MIN_MASTER_KEY or key.lower() in _WEAK_KEYS or len(set(key)) < 6:
        raise ValueError(f"is too weak: use at least {_MIN_MASTER_KEY} random characters")
    return key


def _database(url: str) -> str:
    if url.startswith(("postgres://", "postgresql://")):
        raise ValueError("Postgres is not served yet: use sqlite:///FILE")
    if not url.startswith("sqlite://"):
        raise ValueError("must be sqlite:///FILE (four slashes for an absolute path) or sqlite:// for memory")
    return url


Usd = Annotated[Decimal, Field(ge=0, le=10**9, allow_inf_nan=False)]
Rate = Annotated[Decimal, Field(ge=0, le=1, allow_inf_nan=False)]
Duration = Annotated[str, AfterValidator(_duration)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
MasterKey = Annotated[str, AfterValidator(_strong)]
Key = Annotated[str, Field(min_length=_MIN_KEY, pattern=r"^\S+$")]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class AnswerConfig(_Section):
    """How answers are found in replies."""

    kind: AnswerKind = "auto"
    votable: Votable = "auto"

    def spec(self) -> AnswerSpec:
        """The same as a value for the other rooms."""
        return AnswerSpec(self.kind, self.votable)


class LiteLLMParams(BaseModel):
    """What LiteLLM calls `litellm_params`. Keys not named here go to the provider as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    model: Name
    api_base: HttpUrl | None = None
    api_key: str | None = None
    input_cost_per_token: Rate | None = None
    output_cost_per_token: Rate | None = None
    cache_read_input_token_cost: Rate | None = None
    max_parallel_requests: PositiveInt | None = None
    timeout: Annotated[float, Field(gt=0, le=3600)] | None = None

    @model_validator(mode="after")
    def _both_rates(self) -> "LiteLLMParams":
        if (self.input_cost_per_token is None) != (self.output_cost_per_token is None):
            raise ValueError("input_cost_per_token and output_cost_per_token go together")
        return self

    @model_validator(mode="after")
    def _headers(self) -> "LiteLLMParams":
        headers = self.extra.get("extra_headers", {})
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise ValueError("extra_headers must map names to text")
        return self

    @property
    def extra(self) -> JSON:
        """The keys that go to the provider as they are."""
        return dict(self.__pydantic_extra__ or {})


class ModelInfo(BaseModel):
    """What is known of a deployment; LiteLLM's other `model_info` keys are accepted and not read."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

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


class ModelEntry(_Section):
    """One deployment of a model."""

    model_name: Name
    litellm_params: LiteLLMParams
    model_info: ModelInfo = ModelInfo()
    strategy: StrategyName | None = None
    answer: AnswerConfig | None = None


class ScalingConfig(_Section):
    """How requests are scaled unless the request, its tenant or its model says otherwise."""

    strategy: Literal[StrategyName, "adaptive"] = "self_consistency"
    samples: Annotated[int, Field(ge=1, le=_MAX_N)] = Field(default=8, description="N of the fixed-N strategies")
    mean_samples: Annotated[int, Field(ge=1, le=_MAX_N)] = Field(
        default=16, description="what a query credits to its batch"
    )
    max_samples: Annotated[int, Field(ge=1, le=_MAX_N)] = 32
    max_rounds: Annotated[int, Field(ge=1, le=64)] = Field(default=6, description="waves of draws, one after the other")
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 120.0
    batch_window_ms: Annotated[float, Field(ge=0, le=10_000)] = 50.0
    batch_max_queries: Annotated[int, Field(ge=1, le=4096)] = 32
    unit: Annotated[int, Field(ge=2, le=256)] = Field(default=8, description="DynScaling's B_unit, in samples")
    thought_length: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4, description="DynScaling's k: earlier answers shown"
    )
    exploration: Annotated[float, Field(ge=0, le=10)] = Field(default=0.25, description="DynScaling's c")
    target: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        default=0.95, description="confidence that ends a live query early"
    )
    s_min: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.95, description="OptScale's quality to reach")
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.9, description="OptScale's alpha")
    judge_model: Name | None = Field(
        default=None, description="a model_name that scores where log-probabilities are missing"
    )
    slice_tokens: Annotated[int, Field(ge=16)] = Field(default=1024, description="output tokens reserved at a time")
    answer: AnswerConfig = AnswerConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "ScalingConfig":
        if self.mean_samples < self.unit:
            raise ValueError(f"mean_samples ({self.mean_samples}) is below the unit of DynScaling ({self.unit})")
        return self

    def default(self) -> Strategy:
        """The default strategy with its parameters. `adaptive` is not built yet: self-consistency stands in for it."""
        shared = Strategy.__dataclass_fields__.keys() & type(self).model_fields.keys()
        values = {name: getattr(self, name) for name in shared}
        return Strategy(name="self_consistency" if self.strategy == "adaptive" else self.strategy, **values)


class TenantConfig(_Section):
    """Who pays, and how much at most."""

    name: Name
    keys: tuple[Key, ...] = ()
    max_budget: Usd | None = Field(default=None, description="US dollars a window")
    token_budget: Annotated[int, Field(ge=0, le=_MAX_COUNT)] | None = Field(
        default=None, description="tokens a window, prompt and completion"
    )
    budget_duration: Duration | None = Field(
        default=None, description="30s, 30m, 24h, 1d, 7d, 1mo, daily, weekly or monthly"
    )
    rpm_limit: Annotated[int, Field(ge=1, le=_MAX_COUNT)] | None = Field(default=None, description="requests a minute")
    models: tuple[Name, ...] | None = Field(
        default=None, description="model names this tenant may use; none given: all"
    )
    strategy: StrategyName | None = None
    max_samples: Annotated[int, Field(ge=1, le=_MAX_N)] | None = Field(
        default=None, description="most samples a request"
    )
    max_cost_usd: Usd | None = Field(default=None, description="most US dollars a request")
    blocked: bool = False

    def tenant(self) -> Tenant:
        """The same as a value for the other rooms."""
        return Tenant(
            name=self.name,
            max_nano=None if self.max_budget is None else nano_usd(self.max_budget),
            max_tokens=self.token_budget,
            duration=self.budget_duration,
            rpm_limit=self.rpm_limit,
            models=self.models,
            strategy=self.strategy,
            max_samples=self.max_samples,
            max_request_nano=None if self.max_cost_usd is None else nano_usd(self.max_cost_usd),
            blocked=self.blocked,
            managed=True,
        )


class GeneralSettings(_Section):
    """The server's own settings."""

    master_key: MasterKey | None = None
    database_url: Annotated[str, AfterValidator(_database)] = "sqlite:///tally.db"
    max_request_bytes: PositiveInt = 20 * 1024 * 1024
    max_messages: PositiveInt = 4096
    budget_exceeded_status_code: Annotated[int, Field(ge=400, le=499)] = 402
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Section):
    """The whole file. Without a `model_list` every LiteLLM model name is served."""

    model_list: tuple[ModelEntry, ...] = ()
    scaling: ScalingConfig = ScalingConfig()
    tenants: tuple[TenantConfig, ...] = ()
    general_settings: GeneralSettings = GeneralSettings()


def load_config(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in `path` (None: the defaults). Raises ConfigError that names every mistake.

    Without a file, `TALLY_MASTER_KEY` and `TALLY_DATABASE_URL` are read from the environment.
    """
    if path is None:
        return parse_config(_from_environment(environ), "environment", environ)
    try:
        return parse_config(_parsed(path), str(path), environ)
    except RecursionError as error:
        raise ConfigError([Problem(str(path), "", "is nested too deeply, or holds itself")]) from error


def parse_config(data: object, file: str, environ: Mapping[str, str]) -> Config:
    """The configuration in `data`; `file` names it in errors."""
    if not isinstance(data, dict):
        raise ConfigError([Problem(file, "", "must be a mapping with model_list, scaling, tenants, general_settings")])
    missing: list[Problem] = []
    # a section that stands there empty is one that is not there
    given = {name: section for name, section in data.items() if section is not None}
    resolved = _resolve(given, "", file, environ, missing)
    try:
        config = Config.model_validate(resolved)
    except ValidationError as error:
        wrong = [_problem(file, dict(item)) for item in error.errors(include_url=False, include_input=False)]
        unset = {problem.key for problem in missing}
        raise ConfigError([*missing, *(problem for problem in wrong if problem.key not in unset)]) from None
    problems = [*missing, *_across(config, file)]
    if problems:
        raise ConfigError(problems)
    return config


def _parsed(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error}")]) from error
    try:
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_once)
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except json.JSONDecodeError as error:
        raise ConfigError([Problem(str(path), f"line {error.lineno}", f"is not JSON: {error.msg}")]) from error
    except yaml.YAMLError as error:
        raise ConfigError([_yaml_problem(str(path), error)]) from error
    except ValueError as error:
        # a number of thousands of digits, the 13th month, a key that stands twice
        raise ConfigError([Problem(str(path), "", str(error))]) from error
    return {} if data is None else data


class _Loader(yaml.SafeLoader):
    """YAML, where a key that stands twice is an error: the second would silently undo the first."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ComposerError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        return node


def _once(pairs: list[tuple[str, Any]]) -> JSON:
    found: JSON = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice")
        found[key] = value
    return found


def _from_environment(environ: Mapping[str, str]) -> JSON:
    names = {"master_key": "TALLY_MASTER_KEY", "database_url": "TALLY_DATABASE_URL"}
    return {"general_settings": {key: environ[name] for key, name in names.items() if environ.get(name)}}


def _resolve(value: Any, key: str, file: str, environ: Mapping[str, str], problems: list[Problem]) -> Any:  # noqa: ANN401 - any YAML value
    if isinstance(value, dict):
        return {name: _resolve(item, f"{key}.{name}" if key else str(name), file, environ, problems)
                for name, item in value.items()}  # fmt: skip
    if isinstance(value, list):
        return [_resolve(item, f"{key}[{index}]", file, environ, problems) for index, item in enumerate(value)]
    if isinstance(value, str) and value.startswith(_REFERENCE):
        name = value.removeprefix(_REFERENCE)
        if not environ.get(name):
            problems.append(Problem(file, key, f"the environment variable {name} is not set"))
            return f"unset-0123456789abcdef-{len(problems)}"
        return environ[name]
    return value


def _problem(file: str, error: JSON) -> Problem:
    key = ""
    for part in error["loc"]:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    reason = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        reason = "is not a known key" + _suggestion(error["loc"])
    elif error["type"] == "missing":
        reason = "is missing"
    return Problem(file, key, reason)


def _suggestion(location: tuple[str | int, ...]) -> str:
    section: Any = Config
    for part in location[:-1]:
        if isinstance(part, str):
            section = section.model_fields[part].annotation
            section = next(iter(_models(section)), None)
    names = list(section.model_fields) if section is not None else []
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(names)}"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - any type expression
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)


def _yaml_problem(file: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or "cannot be parsed"
    return Problem(file, f"line {mark.line + 1}" if mark else "", f"is not YAML: {reason}")


def _across(config: Config, file: str) -> Iterator[Problem]:
    """Mistakes that only two keys together make."""
    models = {entry.model_name for entry in config.model_list}
    for index, tenant in enumerate(config.tenants):
        if tenant.name in _RESERVED:
            yield Problem(file, f"tenants[{index}].name", f"{tenant.name!r} is tally's own")
        for place, model in enumerate(tenant.models or ()):
            if models and model not in models:
                yield Problem(file, f"tenants[{index}].models[{place}]", f"{model!r} is not in model_list")
        if tenant.budget_duration and tenant.max_budget is None and tenant.token_budget is None:
            yield Problem(file, f"tenants[{index}].budget_duration", "needs max_budget or token_budget")
    judge = config.scaling.judge_model
    if judge and models and judge not in models:
        yield Problem(file, "scaling.judge_model", f"{judge!r} is not in model_list")
    yield from _twice(config, file)


def _twice(config: Config, file: str) -> Iterator[Problem]:
    """Names and keys that stand for two tenants."""
    names: dict[str, int] = {}
    owners: dict[str, str] = {}
    for index, tenant in enumerate(config.tenants):
        if tenant.name in names:
            yield Problem(
                file, f"tenants[{index}].name", f"{tenant.name!r} stands at tenants[{names[tenant.name]}] too"
            )
        names.setdefault(tenant.name, index)
        for place, key in enumerate(tenant.keys):
            where = f"tenants[{index}].keys[{place}]"
            if key == config.general_settings.master_key:
                yield Problem(file, where, "is the master key")
            if key in owners:
                yield Problem(file, where, f"is a key of {owners[key]!r} too")
            owners.setdefault(key, tenant.name)
