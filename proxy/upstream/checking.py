"""What a configuration says of its models that cannot be done: known only with the price table and the environment."""

from collections.abc import Callable, Iterator, Mapping

from proxy.config import Config, ModelEntry
from proxy.errors import ConfigError, Problem
from proxy.upstream.catalogue import BASE_VARIABLES, ROUTER, base_url, provider_of, rates_of
from proxy.upstream.direct import PROVIDERS
from proxy.upstream.prices import PriceMap

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
    if mistakes:
        raise ConfigError(mistakes)
    return tuple(notes)


def _rewards(config: Config, entry: ModelEntry) -> bool:
    scorer = config.scaling.scorer
    return scorer.kind == "reward" and scorer.model == entry.model_name


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
    """Whom the missing price of a model keeps from it; a note, for others may use the model all the same."""
    limited = [
        repr(tenant.name)
        for tenant in config.tenants
        if (tenant.max_budget is not None or tenant.max_cost_usd is not None)
        and (tenant.models is None or entry.model_name in tenant.models)
    ]
    if limited and rates_of(entry.litellm_params, prices) is None:
        yield (
            f"the price of {entry.litellm_params.model} is not known, so {', '.join(limited)}, limited in money, will "
            "be refused it: give input_cost_per_token and output_cost_per_token"
        )
