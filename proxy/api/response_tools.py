"""A response's tools and formats as a chat has them: the same, one level deeper.

`strict` goes as it came. Left out, it is what chats take it for, which is false: OpenAI's own responses take a function
for strict then, and bend its schema.
"""

from collections.abc import Mapping, Sequence

from proxy.api.dialect import invalid, unsupported
from proxy.types import JSON

_PLAIN = ("auto", "none", "required")
_FORMS = ("function", "custom")
_UNSAID: Mapping[str, JSON] = {"function": {"description": None, "parameters": None, "strict": None}, "custom": {}}


def offered(tools: Sequence[JSON], choice: str | JSON | None, *, parallel: bool | None) -> JSON:
    """The fields `tools`, `tool_choice` and `parallel_tool_calls` of a chat.

    Of `allowed_tools` the others are left out, which every server understands. Raises RequestInvalid.
    """
    made = [_tool(tool, f"tools[{place}]") for place, tool in enumerate(tools)]
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        made, choice = _allowed(made, choice)
    if not made and choice in (None, "auto", "none"):
        return {}  # chats do not take them without tools
    told = {"tools": made or None, "tool_choice": _choice(choice), "parallel_tool_calls": parallel if made else None}
    return {name: value for name, value in told.items() if value is not None}


def echoed(tools: Sequence[JSON]) -> list[JSON]:
    """The tools as a response says them again: what was left out is null."""
    return [{**_UNSAID[tool["type"]], **tool} for tool in tools]


def response_format(wanted: JSON | None) -> JSON | None:
    """`text.format` as a chat's `response_format`; None: text. Raises RequestInvalid."""
    kind = "text" if wanted is None else wanted.get("type")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": kind}
    if kind != "json_schema":
        raise unsupported("text.format.type", f"{kind!r} is not taken; use text, json_object or json_schema")
    for name, type_, needed in (("name", str, "a text"), ("schema", dict, "an object")):
        if not isinstance(wanted.get(name), type_):
            raise invalid(f"text.format.{name}", f"must be {needed}")
    return {"type": kind, kind: _rest(wanted)}


def _tool(tool: JSON, place: str) -> JSON:
    form = tool.get("type")
    if form not in _FORMS:
        raise unsupported(f"{place}.type", f"{form!r} is not taken; only functions and custom tools can be called here")
    if not isinstance(tool.get("name"), str):
        raise invalid(f"{place}.name", "must be a text")
    made = _rest(tool)
    grammar = made.get("format")
    if form == "custom" and isinstance(grammar, dict) and grammar.get("type") == "grammar":
        made["format"] = {"type": "grammar", "grammar": _rest(grammar)}
    return {"type": form, form: made}


def _choice(choice: str | JSON | None) -> str | JSON | None:
    if choice is None or choice in _PLAIN:
        return choice
    form = choice.get("type") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(form, str):
        raise invalid("tool_choice", f"must be one of {', '.join(_PLAIN)}, or name a tool")
    if form not in _FORMS:
        raise unsupported("tool_choice.type", f"{form!r} is not taken; only functions and custom tools can be called")
    if not isinstance(choice.get("name"), str):
        raise invalid("tool_choice.name", "must be a text")
    return {"type": form, form: {"name": choice["name"]}}


def _allowed(tools: Sequence[JSON], choice: JSON) -> tuple[list[JSON], str]:
    """The tools that may be called, and whether one must be."""
    mode, listed = choice.get("mode"), choice.get("tools")
    if mode not in ("auto", "required"):
        raise invalid("tool_choice.mode", "must be auto or required")
    known = [tool for tool in listed if isinstance(tool, dict)] if isinstance(listed, list) else []
    names = [(tool.get("type"), tool.get("name")) for tool in known]
    allowed = [tool for tool in tools if (tool["type"], tool[tool["type"]]["name"]) in names]
    if not allowed:
        raise invalid("tool_choice.tools", "none of them is among the tools")
    return allowed, mode


def _rest(given: JSON) -> JSON:
    return {name: value for name, value in given.items() if name != "type" and value is not None}
