"""What a configuration says of its models that cannot be done: known only with the price table and the environment."""

from collections.abc import Callable, Iterator, Mapping, Set
from math import inf
from urllib.parse import urlsplit

from proxy.config import Config, LiteLLMParams, ModelEntry
from proxy.config.models import GeneralSettings, TenantOptions
from proxy.errors import ConfigError, Problem
from proxy.upstream.asked import paid_apart
from proxy.upstream.catalogue import BASE_VARIABLES, ROUTER, base_url, provider_of, rates_of, way
from proxy.upstream.direct import PROVIDERS
from proxy.upstream.entry import is_price, meant, unbilled
from proxy.upstream.names import known, likely
from proxy.upstream.prices import PriceMap

_UNUSED = "has no effect here"
_SENT = "is sent to the provider as it is"
_NOT_STORED = "has no effect without store_samples"
_UNHONOURED = "is not honoured: num_retries of router_settings holds for every model"


def check_models(
    config: Config, file: str, *, environ: Mapping[str, str], prices: Callable[[], PriceMap], now: float = -inf
) -> tuple[Problem, ...]:
    """What is accepted in `file` and has no effect, or less than one may think. Raises ConfigError for mistakes.

    `now` (seconds since 1970) is when keys that expired by then are noted; as it stands none are.
    """
    mistakes: list[Problem] = []
    notes: list[Problem] = []
    for index, entry in enumerate(config.model_list):
        where = f"model_list[{index}].litellm_params"
        if _rewards(config, entry) and provider_of(entry.litellm_params, prices)[0] not in PROVIDERS:
            reason = "is no reward model's server: it needs an openai/ or hosted_vllm/ model with an api_base"
            mistakes.append(Problem(file, f"{where}.model", f"{entry.litellm_params.model} {reason}"))
        if _homeless(entry, environ, prices):
            mistakes.append(Problem(file, f"{where}.api_base", _needs_base(entry, prices)))
        keys = sorted(entry.litellm_params.model_extra or {})
        wrong = {key: meant(key, prices().names) or _misspelt(key) for key in keys}
        mistakes += [Problem(file, f"{where}.{key}", reason) for key, reason in wrong.items() if reason is not None]
        notes += [Problem(file, where, reason) for reason in _unpriced(config, entry, prices)]
        notes += [Problem(file, f"{where}.{key}", _SENT) for key in keys if not known(key) and not is_price(key)]
        keys = sorted(ROUTER & entry.litellm_params.extra.keys())
        notes += [Problem(file, f"{where}.{key}", _UNHONOURED) for key in keys]
    for section in ("router_settings", "litellm_settings"):
        notes += [Problem(file, f"{section}.{key}", _UNUSED) for key in getattr(config, section).unused]
    notes += [Problem(file, key, reason) for key, reason in _idle(config, now)]
    if mistakes:
        raise ConfigError(mistakes)
    return tuple(notes)


def _misspelt(name: str) -> str | None:
    """What is wrong with a key that is all but one that is known."""
    close = None if known(name) or is_price(name) else likely(name)
    return None if close is None else f"is not a known name; did you mean {close}?"


def _idle(config: Config, now: float) -> Iterator[tuple[str, str]]:
    """What is said of tenants and does nothing: where, and why."""
    storing: dict[str, TenantOptions | GeneralSettings] = {"general_settings": config.general_settings}
    for index, tenant in enumerate(config.tenants):
        storing[f"tenants[{index}]"] = tenant
        for place, key in enumerate(tenant.owned()):
            if key.expires_at is not None and key.expires_at <= now:
                yield f"tenants[{index}].keys[{place}].expires", "is over: nobody can use this key"
    for where, said in storing.items():
        if "store_samples_days" in said.model_fields_set and not said.store_samples:
            yield f"{where}.store_samples_days", _NOT_STORED


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
    """Whom what is not known of an entry's price keeps from it; a note, for others may use it all the same."""
    params = entry.litellm_params
    rates = rates_of(params, prices)
    uplift = prices().uplift(params.model, _region(params)) if params.input_cost_per_token is None else None
    if uplift is not None:
        yield (
            f"{params.model} costs {uplift} times its list price there, which is not added: give its prices, beginning "
            "with input_cost_per_token and output_cost_per_token"
        )
    if rates is None:
        yield from _unknown(config, entry, prices)
        return
    limited, field = _limited(config, {entry.model_name}), paid_apart(params.extra, rates)
    if limited and field is not None and not rates.free:
        yield f"what {field} costs is not known, so {limited}, limited in money, will be refused"


def _unknown(config: Config, entry: ModelEntry, prices: Callable[[], PriceMap]) -> Iterator[str]:
    name, ways, params = entry.model_name, config.router().ways(), entry.litellm_params
    more = unbilled(params.prices) + (prices().obstacles(params.model) if not params.prices else [])
    why = f" (its calls cost more than their tokens: {', '.join(more)})" if more else ""
    said = f"the price of {params.model} is not known{why}, so"
    cure = "give input_cost_per_token and output_cost_per_token"
    if limited := _limited(config, {name}):
        kept = "go to its other deployments" if _priced(config, name, prices) else "will be refused it"
        yield f"{said} {limited}, limited in money, {kept}: {cure}"
    if limited := _limited(config, {other for other in ways if other != name and name in way(other, ways)}):
        yield f"{said} it is no fallback for {limited}, limited in money: {cure}"


def _region(params: LiteLLMParams) -> str:
    """Where the provider is to process the calls: OpenAI's hosts of a region, or Vertex AI's location."""
    host = (urlsplit(params.api_base or "").hostname or "").removesuffix(".api.openai.com")
    return host if host in ("eu", "us") else str(params.extra.get("vertex_location") or "")


def _priced(config: Config, name: str, prices: Callable[[], PriceMap]) -> bool:
    """Whether any entry of a name has a known price."""
    alike = (entry for entry in config.model_list if entry.model_name == name)
    return any(rates_of(entry.litellm_params, prices) is not None for entry in alike)


def _limited(config: Config, names: Set[str]) -> str:
    """The tenants that are limited in money and may use one of the models of these names."""
    return ", ".join(
        repr(tenant.name)
        for tenant in config.tenants
        if (tenant.tenant().limits_money or tenant.max_cost_usd is not None)
        and not names.isdisjoint(names if tenant.models is None else tenant.models)
    )
