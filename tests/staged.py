"""One proxy before one scripted upstream, for all the tests of a module; each test says what the upstream says."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI
from openai._legacy_response import LegacyAPIResponse
from openai.types.chat import ChatCompletion

from tests.fake.script import Script, as_script
from tests.fake_upstream import Call, FakeUpstream
from tests.served import KEY, RATES, ServedTally, configuration, deployment

JSON = dict[str, Any]

ASK = [{"role": "user", "content": "What is six times seven?"}]


class Stage:
    """`calls` are the upstream's since the last `says`."""

    def __init__(self, upstream: FakeUpstream, tally: ServedTally, script: "_Mutable", stack: ExitStack) -> None:
        self.upstream = upstream
        self.tally = tally
        self._script = script
        self._stack = stack
        self._clients: dict[tuple[str | None, str], OpenAI] = {}
        self._http = stack.enter_context(httpx.Client(base_url=tally.url, timeout=30))
        self._first = 0

    def says(self, script: Script) -> None:
        """What the upstream answers from now on."""
        self._script.script = as_script(script)
        self._first = len(self.upstream.calls)

    @property
    def calls(self) -> list[Call]:
        return self.upstream.calls[self._first :]

    @property
    def prompt_tokens(self) -> int:
        return sum(call.prompt_tokens for call in self.calls)

    @property
    def completion_tokens(self) -> int:
        return sum(call.completion_tokens for call in self.calls)

    @property
    def cost_nano(self) -> int:
        return sum(RATES.cost(call.prompt_tokens, call.completion_tokens, 0) for call in self.calls if call.billed)

    def client(self, strategy: str | None = None, key: str = KEY) -> OpenAI:
        """The official client, kept and closed at the end."""
        if (strategy, key) not in self._clients:
            self._clients[strategy, key] = self._stack.enter_context(self.tally.client(strategy, key))
        return self._clients[strategy, key]

    def ask(self, strategy: str | None = "self_consistency", *, key: str = KEY, **more: Any) -> ChatCompletion:
        """One chat completion, not streamed."""
        reply = self.client(strategy, key).chat.completions.create(**{"model": "small", "messages": ASK, **more})
        assert isinstance(reply, ChatCompletion)
        return reply

    def raw(
        self, strategy: str | None = "self_consistency", *, key: str = KEY, **more: Any
    ) -> LegacyAPIResponse[ChatCompletion]:
        """The same with its headers."""
        completions = self.client(strategy, key).chat.completions.with_raw_response
        reply: LegacyAPIResponse[ChatCompletion] = completions.create(**{"model": "small", "messages": ASK, **more})
        return reply

    def post(
        self,
        body: object,
        *,
        path: str = "/v1/chat/completions",
        key: str | None = KEY,
        headers: Mapping[str, str | bytes] | None = None,
    ) -> httpx.Response:
        """A bare POST: `body` is JSON, or the bytes to send."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._http.post(path, content=content, headers=_headers(key, headers))

    def get(self, path: str, key: str | None = KEY) -> httpx.Response:
        """A bare GET."""
        return self._http.get(path, headers=_headers(key, None))

    def send(self, method: str, path: str, key: str | None = KEY, **headers: str) -> httpx.Response:
        """A bare request without a body; `path` is sent as it is."""
        return self._http.request(method, f"{self.tally.url}{path}", headers=_headers(key, headers))

    def events(self, strategy: str | None = "self_consistency", **more: Any) -> list[str]:
        """The data of every event of one stream, with `[DONE]`."""
        path = f"/{strategy}/v1/chat/completions" if strategy else "/v1/chat/completions"
        response = self.post({"model": "small", "messages": ASK, "stream": True, **more}, path=path)
        assert response.status_code == 200, response.text
        return events(response)


def _models(base_url: str, model: JSON | None, aliases: Sequence[str]) -> JSON:
    if model is None and not aliases:
        return {}
    others = [{**deployment(base_url), "model_name": name} for name in aliases]
    return {"model_list": [deployment(base_url, **(model or {})), *others]}


def _headers(key: str | None, more: Mapping[str, str | bytes] | None) -> dict[bytes, bytes]:
    headers = {
        "content-type": "application/json",
        **({"authorization": f"Bearer {key}"} if key else {}),
        **(more or {}),
    }
    return {name.encode(): value if isinstance(value, bytes) else value.encode() for name, value in headers.items()}


class _Mutable:
    def __init__(self) -> None:
        self.script = as_script("42")

    def __call__(self, call: Call) -> Any:
        return self.script(call)


@contextmanager
def staged(
    folder: Path,
    *,
    model: JSON | None = None,
    aliases: Sequence[str] = (),
    models: Callable[[str], list[JSON]] | None = None,
    **config: Any,
) -> Iterator[Stage]:
    """A stage with `configuration(**config)`; `model` is added to the entry of `small`, `aliases` name it anew.

    `models` instead gives the whole `model_list`, from the upstream's base URL.
    """
    script = _Mutable()
    with (
        FakeUpstream(script) as upstream,
        ServedTally(
            configuration(
                upstream.base_url,
                folder,
                **({"model_list": models(upstream.base_url)} if models else _models(upstream.base_url, model, aliases)),
                **config,
            )
        ) as tally,
        ExitStack() as stack,
    ):
        yield Stage(upstream, tally, script, stack)


def told(reply: ChatCompletion) -> JSON:
    """The reply's `tally` object."""
    found = (reply.model_extra or {})["tally"]
    assert isinstance(found, dict)
    return found


def events(response: httpx.Response) -> list[str]:
    """The data of every event in a stream's body."""
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("\n\n")
    return [part.removeprefix("data: ") for part in response.text.split("\n\n") if part.startswith("data: ")]
