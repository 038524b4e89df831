"""One response as it grows out of a chat's chunks, and the numbered events that tell of it."""

from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import orjson

from proxy.api.response_output import Call, CustomCall, Item, Message, Reasoning
from proxy.api.response_parts import citations, logprobs, usage
from proxy.api.wire import envelope
from proxy.errors import TallyError
from proxy.types import JSON, Choice
from proxy.upstream import sse

_CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}
_TIERS = ("auto", "default", "flex", "scale", "priority", "fast")
_THOUGHTS = ("reasoning_content", "reasoning")
_FORMS = ("custom", "function")
_RATE_LIMITED = 429
_BROKEN = "error"
# how far back the beginning of what a piece goes on with is looked for
_PIECED = 1024

_Said = TypeVar("_Said", Message, Reasoning)


def event(payload: JSON) -> bytes:
    """One server-sent event, with its name before its data."""
    name: str = payload["type"]
    return f"event: {name}\n".encode() + sse.event(orjson.dumps(payload))


class Growing:
    """A response in the making: `identity` is in every id of it, `head` is what the request itself says of it.

    `wall` is seconds since 1970. An item ends when another one begins, but for calls that are not whole by then.
    A call begins when its name is known.
    """

    def __init__(self, head: JSON, wall: Callable[[], float]) -> None:
        self.identity = ""
        self._head = {**head, "created_at": int(wall())}
        self._wall = wall
        self._items: list[Item] = []
        self._open: list[Item] = []
        self._calls: list[tuple[int | None, Call]] = []
        self._ahead: list[JSON] = []
        self._cited: list[JSON] = []
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
        yield from map(self._numbered, self._held())
        whole = self._finish != _BROKEN and self._finish not in _CUT
        for item in self._open:
            yield from map(self._numbered, item.end("completed" if whole else "incomplete"))
        if self._finish == _BROKEN:
            yield self._failed("server_error", "The provider ended its reply with an error.")
        else:
            status = "completed" if whole else "incomplete"
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
            yield self._failed(code, error.message)

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

    def _failed(self, code: str, message: str) -> JSON:
        response = {**self.shown("failed"), "error": {"code": code, "message": message}}
        return self._numbered({"type": "response.failed", "response": response})

    def _numbered(self, payload: JSON) -> JSON:
        self._number += 1
        return {**payload, "sequence_number": self._number - 1}

    def _note(self, chunk: JSON) -> None:
        """Take what a chunk says of the whole."""
        # some say "" before they know it
        if isinstance(chunk.get("model"), str) and chunk["model"]:
            self._head["model"] = chunk["model"]
        if chunk.get("service_tier") in _TIERS:
            self._head["service_tier"] = chunk["service_tier"]
        if isinstance(chunk.get("usage"), dict):
            self._usage = usage(chunk["usage"])
        if "tally" in chunk:
            self._head["tally"] = chunk["tally"]

    def _choice(self, choice: JSON) -> Iterator[JSON]:
        if choice.get("index"):
            return  # one is all that was asked for
        finish = choice.get("finish_reason")
        self._finish = finish if isinstance(finish, str) else self._finish
        if isinstance(choice.get("message"), dict):
            yield from self._said(_one_by_one(choice["message"]), logprobs(choice.get("logprobs")))
        else:
            delta = choice.get("delta")
            yield from self._said(delta if isinstance(delta, dict) else {}, logprobs(choice.get("logprobs")))

    def _said(self, said: JSON, tokens: list[JSON]) -> Iterator[JSON]:
        thought = next((said[name] for name in _THOUGHTS if isinstance(said.get(name), str) and said[name]), "")
        text, refusal, calls = Choice(0, said, None).content, said.get("refusal"), _calls(said)
        self._cited += citations(said.get("annotations"))
        if thought:
            reasoning = yield from self._turn_to(Reasoning)
            yield from reasoning.add(thought)
        if text or not (thought or refusal or calls):
            # a letter may be several tokens, of which the last alone comes with text
            self._ahead += tokens
        if text:
            yield from self._say(text)
        yield from self._cite()
        if isinstance(refusal, str) and refusal:
            message = yield from self._turn_to(Message)
            yield from message.refuse(refusal)
        for piece in calls:
            yield from self._call(piece)

    def _say(self, text: str) -> Iterator[JSON]:
        """More text, with what was told of its tokens so far."""
        message = yield from self._turn_to(Message)
        tokens, self._ahead = self._ahead, []
        yield from message.say(text, tokens)

    def _cite(self) -> Iterator[JSON]:
        """Tell of citations, where a text is being said that they can be of."""
        message = self._telling()
        while message is not None and self._cited:
            yield from message.cite(self._cited.pop(0))

    def _telling(self) -> Message | None:
        last = self._open[-1] if self._open else None
        return last if isinstance(last, Message) and last.telling else None

    def _call(self, piece: JSON) -> Iterator[JSON]:
        call = self._called(piece)
        if call.index >= 0 and call not in self._open:
            return  # it was told whole
        body: JSON = next((piece[form] for form in _FORMS if isinstance(piece.get(form), dict)), {})
        call.call_id, call.name = _text(piece, "id") or call.call_id, _text(body, "name") or call.name
        text = body.get(call.takes)
        if text:
            yield from call.add(text if isinstance(text, str) else orjson.dumps(text).decode())
        if call.index < 0 and call.name:
            yield from self._begin(call)

    def _called(self, piece: JSON) -> Call:
        """The call that a piece goes on with, or a new one: some servers tell all calls of a turn at index 0."""
        place, own = piece.get("index"), _text(piece, "id")
        if isinstance(place, int):
            for known, call in reversed(self._calls[-_PIECED:]):
                if known == place and (not own or call.call_id in ("", own)):
                    return call
        custom = isinstance(piece.get("custom"), dict) or piece.get("type") == "custom"
        made = (CustomCall if custom else Call)(self.identity)
        # a message that came whole has its calls one by one
        self._calls.append((place if isinstance(place, int) else None, made))
        return made

    def _held(self) -> Iterator[JSON]:
        """What waited for more that did not come; an empty text, where nothing at all was said."""
        if self._telling() is not None and self._ahead:
            yield from self._say("")
        for _, call in self._calls:
            if call.index < 0:
                yield from self._begin(call)
        if not self._items:
            yield from self._say("")
            yield from self._cite()

    def _turn_to(self, kind: type[_Said]) -> Generator[JSON, None, _Said]:
        """The item that is being said, where it is of this kind, or a new one."""
        last = self._open[-1] if self._open else None
        if isinstance(last, kind):
            return last
        item = kind(self.identity)
        yield from self._begin(item)
        return item

    def _begin(self, item: Item) -> Iterator[JSON]:
        for done in [each for each in self._open if each.whole]:
            self._open.remove(done)
            yield from done.end("completed")
        self._items.append(item)
        self._open.append(item)
        yield from item.begin(len(self._items) - 1)


def _one_by_one(message: JSON) -> JSON:
    """A message that came whole: each of its calls is one, whatever index it has."""
    calls = [{name: call[name] for name in call if name != "index"} for call in _calls(message)]
    return {**message, "tool_calls": calls}


def _calls(said: JSON) -> list[JSON]:
    """The calls in a message or delta, or the one of a server that knows no more than `function_call`."""
    calls, one = said.get("tool_calls"), said.get("function_call")
    if isinstance(calls, list) and calls:
        return [piece for piece in calls if isinstance(piece, dict)]
    return [{"index": 0, "function": one}] if isinstance(one, dict) else []


def _text(within: JSON, name: str) -> str:
    value = within.get(name)
    return value if isinstance(value, str) else ""
