"""`POST /v1/responses`: OpenAI's Responses API without its memory, asked as a chat and told in its own shape.

All that holds for chats holds here: strategies, budgets, `tally`, headers. Nothing is stored, so what rests on storage
(`store: true`, `previous_response_id`, `conversation`, `background`, stored prompts) is refused with 400, as are the
tools that OpenAI runs itself and items that no chat can keep. `store` left out means false here. `metadata` is given
back and goes no further: chats take it only with `store`. `truncation: auto` is taken, and nothing is truncated.

Taken and without effect are `reasoning.summary` (a summary is what the provider's chat tells of its thoughts),
`max_tool_calls`, other words of `reasoning` and `text`, values of `include` but for log-probabilities, and of items
what no chat has: `phase`, `namespace`, `prompt_cache_breakpoint`. What a provider wants back beside its calls, such as
`reasoning_content` or a signature of thoughts, does not come back through here; chats keep it.
"""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from proxy.api.dialect import Spoken, invalid, unsupported
from proxy.api.entry import Door
from proxy.api.response_events import Growing, event
from proxy.api.response_input import messages
from proxy.api.response_tools import echoed, offered, response_format
from proxy.api.serving import Reply
from proxy.api.wire import Tokens, error_response, validated
from proxy.errors import NotFound, TallyError
from proxy.types import JSON
from proxy.upstream import sse

_MOST_LOGPROBS = 20
_LOGPROBS = "message.output_text.logprobs"

_WHOLE = "nothing is stored here; send the whole conversation as input"
_STORED = {
    "previous_response_id": _WHOLE,
    "conversation": _WHOLE,
    "context_management": _WHOLE,
    "prompt": "prompts are not stored here; send instructions and input",
    "store": "nothing is stored here; leave it out, or false",
    "background": "nothing is stored here; leave it out, or false",
}
_OF_CHATS = {
    "messages": "use input",
    "n": "a response is one; send several requests",
    "max_tokens": "use max_output_tokens",
    "max_completion_tokens": "use max_output_tokens",
    "response_format": "use text.format",
    "reasoning_effort": "use reasoning.effort",
    "verbosity": "use text.verbosity",
    "logprobs": f"use include: {_LOGPROBS}",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "modalities": "a response is text",
    "audio": "a response is text",
}
_OWN = frozenset(
    {"input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_tool_calls", "text", "reasoning"}
    | {"max_output_tokens", "include", "top_logprobs", "truncation", "metadata", "stream_options"}
    | _STORED.keys()
)
_ECHOED = ("temperature", "top_p", "user", "safety_identifier", "prompt_cache_key")
"""What a response says again as it was asked."""
_ELSEWHERE = ("input_tokens", "compact")
"""What stands below `/v1/responses/` and is no response."""


class TextWish(BaseModel):
    """`text` in a request."""

    model_config = ConfigDict(extra="allow")

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ReasoningWish(BaseModel):
    """`reasoning` in a request, as far as a chat knows it."""

    model_config = ConfigDict(extra="allow")

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesRequest(BaseModel):
    """A request, as far as it differs from a chat's."""

    model_config = ConfigDict(extra="allow")

    input: Annotated[str, Field(strict=True)] | list[Any]
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: StrictBool | None = None
    max_tool_calls: StrictInt | None = None
    text: TextWish | None = None
    reasoning: ReasoningWish | None = None
    max_output_tokens: Tokens | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=_MOST_LOGPROBS)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    stream: StrictBool | None = None
    stream_options: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class Responses:
    """The dialect. `wall` is seconds since 1970; `max_messages` are the most that an input may make."""

    def __init__(self, wall: Callable[[], float], *, max_messages: int) -> None:
        self._wall = wall
        self._max_messages = max_messages

    def __call__(self, body: JSON) -> Spoken:
        """A request as a chat. Raises RequestInvalid that names the field which a chat cannot keep."""
        _check(body)
        request = validated(ResponsesRequest, body)
        asked = {name: value for name, value in body.items() if name not in _OWN and value is not None}
        asked |= _asked(request)
        if len(asked["messages"]) > self._max_messages:
            raise invalid("input", f"more than {self._max_messages} messages")
        told = _Told(Growing(_head(request, body), self._wall))
        return Spoken(asked, told.told, told.broke)


class Unstored:
    """Answers for every path below `/v1/responses/`: there is nothing to get, to cancel or to delete."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def serve(self, request: Request) -> Response:
        """404. Raises HTTPException for what is unknown here, stored or not."""
        if request.path_params["rest"] in _ELSEWHERE:
            raise HTTPException(404)
        error = NotFound("Responses are not stored here: POST /v1/responses answers, and nothing of it is kept.")
        return error_response(error, self._door.headers())


def _check(body: JSON) -> None:
    for name, reason in _STORED.items():
        if body.get(name):
            raise unsupported(name, reason)
    for name, reason in _OF_CHATS.items():
        if body.get(name) is not None:
            raise unsupported(name, f"not a field of responses; {reason}")


def _asked(request: ResponsesRequest) -> JSON:
    """What a chat calls by other names, or has in another shape."""
    text, logprobs = request.text or TextWish(), _LOGPROBS in (request.include or ())
    asked: JSON = {
        "messages": messages(request.input, request.instructions),
        **offered(request.tools or (), request.tool_choice, parallel=request.parallel_tool_calls),
        "max_completion_tokens": request.max_output_tokens,
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "response_format": response_format(text.format),
        "verbosity": text.verbosity,
        "logprobs": logprobs or None,
        # 0 is the sampled token alone
        "top_logprobs": (request.top_logprobs or None) if logprobs else None,
        "stream_options": _stream_options(request.stream_options or {}) if request.stream else None,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _stream_options(given: JSON) -> JSON:
    # a response always tells its usage, and is not obfuscated
    return {**{name: value for name, value in given.items() if name != "include_obfuscation"}, "include_usage": True}


def _head(request: ResponsesRequest, body: JSON) -> JSON:
    """What a Response says again of its request."""
    text = request.text or TextWish()
    return {
        **{name: body.get(name) for name in _ECHOED},
        "model": body.get("model"),
        "background": False,
        "store": False,
        "previous_response_id": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "reasoning": (request.reasoning or ReasoningWish()).model_dump(include={"effort", "summary"}),
        "service_tier": None,
        "text": {
            "format": text.format or {"type": "text"},
            **({} if text.verbosity is None else {"verbosity": text.verbosity}),
        },
        "tool_choice": request.tool_choice or "auto",
        "tools": echoed(request.tools or ()),
        "top_logprobs": request.top_logprobs or 0,
        "truncation": request.truncation or "disabled",
    }


class _Told:
    """One request's reply."""

    def __init__(self, growing: Growing) -> None:
        self._growing = growing

    def told(self, reply: Reply, identity: str) -> Reply:
        """A chat's reply as a response, whole or as a stream."""
        self._growing.identity = identity
        if reply.events is not None:
            return replace(reply, events=self._events(reply.events))
        return replace(reply, body=orjson.dumps(self._growing.whole(orjson.loads(reply.body))))

    def broke(self, error: TallyError) -> bytes:
        """The events of an error in an open stream."""
        return _events(self._growing.fail(error))

    async def _events(self, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            async for item in events:
                if item == sse.END:
                    yield _events(self._growing.end())
                elif (data := sse.data(item)) is None:
                    yield item
                elif told := _events(self._growing.hear(orjson.loads(data))):
                    yield told


def _events(payloads: Iterable[JSON]) -> bytes:
    return b"".join(map(event, payloads))
