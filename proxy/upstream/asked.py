"""What a request asks for that bears on its price: grades of service, sound, pictures, and what no token pays for."""

from collections.abc import Iterator

from proxy.money import Rates
from proxy.types import JSON
from proxy.upstream.deployment import Deployment
from proxy.upstream.entry import SERVICES

_USUAL = frozenset({"default", "standard", "standard_only", "on_demand"})
"""What providers call the usual service; OpenAI's and Anthropic's `auto` is for the provider to choose."""

_NO_DEARER = _USUAL | {"auto", "flex"}
_PAID_APART = ("web_search_options", "search_parameters", "enable_search", "web_search", "plugins")
"""Fields that have the provider search, which it bills by the query."""

_LOOKED_AT = frozenset({*_PAID_APART, "tools", "modalities", "service_tier", "speed", "inference_geo"})
"""Fields without which a body turns nothing on."""

# what the client itself does with these costs no more than their tokens
_CLIENTS_OWN = ("function", "custom", "computer", "text_editor", "bash", "memory")
_TEXT = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "tool_use", "tool_result"})
_PICTURES = frozenset({"image_url", "input_image", "image"})
_SOUND = frozenset({"audio_input", "cached_audio"})


def asking(deployment: Deployment, body: JSON) -> JSON:
    """All that a call asks for: its body, and what the operator has LiteLLM put in."""
    params = deployment.endpoint.params
    return {**params, **body} if params else body


def dearest(rates: Rates, prompt: int, asked: JSON) -> Rates:
    """The most that a token of a call may cost that asks for `asked`, and whose prompt has at most `prompt` tokens."""
    if rates.plain:
        return rates
    return rates.dearest(prompt, possible_services(asked.get("service_tier")), impossible_kinds(asked))


def possible_services(asked: object) -> frozenset[str] | None:
    """The priced grades of service that may be given beside the usual one where `asked` is asked for; None: any."""
    if asked in _USUAL:
        return frozenset()
    return frozenset({SERVICES[asked]}) if isinstance(asked, str) and asked in SERVICES else None


def given_service(told: str | None, asked: object) -> str:
    """The priced grade of service that a call got: what the provider told, else what was asked for; else the usual."""
    said = [name.lower() for name in (told, asked) if isinstance(name, str) and name.lower() != "auto"]
    return SERVICES.get(said[0], "") if said else ""


def impossible_kinds(body: JSON) -> frozenset[str]:
    """The kinds of token, by their rates, that a call of `body` cannot have."""
    parts = set(_parts(body))
    kinds: set[str] = set() if parts - _TEXT - _PICTURES else set(_SOUND)
    if not parts - _TEXT:
        kinds.add("image_input")
    if not body.get("audio") and "audio" not in _modalities(body):
        kinds.add("audio_output")
    if not _keeps_long(body):
        kinds.add("cache_write_1h")
    return frozenset(kinds)


def paid_apart(body: JSON, rates: Rates) -> str | None:
    """The first field of `body` that turns on what is not paid for by the token, or by no rate that is known."""
    return None if _LOOKED_AT.isdisjoint(body) else _turned_on(body, rates)


def _turned_on(body: JSON, rates: Rates) -> str | None:
    for name in _PAID_APART:
        # an empty object turns it on, too
        if body.get(name) not in (None, False):
            return name
    tools = body.get("tools")
    if any(not _clients_own(tool) for tool in tools if isinstance(tool, dict)) if isinstance(tools, list) else False:
        return "tools"
    modes = _modalities(body) - {"text"}
    priced = {"audio": rates.rate("audio_output"), "image": rates.rate("image_output")}
    if any(priced.get(mode) is None for mode in modes):
        return "modalities"
    service = body.get("service_tier")
    if isinstance(service, str) and service not in _NO_DEARER | _priced(rates):
        return "service_tier"
    if body.get("speed") not in (None, "standard"):
        return "speed"
    return "inference_geo" if body.get("inference_geo") not in (None, "global") else None


def _keeps_long(value: object) -> bool:
    """Whether there is anything in it that a cache is to keep for more than the usual five minutes."""
    if isinstance(value, dict):
        return value.get("ttl") not in (None, "5m") or any(_keeps_long(item) for item in value.values())
    return isinstance(value, list) and any(_keeps_long(item) for item in value)


def _priced(rates: Rates) -> frozenset[str]:
    own = {name for name, _ in rates.services}
    return frozenset(name for name, price in SERVICES.items() if price in own)


def _clients_own(tool: JSON) -> bool:
    kind = tool.get("type", "function" if "function" in tool else "")
    return isinstance(kind, str) and kind.startswith(_CLIENTS_OWN)


def _modalities(body: JSON) -> set[str]:
    told = body.get("modalities")
    return {str(mode).lower() for mode in told} if isinstance(told, list) else set()


def _parts(body: JSON) -> Iterator[str]:
    """The types of the parts of the messages; "" for what has none that is known."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        # no chat, so that there is no telling
        yield ""
        return
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else message
        if isinstance(content, list):
            yield from (str(part.get("type", "")) if isinstance(part, dict) else "" for part in content)
        elif content is not None and not isinstance(content, str):
            yield ""
        if isinstance(message, dict) and message.get("audio"):
            # what the model said aloud before
            yield "audio"
