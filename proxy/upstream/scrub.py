"""What a provider says, without what that gives away of the operator's: keys, also those it has masked, and addresses.

Providers quote the key that they were sent, or its ends; gateways quote the address that they tried.
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from proxy.upstream import Endpoint

_HIDDEN = "***"
_SHORT = 8
_NAMED = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)
_MASKED = re.compile(r"(?<![\w-])([\w-]*+)(?:\*{2,}|\.{2,}|…)([\w-]*)")
_SHOWN_START = 8
"""Characters of a key's unmasked beginning that may be no word of another text."""
_WORD = re.compile(r"(?<![\w-])[\w-]{4,}+")
_IP = re.compile(r"\b(?:https?://)?(?:\d{1,3}\.){3}\d{1,3}\b(?::\d+)?(?:/[^\s'\"<>]*[\w/])?")
_IP6 = re.compile(
    r"(?:https?://)?\[?(?<![\w:])(?:f[cd][0-9a-f]{2}|fe[89ab][0-9a-f])(?::[0-9a-f]{0,4}){2,7}(?:%\w+)?\]?(?::\d+)?"
    r"(?:/[^\s'\"<>]*[\w/])?",
    re.IGNORECASE,
)
"""Private ones: others have the look of much else."""
_PORT = re.compile(r"(\*{3}(?::|['\"], )|\bport[ =:]{1,3})\d+\b", re.IGNORECASE)


def scrub(text: str, endpoint: Endpoint | str | None) -> str:
    """`text` with `***` for what belongs to `endpoint` alone; a text in its place is a key."""
    if endpoint is None:
        return text
    if isinstance(endpoint, str):
        return _without_key(text, endpoint)
    for secret in sorted(_secrets(endpoint), key=len, reverse=True):
        text = _without_key(text, secret)
    return _without_address(text, endpoint.api_base)


def _secrets(endpoint: Endpoint) -> Iterator[str]:
    if endpoint.api_key:
        yield endpoint.api_key
    for name, value in endpoint.params.items():
        if name == "extra_headers" and isinstance(value, dict):
            # shorter ones are teams and versions
            yield from (text for text in map(_text, value.values()) if len(text) >= _SHORT)
        elif _NAMED.search(name) and _text(value):
            yield _text(value)


def _text(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return value.removeprefix("Bearer ") if isinstance(value, str) else ""


def _without_key(text: str, key: str) -> str:
    if len(key) < _SHORT:
        # a word such as `any` or `EMPTY`, which stands in other words, too
        return re.sub(rf"(?<![\w-]){re.escape(key)}(?![\w-])", _HIDDEN, text)

    def masked(found: re.Match[str]) -> str:
        start, end = found.groups()
        mine = (start and key.startswith(start)) or (end and key.endswith(end))
        return _HIDDEN if mine else found[0]

    def part(found: re.Match[str]) -> str:
        word = found[0]
        start = len(word) >= _SHOWN_START and key.startswith(word)
        return _HIDDEN if start or key.endswith(word) else word

    return _WORD.sub(part, _MASKED.sub(masked, text.replace(key, _HIDDEN)))


def _without_address(text: str, base: str | None) -> str:
    host = urlsplit(base).hostname if base else None
    if host:
        name = rf"(?<![\w.-])\[?{re.escape(host)}\]?(?![\w-])"
        if not re.search(r"[.:]", host):
            # such a name may be a word of the text: it is an address only beside a scheme or a port
            name = rf"(?:(?<=://){name}|{name}(?=:\d|['\"], \d))"
        own = rf"(?:https?://)?{name}(?::\d+)?(?:/[^\s'\"<>]*[\w/])?"
        text = re.sub(own, _HIDDEN, text, flags=re.IGNORECASE)
    return _PORT.sub(rf"\1{_HIDDEN}", _IP6.sub(_HIDDEN, _IP.sub(_HIDDEN, text)))
