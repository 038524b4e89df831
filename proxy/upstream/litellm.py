"""The wide lane: every provider that LiteLLM knows. The one module that imports LiteLLM, at its first call."""

import asyncio
import inspect
import logging
import os
import re
import warnings
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
from proxy.upstream.arguments import NATIVE_PARAMETERS, of_chat, of_embeddings
from proxy.upstream.carrier import Carrier
from proxy.upstream.direct import error_from, upstream_error
from proxy.upstream.driving import PROVIDERS, Driver, drivable, retold
from proxy.upstream.shaping import as_base64, chunk, completion, dumped

# Without these LiteLLM fetches its price table over the network, reads .env and prints to the terminal.
_ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"}

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
    parameters: Callable[[str, str], frozenset[str]]

    def openai_shaped(self, provider: str) -> bool:
        return provider in _OPENAI_SHAPED or provider in self.module.openai_compatible_providers

    def driver_of(self, endpoint: Endpoint, body: JSON) -> Driver | None:
        """What can make this call without `acompletion`."""
        return self.driver if drivable(endpoint, body, NATIVE_PARAMETERS) else None

    def arguments(self, endpoint: Endpoint, body: JSON, timeout: float) -> JSON:
        """What `acompletion` is called with: a copy, for it works in place."""
        shaped = self.openai_shaped(endpoint.provider)
        listed = self.parameters(endpoint.model, endpoint.provider) if shaped else None
        return of_chat(endpoint, body, timeout, listed)


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
        deadline = asyncio.get_running_loop().time() + timeout
        started = False
        with _mapped(library, endpoint):
            with anyio.fail_after(timeout):
                stream = await _opened(library, endpoint, body, timeout)
        try:
            while True:
                with _mapped(library, endpoint, started=started):
                    # a cancel scope of anyio's costs as much as a chunk
                    async with asyncio.timeout_at(deadline):
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
        arguments = of_embeddings(endpoint, body, timeout)
        library = await self._load(endpoint)
        with _mapped(library, endpoint):
            with anyio.fail_after(timeout):
                reply = await library.module.aembedding(**arguments)
            told = dumped(reply)
        if body.get("encoding_format") == "base64":
            for item in told.get("data") or ():
                item["embedding"] = as_base64(item.get("embedding"))
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
    _lighten(litellm)
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
        parameters=_listing(litellm.get_supported_openai_params),
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


class _Table:
    """LiteLLM's own look-up of a model, made once and not eight times a call; nothing here changes its table."""

    def __init__(self, look_up: Callable[..., JSON]) -> None:
        self._look_up = look_up
        self._known = lru_cache(maxsize=_MODELS)(look_up)

    def __call__(
        self,
        model: str,
        custom_llm_provider: str | None = None,
        api_base: str | None = None,
        api_key: str | None = None,
    ) -> JSON:
        if custom_llm_provider in PROVIDERS and not api_base and not api_key:
            return dict(self._known(model, custom_llm_provider))
        return self._look_up(model, custom_llm_provider, api_base, api_key)


def _lighten(litellm: Any) -> None:  # noqa: ANN401 - it publishes no types
    """Spare what LiteLLM does again and again, or for nothing."""
    # to count a stream's tokens, which is not wanted, it would fetch tokenizers over the network
    litellm.disable_hf_tokenizer_download = True
    if litellm.main._encoding_cache is None:
        # 40 MB, for counting what a provider has not told
        litellm.main._encoding_cache = _Later(litellm.main._load_default_encoding)
    if not isinstance(litellm.utils.get_model_info_helper, _Table):
        table = _Table(litellm.utils.get_model_info_helper)
        litellm.utils.get_model_info_helper = litellm.main.get_model_info_helper = table


def _driver(litellm: Any, errors: tuple[type[Exception], ...]) -> Driver | None:  # noqa: ANN401 - it publishes no types
    """None where the environment asks for what only LiteLLM itself does: a proxy, a client's certificate, tokens."""
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, get_default_headers, get_ssl_configuration

    if not _PROXIES.isdisjoint(getproxies()) or not _OWN_WAYS.isdisjoint(os.environ):
        return None
    carrier = Carrier(get_ssl_configuration(), get_default_headers())
    return Driver(inspect.unwrap(litellm.completion), AsyncHTTPHandler, carrier, errors)


async def _completed(library: _Library, endpoint: Endpoint, body: JSON, timeout: float) -> JSON:
    driver = library.driver_of(endpoint, body)
    reply = driver and await driver.complete(library.arguments(endpoint, body, timeout), timeout)
    if reply:
        return reply
    return dumped(await library.module.acompletion(**library.arguments(endpoint, body, timeout), stream=False))


async def _opened(library: _Library, endpoint: Endpoint, body: JSON, timeout: float) -> _Stream:
    shaped = library.openai_shaped(endpoint.provider)
    driver = library.driver_of(endpoint, body)
    opened = driver and await driver.open(library.arguments(endpoint, body, timeout), timeout)
    if opened:
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        chunks = _plain(opened.chunks) if shaped else retold(opened.chunks, include_usage=include_usage)

        async def close() -> None:
            opened.disconnect()
            await chunks.aclose()
            await opened.chunks.aclose()

        return _Stream(chunks, close)
    wrapped = await library.module.acompletion(**library.arguments(endpoint, body, timeout), stream=True)
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
