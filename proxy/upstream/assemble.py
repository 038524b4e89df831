"""Puts the chunks of a streamed call together to whole choices; takes a whole completion too. Does no IO."""

from dataclasses import dataclass, field
from math import inf
from typing import Any

from proxy.errors import UpstreamMalformed
from proxy.types import JSON, Choice
from proxy.upstream.skim import TEXTS, Pattern

# these name a thing and are sent whole; every other text in a delta is a piece to append
_WHOLE = frozenset({"role", "id", "type", "name"})

# how far back the beginning of what a piece goes on with is looked for
_PIECED = 1024

_BYTES_A_TOKEN = 4
_MOST_BYTES_A_TOKEN = 12
_WITHOUT_CONTENT = ("tool_calls", "function_call", "refusal")


@dataclass(slots=True)
class _Partial:
    message: JSON = field(default_factory=lambda: {"role": "assistant", "content": None})
    logprobs: JSON | None = None
    deltas: int = 0
    pieced: bool = False
    size: int = 0
    finished: bool = False


class Assembler:
    """One call's choices as they grow.

    `head` holds the reply's own id, created, model, system_fingerprint and service_tier; `usage` what the provider
    told, or None; `service` is the grade of service that it says it gave. `size` is bytes of text, `deltas` those with
    text (each a token or more), all choices together; `finished` is how many choices have ended.
    """

    def __init__(self) -> None:
        self.head: JSON = {}
        self.usage: JSON | None = None
        self.service: str | None = None
        self.size = 0
        self.deltas = 0
        self.finished = 0
        self._partials: dict[int, _Partial] = {}
        self._alike: Pattern | None = None
        self._texts: list[str] = []

    def skim(self, alike: Pattern, text: str) -> None:
        """Take one chunk that only adds `text`, which is not empty, as another one did that was fed: see `Skimmer`."""
        if self._alike is not alike:
            self._append()
            self._alike = alike
        partial = self._partials[alike.place]
        if partial.finished:
            return
        size = len(text) if text.isascii() else len(text.encode())
        partial.size += size
        partial.deltas += 1
        self.size += size
        self.deltas += 1
        self._texts.append(text)

    def feed(self, payload: JSON) -> list[Choice]:
        """Take one chunk, or a whole completion; the choices that it finished. Raises UpstreamMalformed."""
        self._append()
        if not self.head:
            keys = ("id", "created", "model", "system_fingerprint", "service_tier")
            self.head = {key: payload[key] for key in keys if key in payload}
        if isinstance(payload.get("usage"), dict):
            self.usage = payload["usage"]
            self._served(payload["usage"])
        self._served(payload)
        try:
            finished = [self._feed_choice(choice) for choice in payload.get("choices") or ()]
        except (AttributeError, RecursionError, TypeError, ValueError) as error:
            # a shape is cheaper to use than to check, and a wrong one must stay the trouble of its own call
            raise UpstreamMalformed("the provider's reply does not have the shape of a chat completion") from error
        return [choice for choice in finished if choice is not None]

    def cut(self, reason: str = "length") -> list[Choice]:
        """Finish the unfinished choices with what they hold so far, and `reason` as their finish_reason."""
        self._append()
        rest = [(index, partial) for index, partial in sorted(self._partials.items()) if not partial.finished]
        for _, partial in rest:
            partial.finished = True
        self.finished += len(rest)
        return [self._choice(index, partial, reason) for index, partial in rest]

    @property
    def started(self) -> int:
        """How many choices have begun."""
        return len(self._partials)

    def tokens(self, index: int) -> int:
        """At least how many tokens choice `index` has: its log-probabilities or its deltas, whichever are more."""
        partial = self._partials.get(index)
        if partial is None:
            return 0
        listed = (partial.logprobs or {}).get("content")
        return max(len(listed) if isinstance(listed, list) else 0, partial.deltas)

    def estimate(self, index: int, tokens_per_delta: float = 1.0) -> int:
        """About how many tokens choice `index` has, where the provider has not told; deltas may hold several."""
        partial = self._partials.get(index)
        if partial is None:
            return 0
        counted = max(self.tokens(index), -int(-partial.deltas * tokens_per_delta // 1))
        return counted if partial.size <= counted * _MOST_BYTES_A_TOKEN else -(-partial.size // _BYTES_A_TOKEN)

    def sizes(self) -> list[int]:
        """Bytes of text of each choice, in order of index."""
        return [partial.size for _, partial in sorted(self._partials.items())]

    def _append(self) -> None:
        """Put what was skimmed to its message, all at once: adding each to a long text copies that."""
        if self._alike is not None and self._texts:
            message, more = self._partials[self._alike.place].message, "".join(self._texts)
            have = message.get(self._alike.key)
            message[self._alike.key] = have + more if isinstance(have, str) else more
            self._texts.clear()

    def _served(self, payload: JSON) -> None:
        """Anthropic tells it in its usage, and a stream's first chunks may only repeat what was asked for."""
        if isinstance(payload.get("service_tier"), str):
            self.service = payload["service_tier"]

    def _feed_choice(self, raw: JSON) -> Choice | None:
        index = int(raw.get("index") or 0)
        if index < 0:
            raise ValueError("a choice has no place below 0")
        partial = self._partials.setdefault(index, _Partial())
        if partial.finished:
            return None
        if isinstance(raw.get("message"), dict):
            partial.message = raw["message"]
            partial.size += _size(raw["message"])
            self.size += partial.size
        elif isinstance(raw.get("delta"), dict):
            size = _size(raw["delta"])
            partial.size += size
            partial.deltas += size > 0
            self.size += size
            self.deltas += size > 0
            partial.pieced = True
            _merge(partial.message, raw["delta"])
        if isinstance(raw.get("logprobs"), dict):
            partial.logprobs = _merge(partial.logprobs or {}, raw["logprobs"])
        # some servers say "" where nothing is finished; a whole message is finished whatever they say
        reason = raw.get("finish_reason") or None
        if reason is None and not isinstance(raw.get("message"), dict):
            return None
        partial.finished = True
        self.finished += 1
        return self._choice(index, partial, None if reason is None else str(reason))

    def _choice(self, index: int, partial: _Partial, reason: str | None) -> Choice:
        said = partial.message
        if partial.pieced:
            said = partial.message = {key: _in_order(value) for key, value in said.items()}
        if partial.deltas and not said.get("content") and any(said.get(name) for name in _WITHOUT_CONTENT):
            # a stream begins with an empty content where the same message, sent whole, has none
            said["content"] = None
        return Choice(index, said, reason, partial.logprobs, self.estimate(index))


def _merge(whole: JSON, piece: JSON) -> JSON:
    """Put a piece to what is there; the piece stays as it is, and shares nothing that may grow."""
    for key, value in piece.items():
        have = whole.get(key)
        if have and key in _WHOLE and not value:
            continue  # some servers say "" in the pieces after the first
        if isinstance(value, dict):
            whole[key] = _merge(have if isinstance(have, dict) else {}, value)
        elif isinstance(value, list):
            whole[key] = _extend(have if isinstance(have, list) else [], value)
        elif isinstance(have, str) and isinstance(value, str) and key not in _WHOLE:
            whole[key] = have + value
        elif value is not None or key not in whole:
            whole[key] = value
    return whole


def _extend(have: list[Any], pieces: list[Any]) -> list[Any]:
    """Append pieces; one with an index (of a tool call) goes on with the last of that index, unless its id is another.

    Some servers tell all calls of a turn at index 0.
    """
    for piece in pieces:
        if not (isinstance(piece, dict) and isinstance(piece.get("index"), int)):
            have.append(piece)
            continue
        begun = next((each for each in reversed(have[-_PIECED:]) if _goes_on(each, piece)), None)
        if begun is None:
            have.append(_merge({}, piece))
        else:
            _merge(begun, piece)
    return have


def _goes_on(begun: object, piece: JSON) -> bool:
    """Whether a piece is more of what has begun."""
    if not isinstance(begun, dict) or begun.get("index") != piece["index"]:
        return False
    return not begun.get("id") or not piece.get("id") or begun["id"] == piece["id"]


def _in_order(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """A list that came in pieces, in the order of their indices, which are dropped; anything else as it is."""
    if not isinstance(value, list) or not any(map(_placed, value)):
        return value
    ordered = sorted(value, key=lambda each: each["index"] if _placed(each) else inf)
    return [{key: each[key] for key in each if key != "index"} if _placed(each) else each for each in ordered]


def _placed(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("index"), int)


def _size(part: JSON) -> int:
    """Bytes of generated text in a message or delta."""
    total = 0
    for key, value in part.items():
        if key in TEXTS and isinstance(value, str):
            total += len(value) if value.isascii() else len(value.encode())
    calls, called = part.get("tool_calls"), part.get("function_call")
    if not (calls or called):
        return total
    for call in (*(calls or ()), {"function": called}):
        if isinstance(call, dict):
            total += _called(call.get("function"), "arguments") + _called(call.get("custom"), "input")
    return total


def _called(tool: object, said: str) -> int:
    if not isinstance(tool, dict):
        return 0
    return len(str(tool.get(said) or "").encode()) + len(str(tool.get("name") or ""))
