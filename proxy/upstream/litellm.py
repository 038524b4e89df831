"""The wide lane: every provider that LiteLLM knows. The one module that imports LiteLLM, at its first call."""

import base64
import inspect
import logging
import os
import re
import sys
import warnings
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from json import JSONDecodeError
from typing import Any
from urllib.request import getproxies

import anyio
import anyio.to_thread
import httpx
import orjson

from proxy.errors import UpstreamError, UpstreamMalformed, UpstreamTimeout, UpstreamUnreachable
from proxy.types import JSON
from proxy.upstream import Endpoint
from proxy.upstream.carrier import Carrier
from proxy.upstream.direct import error_from, upstream_error
from proxy.upstream.driving import PROVIDERS, Driver, drivable, retold
from proxy.upstream.shaping import chunk, completion, dumped

# Without these LiteLLM fetches its price table over the network, reads .env and prints to the terminal.
_ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"}

# What `acompletion` takes by name and means what OpenAI means by it. Every other field of a body goes into the wire
# body as it is: among the names that LiteLLM takes are api_base, fallbacks and mock_response, and a client must not
# reach those.
_PARAMETERS = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream_options",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
# providers of another shape have no wire body to put it in
_NATIVE_PARAMETERS = _PARAMETERS | {"top_k"}
_LANE_ONLY = frozenset({"model", "messages", "stream"})
# as with chats a client must not reach anything else that `aembedding` takes by name
_EMBEDDING_PARAMETERS = frozenset({"input", "dimensions", "encoding_format", "user", "input_type"})
_OPENAI_SHAPED = frozenset({"openai", "custom_openai", "azure", "mistral", "openrouter"})
_OWN_WAYS = frozenset({"ANTHROPIC_FEDERATION_RULE_ID", "SSL_CERTIFICATE"})
_PROXIES = frozenset({"http", "https", "all"})
_MODELS = 1024
_PREFIXES = re.compile(r"^(?:litellm\.)?(?:\w+: )*(?:\w*Exception - )?")


@dataclass(frozen=True, slots=True)
class _Library:
    """LiteLLM once it is imported, and the roots of what it raises. Its modules publish no types."""

    module: Any
    openai_streams: tuple[type, ...]
    errors: tuple[type[Exception], ...]
    driver: Driver | None
    listed: Callable[[str, str], frozenset[str]]

    def openai_shaped(self, provider: str) -> bool:
        return provider in _OPENAI_SHAPED or provider in self.module.openai_compatible_providers

    def driver_of(self, endpoint: Endpoint, body: JSON) -> Driver | None:
        """What can make this call without `acompletion`."""
        return self.driver if drivable(endpoint, body, _NATIVE_PARAMETERS) else None

    def unlisted(self, endpoint: Endpoint, arguments: JSON) -> list[str]:
        """Parameters that LiteLLM's table denies this provider. An OpenAI-shaped one may judge for itself."""
        if not self.openai_shaped(endpoint.provider):
            return []
        return sorted(_PARAMETERS.intersection(arguments) - self.listed(endpoint.model, endpoint.provider))


@dataclass(frozen=True, slots=True)
class _Stream:
    chunks: AsyncGenerator[JSON, None]
    close: Callable[[], Awaitable[None]]


