"""What the provider behind the proxy says to the clients that are checked: one behaviour a model name.

Every call with several choices has a dissenter in its second one, so that a vote has something to do; a call with one
choice gets what the majority says. `limited` refuses a question for its first 0.9 seconds, and again once nobody has
asked it for a second: ask it something of your own.
"""

import base64
import binascii
import json
import re
import struct
import time
from collections.abc import Callable
from typing import Any

from proxy.types import JSON
from tests.clients.schemas import filled
from tests.fake.script import Content, Fault, Plain, Reply, Step
from tests.fake_upstream import Call

REFUSAL = "I cannot help with that."
REASONS = "Six sevens are forty-two."
_REFUSED_S, _QUIET_S = 0.9, 1.0
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


class Provider:
    """The script of the fake upstream; `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._models: dict[str, Callable[[Call], Step]] = {
            "text": _text,
            "choices": _text,
            "logprobs": _text,
            "tool": _any,
            "json": _any,
            "any": _any,
            "fields": _fields,
            "refuses": lambda _: Reply(refusal=REFUSAL),
            "reasons": lambda call: _voted(call, "42", "41", reasoning_content=REASONS),
            "image": _image,
            "slow": lambda call: _voted(call, "42", "41", latency=0.3),
            "endless": lambda call: _voted(call, "42", "41", latency=30.0),
            "broken": lambda _: Fault(500, "The server had an error.", "server_error", None),
            "limited": self._limited,
            "crowded": lambda _: Fault(retry_after=60),
            "rejects": lambda _: Fault(
                400, "Unsupported value: 'user'.", "invalid_request_error", "unsupported_value", param="user"
            ),
            "long": lambda call: _voted(call, "42 and", "41 and", finish_reason="length"),
            "embed": _embed,
        }

    @property
    def models(self) -> tuple[str, ...]:
        """The names that it knows."""
        return tuple(self._models)

    def __call__(self, call: Call) -> Step:
        """What a call is answered."""
        return self._models[call.body["model"]](call)

    def _limited(self, call: Call) -> Step:
        now, question = self._clock(), call.question
        if now - self._last.get(question, -_QUIET_S) >= _QUIET_S and now - self._first.get(question, -9) > 2:
            self._first[question] = now
        self._last[question] = now
        return Fault(retry_after=1) if now - self._first[question] < _REFUSED_S else _any(call)


def _voted(call: Call, most: Content, odd: Content, **more: Any) -> Reply:
    return Reply([odd if index % 3 == 1 else most for index in range(call.n)], **more)


def _text(call: Call) -> Reply:
    return _voted(call, "42", "41")


def _any(call: Call) -> Reply:
    """A tool call where tools are offered to a user's question, JSON where that is asked for, else text."""
    tool = _tool(call.body)
    if tool is not None and call.messages[-1].get("role") == "user":
        return _voted(call, _calling(tool, call.question), _calling(tool, call.question, odd=True))
    schema = _schema(call)
    if schema is None:
        return _text(call)
    return _voted(call, json.dumps(filled(schema, call.question), ensure_ascii=False), '{"broken": ')


def _fields(call: Call) -> Reply:
    """A text with every field that the prompt asks for as `[[ ## name ## ]]`, the last of which ends it."""
    asked = next(line for line in call.question.splitlines() if line.startswith("Respond with"))
    *names, end = re.findall(r"\[\[ ## \w+ ## \]\]", asked)
    most, odd = ("\n\n".join([*(f"{name}\n{value}" for name in names), end]) for value in (42, 41))
    return _voted(call, most, odd)


def _tool(body: JSON) -> JSON | None:
    """The function to call: the forced one, else the first."""
    functions: list[JSON] = [tool["function"] for tool in body.get("tools") or () if tool.get("type") == "function"]
    choice = body.get("tool_choice")
    if not functions or choice == "none":
        return None
    forced = choice["function"]["name"] if isinstance(choice, dict) else functions[0]["name"]
    return next(function for function in functions if function["name"] == forced)


def _calling(function: JSON, question: str, *, odd: bool = False) -> JSON:
    arguments = filled(function.get("parameters") or {"type": "object"}, question, odd=odd)
    return {"tool_calls": [{"name": function["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}]}


def _schema(call: Call) -> JSON | None:
    """What the reply must be; a JSON object without a schema has the keys that the prompt quotes."""
    asked = call.body.get("response_format") or {}
    if asked.get("type") == "json_object":
        keys = re.findall(r"['`](\w+)['`]", call.question)
        return {"properties": {key: {"type": "string"} for key in keys} or {"answer": {"type": "integer"}}}
    if asked.get("type") == "json_schema":
        return dict(asked["json_schema"].get("schema") or {"type": "object"})
    return None


def _image(call: Call) -> Step:
    contents = [message["content"] for message in call.messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    images = [part["image_url"]["url"] for part in parts if part.get("type") == "image_url"]
    if images and all(_whole(url) for url in images):
        return _text(call)
    return Fault(400, "No whole image.", "invalid_request_error", "invalid_image")


def _whole(url: str) -> bool:
    """Whether a data URL holds a PNG from its first bytes to its last."""
    try:
        data = base64.b64decode(url.partition("base64,")[2], validate=True)
    except binascii.Error:
        return False
    return data.startswith(_PNG) and data.endswith(_PNG_END)


def _embed(call: Call) -> Step:
    vector = (0.25, -0.5, 1.0)
    as_text = call.body.get("encoding_format") == "base64"
    shown = base64.b64encode(struct.pack("<3f", *vector)).decode() if as_text else list(vector)
    return Plain([{"embedding": shown} for _ in call.texts])
