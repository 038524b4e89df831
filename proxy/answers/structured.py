"""Answers that are data: JSON replies and tool calls, canonical so that spelling does not matter."""

import json
from decimal import Decimal
from hashlib import sha256
from math import isfinite

import orjson

from proxy.answers.answer import Answer, shown
from proxy.answers.canonical import Label
from proxy.answers.messages import visible_text
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
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


class Documents:
    """Reads the replies to one request as data: JSON, a part of it, or tool calls."""

    def __init__(self, spec: AnswerSpec, request: JSON) -> None:
        self._spec = spec
        self._format = response_format(request)

    def json(self, choice: Choice) -> Answer | None:
        """The answer of a reply that should be JSON, or None, which abstains. Never raises."""
        whole = choice.content
        # JSON without its beginning is none
        text = whole.strip() if len(whole) > MAX_JSON else visible_text(choice, MAX_JSON)
        label = json_label(text, self._format)
        return None if label is None else Answer(label, shown(text), marked=True)

    def calls(self, message: JSON) -> Answer | None:
        """The answer of a message that calls tools, or None where its calls cannot be read. Never raises."""
        label = tool_label(message)
        return None if label is None else Answer(label, shown(_tool_text(label)), marked=True)


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


def json_label(text: str, response_format: JSON | None) -> Label | None:
    """The label of a JSON reply, bare or in its last fence; None unless it is JSON that fits `response_format`.

    Of a `json_schema` only the type of the whole, the required keys and the types of the properties are looked at.
    """
    if len(text) > MAX_JSON:
        return _unread_label(text, response_format)
    exact = len(text) <= MAX_EXACT
    for candidate in _candidates(text):
        try:
            value = parse(candidate) if exact else orjson.loads(candidate)
            if _fits(value, response_format):
                return "json", dump(value) if exact else _digest(value)
        except ValueError:
            continue
    return None


def tool_label(message: JSON) -> Label | None:
    """The label of a message's tool calls: names and canonical arguments in order; None if any cannot be parsed."""
    calls = message.get("tool_calls")
    if not calls:
        calls = [{"function": message["function_call"]}]
    if not isinstance(calls, list):
        return None
    try:
        exact = sum(len(_arguments(call)) for call in calls) <= MAX_EXACT
        read = tuple(_call(call, exact=exact) for call in calls)
    except ValueError:
        return None
    return None if None in read else ("tool_calls", read)


def has_tool_calls(message: JSON) -> bool:
    """Whether the message calls tools, in today's form or the older `function_call`."""
    return bool(message.get("tool_calls") or message.get("function_call"))


def _tool_text(label: Label) -> str:
    calls = label[1]
    return ", ".join(f"{name}({arguments})" for name, arguments in calls) if isinstance(calls, tuple) else ""


def _call(call: object, *, exact: bool) -> tuple[str, str] | None:
    body = _body(call)
    name = body.get("name")
    if not isinstance(name, str):
        return None
    # a custom tool takes free text
    if "input" in body and "arguments" not in body:
        return _clean(name), dump(body["input"])
    text = _arguments(call)
    return _clean(name), dump(parse(text)) if exact else _digest(orjson.loads(text.encode(errors="replace")))


def _body(call: object) -> JSON:
    body = call.get("function") or call.get("custom") if isinstance(call, dict) else None
    return body if isinstance(body, dict) else {}


def _arguments(call: object) -> str:
    arguments = _body(call).get("arguments") or {}
    # some servers send the object itself
    return arguments if isinstance(arguments, str) else dump(arguments)


def _digest(value: object) -> str:
    try:
        return "sha256:" + sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
    except orjson.JSONEncodeError:
        raise ValueError("too deep") from None


def _unread_label(text: str, response_format: JSON | None) -> Label | None:
    ends = (text[0], text[-1])
    if ends != ("{", "}") and (ends != ("[", "]") or not _fits([], response_format)):
        return None
    return "json", "sha256:" + sha256(text.encode(errors="replace")).hexdigest()


def _clean(name: str) -> str:
    return name.encode(errors="replace").decode()


def _candidates(text: str) -> list[str]:
    found = [text]
    close = text.rfind(_FENCE)
    start = text.rfind(_FENCE, 0, close) if close > 0 else -1
    if start >= 0:
        found.append(text[start + len(_FENCE) : close].strip().removeprefix("json"))
    return found


def _fits(value: object, response_format: JSON | None) -> bool:
    kind = (response_format or {}).get("type")
    if kind == "json_schema" and response_format is not None:
        wrapper = response_format.get("json_schema")
        schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
        return _fits_schema(value, schema) if isinstance(schema, dict) else True
    return isinstance(value, dict) if kind == "json_object" else isinstance(value, dict | list)


def _fits_schema(value: object, schema: JSON) -> bool:
    if not _has_type(value, schema.get("type")):
        return False
    if not isinstance(value, dict):
        return True
    required, properties = schema.get("required"), schema.get("properties")
    if isinstance(required, list) and not all(key in value for key in required if isinstance(key, str)):
        return False
    if not isinstance(properties, dict):
        return True
    described = {key: part for key, part in properties.items() if isinstance(part, dict)}
    return all(_has_type(value[key], part.get("type")) for key, part in described.items() if key in value)


def _has_type(value: object, names: object) -> bool:
    """Whether `value` is of the JSON type or one of the types named; unknown names are not judged."""
    wanted = names if isinstance(names, list) else [names]
    known = [name for name in wanted if isinstance(name, str) and name in _TYPES]
    if not known:
        return True
    if isinstance(value, bool):
        return "boolean" in known
    return any(isinstance(value, _TYPES[name]) for name in known)


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