class LiteLLMLane:
    """Calls any provider as `litellm.acompletion` does, without its retries, callbacks and dropped parameters.

    Where it can be, the provider's transforms are driven without the rest of it; with `drive` off, nowhere.
    """

    def __init__(self, *, drive: bool = True) -> None:
        self._drive = drive
        self._library: _Library | None = None
        self._ready: set[str] = set()
        self._loading = anyio.Lock()

    async def complete(self, endpoint: Endpoint, body: JSON, timeout: float) -> bytes:
        """One call, its whole reply."""
        library = await self._load(endpoint)
        with _mapped(library, endpoint):
            with anyio.fail_after(timeout):
                reply = await _completed(library, endpoint, body, timeout)
            return orjson.dumps(completion(reply, endpoint))

    async def stream(self, endpoint: Endpoint, body: JSON, timeout: float) -> AsyncGenerator[bytes, None]:
        """One streamed call, chunk by chunk. Several choices of a provider of another shape come in one piece."""
        library = await self._load(endpoint)
        if (body.get("n") or 1) > 1 and not library.openai_shaped(endpoint.provider):
            # LiteLLM's own stream tells the finish_reason of one choice only
            whole = {key: value for key, value in body.items() if key != "stream_options"}
            yield await self.complete(endpoint, whole, timeout)
            return
        deadline = anyio.current_time() + timeout
        started = False
        with _mapped(library, endpoint):
            with anyio.fail_after(timeout):
                stream = await _opened(library, endpoint, body, timeout)
        try:
            while True:
                with _mapped(library, endpoint, started=started):
                    with anyio.fail_after(deadline - anyio.current_time()):
                        told = await anext(stream.chunks, None)
                    if told is None:
                        return
                started = True
                yield orjson.dumps(chunk(told))
        finally:
            await stream.close()

    async def post(self, endpoint: Endpoint, path: str, body: JSON, timeout: float) -> bytes:
        """Embeddings, by `litellm.aembedding`; every other path is refused, with status 404.

        Numbers are asked for whatever the client wants, as few providers have base64, and put into base64 here.
        """
        if path != "embeddings":
            raise UpstreamError(f"{endpoint.provider} has no {path}: it is for OpenAI-compatible servers", status=404)
        arguments = {**endpoint.params, **_embedding(body), **_fixed(endpoint, timeout)}
        library = await self._load(endpoint)
        with _mapped(library, endpoint):
            with anyio.fail_after(timeout):
                reply = await library.module.aembedding(**arguments)
            told = dumped(reply)
        if body.get("encoding_format") == "base64":
            for item in told.get("data") or ():
                item["embedding"] = _base64(item.get("embedding"))
        return orjson.dumps(told)

    async def close(self) -> None:
        """Close the connections that LiteLLM keeps."""
        if self._library is not None:
            await self._library.module.close_litellm_async_clients()
            if self._library.driver is not None:
                await self._library.driver.close()

    async def _load(self, endpoint: Endpoint) -> _Library:
        if self._library is not None and endpoint.provider in self._ready:
            return self._library
        async with self._loading:
            if self._library is None:
                # seconds of work, which must not hold up the event loop
                self._library = await anyio.to_thread.run_sync(_import, self._drive)
            if endpoint.provider not in self._ready:
                # and what LiteLLM imports at a provider's first call is half a second's
                driver = self._library.driver_of(endpoint, {})
                if driver is not None:
                    await anyio.to_thread.run_sync(driver.rehearse, f"{endpoint.provider}/{endpoint.model}")
                self._ready.add(endpoint.provider)
        return self._library


def _import(drive: bool) -> _Library:
    os.environ.update(_ENVIRONMENT)
    import aiohttp
    import litellm
    import openai
    from litellm.llms.base_llm.chat.transformation import BaseLLMException
    from litellm.llms.openai.chat.gpt_transformation import OpenAIChatCompletionStreamingHandler

    # pydantic remarks on a type of LiteLLM's, of no use to anyone here
    warnings.filterwarnings("ignore", message="Items? '.*' on TypedDict class", category=UserWarning)
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        # its handlers would write every line a second time, in a form of its own
        logging.getLogger(name).handlers.clear()
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.drop_params = False
    # its embeddings take a max_retries of 0 for none given, and retries would be out of the account
    litellm.DEFAULT_MAX_RETRIES = 0
    # to count a stream's tokens, which is not wanted, it would fetch tokenizers over the network
    litellm.disable_hf_tokenizer_download = True
    _remember(litellm)
    # 40 MB, for counting what a provider has not told
    litellm.main._encoding_cache = _Later(litellm.main._load_default_encoding)
    errors = (
        openai.OpenAIError,
        BaseLLMException,
        httpx.HTTPError,
        httpx.StreamError,
        aiohttp.ClientError,
        TimeoutError,
        ValueError,
    )
    return _Library(
        module=litellm,
        openai_streams=(openai.AsyncStream, OpenAIChatCompletionStreamingHandler),
        errors=errors,
        driver=_driver(litellm, errors) if drive else None,
        listed=_listing(litellm.get_supported_openai_params),
    )


