"""One response as it grows out of a chat's chunks, and the numbered events that tell of it."""

from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import orjson

from proxy.api.response_output import Call, CustomCall, Item, Message, Reasoning, Status
from proxy.api.wire import envelope
from proxy.errors import TallyError
from proxy.types import JSON, Choice
from proxy.upstream import sse
from proxy.upstream.usage import told

_CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}
_TIERS = ("auto", "default", "flex", "scale", "priority", "fast")
_THOUGHTS = ("reasoning_content", "reasoning")
_RATE_LIMITED = 429

_Said = TypeVar("_Said", Message, Reasoning)


def event(payload: JSON) -> bytes:
    """One server-sent event, with its name before its data."""
    name: str = payload["type"]
    return f"event: {name}\n".encode() + sse.event(orjson.dumps(payload))


class Growing:
    """A response in the making: `identity` is in every id of it, `head` is what the request itself says of it.

    `wall` is seconds since 1970. An item ends when another one begins, but for calls that are not whole by then.
    """

    def __init__(self, head: JSON, wall: Callable[[], float]) -> None:
        self.identity = ""
        self._head = {**head, "created_at": int(wall())}
        self._wall = wall
        self._items: list[Item] = []
        self._open: list[Item] = []
        self._calls: dict[int, Call] = {}
        self._ahead: list[JSON] = []
        self._finish = ""
        self._usage: JSON | None = None
        self._number = 0
        self._begun = False

    def hear(self, chunk: JSON) -> Iterator[JSON]:
        """Take a chunk of a chat, or a whole completion; the events that tell of it."""
        self._note(chunk)
        yield from self._start()
        for choice in chunk.get("choices") or ():
            yield from map(self._numbered, self._choice(choice))

    def whole(self, completion: JSON) -> JSON:
        """The Response that a whole completion makes."""
        *_, last = [*self.hear(completion), *self.end()]
        found: JSON = last["response"]
        return found

    def end(self) -> Iterator[JSON]:
        """The events of its end."""
        yield from self._start()
        if not self._items:
            yield from map(self._numbered, self._say("", []))
        status: Status = "incomplete" if self._finish in _CUT else "completed"
        for item in self._open:
            yield from map(self._numbered, item.end(status))
        yield self._numbered({"type": f"response.{status}", "response": self.shown(status)})

    def fail(self, error: TallyError) -> Iterator[JSON]:
        """The events of an error that ends the stream."""
        inner = envelope(error)["error"]
        # OpenAI documents these fields in the event itself, and sends them in an `error`, which its clients raise
        yield self._numbered({**inner, "type": "error", "error": inner})
        if self._begun:
            for item in self._open:
                item.status = "incomplete"
            code = "rate_limit_exceeded" if error.status == _RATE_LIMITED else "server_error"
            failed = {**self.shown("failed"), "error": {"code": code, "message": error.message}}
            yield self._numbered({"type": "response.failed", "response": failed})

    def shown(self, status: str) -> JSON:
        """The Response object as it is by now."""
        reason = _CUT.get(self._finish) if status == "incomplete" else None
        return {
            "id": f"resp_{self.identity}",
            "object": "response",
            "status": status,
            "completed_at": int(self._wall()) if status == "completed" else None,
            "error": None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "output": [item.shown() for item in self._items],
            "usage": self._usage,
            **self._head,
        }

    def _start(self) -> Iterator[JSON]:
        if not self._begun:
            self._begun = True
            for kind in ("created", "in_progress"):
                yield self._numbered({"type": f"response.{kind}", "response": self.shown("in_progress")})

    def _numbered(self, payload: JSON) -> JSON:
        self._number += 1
        return {**payload, "sequence_number": self._number - 1}

    def _note(self, chunk: JSON) -> None:
        """Take what a chunk says of the whole."""
        if isinstance(chunk.get("model"), str):
            self._head["model"] = chunk["model"]
        if chunk.get("service_tier") in _TIERS:
            self._head["service_tier"] = chunk["service_tier"]
        if isinstance(chunk.get("usage"), dict):
            self._usage = _usage(chunk["usage"])
        if "tally" in chunk:
            self._head["tally"] = chunk["tally"]

    def _choice(self, choice: JSON) -> Iterator[JSON]:
        if choice.get("index"):
            return  # one is all that was asked for
        finish = choice.get("finish_reason")
        self._finish = finish if isinstance(finish, str) else self._finish
        said = choice.get("delta") or choice.get("message")
        if not isinstance(said, dict):
            return
        thought = next((said[name] for name in _THOUGHTS if isinstance(said.get(name), str) and said[name]), "")
        text, refusal, calls = Choice(0, said, None).content, said.get("refusal"), said.get("tool_calls")
        if thought:
            reasoning = yield from self._turn_to(Reasoning)
            yield from reasoning.add(thought)
        if text:
            yield from self._say(text, [*self._ahead, *_logprobs(choice.get("logprobs"))])
            self._ahead = []
        elif not (thought or refusal or calls):
            # a letter may be several tokens, of which the last alone comes with text
            self._ahead += _logprobs(choice.get("logprobs"))
        if isinstance(refusal, str) and refusal:
            message = yield from self._turn_to(Message)
            yield from message.refuse(refusal)
        for piece in calls if isinstance(calls, list) else ():
            if isinstance(piece, dict):
                yield from self._call(piece)

    def _say(self, text: str, logprobs: list[JSON]) -> Iterator[JSON]:
        message = yield from self._turn_to(Message)
        yield from message.say(text, logprobs)

    def _call(self, piece: JSON) -> Iterator[JSON]:
        form = "custom" if isinstance(piece.get("custom"), dict) else "function"
        body = piece[form] if isinstance(piece.get(form), dict) else {}
        place, call_id, name = piece.get("index"), piece.get("id"), body.get("name")
        call = self._calls.get(place) if isinstance(place, int) else None
        if call is None:
            kind = CustomCall if form == "custom" else Call
            call = kind(self.identity, len(self._items), call_id if isinstance(call_id, str) else None)
            call.name = name if isinstance(name, str) else ""
            # a message that came whole has its calls one by one
            self._calls[place if isinstance(place, int) else -1 - len(self._items)] = call
            yield from self._begin(call)
        text = body.get(call.takes)
        if text and call in self._open:
            yield from call.add(text if isinstance(text, str) else orjson.dumps(text).decode())

    def _turn_to(self, kind: type[_Said]) -> Generator[JSON, None, _Said]:
        """The item that is being said, where it is of this kind, or a new one."""
        last = self._open[-1] if self._open else None
        if isinstance(last, kind):
            return last
        item = kind(self.identity, len(self._items))
        yield from self._begin(item)
        return item

    def _begin(self, item: Item) -> Iterator[JSON]:
        for done in [each for each in self._open if each.whole]:
            self._open.remove(done)
            yield from done.end("completed")
        self._items.append(item)
        self._open.append(item)
        yield from item.begin()


