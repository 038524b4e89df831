"""LiteLLM's transforms of a provider, driven without the rest of `acompletion`: its logs, its wrapper, its HTTP.

What builds the request and reads the reply is the very function within `acompletion`, so that both are the same; a log
that writes nothing, an HTTP client of ours and a reading of the provider's own chunks stand for what is left out.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from proxy.errors import UpstreamMalformed, UpstreamUnreachable
from proxy.types import JSON
from proxy.upstream import Endpoint
from proxy.upstream.carrier import Carrier, Errand
from proxy.upstream.shaping import dumped

PROVIDERS = frozenset(
    {
        "anthropic",
        "deepseek",
        "fireworks_ai",
        "gemini",
        "groq",
        "mistral",
        "openrouter",
        "together_ai",
        "xai",
    }
)
"""Those that are held to `acompletion` by contract tests. Of the others some use the network while they transform
(Ollama), some know no HTTP client but their own (Cohere), and many go through the OpenAI SDK."""

# what is made of these is made outside the transforms
_NOT_DRIVEN = frozenset({"audio", "function_call", "functions", "modalities", "prediction", "web_search_options"})
# what the transforms of a strange reply, or of a strange request, raise without purpose
_UNFORESEEN = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError)
_NOWHERE = "http://provider.invalid"
_USER = {"role": "user", "content": "."}
_ONCE = frozenset({"id", "created", "model", "object"})
_OPERATORS = frozenset({"additional_drop_params", "extra_body", "extra_headers"})


def drivable(endpoint: Endpoint, body: JSON, parameters: frozenset[str]) -> bool:
    """Whether a call of `body` is one that can be driven; of the operator's, `parameters` of a request can."""
    if endpoint.provider not in PROVIDERS or not _NOT_DRIVEN.isdisjoint(body):
        return False
    return endpoint.params.keys() <= (parameters | _OPERATORS) - _NOT_DRIVEN


class Silence:
    """Stands for LiteLLM's log of a call: knows what the transforms ask it for, and writes nothing."""

    def __init__(self) -> None:
        self.model_call_details: JSON = {}
        self.litellm_params: JSON = {}
        self.optional_params: JSON = {}
        self.dynamic_success_callbacks = None
        self.litellm_call_id = ""

    def update_environment_variables(self, *, optional_params: JSON, **_: object) -> None:
        """Keep the parameters, by which Gemini's transforms know what was asked for."""
        self.optional_params = optional_params

    def should_run_prompt_management_hooks(self, **_: object) -> bool:
        """There are no such hooks."""
        return False

    def get_router_model_id(self) -> None:
        """No router has called."""

    def pre_call(self, **_: object) -> None:
        """The request is written nowhere."""

    def post_call(self, **_: object) -> None:
        """The reply is written nowhere."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream that has begun: LiteLLM's chunks, and what disconnects."""

    chunks: AsyncGenerator[Any, None]
    disconnect: Callable[[], None]


