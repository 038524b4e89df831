"""What a call took: from what the provider told, from what can be counted, and from upper bounds beforehand."""

from dataclasses import replace
from math import ceil, isfinite
from typing import Any

from proxy.types import JSON, Usage
from proxy.upstream.assemble import Assembler
from proxy.upstream.deployment import Deployment

_SETTINGS = frozenset(
    "model stream stream_options max_tokens max_completion_tokens n seed stop temperature top_p top_k min_p "  # noqa: SIM905
    "frequency_penalty presence_penalty logprobs top_logprobs logit_bias user metadata store service_tier "
    "safety_identifier prompt_cache_key parallel_tool_calls tool_choice reasoning_effort verbosity modalities".split()
)
_PER_MESSAGE = 16
_TEMPLATE = 64
_PER_IMAGE = 8192
_BYTES_A_TOKEN_OF_A_FILE = 8
_MOST_BYTES_A_TOKEN = 7
_MIN_BYTES = 64
_INPUT_TO_OUTPUT = 0.25

_MOST = 2**31
"""More tokens than any call has; what a provider tells beyond it is no number to count with."""

_PLAIN = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
"""What the usage of text tells where nothing of it is of a special kind."""

PROMPT_SHARE = 0.5
"""How much of its bound a prompt is thought to have, before the deployment has told."""


class Bounds:
    """`prompt_bound` of one body after another: parts that are the very same as before are not counted again."""

    def __init__(self) -> None:
        self._body: JSON | None = None
        self._parts: JSON = {}
        self._bound = 0

    def of(self, body: JSON) -> int:
        """The bound of `body`, which nobody changes."""
        if body is self._body:
            return self._bound
        self._body = body
        parts = {name: value for name, value in body.items() if name not in _SETTINGS}
        known = self._parts
        if parts.keys() != known.keys() or any(known[name] is not value for name, value in parts.items()):
            self._parts, self._bound = parts, prompt_bound(body)
        return self._bound


def prompt_bound(body: JSON) -> int:
    """At most how many tokens the prompt of `body` can have: a token is a byte or more of text.

    Whatever the body holds may come into the prompt, but for settings that are known not to. Messages and the chat
    template add a few; an image counts as 8,192, a file or a recording as an eighth of its bytes: these two are no
    bounds, but what is usual. Of a `query` about `documents` every one is read beside the query.
    """
    prompt = [value for name, value in body.items() if name not in _SETTINGS]
    texts = sum(len(body[name]) for name in ("messages", "input") if isinstance(body.get(name), list))
    documents = body.get("documents")
    pairs = len(documents) if isinstance(documents, list) else 0
    again = (_PER_MESSAGE + _text_bytes(body.get("query"))) * pairs
    return _TEMPLATE + _PER_MESSAGE * texts + _text_bytes(prompt) + again


def prompt_worth(body: JSON, deployment: Deployment) -> float:
    """About how many output tokens cost as much as the prompt of `body`, which a wave of draws pays once.

    0 where `n` is not taken: there every draw pays for it, under any strategy. Where no price is known, input counts a
    quarter of output.
    """
    if deployment.max_n == 1:
        return 0.0
    rates = deployment.rates
    ratio = rates.input / rates.output if rates and rates.output else _INPUT_TO_OUTPUT
    return prompt_bound(body) * (deployment.prompt_share or PROMPT_SHARE) * ratio


def output_bound(body: JSON, deployment: Deployment) -> int | None:
    """The most tokens one choice can have: what the request allows, else the model's own maximum, else None.

    Servers obey one of the request's two limits, so the larger one counts.
    """
    asked = [body[key] for key in ("max_completion_tokens", "max_tokens") if isinstance(body.get(key), int)]
    limits = [max(asked)] if asked else []
    if deployment.max_output is not None:
        limits.append(deployment.max_output)
    return min(limits) if limits else None


def told(usage: JSON) -> Usage:
    """A provider's `usage` object as a value; what is missing or malformed counts as 0, and no part exceeds its whole.

    Cached tokens, and those written to a cache, are a part of the prompt, as OpenAI, DeepSeek and (by way of LiteLLM,
    which adds them up) Anthropic tell them.
    """
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if usage.keys() <= _PLAIN or all(value is None for name, value in usage.items() if name not in _PLAIN):
        return Usage(prompt, completion)
    within, without = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    hits = _object(within).get("cached_tokens_details")
    cached = min(prompt, _cached(usage))
    write, long = _written(usage)
    write = min(prompt - cached, write)
    cached_audio = min(cached, _count(hits, "audio_tokens"))
    audio = min(prompt - cached - write, max(0, _count(within, "audio_tokens") - cached_audio))
    reasoning = _count(without, "reasoning_tokens") or _count(usage, "reasoning_tokens")
    if reasoning and _count(usage, "total_tokens") == prompt + completion + reasoning:
        # xAI counts it beside the completion
        completion += reasoning
    reasoning = min(completion, reasoning)
    spoken = min(completion - reasoning, _count(without, "audio_tokens"))
    return Usage(
        prompt=prompt,
        completion=completion,
        cached=cached,
        reasoning=reasoning,
        cached_audio=cached_audio,
        cache_write=write,
        cache_write_1h=min(write, long),
        audio_input=audio,
        image_input=min(prompt - cached - write - audio, _count(within, "image_tokens")),
        audio_output=spoken,
        image_output=min(completion - reasoning - spoken, _count(without, "image_tokens")),
    )


