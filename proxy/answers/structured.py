"""Answers that are data: JSON replies and tool calls, canonical so that spelling does not matter."""

import json

from proxy.answers.canonical import Label
from proxy.answers.numbers import number
from proxy.types import JSON

MAX_JSON = 1_000_000
"""Longer replies are not read as JSON, in characters."""

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


def parse(text: str) -> object:
    """The value of JSON `text`, numbers made alike (1.0 is 1); ValueError if it is not JSON, or is absurdly deep."""
    if len(text) > MAX_JSON:
        raise ValueError("too long")
    try:
        value: object = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_constant)
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
    for candidate in _candidates(text):
        try:
            value = parse(candidate)
            if _fits(value, response_format):
                return "json", dump(value)
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
        read = tuple(_call(call) for call in calls)
    except ValueError:
        return None
    return None if None in read else ("tool_calls", read)


def has_tool_calls(message: JSON) -> bool:
    """Whether the message calls tools, in today's form or the older `function_call`."""
    return bool(message.get("tool_calls") or message.get("function_call"))


def _call(call: object) -> tuple[str, str] | None:
    body = call.get("function") or call.get("custom") if isinstance(call, dict) else None
    name = body.get("name") if isinstance(body, dict) else None
    if not isinstance(body, dict) or not isinstance(name, str):
        return None
    # a custom tool takes free text
    if "input" in body and "arguments" not in body:
        return _clean(name), json.dumps(body["input"], sort_keys=True)
    arguments = body.get("arguments")
    # some servers send the object itself
    text = json.dumps(arguments) if isinstance(arguments, dict) else arguments or "{}"
    return (_clean(name), dump(parse(text))) if isinstance(text, str) else None


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


def _number(text: str) -> int | float | str:
    label = number(text)
    if label is None:
        return f"number {text}"
    top, _, bottom = label[1].partition("/")
    return int(top) / int(bottom) if bottom else int(top)


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
