"""Answers that are data: JSON replies and tool calls, canonical so that spelling does not matter."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from hashlib import sha256
from math import isfinite
from typing import Literal

import orjson

from proxy.answers.answer import Answer, shown
from proxy.answers.canonical import Label
from proxy.answers.messages import visible_text
from proxy.answers.paths import Name, Path, without
from proxy.answers.schema import Schema
from proxy.types import JSON, AnswerSpec, Choice

MAX_EXACT = 32_000
"""JSON up to here, in characters, is compared number by number; in longer JSON 1 and 1.0 are two answers."""
MAX_JSON = 200_000
"""Longer replies are not parsed: they are compared as they stand, in characters."""

_MAX_DIGITS = 100
_MAX_EXPONENT = 150
# from here on not every whole number is a float
_FLOATS_END = 2**53
_FENCE = "```"


Calling = Literal["must", "may", "never"]


@dataclass(frozen=True, slots=True)
class Document:
    """A reply's JSON document: the `whole`, and the `part` of it that counts, which is less what is ignored."""

    whole: object
    part: object


class Documents:
    """Reads the replies to one request as data: JSON, a part of it, or tool calls.

    What the `ignore` of its spec names is no part of a label. Of tools, `name.argument` is an argument of that tool
    alone where the request has a tool of the name; all other names are arguments of every tool.
    """

    def __init__(self, spec: AnswerSpec, request: JSON) -> None:
        self._spec = spec
        self._format = response_format(request)
        self._ignore = [tuple(name.split(".")) for name in spec.ignore]
        self._tools = _tool_names(request)

    def json(self, choice: Choice) -> Answer | None:
        """The answer of a reply that should be JSON, or None, which abstains. Never raises.

        It abstains where it does not fit the `response_format`, and where the spec's path leads nowhere.
        """
        text = _text(choice)
        if len(text) > MAX_JSON:
            return self._unread(choice, text)
        for candidate in _candidates(text):
            try:
                found = self._label(candidate)
            except ValueError:
                continue
            if found is not None:
                return Answer(found[0], shown(found[1]), marked=True, bare=candidate == choice.content.strip())
        return None

    def calls(self, message: JSON) -> Answer | None:
        """The answer of a message that calls tools, or None where its calls cannot be read. Never raises.

        Its label is the calls' names and canonical arguments, sorted: calls of one message run side by side, so their
        order says nothing, but how often one is made does.
        """
        calls = message.get("tool_calls") or [{"function": message["function_call"]}]
        if not isinstance(calls, list):
            return None
        try:
            exact = sum(len(_arguments(call)) for call in calls) <= MAX_EXACT
            read = [self._call(call, exact=exact) for call in calls]
        except ValueError:
            return None
        made = [call for call in read if call is not None]
        if len(made) < len(read):
            return None
        text = ", ".join(f"{name}({arguments})" for name, arguments in made)
        return Answer(("tool_calls", tuple(sorted(made))), shown(text), marked=True)

    def document(self, choice: Choice) -> Document | None:
        """The JSON document of a reply that fits; None where there is none, or one over 32,000 characters."""
        for candidate in _candidates(_text(choice)):
            try:
                if len(candidate) <= MAX_EXACT and self.fits(candidate):
                    whole: object = json.loads(candidate)
                    return Document(whole, without(whole, self._ignore))
            except (ValueError, RecursionError):
                continue
        return None

    def fits(self, text: str) -> bool:
        """Whether JSON `text` is what the request's `response_format` asks for; any object or list where none is.

        ValueError if it is no JSON.
        """
        value: object = orjson.loads(text.encode())
        return self._takes(value) if self._schema is None else self._schema.fits(value)

    def _takes(self, value: object) -> bool:
        """Whether a value is of the type that is asked for, where there is no schema."""
        return isinstance(value, dict) or (self._takes_lists and isinstance(value, list))

    @property
    def _takes_lists(self) -> bool:
        return (self._format or {}).get("type") != "json_object"

    @cached_property
    def _schema(self) -> Schema | None:
        wrapper = (self._format or {}).get("json_schema")
        schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
        return Schema(schema) if isinstance(schema, dict) else None

    @cached_property
    def _path(self) -> Path | None:
        return Path(self._spec.path) if self._spec.kind == "json_path" and self._spec.path is not None else None

    def _label(self, text: str) -> tuple[Label, str] | None:
        """The label of JSON and how it is shown; ValueError or None where it has none."""
        exact = len(text) <= MAX_EXACT
        value: object = parse(text) if exact else orjson.loads(text.encode())
        if not (self._takes(value) if self._schema is None else self.fits(text)):
            return None
        if self._path is not None:
            found = self._path.of(value)
            if not found:
                return None
            return ("json", _canonical([_folded(each) for each in found], exact=exact)), _told(found)
        return ("json", _canonical(without(value, self._ignore), exact=exact)), text

    def _unread(self, choice: Choice, text: str) -> Answer | None:
        """A reply that is too long to be read, compared as it stands where nothing of it needs to be known."""
        ends = (text[0], text[-1])
        if self._schema is not None or self._path is not None:
            return None
        if ends != ("{", "}") and (ends != ("[", "]") or not self._takes_lists):
            return None
        label = "json", "sha256:" + sha256(text.encode(errors="replace")).hexdigest()
        return Answer(label, shown(text), marked=True, bare=text == choice.content.strip())

    def _call(self, call: object, *, exact: bool) -> tuple[str, str] | None:
        body = _body(call)
        name = body.get("name")
        if not isinstance(name, str):
            return None
        # a custom tool takes free text
        if "input" in body and "arguments" not in body:
            return _clean(name), dump(body["input"])
        text = _arguments(call)
        value: object = parse(text) if exact else orjson.loads(text.encode(errors="replace"))
        return _clean(name), _canonical(without(value, self._ignored_of(name)), exact=exact)

    def _ignored_of(self, tool: str) -> list[Name]:
        """The arguments of one tool that do not count."""
        own = [name[1:] for name in self._ignore if name[0] == tool and len(name) > 1]
        return own + [name for name in self._ignore if name[0] not in self._tools | {tool} or len(name) == 1]


