"""What a call took: from what the provider told, from what can be counted, and from upper bounds beforehand."""

from math import ceil, isfinite
from typing import Any

from proxy.types import JSON, Usage
from proxy.upstream.assemble import Assembler
from proxy.upstream.deployment import Deployment

_PER_MESSAGE = 16
_TEMPLATE = 64
_PER_PART = 2048
_SUSPICIOUS_BYTES_PER_TOKEN = 7
_MIN_SUSPICIOUS_BYTES = 64


def prompt_bound(body: JSON) -> int:
    """At most how many tokens the prompt of `body` can have: a token is a byte or more of text.

    Messages and the chat template add a few; a part that is not text (an image) counts as 2,048.
    """
    messages = body.get("messages") or ()
    total = _TEMPLATE + _PER_MESSAGE * len(messages)
    total += sum(_text_bytes(message) for message in messages)
    return total + _text_bytes(body.get("tools")) + _text_bytes(body.get("response_format"))


def output_bound(body: JSON, deployment: Deployment) -> int | None:
    """The most tokens one choice can have: what the request allows, else the model's own maximum, else None."""
    asked = [body[key] for key in ("max_completion_tokens", "max_tokens") if isinstance(body.get(key), int)]
    if deployment.max_output is not None:
        asked.append(deployment.max_output)
    return min(asked) if asked else None


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
    if streamed and choices == 1 and assembled.deltas and usage.completion >= assembled.deltas:
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
        if isinstance(kind, str) and kind in {"image_url", "input_audio", "file", "input_image"}:
            return _PER_PART
        return sum(_text_bytes(key) + _text_bytes(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(_text_bytes(item) for item in value)
    return 4 if value is not None else 0