def _usage(usage: JSON) -> JSON:
    """A chat's usage in the words of responses."""
    counted, details = told(usage), usage.get("prompt_tokens_details")
    written = details.get("cache_write_tokens") if isinstance(details, dict) else None
    return {
        "input_tokens": counted.prompt,
        "input_tokens_details": {
            "cached_tokens": counted.cached,
            "cache_write_tokens": written if isinstance(written, int) else 0,
        },
        "output_tokens": counted.completion,
        "output_tokens_details": {"reasoning_tokens": counted.reasoning},
        "total_tokens": counted.prompt + counted.completion,
    }


def _logprobs(told: object) -> list[JSON]:
    """A chat's log-probabilities as responses have them: every entry with its bytes."""
    return _entries(told.get("content")) if isinstance(told, dict) else []


def _entries(told: object) -> list[JSON]:
    known = [entry for entry in told if _known(entry)] if isinstance(told, list) else []
    return [{**_entry(entry), "top_logprobs": _tops(entry.get("top_logprobs"))} for entry in known]


def _tops(told: object) -> list[JSON]:
    return [_entry(entry) for entry in told if _known(entry)] if isinstance(told, list) else []


def _known(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("token"), str)
        and isinstance(entry.get("logprob"), int | float)
    )


def _entry(entry: JSON) -> JSON:
    spelt = entry.get("bytes")
    own = spelt if isinstance(spelt, list) and all(isinstance(each, int) for each in spelt) else None
    return {
        "token": entry["token"],
        "logprob": entry["logprob"],
        "bytes": list(entry["token"].encode()) if own is None else own,
    }
