"""`POST /v1/completions`: OpenAI's legacy text completions, asked as a chat and told in their own shape.

The prompt is one user message, so all that holds for chats holds here: strategies, budgets, `tally`, headers. What a
chat cannot keep is refused with 400: several prompts, token arrays, `suffix`, `echo` with `logprobs`, a `best_of` of
its own (the strategy best_of_n with `tally.samples` is that), messages and tools. As with the original, `max_tokens`
is 16 where neither it nor `max_completion_tokens` is given.
"""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from proxy.api import render
from proxy.api.dialect import Spoken, unsupported
from proxy.api.serving import Reply
from proxy.api.wire import validated
from proxy.types import JSON, Choice
from proxy.upstream import sse

_MAX_TOKENS = 16
_MOST_LOGPROBS = 5
_OWN = frozenset({"prompt", "suffix", "echo", "best_of", "logprobs"})
_OF_CHATS = (
    *("messages", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
    *("modalities", "audio"),
)
_CHAT_ID, _ID = "chatcmpl-", "cmpl-"
_CALLED = ("tool_calls", "function_call")


class CompletionRequest(BaseModel):
    """A legacy request, as far as it differs from a chat's."""

    model_config = ConfigDict(extra="allow")

    prompt: Annotated[str, Field(strict=True)] | list[Any]
    suffix: str | None = None
    echo: StrictBool | None = None
    best_of: StrictInt | None = None
    logprobs: Annotated[StrictInt, Field(ge=0, le=_MOST_LOGPROBS)] | None = None


def legacy(body: JSON) -> Spoken:
    """A legacy request as a chat. Raises RequestInvalid that names the field which a chat cannot keep."""
    request = validated(CompletionRequest, body)
    prompt = _prompt(request.prompt)
    _check(request, body)
    asked = {name: value for name, value in body.items() if name not in _OWN}
    asked["messages"] = [{"role": "user", "content": prompt}]
    if body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
        asked["max_tokens"] = _MAX_TOKENS
    if request.logprobs is not None:
        asked["logprobs"] = True
        # 0 is the sampled token alone
        asked |= {"top_logprobs": request.logprobs} if request.logprobs else {}
    return Spoken(asked, _Legacy(prompt if request.echo else "", request.logprobs).told)


def _prompt(prompt: str | list[Any]) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    if prompt and all(isinstance(each, str) for each in prompt):
        raise unsupported("prompt", "one prompt a request; send several as requests of their own")
    raise unsupported("prompt", "a text, or a list of one text; tokens are not taken")


def _check(request: CompletionRequest, body: JSON) -> None:
    for name in _OF_CHATS:
        if body.get(name) is not None:
            raise unsupported(name, "not a field of completions; use /v1/chat/completions")
    if request.suffix:
        raise unsupported("suffix", "text cannot be put in before a suffix; leave it out")
    if request.best_of is not None and request.best_of != (body.get("n") or 1):
        raise unsupported("best_of", "use tally.samples with tally.strategy best_of_n")
    if request.echo and request.logprobs is not None:
        raise unsupported("echo", "the prompt's own logprobs are not known; leave out echo or logprobs")


class _Legacy:
    """One request's reply. `echo` is what comes before every text; `lengths` are the texts so far, by choice."""

    def __init__(self, echo: str, logprobs: int | None) -> None:
        self._echo = echo
        self._top = logprobs or 0
        self._lengths: dict[int, int] = {}

    def told(self, reply: Reply, _identity: str) -> Reply:
        """The same reply as a text completion, whole or as a stream."""
        if reply.events is not None:
            return replace(reply, events=self._events(reply.events))
        return replace(reply, body=orjson.dumps(self._shaped(orjson.loads(reply.body))))

    async def _events(self, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            async for item in events:
                data = sse.data(item)
                if data is None or item == sse.END:
                    yield item
                    continue
                chunk = orjson.loads(data)
                shaped = self._shaped(chunk) if "choices" in chunk else chunk
                # the role, or reasoning: nothing to show, and still a sign of life that opens the stream
                yield render.PING if _empty(shaped) else render.event(shaped)

    def _shaped(self, payload: JSON) -> JSON:
        """A completion, or a chunk of one: legacy streams have the same shape."""
        shaped = {**payload, "object": "text_completion"}
        if str(payload.get("id")).startswith(_CHAT_ID):
            shaped["id"] = _ID + payload["id"].removeprefix(_CHAT_ID)
        shaped["choices"] = [self._choice(choice) for choice in payload.get("choices") or ()]
        return shaped

    def _choice(self, choice: JSON) -> JSON:
        index = int(choice.get("index") or 0)
        text = _text(choice.get("message") or choice.get("delta"))
        if index not in self._lengths:
            text = self._echo + text
        start = self._lengths.setdefault(index, 0)
        self._lengths[index] += len(text)
        finish = choice.get("finish_reason") or None
        return {
            "text": text,
            "index": index,
            "logprobs": _logprobs(choice.get("logprobs"), self._top, start),
            "finish_reason": "stop" if finish in _CALLED else finish,
        }


def _text(message: object) -> str:
    """What a message or a delta says; a refusal is text, too, where there is no other place for it."""
    if not isinstance(message, dict):
        return ""
    said = Choice(0, message, None).content
    refusal = message.get("refusal")
    return said or (refusal if isinstance(refusal, str) else "")


def _logprobs(told: object, top: int, start: int) -> JSON | None:
    """The legacy shape of a chat's log-probabilities; offsets are in characters from the text's beginning."""
    content = told.get("content") if isinstance(told, dict) else None
    entries = _named(content)
    if not entries:
        return None
    offsets, place = [], start
    for entry in entries:
        offsets.append(place)
        place += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry.get("logprob") for entry in entries],
        "top_logprobs": [_alternatives(entry) for entry in entries] if top else None,
        "text_offset": offsets,
    }


def _alternatives(entry: JSON) -> JSON:
    return {other["token"]: other.get("logprob") for other in _named(entry.get("top_logprobs"))}


def _named(entries: object) -> list[JSON]:
    found: Iterable[object] = entries if isinstance(entries, list) else ()
    return [entry for entry in found if isinstance(entry, dict) and isinstance(entry.get("token"), str)]


def _empty(chunk: JSON) -> bool:
    """Whether a chunk says nothing in the legacy shape, as one that tells only the role."""
    if not chunk.get("choices") or "tally" in chunk:
        return False
    return not any(choice["text"] or choice["finish_reason"] or choice["logprobs"] for choice in chunk["choices"])
