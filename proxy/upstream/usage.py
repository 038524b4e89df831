"""What a call took: from what the provider told, from what can be counted, and from upper bounds beforehand."""

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
_SUSPICIOUS_BYTES_PER_TOKEN = 7
_MIN_SUSPICIOUS_BYTES = 64


def prompt_bound(body: JSON) -> int:
    """At most how many tokens the prompt of `body` can have: a token is a byte or more of text.

    Whatever the body holds may come into the prompt, but for settings that are known not to. Messages and the chat
    template add a few; an image counts as 8,192, a file or a recording as an eighth of its bytes: these two are no
    bounds, but what is usual.
    """
    prompt = [value for name, value in body.items() if name not in _SETTINGS]
    return _TEMPLATE + _PER_MESSAGE * len(body.get("messages") or ()) + _text_bytes(prompt)


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
    """A provider's `usage` object as a value; what is missing or malformed counts as 0."""
    prompt = _count(usage, "prompt_tokens")
    return Usage(
        prompt=prompt,
        completion=_count(usage, "completion_tokens"),
        cached=min(prompt, _count(usage.get("prompt_tokens_details"), "cached_tokens")),
        reasoning=_count(usage.get("completion_tokens_details"), "reasoning_tokens"),
    )


def billed(assembled: Assembler, deployment: Deployment, choices: int, streamed: bool) -> Usage | None:
    """What to charge for a finished call, or None when the provider told nothing.

    Some servers count the first choice only when `choices` > 1. The larger of what was told and what can be counted
    is charged, and the deployment is remembered as one that tells per choice.
    """
    if assembled.usage is None:
        return None
    usage = told(assembled.usage)
    counted = sum(assembled.tokens(index) for index in range(choices)) if streamed or _listed(assembled) else 0
    sizes = assembled.sizes()
    if choices > 1 and sizes and not counted:
        counted = _scaled(usage.completion, sizes, deployment.usage_per_choice)
    # tokens that the text cannot explain are hidden reasoning, and say nothing of deltas
    if streamed and choices == 1 and 0 < assembled.deltas <= usage.completion <= assembled.size:
        deployment.tokens_per_delta = usage.completion / assembled.deltas
    if counted <= usage.completion:
        return usage
    if choices > 1:
        deployment.usage_per_choice = True
    return Usage(usage.prompt, counted, usage.cached, usage.reasoning, estimated=True)


def _scaled(first: int, sizes: list[int], per_choice: bool) -> int:
    """Tokens of all choices where the count told seems to be the first one's; 0 where it seems to be the total."""
    total = sum(sizes)
    suspicious = total >= _MIN_SUSPICIOUS_BYTES and total > first * _SUSPICIOUS_BYTES_PER_TOKEN
    if not (per_choice or suspicious) or not sizes[0]:
        return 0
    return -(-first * total // sizes[0])


def _listed(assembled: Assembler) -> bool:
    return assembled.deltas == 0 and assembled.tokens(0) > 0


def _count(counts: object, name: str) -> int:
    value = counts.get(name) if isinstance(counts, dict) else None
    return ceil(value) if isinstance(value, int | float) and isfinite(value) and value > 0 else 0


def _text_bytes(value: Any) -> int:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, dict):
        kind = value.get("type")
        if kind in ("image_url", "input_image"):
            return _PER_IMAGE
        if kind in ("input_audio", "file", "input_file"):
            rest = {key: item for key, item in value.items() if key != "type"}
            return -(-_text_bytes(rest) // _BYTES_A_TOKEN_OF_A_FILE)
        return sum(_text_bytes(key) + _text_bytes(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(_text_bytes(item) for item in value)
    return 4 if value is not None else 0