def _cached(usage: JSON) -> int:
    """Prompt tokens read from a cache, by OpenAI's, Anthropic's or DeepSeek's name."""
    return (
        _count(usage.get("prompt_tokens_details"), "cached_tokens")
        or _count(usage, "cache_read_input_tokens")
        or _count(usage, "prompt_cache_hit_tokens")
    )


def _written(usage: JSON) -> tuple[int, int]:
    """Prompt tokens written to a cache, and those of them that stay there for an hour."""
    details = _object(usage.get("prompt_tokens_details"))
    spans = _object(details.get("cache_creation_token_details")) or _object(usage.get("cache_creation"))
    short, long = (_count(spans, f"ephemeral_{span}_input_tokens") for span in ("5m", "1h"))
    told = (
        _count(details, "cache_write_tokens")
        or _count(details, "cache_creation_tokens")
        or _count(usage, "cache_creation_input_tokens")
    )
    return max(told, short + long), long


def billed(assembled: Assembler, deployment: Deployment, choices: int, most: int | None = None) -> Usage | None:
    """What to charge for a finished call, or None when the provider told nothing.

    What the provider tells is believed, but for one known fault: some servers count the first choice only when
    `choices` > 1. Then the others are charged in proportion, each at most the `most` that a choice may have (the first
    one shows whether the server keeps to it), and the usage is an estimate.
    """
    if assembled.usage is None:
        return None
    usage = told(assembled.usage)
    # tokens that the text cannot explain are hidden reasoning, and say nothing of deltas
    if choices == 1 and 0 < assembled.deltas <= usage.completion <= assembled.size:
        deployment.tokens_per_delta = usage.completion / assembled.deltas
    if choices == 1:
        return usage
    counts = [assembled.tokens(index) for index in range(choices)]
    sizes = assembled.sizes()
    if not sizes or not _first_only(assembled, usage.completion, counts, deployment):
        return usage
    weights = counts if all(counts) else sizes
    cap = usage.completion * sum(weights) if most is None else max(most, usage.completion)
    shares = [min(-(-usage.completion * weight // max(weights[0], 1)), cap) for weight in weights]
    return _grown(usage, max(sum(shares), sum(size > 0 for size in sizes)))


def _grown(usage: Usage, completion: int) -> Usage:
    """`usage` with more completion tokens than were told, of the same kinds."""
    times = completion / max(usage.completion, 1)
    kinds = {kind: ceil(getattr(usage, kind) * times) for kind in ("reasoning", "audio_output", "image_output")}
    left = completion
    for kind, count in kinds.items():
        kinds[kind] = min(left, count)
        left -= kinds[kind]
    return replace(usage, completion=completion, estimated=True, **kinds)


def _first_only(assembled: Assembler, told: int, counts: list[int], deployment: Deployment) -> bool:
    """Whether `told` tokens are those of the first of several choices, by what can be counted and by bytes of text.

    A token is hardly ever more than seven bytes on the average, nor less than one and a half.
    """
    sizes = assembled.sizes()
    total = sum(sizes)
    fewer = told < sum(size > 0 for size in sizes)
    dense = total >= _MIN_BYTES and total > told * _MOST_BYTES_A_TOKEN
    # what log-probabilities count are tokens; what deltas count may be letters
    plausible = assembled.deltas == 0 or 2 * sizes[0] >= 3 * told
    alike = all(counts) and abs(told - counts[0]) <= 1 + counts[0] // 20 and 2 * sum(counts) >= 3 * told
    if fewer or dense or (alike and plausible):
        deployment.usage_per_choice = True
        return True
    if deployment.told_per_choice:
        return True
    if deployment.usage_per_choice and (all(counts) or 2 * sizes[0] < 3 * told):
        # what was learned is contradicted
        deployment.usage_per_choice = False
    return deployment.usage_per_choice


def _count(counts: object, name: str) -> int:
    value = _object(counts).get(name)
    if type(value) is int:
        return min(value, _MOST) if value > 0 else 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return min(ceil(value), _MOST) if isfinite(value) and value > 0 else 0


def _object(value: object) -> JSON:
    return value if isinstance(value, dict) else {}


def _text_bytes(value: Any) -> int:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode(errors="replace"))
    if isinstance(value, dict):
        kind = value.get("type")
        if kind in ("image_url", "input_image"):
            return _PER_IMAGE
        if kind in ("input_audio", "file", "input_file"):
            rest = {key: item for key, item in value.items() if key != "type"}
            return -(-_text_bytes(rest) // _BYTES_A_TOKEN_OF_A_FILE)
        total = 0
        for key, item in value.items():
            # nearly all that there is are plain texts, and a call for each costs more than to count it
            plain = type(item) is str and item.isascii() and key.isascii()
            total += len(key) + len(item) if plain else _text_bytes(key) + _text_bytes(item)
        return total
    if isinstance(value, list):
        return sum(map(_text_bytes, value))
    return 4 if value is not None else 0
