"""A tokenizer that anyone can count by hand: words, cut into pieces of at most four characters."""

import json
import re
from collections.abc import Iterable

from proxy.types import JSON

_PIECE = re.compile(r"\s*\S{1,4}|\s+")
_PER_MESSAGE = 3


def tokenize(text: str) -> list[str]:
    """The tokens of `text`; joined they are the text. `"What is 6*7?"` has 3."""
    return _PIECE.findall(text)


def count_prompt(messages: Iterable[JSON]) -> int:
    """Prompt tokens of `messages`: three for each, and those of its content."""
    return sum(_PER_MESSAGE + len(tokenize(_text(message.get("content")))) for message in messages)


def _text(content: object) -> str:
    return content if isinstance(content, str) else json.dumps(content)
