"""Which deployments serve a model name."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from proxy.config import Config, LiteLLMParams, ModelEntry
from proxy.errors import NotFound
from proxy.money import Rates
from proxy.types import AnswerSpec, StrategyName
from proxy.upstream import Endpoint, Lane
from proxy.upstream.deployment import MAX_CALLS, Deployment
from proxy.upstream.direct import PROVIDERS
from proxy.upstream.entry import read_rates, unbilled
from proxy.upstream.group import Group
from proxy.upstream.health import Health
from proxy.upstream.limits import Limits
from proxy.upstream.prices import PriceMap
from proxy.upstream.routing import Route

_MAX_UNLISTED = 1000
ROUTER = frozenset({"num_retries", "max_retries"})
"""What LiteLLM reads for itself goes no further; everything else in `litellm_params` goes to the provider."""

_HEADERS = frozenset({"extra_headers", "organization"})
_KEY_VARIABLES = {"hosted_vllm": "HOSTED_VLLM_API_KEY"}
BASE_VARIABLES = {"openai": ("OPENAI_BASE_URL", "OPENAI_API_BASE"), "hosted_vllm": ("HOSTED_VLLM_API_BASE",)}


def base_url(provider: str, environ: Mapping[str, str]) -> str | None:
    """Where the environment says that a provider of the direct lane is served."""
    return next((environ[name] for name in BASE_VARIABLES.get(provider, ()) if environ.get(name)), None)


def provider_of(params: LiteLLMParams, prices: Callable[[], PriceMap]) -> tuple[str, str]:
    """LiteLLM's name of the provider of a listed model, and the model's name there."""
    provider, slash, bare = params.model.partition("/")
    if not slash:
        return ("openai" if params.api_base else prices().provider(params.model) or "openai"), params.model
    # as in "/model"
    return provider or "openai", bare


def rates_of(params: LiteLLMParams, prices: Callable[[], PriceMap]) -> Rates | None:
    """What a token of a listed model costs: by its entry, else by the table; None when neither knows."""
    given = params.prices
    if params.input_cost_per_token is None:
        return prices().rates(params.model, given) if not unbilled(given) else None
    return None if unbilled(given) else read_rates(given, inclusive=params.model.startswith("xai/"))


def way(model: str, fallbacks: Mapping[str, Sequence[str]]) -> list[str]:
    """`model`, its fallbacks, and theirs: each after its own, as LiteLLM goes, and each model once."""
    found: dict[str, None] = {}
    ahead = [model]
    while ahead:
        name = ahead.pop()
        if name not in found:
            found[name] = None
            ahead += reversed(fallbacks.get(name, ()))
    return list(found)


def labels(entries: Sequence[ModelEntry]) -> list[str]:
    """What the ledger calls each entry: by its `model_name`, or one by one where several of a name have one `model`.

    Such an entry goes by the `id` of its `model_info`, as LiteLLM has it, else by its place among those of its name,
    as in `small#2`.
    """
    alike = Counter((entry.model_name, entry.litellm_params.model) for entry in entries)
    places: Counter[str] = Counter()
    found = []
    for entry in entries:
        places[entry.model_name] += 1
        told = (entry.model_info.__pydantic_extra__ or {}).get("id")
        own = str(told) if told else f"{entry.model_name}#{places[entry.model_name]}"
        found.append(own if alike[entry.model_name, entry.litellm_params.model] > 1 else entry.model_name)
    return found


class Catalogue:
    """The models on offer. Without a `model_list`, any LiteLLM model name is one, made up when first asked for.

    `direct` and `litellm` are the two lanes; `prices` is read only where the configuration gives no price. `clock` is
    monotonic seconds.
    """

    def __init__(
        self,
        config: Config,
        *,
        direct: Lane,
        litellm: Callable[[], Lane],
        prices: Callable[[], PriceMap],
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._router = config.router()
        self._direct = direct
        self._litellm = litellm
        self._prices = prices
        self._environ = environ
        self._open = not config.model_list
        self._unlisted: dict[str, Route] = {}
        self._entries: dict[str, ModelEntry] = {}
        listed: dict[str, list[Deployment]] = {}
        for entry, label in zip(config.model_list, labels(config.model_list), strict=True):
            self._entries.setdefault(entry.model_name, entry)
            listed.setdefault(entry.model_name, []).append(self._deployment(entry, label))
        groups = {name: Group(tuple(deployments), clock) for name, deployments in listed.items()}
        self._listed = {
            name: self._route(name, [groups[each] for each in way(name, self._router.ways())]) for name in groups
        }

    def find(self, model: str) -> Route:
        """The way of the calls for `model`: its deployments, and those of its fallbacks. Raises NotFound."""
        if model in self._listed:
            return self._listed[model]
        if self._open:
            return self._find_unlisted(model)
        raise NotFound(f"The model {model!r} does not exist.", code="model_not_found", param="model")

    def names(self) -> list[str]:
        """The names of the models on offer; in the open, those whose provider's key is in the environment."""
        if not self._open:
            return list(self._listed)
        providers = sorted(
            name.removesuffix("_API_KEY").lower()
            for name, value in self._environ.items()
            if name.endswith("_API_KEY") and value
        )
        return [f"{name}/{model.removeprefix(name + '/')}" for name in providers
                for model in self._prices().chat_models(name)]  # fmt: skip

    def strategy(self, model: str) -> StrategyName | None:
        """The strategy that the configuration sets for a model."""
        entry = self._entries.get(model)
        return entry.strategy if entry else None

    def answer(self, model: str) -> AnswerSpec | None:
        """The answer kind that the configuration sets for a model."""
        entry = self._entries.get(model)
        return entry.answer.spec() if entry and entry.answer else None

    def _find_unlisted(self, model: str) -> Route:
        found = self._unlisted.get(model)
        if found is None:
            provider, bare = self._split(model)
            if provider is None:
                raise NotFound(
                    f"The model {model!r} does not exist: use PROVIDER/MODEL, such as openai/gpt-4o-mini.",
                    code="model_not_found",
                    param="model",
                )
            if len(self._unlisted) >= _MAX_UNLISTED:
                # the oldest goes, so that a thousand odd names keep nobody from a model
                del self._unlisted[next(iter(self._unlisted))]
            prices = self._prices()
            deployment = Deployment(
                model_name=model,
                endpoint=self._endpoint(provider, bare, None, None),
                lane=self._lane(provider),
                rates=prices.rates(model),
                max_output=prices.max_output_tokens(model),
            )
            found = self._unlisted[model] = self._route(model, [Group((deployment,), self._clock)])
        return found

    def _route(self, model: str, groups: Sequence[Group]) -> Route:
        return Route(model, groups, clock=self._clock, retries=self._router.num_retries)

    def _split(self, model: str) -> tuple[str | None, str]:
        provider, slash, bare = model.partition("/")
        if slash and provider and bare:
            return provider, bare
        return self._prices().provider(model), model

    def _lane(self, provider: str) -> Lane:
        return self._direct if provider in PROVIDERS else self._litellm()

    def _endpoint(self, provider: str, model: str, base: str | None, key: str | None) -> Endpoint:
        if provider in PROVIDERS and base is None:
            # the key in the environment is for the address in the environment, not for one that a file names
            base = base_url(provider, self._environ)
            key = key or self._environ.get(_KEY_VARIABLES.get(provider, "OPENAI_API_KEY"))
            if base is None and provider != "openai":
                raise NotFound(f"Nobody says where {provider}/{model} is served: it needs an api_base.", param="model")
        return Endpoint(provider, model, base.rstrip("/") if base else None, key, {})

    def _deployment(self, entry: ModelEntry, label: str) -> Deployment:
        params, info = entry.litellm_params, entry.model_info
        provider, bare = provider_of(params, self._prices)
        endpoint = self._endpoint(provider, bare, params.api_base, params.api_key)
        rest = {key: value for key, value in params.extra.items() if key not in ROUTER}
        direct = provider in PROVIDERS
        headers = {key: rest.pop(key) for key in _HEADERS & rest.keys()} if direct else {}
        return Deployment(
            model_name=entry.model_name,
            label=label,
            endpoint=Endpoint(provider, bare, endpoint.api_base, endpoint.api_key, headers if direct else rest),
            lane=self._lane(provider),
            rates=rates_of(params, self._prices),
            max_output=info.max_output_tokens or (None if params.api_base else self._max_output(params.model)),
            max_n=info.max_n,
            told_max_n=info.max_n is not None,
            usage_per_choice=info.usage == "per_choice",
            told_per_choice=info.usage == "per_choice",
            streams=info.stream,
            hidden_reasoning=info.hidden_reasoning,
            timeout=params.timeout or 600.0,
            defaults=rest if direct else {},
            limit=params.max_parallel_requests or MAX_CALLS,
            weight=params.weight,
            limits=Limits(params.rpm, params.tpm, clock=self._clock) if params.rpm or params.tpm else None,
            health=Health(
                clock=self._clock, allowed_fails=self._router.allowed_fails, cooldown_s=self._router.cooldown_time
            ),
        )

    def _max_output(self, model: str) -> int | None:
        return self._prices().max_output_tokens(model)
