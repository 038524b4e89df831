"""From a file to a configuration: YAML or JSON, `os.environ/NAME` references, and every mistake by its key."""

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import ComposerError

from proxy.config.limits import BudgetConfig, LimitsConfig, mistakes
from proxy.config.models import KEY_OPTIONS, KEY_TEXT, Config
from proxy.config.wording import wording
from proxy.errors import ConfigError, Problem
from proxy.types import JSON

_REFERENCE = "os.environ/"
_RESERVED = frozenset({"local", "master"})


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


_BOOL = "tag:yaml.org,2002:bool"


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


# as in YAML 1.2 only true and false are booleans: `strategy: off` names a strategy
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


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
    location = tuple(part for part in error["loc"] if part not in (KEY_TEXT, KEY_OPTIONS))
    for part in location:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    if error["type"] == "extra_forbidden":
        return Problem(file, key, "is not a known key" + _suggestion(location))
    return Problem(file, key, wording(error))


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
        yield from _limits(tenant, f"tenants[{index}]", file, models)
        for place, key in enumerate(tenant.owned()):
            yield from _limits(key, f"tenants[{index}].keys[{place}]", file, models)
    asked = {name: getattr(config.scaling, name) for name in ("judge_model", "embedding_model", "universal_model")}
    for name, model in {**asked, "scorer.model": config.scaling.scorer.model}.items():
        if model and models and model not in models:
            yield Problem(file, f"scaling.{name}", f"{model!r} is not in model_list")
    yield from _fallbacks(config, file, models)
    yield from _scoreless(config, file)
    yield from _twice(config, file)


def _limits(limits: LimitsConfig, where: str, file: str, models: Set[str]) -> Iterator[Problem]:
    """Limits of a tenant or a key that do not go together, or with the models."""
    for place, model in enumerate(limits.models or ()):
        if models and model not in models:
            yield Problem(file, f"{where}.models[{place}]", f"{model!r} is not in model_list")
    windows: Sequence[tuple[str, BudgetConfig]] = [(where, limits)]
    windows = [*windows, *((f"{where}.budgets[{place}]", each) for place, each in enumerate(limits.budgets))]
    for key, window in windows:
        amounts = [window.max_budget, window.token_budget, window.sample_budget]
        soft = limits.soft_budget if window is limits else None
        if (window.budget_duration or window is not limits) and not any(each is not None for each in (*amounts, soft)):
            yield Problem(file, f"{key}.budget_duration", "needs max_budget, token_budget or sample_budget")
    for name, reason in mistakes(limits.limits()):
        yield Problem(file, f"{where}.{name}", reason)


def _fallbacks(config: Config, file: str, models: Set[str]) -> Iterator[Problem]:
    """Fallbacks of, or to, models that nobody knows, and models that have them twice."""
    for section in ("router_settings", "litellm_settings"):
        seen: set[str] = set()
        for index, item in enumerate(getattr(config, section).fallbacks):
            for model, others in item.items():
                where = f"{section}.fallbacks[{index}].{model}"
                named = {where: model, **{f"{where}[{place}]": other for place, other in enumerate(others)}}
                for key, name in named.items():
                    if name not in models:
                        yield Problem(file, key, f"{name!r} is not in model_list")
                if model in seen:
                    yield Problem(file, where, f"{model!r} has fallbacks twice")
                seen.add(model)


def _scoreless(config: Config, file: str) -> Iterator[Problem]:
    """Models and tenants whose strategy never gets the scores that it draws by."""
    if config.scaling.scorer.kind != "agreement":
        return
    reason = "optscale needs scores while it draws, and agreement is known only at the end"
    entries = {f"model_list[{index}]": entry.strategy for index, entry in enumerate(config.model_list)}
    for index, tenant in enumerate(config.tenants):
        entries[f"tenants[{index}]"] = tenant.strategy
        entries |= {f"tenants[{index}].keys[{place}]": key.strategy for place, key in enumerate(tenant.owned())}
    for where, strategy in entries.items():
        if strategy == "optscale":
            yield Problem(file, f"{where}.strategy", reason)


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
        for place, key in enumerate(each.key for each in tenant.owned()):
            where = f"tenants[{index}].keys[{place}]"
            if key == config.general_settings.master_key:
                yield Problem(file, where, "is the master key")
            if key in owners:
                yield Problem(file, where, f"is a key of {owners[key]!r} too")
            owners.setdefault(key, tenant.name)
