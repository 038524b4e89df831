"""The items of a response's output as they grow, and the events that tell of it (without their numbers)."""

from collections.abc import Iterator
from typing import Literal

import orjson

from proxy.types import JSON

Status = Literal["in_progress", "completed", "incomplete"]


class Item:
    """One item. `index` is its place in the output, known when it begins; `identity` is in its id.

    `whole`: nothing more can come, as far as can be seen.
    """

    prefix: str

    def __init__(self, identity: str) -> None:
        self.index = -1
        self.status: Status = "in_progress"
        self._identity = identity

    @property
    def id(self) -> str:
        """Its own id."""
        return f"{self.prefix}_{self._identity}_{self.index}"

    @property
    def whole(self) -> bool:
        """Another item begins: whether this one can be ended."""
        return True

    def shown(self) -> JSON:
        """The item as it is by now."""
        raise NotImplementedError

    def begin(self, index: int) -> Iterator[JSON]:
        """The events of its beginning at this place."""
        self.index = index
        yield {"type": "response.output_item.added", "output_index": self.index, "item": self.shown()}

    def end(self, status: Status) -> Iterator[JSON]:
        """The events of its end."""
        yield from self._finish()
        self.status = status
        yield {"type": "response.output_item.done", "output_index": self.index, "item": self.shown()}

    def _finish(self) -> Iterator[JSON]:
        raise NotImplementedError

    def _event(self, kind: str, **more: object) -> JSON:
        return {"type": f"response.{kind}", "item_id": self.id, "output_index": self.index, **more}


class Reasoning(Item):
    """What the model thought, as one summary."""

    prefix = "rs"

    def __init__(self, identity: str) -> None:
        super().__init__(identity)
        self._text: str | None = None

    def shown(self) -> JSON:
        """The item as it is by now."""
        summary = [] if self._text is None else [self._part()]
        return {"id": self.id, "type": "reasoning", "summary": summary, "status": self.status}

    def add(self, text: str) -> Iterator[JSON]:
        """More of it."""
        if self._text is None:
            self._text = ""
            yield self._event("reasoning_summary_part.added", summary_index=0, part=self._part())
        self._text += text
        yield self._event("reasoning_summary_text.delta", summary_index=0, delta=text)

    def _finish(self) -> Iterator[JSON]:
        yield self._event("reasoning_summary_text.done", summary_index=0, text=self._text)
        yield self._event("reasoning_summary_part.done", summary_index=0, part=self._part())

    def _part(self) -> JSON:
        return {"type": "summary_text", "text": self._text}


class Message(Item):
    """What the model said: parts that are texts or refusals, mostly one."""

    prefix = "msg"

    def __init__(self, identity: str) -> None:
        super().__init__(identity)
        self._parts: list[JSON] = []

    @property
    def telling(self) -> bool:
        """Whether its last part is a text."""
        return bool(self._parts) and self._parts[-1]["type"] == "output_text"

    def shown(self) -> JSON:
        """The item as it is by now."""
        parts = [_apart(part) for part in self._parts]
        return {"id": self.id, "type": "message", "role": "assistant", "status": self.status, "content": parts}

    def say(self, text: str, logprobs: list[JSON]) -> Iterator[JSON]:
        """More text, with the log-probabilities of its tokens where they are known."""
        yield from self._turn_to({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
        part = self._parts[-1]
        part["text"] += text
        part["logprobs"].extend(logprobs)
        if text or logprobs:
            yield self._told("output_text.delta", delta=text, logprobs=logprobs)

    def cite(self, annotation: JSON) -> Iterator[JSON]:
        """Where the text, which has begun, comes from."""
        notes = self._parts[-1]["annotations"]
        notes.append(annotation)
        yield self._told("output_text.annotation.added", annotation_index=len(notes) - 1, annotation=annotation)

    def refuse(self, text: str) -> Iterator[JSON]:
        """More of a refusal."""
        yield from self._turn_to({"type": "refusal", "refusal": ""})
        self._parts[-1]["refusal"] += text
        yield self._told("refusal.delta", delta=text)

    def _turn_to(self, part: JSON) -> Iterator[JSON]:
        """Begin a part, where the last one is of another type."""
        if self._parts and self._parts[-1]["type"] == part["type"]:
            return
        yield from self._finish()
        self._parts.append(part)
        yield self._told("content_part.added", part=_apart(part))

    def _finish(self) -> Iterator[JSON]:
        if not self._parts:
            return
        part = self._parts[-1]
        if part["type"] == "refusal":
            yield self._told("refusal.done", refusal=part["refusal"])
        else:
            yield self._told("output_text.done", text=part["text"], logprobs=part["logprobs"])
        yield self._told("content_part.done", part=_apart(part))

    def _told(self, kind: str, **more: object) -> JSON:
        return self._event(kind, content_index=len(self._parts) - 1, **more)


class Call(Item):
    """A call of the function `name`. `call_id` is the provider's own id of it, by which its result is given back.

    `takes` names what it carries. Either may be known later than the call itself.
    """

    prefix, takes = "fc", "arguments"
    _kind, _events = "function_call", "function_call_arguments"

    def __init__(self, identity: str) -> None:
        super().__init__(identity)
        self.name = ""
        self.call_id = ""
        self._text = ""

    @property
    def whole(self) -> bool:
        """Whether its arguments are: calls may come in turns."""
        return bool(self._text) and _is_json(self._text)

    def shown(self) -> JSON:
        """The item as it is by now."""
        return {
            "id": self.id,
            "type": self._kind,
            "status": self.status,
            "call_id": self.call_id or f"call_{self._identity}_{self.index}",
            "name": self.name,
            self.takes: self._text,
        }

    def begin(self, index: int) -> Iterator[JSON]:
        """The events of its beginning at this place, with the arguments that are there."""
        text, self._text = self._text, ""
        yield from super().begin(index)
        if text:
            yield from self.add(text)

    def add(self, text: str) -> Iterator[JSON]:
        """More of its arguments."""
        self._text += text
        if self.index >= 0:
            yield self._event(f"{self._events}.delta", delta=text)

    def _finish(self) -> Iterator[JSON]:
        yield self._event(f"{self._events}.done", name=self.name, **{self.takes: self._text})


class CustomCall(Call):
    """A call of a custom tool, which takes free text."""

    prefix, takes = "ctc", "input"
    _kind, _events = "custom_tool_call", "custom_tool_call_input"

    @property
    def whole(self) -> bool:
        """Free text can always go on."""
        return False


def _apart(part: JSON) -> JSON:
    """The part as it is now, whatever is added later."""
    return {name: list(value) if isinstance(value, list) else value for name, value in part.items()}


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