class _Later:
    """What `load` gives, once something is asked of it."""

    def __init__(self, load: Callable[[], object]) -> None:
        self._loaded = cache(load)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - anything that it has
        return getattr(self._loaded(), name)


def _listing(ask: Callable[..., list[str] | None]) -> Callable[[str, str], frozenset[str]]:
    """The parameters of a model by LiteLLM's table, which is asked once of each."""

    @lru_cache(maxsize=_MODELS)
    def listed(model: str, provider: str) -> frozenset[str]:
        return frozenset(ask(model=model, custom_llm_provider=provider) or ())

    return listed


def _remember(litellm: Any) -> None:  # noqa: ANN401 - it publishes no types
    """Have LiteLLM look a model up in its table once, and not eight times a call; nothing here changes that table."""
    look_up = litellm.utils.get_model_info_helper

    @lru_cache(maxsize=_MODELS)
    def known(model: str, provider: str) -> JSON:
        found: JSON = look_up(model=model, custom_llm_provider=provider)
        return found

    def remembered(
        model: str, custom_llm_provider: str | None = None, api_base: str | None = None, api_key: str | None = None
    ) -> JSON:
        if custom_llm_provider in PROVIDERS and not api_base and not api_key:
            return dict(known(model, custom_llm_provider))
        found: JSON = look_up(model, custom_llm_provider, api_base, api_key)
        return found

    litellm.utils.get_model_info_helper = litellm.main.get_model_info_helper = remembered


def _driver(litellm: Any, errors: tuple[type[Exception], ...]) -> Driver | None:  # noqa: ANN401 - it publishes no types
    """None where the environment asks for what only LiteLLM itself does: a proxy, a client's certificate, tokens."""
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, get_default_headers, get_ssl_configuration

    if not _PROXIES.isdisjoint(getproxies()) or not _OWN_WAYS.isdisjoint(os.environ):
        return None
    carrier = Carrier(get_ssl_configuration(), get_default_headers())
    return Driver(inspect.unwrap(litellm.completion), AsyncHTTPHandler, carrier, errors)


def _arguments(library: _Library, endpoint: Endpoint, body: JSON, timeout: float) -> JSON:
    """The arguments of `acompletion` for `body`: the operator's parameters, then the client's, then what is fixed."""
    body = orjson.loads(orjson.dumps(body))  # LiteLLM's transforms work in place, and draws share one body
    names = _PARAMETERS if library.openai_shaped(endpoint.provider) else _NATIVE_PARAMETERS
    known = {key: value for key, value in body.items() if key in names}
    unknown = {key: value for key, value in body.items() if key not in names | _LANE_ONLY}
    if endpoint.provider == "mistral" and "seed" in known:
        # LiteLLM renames it by way of an extra_body of its own, which ours would replace
        unknown["random_seed"] = known.pop("seed")
    arguments = {**endpoint.params, **known}
    if allowed := library.unlisted(endpoint, arguments):
        arguments["allowed_openai_params"] = [*arguments.get("allowed_openai_params", ()), *allowed]
    if unknown:
        arguments["extra_body"] = {**arguments.get("extra_body", {}), **unknown}
    return arguments | {
        **_fixed(endpoint, timeout),
        "messages": body.get("messages"),
        # with tools LiteLLM looks for its own MCP gateway first, and needs a package for that which is not there
        "_skip_mcp_handler": True,
    }


def _embedding(body: JSON) -> JSON:
    """What goes to LiteLLM of a body of `embeddings`. Raises UpstreamError for a field that cannot be passed on."""
    for name in sorted(body.keys() - _EMBEDDING_PARAMETERS - {"model"}):
        raise UpstreamError(
            f"{name}: this model's embeddings do not take it",
            status=400,
            type="invalid_request_error",
            code="unknown_parameter",
            param=name,
        )
    told = {name: value for name, value in body.items() if value is not None and name != "model"}
    if told.get("encoding_format") in ("float", "base64"):
        del told["encoding_format"]
    return told


