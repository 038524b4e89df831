"""What a response's `input` says, as the messages of a chat."""

from collections.abc import Callable, Mapping

from proxy.api.dialect import invalid, unsupported
from proxy.api.response_turns import Thread
from proxy.types import JSON

_CARRIES = {"function": "arguments", "custom": "input"}
_UNSTORED = "nothing is stored here that could be referred to; set store to false, so that the client sends items whole"
_ROLES = ("user", "assistant", "system", "developer")


def messages(said: object, instructions: str | None) -> list[JSON]:
    """The messages of `input`, a text or a list of items, after the `instructions`.

    The calls that follow one another are one message of the assistant, with what it said beside them, and behind it
    stand their results, wherever they came: chats take them nowhere else. Left out is what most chats do not take
    back: reasoning, and what a provider adds to its calls, such as a signature of thoughts. Raises RequestInvalid that
    names the place of what no chat can keep.
    """
    thread = Thread()
    if instructions:
        thread.say({"role": "system", "content": instructions})
    if isinstance(said, str):
        thread.say({"role": "user", "content": said})
    else:
        for place, item in enumerate(_list(said, "input")):
            _take(thread, item, f"input[{place}]")
    if not thread:
        raise invalid("input", "there is nothing in it")
    return thread.messages()


def _take(thread: Thread, item: object, place: str) -> None:
    if not isinstance(item, dict):
        raise invalid(place, "must be an object")
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    if not isinstance(kind, str):
        raise invalid(f"{place}.type", "must be a text")
    take = _ITEMS.get(kind)
    if take is None:
        why = _UNSTORED if kind == "item_reference" else "no chat can keep it"
        raise unsupported(f"{place}.type", f"{kind!r} is not taken, as {why}")
    take(thread, item, place)


def _message(thread: Thread, item: JSON, place: str) -> None:
    role = item.get("role")
    if role not in _ROLES:
        raise invalid(f"{place}.role", f"must be one of {', '.join(_ROLES)}")
    said = _spoken if role == "assistant" else _content if role == "user" else _plain
    thread.say({"role": role, **said(item.get("content"), f"{place}.content")})


def _spoken(content: object, place: str) -> JSON:
    """What the assistant said, or that it refused: texts alone, so they are joined."""
    if isinstance(content, str):
        return {"content": content}
    parts = [_object(part, f"{place}[{index}]") for index, part in enumerate(_list(content, place))]
    texts, refusals = [], []
    for index, part in enumerate(parts):
        if part.get("type") == "refusal":
            refusals.append(_text(part, "refusal", f"{place}[{index}]"))
        elif part.get("type") in _TEXTS:
            texts.append(_text(part, "text", f"{place}[{index}]"))
        else:
            raise unsupported(f"{place}[{index}].type", f"{part.get('type')!r} is not what an assistant says")
    said: JSON = {"content": "".join(texts) if texts or not refusals else None}
    return {**said, "refusal": "".join(refusals)} if refusals else said


def _plain(content: object, place: str) -> JSON:
    """What stands for a text where chats take no parts: texts alone, each on lines of its own."""
    if isinstance(content, str):
        return {"content": content}
    parts = [_object(part, f"{place}[{index}]") for index, part in enumerate(_list(content, place))]
    for index, part in enumerate(parts):
        if part.get("type") not in _TEXTS:
            raise unsupported(
                f"{place}[{index}].type", f"{part.get('type')!r} is taken of users alone; here, texts are"
            )
    return {"content": "\n".join(_text(part, "text", f"{place}[{index}]") for index, part in enumerate(parts))}


def _content(content: object, place: str) -> JSON:
    """What a user says."""
    if isinstance(content, str):
        return {"content": content}
    parts = [_part(_object(part, f"{place}[{index}]"), f"{place}[{index}]")
             for index, part in enumerate(_list(content, place))]  # fmt: skip
    # there are servers that take texts alone
    plain = len(parts) == 1 and parts[0]["type"] == "text"
    return {"content": parts[0]["text"] if plain else parts or ""}


def _part(part: JSON, place: str) -> JSON:
    kind = part.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": _text(part, "text", place)}
    if kind == "input_image":
        if part.get("image_url") is None:
            raise unsupported(f"{place}.image_url", "an image is taken by its URL, or as a data URL, alone")
        detail = {} if part.get("detail") is None else {"detail": part["detail"]}
        return {"type": "image_url", "image_url": {"url": _text(part, "image_url", place), **detail}}
    if kind == "input_file":
        kept = {name: _text(part, name, place) for name in _FILE if part.get(name) is not None}
        if not kept.keys() & {"file_data", "file_id"}:
            raise unsupported(f"{place}.file_data", "a file is taken by its data, or its id at the provider, alone")
        return {"type": "file", "file": kept}
    if kind == "input_audio":
        return {"type": kind, kind: _object(part.get(kind), f"{place}.{kind}")}
    raise unsupported(f"{place}.type", f"{kind!r} is not taken, as no chat can keep it")


def _function_call(thread: Thread, item: JSON, place: str) -> None:
    _call(thread, item, place, "function")


def _custom_call(thread: Thread, item: JSON, place: str) -> None:
    _call(thread, item, place, "custom")


def _call(thread: Thread, item: JSON, place: str, form: str) -> None:
    body = {name: _text(item, name, place) for name in ("name", _CARRIES[form])}
    thread.call({"id": _text(item, "call_id", place), "type": form, form: body})


def _result(thread: Thread, item: JSON, place: str) -> None:
    said = _plain(item.get("output"), f"{place}.output")
    if not thread.answer({"role": "tool", "tool_call_id": _text(item, "call_id", place), **said}):
        raise invalid(f"{place}.call_id", "no call before it has this id")


def _reasoning(_thread: Thread, _item: JSON, _place: str) -> None:
    """Left out."""


def _text(item: JSON, name: str, place: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise invalid(f"{place}.{name}", "must be a text")
    return value


def _object(value: object, place: str) -> JSON:
    if not isinstance(value, dict):
        raise invalid(place, "must be an object")
    return value


def _list(value: object, place: str) -> list[object]:
    if not isinstance(value, list):
        raise invalid(place, "must be a text or a list")
    return value


_TEXTS = ("input_text", "output_text")
_FILE = ("file_data", "file_id", "filename")
_ITEMS: Mapping[str, Callable[[Thread, JSON, str], None]] = {
    "message": _message,
    "function_call": _function_call,
    "custom_tool_call": _custom_call,
    "function_call_output": _result,
    "custom_tool_call_output": _result,
    "reasoning": _reasoning,
}
