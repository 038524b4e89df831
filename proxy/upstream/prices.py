"""What models cost and how much they can write, by LiteLLM's own table, read without importing LiteLLM."""

import re
from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import cast

import orjson

from proxy.money import Rates
from proxy.types import JSON
from proxy.upstream.entry import is_price, read_rates, unbilled

_FILE = "model_prices_and_context_window_backup.json"
_TEXT_MODES = frozenset({"chat", "completion", "responses"})
# what generates nothing has no price of output, and may be priced by the query, the image or the character
_PLAIN_MODES = frozenset({"embedding", "moderation"})
_UNCOUNTED = re.compile(r"^input_(?!cost_per_token$|.*_batches$)")
# the table files a provider's models in groups: vertex_ai-anthropic_models, fireworks_ai-embedding-models
_GROUP = re.compile(r"-[a-z0-9_]+[-_]models$")
# these look things up for every call, and each look-up is paid for
_SEARCHING = re.compile(r"search-(preview|api)|-search$|deep-research")
_NOTHING: Mapping[str, object] = MappingProxyType({})
# LiteLLM reads these, too, and no model of its table has them
_UNLISTED = frozenset({"cost_per_ptu_per_hour", "output_cost_per_audio_per_second"})
_ALIASES = {"bedrock_converse": "bedrock", "cohere_chat": "cohere", "azure_text": "azure"}


def default_path() -> Path:
    """Where the installed LiteLLM keeps its table. FileNotFoundError when LiteLLM is not installed."""
    spec = find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("litellm is not installed")
    return Path(spec.submodule_search_locations[0]) / _FILE


class PriceMap:
    """Prices and limits by LiteLLM's model names: `openai/gpt-4o-mini`, `gpt-4o-mini`, `anthropic/claude-opus-4-5`.

    A name is looked up as it stands, then without its provider where the entry is that provider's own. `path` is a
    table in LiteLLM's format (None: the installed one). It is read at the first question.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def rates(self, model: str, given: Mapping[str, object] = _NOTHING) -> Rates | None:
        """What a token costs; None when the table has no price for tokens both in and out. 0 is a price: free.

        `given` are prices that stand in place of the table's. What generates nothing, such as an embedding model, needs
        no price out. None, too, where calls cost something that is not counted in tokens (see `obstacles`).
        """
        entry = self._find(model)
        if entry is None or entry.get("mode") not in _TEXT_MODES | _PLAIN_MODES or self.obstacles(model):
            return None
        out = {"output_cost_per_token": 0} if entry["mode"] in _PLAIN_MODES else {}
        return read_rates({**out, **_without_surcharge(entry), **given})

    def obstacles(self, model: str) -> list[str]:
        """What a call costs beside its tokens, by the table's names; where there is any, its price is not known."""
        entry = self._find(model) or {}
        if entry.get("mode") in _PLAIN_MODES:
            return [name for name, cost in entry.items() if cost and _UNCOUNTED.search(name)]
        searches = _SEARCHING.search(model) or (
            _provider(entry) == "perplexity" and entry.get("search_context_cost_per_query")
        )
        return unbilled(entry) + (["search_context_cost_per_query"] if searches else [])

    def uplift(self, model: str, region: str) -> float | None:
        """How many times its list price a model costs where it is processed in `region`, or None where that is all.

        `region` is OpenAI's (`eu`, `us`) or Vertex AI's, whose location is a region unless it is told otherwise.
        """
        entry = self._find(model) or {}
        times = entry.get(f"regional_processing_uplift_multiplier_{region}") if region else None
        if (_provider(entry) or "").startswith("vertex_ai") and region != "global":
            times = entry.get("regional_endpoint_uplift_multiplier")
        return float(times) if isinstance(times, int | float) and times != 1 else None

    def max_output_tokens(self, model: str) -> int | None:
        """The most tokens that one reply can have, or None when the table does not say."""
        entry = self._find(model) or {}
        limit = entry.get("max_output_tokens") or entry.get("max_tokens")
        return limit if isinstance(limit, int) else None

    def provider(self, model: str) -> str | None:
        """LiteLLM's name of the provider, as it stands before the slash in a model's name; None when unknown."""
        entry = self._find(model)
        return None if entry is None else _provider(entry)

    def chat_models(self, provider: str) -> list[str]:
        """The provider's chat models as `provider/model`, sorted; empty when the provider is unknown."""
        prefix = f"{provider}/"
        names = (
            name
            for name, entry in self._table.items()
            # ft: and * stand for models that each account names for itself
            if entry.get("mode") == "chat" and _provider(entry) == provider and not re.search(r"^ft:|\*", name)
        )
        return sorted({name if name.startswith(prefix) else prefix + name for name in names})

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name that the table has for what something costs."""
        return frozenset(name for entry in self._table.values() for name in entry if is_price(name)) | _UNLISTED

    @cached_property
    def _table(self) -> dict[str, JSON]:
        table = cast("dict[str, JSON]", orjson.loads((self._path or default_path()).read_bytes()))
        table.pop("sample_spec", None)
        return table

    def _find(self, model: str) -> JSON | None:
        if model in self._table:
            return self._table[model]
        prefix, _, bare = model.partition("/")
        entry = self._table.get(bare)
        if entry is None or _ALIASES.get(prefix, prefix) != _provider(entry):
            return None
        return entry


def _without_surcharge(entry: JSON) -> JSON:
    """A cache that is written to for nothing: the tokens that are written are prompt tokens all the same."""
    if entry.get("cache_creation_input_token_cost") == 0:
        return {name: price for name, price in entry.items() if name != "cache_creation_input_token_cost"}
    return entry


def _provider(entry: JSON) -> str | None:
    group = entry.get("litellm_provider")
    if not isinstance(group, str):
        return None
    name = _GROUP.sub("", group)
    return _ALIASES.get(name, name)