def _base64(vector: object) -> object:
    """A vector of numbers as OpenAI's base64: 32-bit floats, little-endian."""
    if not isinstance(vector, list):
        return vector
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()


def _fixed(endpoint: Endpoint, timeout: float) -> JSON:
    """Where a call goes, and that it is made once."""
    access = {"api_base": endpoint.api_base, "api_key": endpoint.api_key}
    return {name: value for name, value in access.items() if value is not None} | {
        "model": f"{endpoint.provider}/{endpoint.model}",
        "timeout": timeout,
        "num_retries": 0,
        "max_retries": 0,
        "drop_params": False,
    }


async def _completed(library: _Library, endpoint: Endpoint, body: JSON, timeout: float) -> JSON:
    driver = library.driver_of(endpoint, body)
    reply = driver and await driver.complete(_arguments(library, endpoint, body, timeout), timeout)
    if reply:
        return reply
    return dumped(await library.module.acompletion(**_arguments(library, endpoint, body, timeout), stream=False))


async def _opened(library: _Library, endpoint: Endpoint, body: JSON, timeout: float) -> _Stream:
    shaped = library.openai_shaped(endpoint.provider)
    driver = library.driver_of(endpoint, body)
    opened = driver and await driver.open(_arguments(library, endpoint, body, timeout), timeout)
    if opened:
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        chunks = _plain(opened.chunks) if shaped else retold(opened.chunks, include_usage=include_usage)

        async def close() -> None:
            opened.disconnect()
            await chunks.aclose()
            await opened.chunks.aclose()

        return _Stream(chunks, close)
    wrapped = await library.module.acompletion(**_arguments(library, endpoint, body, timeout), stream=True)
    source: Any = getattr(wrapped, "completion_stream", None)
    # LiteLLM's wrapper loses refusals and all finish reasons but one, and makes up a usage where none was told
    told: Any = source if isinstance(source, library.openai_streams) else wrapped
    return _Stream(_plain(told), wrapped.aclose)


async def _plain(told: AsyncIterator[Any]) -> AsyncGenerator[JSON, None]:
    async for each in told:
        if hasattr(each, "choices"):
            yield dumped(each)


@contextmanager
def _mapped(library: _Library, endpoint: Endpoint, *, started: bool = False) -> Iterator[None]:
    try:
        yield
    except library.errors as error:
        raise _translate(error, endpoint, started) from error


def _translate(error: Exception, endpoint: Endpoint, started: bool) -> UpstreamError:
    """Ours for LiteLLM's. Its classes and statuses are guesses from the text, so what lies beneath them comes first."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, httpx.HTTPStatusError):
            return upstream_error(
                cause.response.status_code, cause.response.headers, _content(cause.response), endpoint
            )
    status = getattr(error, "status_code", None)
    status = status if isinstance(status, int) and 400 <= status <= 599 else 502
    if lost := _lost(causes, status):
        return lost
    told = getattr(error, "body", None)
    text = _PREFIXES.sub("", str(getattr(error, "message", error)))
    return error_from(status, told if isinstance(told, dict) else text, None, endpoint, sent=started or status >= 500)


def _lost(causes: Sequence[BaseException], status: int) -> UpstreamError | None:
    if any(isinstance(cause, httpx.ConnectTimeout) for cause in causes):
        return UpstreamTimeout("the provider did not answer in time", sent=False)
    if status == 408 or any(isinstance(cause, TimeoutError | httpx.TimeoutException) for cause in causes):
        return UpstreamTimeout("the provider did not answer in time")
    if any(isinstance(cause, httpx.ConnectError) for cause in causes):
        return UpstreamUnreachable("the provider cannot be reached")
    if any(isinstance(cause, httpx.TransportError) for cause in causes):
        return UpstreamUnreachable("the connection to the provider broke", sent=True)
    if any(isinstance(cause, JSONDecodeError) for cause in causes):
        return UpstreamMalformed("the provider's reply is not JSON")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it came from, as far as this call goes: a retry may run while an earlier error is handled."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UpstreamError):
        yield cause
        cause = cause.__cause__ or cause.__context__


def _content(response: httpx.Response) -> bytes:
    try:
        return response.content
    except httpx.ResponseNotRead:
        return b""
