"""What models cost and how much they can write, by LiteLLM's own table, read without importing LiteLLM."""

import re
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import orjson

from proxy.money import Rates, pico_usd
from proxy.types import JSON

_FILE = "model_prices_and_context_window_backup.json"
_TEXT_MODES = frozenset({"chat", "completion", "responses"})
# what generates nothing has no price of output, and may be priced by the query, the image or the character
_PLAIN_MODES = frozenset({"embedding", "moderation"})
_UNCOUNTED = re.compile(r"^input_(?!cost_per_token$|.*_batches$)")
# the table files a provider's models in groups: vertex_ai-anthropic_models, fireworks_ai-embedding-models
_GROUP = re.compile(r"-[a-z0-9_]+[-_]models$")
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

    def rates(self, model: str) -> Rates | None:
        """What a token costs; None when the table has no price for tokens both in and out. 0 is a price: free.

        What generates nothing, such as an embedding model, needs no price out, and no price but that of tokens.
        """
        entry = self._find(model)
        plain = entry is not None and entry.get("mode") in _PLAIN_MODES and not _priced_otherwise(entry)
        if entry is None or not (plain or entry.get("mode") in _TEXT_MODES):
            return None
        prompt, completion = _pico(entry, "input_cost_per_token"), _pico(entry, "output_cost_per_token")
        completion = 0 if plain and completion is None else completion
        if prompt is None or completion is None:
            return None
        return Rates(prompt, completion, _pico(entry, "cache_read_input_token_cost"))

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


def _priced_otherwise(entry: JSON) -> bool:
    return any(cost and _UNCOUNTED.search(name) for name, cost in entry.items())


def _provider(entry: JSON) -> str | None:
    group = entry.get("litellm_provider")
    if not isinstance(group, str):
        return None
    name = _GROUP.sub("", group)
    return _ALIASES.get(name, name)


def _pico(entry: JSON, key: str) -> int | None:
    price = entry.get(key)
    if price is None:
        return None
    # some prices were computed in floating point: 15 digits tell 4e-07 from 4.0000000000000003e-07
    return pico_usd(f"{float(price):.15g}")
