"""What a worker and the process that writes the ledger say to each other: calls and replies as JSON behind a header.

The header is the body's length in bytes, the call's number, and what is asked (of a reply: whether it is an error).
"""

from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple

import orjson

from proxy.errors import LedgerUnavailable, NotFound, RequestInvalid, TallyError
from proxy.ledger.reserving import storable

_HEADER = Struct("!IIB")
_KINDS = {kind.__name__: kind for kind in (LedgerUnavailable, NotFound, RequestInvalid)}


class Ask(IntEnum):
    """What is asked."""

    HELLO = 0
    RESERVE = 1
    EXTEND = 2
    SETTLE = 3
    RECORD = 4
    AUTHENTICATE = 5
    OUTCOMES = 6
    SCORES = 7
    FEEDBACK = 8
    PROBE = 9
    FLUSH = 10
    SHORTAGE = 11


class Frame(NamedTuple):
    """A call or a reply. `kind` is an `Ask`, of a reply 0, or 1 for an error."""

    number: int
    kind: int
    body: bytes


class Frames:
    """Puts frames together from the bytes of a stream."""

    def __init__(self) -> None:
        self._left = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now."""
        self._left += data
        start = 0
        while len(self._left) - start >= _HEADER.size:
            size, number, kind = _HEADER.unpack_from(self._left, start)
            end = start + _HEADER.size + size
            if len(self._left) < end:
                break
            yield Frame(number, kind, bytes(self._left[start + _HEADER.size : end]))
            start = end
        del self._left[:start]


def framed(number: int, kind: int, value: object) -> bytes:
    """A frame's bytes. Raises TypeError for a number that no ledger can hold."""
    try:
        body = orjson.dumps(value)
    except orjson.JSONEncodeError:
        if not is_dataclass(value) or isinstance(value, type):
            raise
        body = orjson.dumps(_plain(asdict(value)))
    return _HEADER.pack(len(body), number, kind) + body


def told(error: Exception) -> dict[str, str | float | None]:
    """An error as a reply's body."""
    return {
        "kind": type(error).__name__,
        "message": error.message if isinstance(error, TallyError) else str(error),
        "retry_after": getattr(error, "retry_after", None),
    }


def raised(body: bytes) -> Exception:
    """The error of a reply's body; an unknown kind is a RuntimeError."""
    found = orjson.loads(body)
    kind = _KINDS.get(found["kind"])
    if kind is None:
        return ValueError(found["message"]) if found["kind"] == "ValueError" else RuntimeError(found["message"])
    error = kind(found["message"])
    error.retry_after = found["retry_after"]
    return error


def _plain(value: Any) -> Any:  # noqa: ANN401 - any part of a value
    """The same with texts as the ledger would keep them: JSON has no place for half a surrogate pair."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return storable((value,))[0] if isinstance(value, str) else value
