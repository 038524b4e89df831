"""Chunks of a stream that are like one before them, but for their text: known without being parsed. Does no IO."""

from typing import NamedTuple

import orjson

from proxy.types import JSON

TEXTS = frozenset({"content", "reasoning_content", "reasoning", "refusal"})
"""What in a delta is generated text, of which the next delta is more."""

_TRIES = 8


class Pattern(NamedTuple):
    """The bytes `before` and `after` the text that a chunk adds to `key` of the choice at `place`.

    `payload` is such a chunk. Whatever has these bytes has the same effect but for its text: no usage, no end.
    """

    before: bytes
    after: bytes
    place: int
    key: str
    payload: JSON

    def text(self, raw: bytes) -> bytes | None:
        """The text of a chunk of this pattern; None where it is another's, or has to be parsed to be known."""
        before, after = self.before, self.after
        if not (raw.startswith(before) and raw.endswith(after) and len(raw) > len(before) + len(after)):
            return None
        text = raw[len(before) : -len(after)]
        return None if b'"' in text or b"\\" in text else text

    def put(self, text: bytes) -> bytes:
        """The chunk with this text, which `text` has found in another one."""
        return b"%b%b%b" % (self.before, text, self.after)


def pattern(raw: bytes, payload: JSON) -> Pattern | None:
    """The pattern of a chunk that was read, as `payload`, without trouble; None where it does more than add a text."""
    choice = _choice(payload)
    said = [] if choice is None else [(key, text) for key, text in choice["delta"].items() if not _still(key, text)]
    if choice is None or len(said) != 1 or said[0][0] not in TEXTS or not isinstance(said[0][1], str):
        return None
    key, text = said[0]
    before, found, after = raw.partition(b'"%b"' % text.encode())
    if not found:
        # it is not written as it is
        return None
    other = f"{text}x"
    try:
        alike = orjson.loads(b"%b%b%b" % (before, orjson.dumps(other), after))
    except orjson.JSONDecodeError:
        # what was found is no text, but what stands between two
        return None
    # the same text may stand elsewhere, too, before the delta's own
    if alike != {**payload, "choices": [{**choice, "delta": {**choice["delta"], key: other}}]}:
        return None
    return Pattern(before + b'"', b'"' + after, int(choice.get("index") or 0), key, alike)


def _still(key: str, value: object) -> bool:
    """Whether a field of a delta changes nothing, however often it is said, and whatever was said between."""
    return value is None or value == [] or (key in TEXTS and value == "") or (key == "role" and isinstance(value, str))


def _choice(payload: JSON) -> JSON | None:
    """The one choice of a chunk that only goes on with it."""
    choices: list[JSON] = payload.get("choices") or []
    if len(choices) != 1 or payload.get("usage") is not None:
        return None
    choice = choices[0]
    whole = "message" in choice or choice.get("logprobs") or choice.get("finish_reason")
    return None if whole or not isinstance(choice.get("delta"), dict) else choice


class Skimmer:
    """Knows the chunks of one stream by the pattern of those before them."""

    def __init__(self) -> None:
        self.pattern: Pattern | None = None
        self._tries = _TRIES

    def skim(self, raw: bytes) -> str | None:
        """The text that a chunk adds, by `pattern`; None where it has to be parsed."""
        found = None if self.pattern is None else self.pattern.text(raw)
        if found is None:
            return None
        try:
            text = found.decode()
        except UnicodeDecodeError:
            return None
        # a control character is none of JSON's
        if not text.isprintable():
            return None
        self._tries = _TRIES
        return text

    def learn(self, raw: bytes, payload: JSON) -> None:
        """Look at a chunk that was parsed; a stream whose chunks are never alike is soon left alone."""
        if self._tries:
            self._tries -= 1
            self.pattern = pattern(raw, payload) or self.pattern