def response_format(request: JSON) -> JSON | None:
    """The request's `response_format` if it asks for JSON."""
    wanted = request.get("response_format")
    return wanted if isinstance(wanted, dict) and wanted.get("type") in ("json_object", "json_schema") else None


def parse(text: str) -> object:
    """The value of JSON `text`, numbers made alike (1.0 is 1); ValueError if it is not JSON, or is absurdly deep."""
    try:
        value: object = json.loads(text, parse_int=_integer, parse_float=_decimal, parse_constant=_constant)
    except RecursionError:
        raise ValueError("too deep") from None
    return value


def dump(value: object) -> str:
    """The canonical JSON of what `parse` returned: sorted keys, no spaces."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        raise ValueError("too deep") from None


def calling(request: JSON) -> Calling:
    """Whether a reply may call a tool: it `must`, it `may` and may say something instead, or it is `never` asked to."""
    offered, wanted = ("tools", "tool_choice") if request.get("tools") else ("functions", "function_call")
    choice = request.get(wanted)
    if isinstance(choice, dict) and isinstance(choice.get("allowed_tools"), dict):
        choice = choice["allowed_tools"].get("mode")
    if not request.get(offered) or choice == "none":
        return "never"
    return "may" if choice in (None, "auto") else "must"


def has_tool_calls(message: JSON) -> bool:
    """Whether the message calls tools, in today's form or the older `function_call`."""
    return bool(message.get("tool_calls") or message.get("function_call"))


def _body(call: object) -> JSON:
    body = call.get("function") or call.get("custom") if isinstance(call, dict) else None
    return body if isinstance(body, dict) else {}


def _arguments(call: object) -> str:
    arguments = _body(call).get("arguments") or {}
    # some servers send the object itself
    return arguments if isinstance(arguments, str) else dump(arguments)


def _canonical(value: object, *, exact: bool) -> str:
    if exact:
        return dump(value)
    try:
        return "sha256:" + sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
    except orjson.JSONEncodeError:
        raise ValueError("too deep") from None


def _folded(value: object) -> object:
    return " ".join(value.split()).casefold() if isinstance(value, str) else value


def _told(found: Sequence[object]) -> str:
    return ", ".join(value if isinstance(value, str) else dump(value) for value in found)


def _text(choice: Choice) -> str:
    """What of a reply may be JSON; JSON without its beginning is none, so a long reply is taken whole."""
    whole = choice.content
    return whole.strip() if len(whole) > MAX_JSON else visible_text(choice, MAX_JSON)


def _tool_names(request: JSON) -> frozenset[str]:
    """The names of the tools that a request offers, in today's form or the older one."""
    offered: list[object] = []
    for key in ("tools", "functions"):
        listed = request.get(key)
        offered += listed if isinstance(listed, list) else []
    bodies = [tool.get("function") or tool.get("custom") or tool for tool in offered if isinstance(tool, dict)]
    names = [body.get("name") for body in bodies if isinstance(body, dict)]
    return frozenset(name for name in names if isinstance(name, str))


def _clean(name: str) -> str:
    return name.encode(errors="replace").decode()


def _candidates(text: str) -> list[str]:
    found = [text]
    close = text.rfind(_FENCE)
    start = text.rfind(_FENCE, 0, close) if close > 0 else -1
    if start >= 0:
        found.append(text[start + len(_FENCE) : close].strip().removeprefix("json"))
    return found


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= _MAX_DIGITS else f"number {text}"


def _decimal(text: str) -> int | float | str:
    value = float(text)
    if -_FLOATS_END < value < _FLOATS_END:
        return int(value) if value.is_integer() else value
    if not isfinite(value):
        return f"number {text}"
    exact = Decimal(text)
    whole = exact.adjusted() <= _MAX_EXPONENT and exact == exact.to_integral_value()
    return int(exact) if whole else value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