class Driver:
    """Drives `within`, the function that `litellm.acompletion` wraps.

    `client` is the type of LiteLLM's HTTP client, `errors` are what its transforms raise on purpose.
    """

    def __init__(
        self, within: Callable[..., Any], client: type, carrier: Carrier, errors: tuple[type[Exception], ...]
    ) -> None:
        self._within = within
        self._client = client
        self._carrier = carrier
        self._foreseen: tuple[type[Exception], ...] = (*errors, *_UNFORESEEN)

    async def complete(self, arguments: JSON, timeout: float) -> JSON | None:
        """The fields of the whole reply, as LiteLLM has them; None where nothing was sent, and `acompletion` may try.

        Raises `errors`, and UpstreamMalformed for a reply that the transforms cannot read.
        """
        errand = Errand(self._carrier, timeout)
        try:
            return dumped(await self._called({**arguments, "stream": False}, errand))
        except self._foreseen as error:
            _give_up(error, errand)
            return None
        finally:
            errand.close()

    async def open(self, arguments: JSON, timeout: float) -> Opened | None:
        """The provider's chunks as its transforms have them; else as `complete`, of the chunks too."""
        errand = Errand(self._carrier, timeout)
        opened = None
        try:
            wrapped = await self._called({**arguments, "stream": True}, errand)
            if wrapped.completion_stream is None:
                # Gemini's is not called before its first chunk is wanted
                await wrapped.fetch_stream()
            opened = Opened(_read(aiter(wrapped.completion_stream)), errand.close)
        except self._foreseen as error:
            _give_up(error, errand)
        finally:
            if opened is None:
                errand.close()
        return opened

    def rehearse(self, model: str) -> None:
        """Do all of a call of `model` but the sending, in a thread of its own: the first one imports much."""
        arguments = {"model": model, "api_base": _NOWHERE, "api_key": "none", "messages": [dict(_USER)]}
        for stream in (False, True):
            with suppress(_NotSent, *self._foreseen):
                asyncio.run(self._rehearse({**arguments, "stream": stream}))

    async def _rehearse(self, arguments: JSON) -> None:
        await self._called(arguments, _Rehearsed())

    async def close(self) -> None:
        """Close the connections."""
        await self._carrier.close()

    async def _called(self, arguments: JSON, errand: "Errand | _Rehearsed") -> Any:  # noqa: ANN401 - LiteLLM publishes no types
        handler: Any = object.__new__(self._client)
        handler.post = errand.post
        reply = self._within(**arguments, acompletion=True, litellm_logging_obj=Silence(), client=handler)
        return await reply if asyncio.iscoroutine(reply) else reply


class _NotSent(Exception):
    """A rehearsal is over."""


class _Rehearsed:
    async def post(self, *_: object, **__: object) -> NoReturn:
        raise _NotSent


def _give_up(error: Exception, errand: Errand) -> None:
    if not errand.sent:
        # what is wrong, LiteLLM says better
        return
    if isinstance(error, _UNFORESEEN):
        raise _unreadable() from error
    raise error


def _unreadable() -> UpstreamMalformed:
    return UpstreamMalformed("the provider's reply does not have the shape that it should have")


async def _read(chunks: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    try:
        async for told in chunks:
            yield told
    except _UNFORESEEN as error:
        raise _unreadable() from error


async def retold(chunks: AsyncIterator[Any], *, include_usage: bool) -> AsyncGenerator[JSON, None]:
    """The one choice of a stream in OpenAI's chunks: what is said, then why it ended, then the usage.

    Raises UpstreamUnreachable where the stream ended without a finish_reason.
    """
    head: JSON = {}
    usage: JSON | None = None
    finish = None
    begin = {"role": "assistant"}
    async for told in chunks:
        if told is None:
            continue
        fields = _fields(told)
        usage = fields.pop("usage", None) or usage
        choices: Sequence[JSON] = fields.pop("choices", None) or ({},)
        # each chunk has a time of its own, and what is found out, as sources are, comes with the last ones
        head |= {name: value for name, value in fields.items() if value and (name not in _ONCE or name not in head)}
        ended = choices[0].pop("finish_reason", None)
        if finish is None or not isinstance(told, Mapping):
            # what ends a stream says no more than that
            finish = ended or finish
        delta = choices[0].get("delta") or {}
        if any(value not in ("", None) for name, value in delta.items() if name != "role"):
            yield {**head, "choices": [{**choices[0], "index": 0, "delta": begin | delta}]}
            begin = {}
    if finish is None:
        raise UpstreamUnreachable("the provider's stream ended too early", sent=True)
    yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    if include_usage and usage:
        yield {**head, "choices": [], "usage": usage}


def _fields(told: Any) -> JSON:  # noqa: ANN401 - LiteLLM publishes no types
    """A chunk's fields, of either of the kinds that LiteLLM's transforms make."""
    if not isinstance(told, Mapping):
        return dumped(told)
    delta = {"content": told.get("text") or "", "provider_specific_fields": told.get("provider_specific_fields")}
    if tool := told.get("tool_use"):
        delta["tool_calls"] = [tool]
    choice = {"delta": delta, "finish_reason": told.get("finish_reason") or None}
    return {"choices": [choice], "usage": told.get("usage")}
