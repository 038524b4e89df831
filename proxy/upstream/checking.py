"""What a configuration says of its models that cannot be done: known only with the price table and the environment."""

from collections.abc import Callable, Iterator, Mapping, Set

from proxy.config import Config, ModelEntry
from proxy.errors import ConfigError, Problem
from proxy.upstream.catalogue import BASE_VARIABLES, ROUTER, base_url, provider_of, rates_of, way
from proxy.upstream.direct import PROVIDERS
from proxy.upstream.prices import PriceMap

_UNUSED = "has no effect here"
_UNHONOURED = "is not honoured: num_retries of router_settings holds for every model"


def check_models(
    config: Config, file: str, *, environ: Mapping[str, str], prices: Callable[[], PriceMap]
) -> tuple[Problem, ...]:
    """What is accepted in `file` and has no effect, or less than one may think. Raises ConfigError for mistakes."""
    mistakes: list[Problem] = []
    notes: list[Problem] = []
    for index, entry in enumerate(config.model_list):
        where = f"model_list[{index}].litellm_params"
        if _rewards(config, entry) and provider_of(entry.litellm_params, prices)[0] not in PROVIDERS:
            reason = "is no reward model's server: it needs an openai/ or hosted_vllm/ model with an api_base"
            mistakes.append(Problem(file, f"{where}.model", f"{entry.litellm_params.model} {reason}"))
        if _homeless(entry, environ, prices):
            mistakes.append(Problem(file, f"{where}.api_base", _needs_base(entry, prices)))
        notes += [Problem(file, where, reason) for reason in _unpriced(config, entry, prices)]
        keys = sorted(ROUTER & entry.litellm_params.extra.keys())
        notes += [Problem(file, f"{where}.{key}", _UNHONOURED) for key in keys]
    for section in ("router_settings", "litellm_settings"):
        notes += [Problem(file, f"{section}.{key}", _UNUSED) for key in getattr(config, section).unused]
    if mistakes:
        raise ConfigError(mistakes)
    return tuple(notes)


def _rewards(config: Config, entry: ModelEntry) -> bool:
    scorer = config.scaling.scorer
    if scorer.kind != "reward" or scorer.model is None:
        return False
    return entry.model_name in way(scorer.model, config.router().ways())


def _homeless(entry: ModelEntry, environ: Mapping[str, str], prices: Callable[[], PriceMap]) -> bool:
    if entry.litellm_params.api_base is not None:
        return False
    provider, _ = provider_of(entry.litellm_params, prices)
    # OpenAI's own address is known
    return provider in PROVIDERS - {"openai"} and base_url(provider, environ) is None


def _needs_base(entry: ModelEntry, prices: Callable[[], PriceMap]) -> str:
    provider, _ = provider_of(entry.litellm_params, prices)
    variables = "".join(f" (or the environment variable {name})" for name in BASE_VARIABLES.get(provider, ()))
    return f"is missing: nothing says where {entry.litellm_params.model} is served{variables}"


def _unpriced(config: Config, entry: ModelEntry, prices: Callable[[], PriceMap]) -> Iterator[str]:
    """Whom the missing price of an entry keeps from it; a note, for others may use it all the same."""
    if rates_of(entry.litellm_params, prices) is not None:
        return
    name, ways = entry.model_name, config.router().ways()
    said = f"the price of {entry.litellm_params.model} is not known, so"
    cure = "give input_cost_per_token and output_cost_per_token"
    if limited := _limited(config, {name}):
        kept = "go to its other deployments" if _priced(config, name, prices) else "will be refused it"
        yield f"{said} {limited}, limited in money, {kept}: {cure}"
    if limited := _limited(config, {other for other in ways if other != name and name in way(other, ways)}):
        yield f"{said} it is no fallback for {limited}, limited in money: {cure}"


def _priced(config: Config, name: str, prices: Callable[[], PriceMap]) -> bool:
    """Whether any entry of a name has a known price."""
    alike = (entry for entry in config.model_list if entry.model_name == name)
    return any(rates_of(entry.litellm_params, prices) is not None for entry in alike)


def _limited(config: Config, names: Set[str]) -> str:
    """The tenants that are limited in money and may use one of the models of these names."""
    return ", ".join(
        repr(tenant.name)
        for tenant in config.tenants
        if (tenant.max_budget is not None or tenant.max_cost_usd is not None)
        and not names.isdisjoint(names if tenant.models is None else tenant.models)
    )
