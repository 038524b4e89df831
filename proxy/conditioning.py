"""The prompt of a conditioned draw: the question again, with earlier attempts at it (DynScaling, Algorithm 2).

The paper publishes no template. Tally appends the attempts' contents (not their reasoning) to the last user turn and
asks again.
"""

from collections.abc import Sequence

from proxy.types import JSON

_HEAD = "Here are earlier attempts at this. They may be wrong."
_TAIL = "Look at them critically, then answer the original question again, in the form it asks for."
_MAX_ATTEMPT_CHARS = 16_000


def conditioned(body: JSON, attempts: Sequence[str]) -> JSON | None:
    """`body` with `attempts` shown in its last user turn; None where there is no user turn or nothing to show."""
    shown = [_shorten(text.strip()) for text in attempts if text.strip()]
    messages = list(body["messages"])
    place = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].get("role") == "user"), None)
    if place is None or not shown:
        return None
    listed = "\n\n".join(f"Attempt {number}:\n{text}" for number, text in enumerate(shown, 1))
    messages[place] = _appended(messages[place], f"\n\n{_HEAD}\n\n{listed}\n\n{_TAIL}")
    return {**body, "messages": messages}


def _appended(message: JSON, text: str) -> JSON:
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": [*content, {"type": "text", "text": text}]}
    return {**message, "content": f"{content or ''}{text}"}


def _shorten(text: str) -> str:
    # the end of an attempt holds its answer
    return text if len(text) <= _MAX_ATTEMPT_CHARS else "…" + text[-_MAX_ATTEMPT_CHARS:]
