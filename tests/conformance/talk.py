"""One way to ask: a strategy, whole or streamed; and a reply as the official client has it in the end."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.money import Rates
from tests.fake.script import Content, InOrder, Reply, Script
from tests.fake_upstream import Call
from tests.staged import ASK, Stage

JSON = dict[str, Any]

SCALED = ("self_consistency", "dynscaling", "optscale", "adaptive")
STRATEGIES = ("off", *SCALED)

INPUT = 1.0e-9
RATES = Rates(1_000, 400_000)
"""Prompts cost next to nothing, so that no strategy saves on samples because of a long one."""

_JOINED = ("content", "refusal", "reasoning_content")


def scaled(why: str) -> pytest.MarkDecorator:
    """Only strategies that vote: `why` there is no such thing under `off`."""
    assert why
    return pytest.mark.parametrize("strategy", SCALED)


def unscaled(why: str) -> pytest.MarkDecorator:
    """Only `off`: `why` there is no such thing where there is a vote."""
    assert why
    return pytest.mark.parametrize("strategy", ["off"])


def once(why: str) -> pytest.MarkDecorator:
    """One strategy stands for all: `why` none of them comes to it."""
    assert why
    return pytest.mark.parametrize("strategy", ["self_consistency"])


def whole(why: str) -> pytest.MarkDecorator:
    """Only replies in one piece: `why` a stream has no such thing."""
    assert why
    return pytest.mark.parametrize("streamed", [False], ids=["whole"])


def streamed(why: str) -> pytest.MarkDecorator:
    """Only streams: `why` a reply in one piece has no such thing."""
    assert why
    return pytest.mark.parametrize("streamed", [True], ids=["streamed"])


@dataclass(slots=True)
class Heard:
    """A reply, put together where it came in chunks; `chunks` are those. `head` is all of it but its choices."""

    headers: Mapping[str, str]
    head: JSON
    choices: list[JSON]
    chunks: list[JSON] = field(default_factory=list)

    @property
    def message(self) -> JSON:
        """The first choice's message."""
        found = self.choices[0]["message"]
        assert isinstance(found, dict)
        return found

    @property
    def content(self) -> str | None:
        """The first choice's text."""
        found = self.message.get("content")
        assert found is None or isinstance(found, str)
        return found

    @property
    def finish(self) -> str | None:
        """The first choice's finish_reason."""
        found = self.choices[0]["finish_reason"]
        assert found is None or isinstance(found, str)
        return found

    @property
    def calls(self) -> list[JSON]:
        """The first choice's tool calls."""
        return list(self.message.get("tool_calls") or ())

    @property
    def tally(self) -> JSON:
        """The `tally` object."""
        found = self.head["tally"]
        assert isinstance(found, dict)
        return found


class Talk:
    """Asks by one strategy, in its URL, whole or streamed. `calls` are what came to the upstream of it."""

    def __init__(self, stage: Stage, strategy: str, key: str, *, streamed: bool) -> None:
        self.stage = stage
        self.strategy = strategy
        self.key = key
        self.streamed = streamed
        self.client = stage.client(strategy).with_options(api_key=key)

    @property
    def scales(self) -> bool:
        """Whether there is a vote."""
        return self.strategy != "off"

    @property
    def calls(self) -> list[Call]:
        """The upstream's calls since it was last told what to say."""
        return self.stage.calls

    @property
    def cost_nano(self) -> int:
        """What these calls cost, in nano-USD."""
        return sum(RATES.cost(call.prompt_tokens, call.completion_tokens, 0) for call in self.calls if call.billed)

    def says(self, script: Script | JSON) -> None:
        """What the upstream says from now on: a script, or one message for every sample."""
        self.stage.says(Reply([script]) if isinstance(script, dict) else script)

    def outvoted(self, one: Content, others: Content, reply: Reply | None = None) -> None:
        """The upstream says `one` first, and then, to every further sample, what all `others` say."""
        self.says(InOrder([one, *[others] * 200], reply))

    def hear(self, **body: Any) -> Heard:
        """Ask by the official client."""
        return heard(self.client, self.body(body))

    def refused(self, **body: Any) -> openai.APIStatusError:
        """Ask for what is refused; the client's error."""
        with pytest.raises(openai.APIStatusError) as caught:
            self.hear(**body)
        return caught.value

    def post(self, body: object = None, *, key: str | None = "", **headers: str | bytes) -> httpx.Response:
        """Ask with nothing between the test and the wire: `body` is JSON (None: a plain question), or bytes.

        `key` is the tenant's own unless another is given, or None for none.
        """
        sent = self.body(body or {}) if isinstance(body, dict | None) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.stage.post(sent, path=self.path, key=self.key if key == "" else key, headers=named)

    def read(self, response: httpx.Response) -> Heard:
        """The reply of a `post`."""
        assert response.status_code == 200, response.text
        if self.streamed:
            return joined(response.headers, list(payloads(response.text)))
        payload = response.json()
        return Heard(response.headers, payload, _choices(payload))

    @property
    def path(self) -> str:
        """Where chats of this strategy are asked."""
        return f"/{self.strategy}/v1/chat/completions"

    def body(self, more: Mapping[str, Any]) -> JSON:
        """A request with `more` in it."""
        return {"model": "small", "messages": ASK, **({"stream": True} if self.streamed else {}), **more}


def heard(client: openai.OpenAI, body: JSON) -> Heard:
    """Ask `body` by the official client; a stream is read to its end."""
    reply = client.chat.completions.with_raw_response.create(**body)
    made: ChatCompletion | openai.Stream[ChatCompletionChunk] = reply.parse()
    if isinstance(made, openai.Stream):
        return joined(dict(reply.headers), [chunk.to_dict(mode="json") for chunk in made])
    payload = made.to_dict(mode="json")
    return Heard(dict(reply.headers), payload, _choices(payload))


def joined(headers: Mapping[str, str], chunks: list[JSON]) -> Heard:
    """Put chunks together, as a client does."""
    choices: dict[int, JSON] = {}
    head: JSON = {}
    for chunk in chunks:
        head |= {key: value for key, value in chunk.items() if key != "choices" and value is not None}
        for piece in chunk["choices"]:
            empty = {"index": piece["index"], "message": {}, "logprobs": None, "finish_reason": None}
            _join(choices.setdefault(piece["index"], empty), piece)
    return Heard(headers, head, [choices[index] for index in sorted(choices)], chunks)


def events(body: str) -> list[str]:
    """The data of every event in a stream's body, comments left out."""
    return [part.removeprefix("data: ") for part in body.split("\n\n") if part.startswith("data: ")]


def payloads(body: str) -> Iterable[JSON]:
    """The same parsed, `[DONE]` left out."""
    return [json.loads(data) for data in events(body) if data != "[DONE]"]


def _choices(payload: JSON) -> list[JSON]:
    found = payload.pop("choices")
    assert isinstance(found, list)
    return found


def _join(choice: JSON, piece: JSON) -> None:
    message = choice["message"]
    for key, value in piece["delta"].items():
        if key == "tool_calls":
            _join_calls(message.setdefault("tool_calls", []), value)
        elif key in _JOINED and isinstance(value, str) and isinstance(message.get(key), str):
            message[key] += value
        elif value is not None or key not in message:
            message[key] = value
    choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]
    if piece.get("logprobs"):
        told = choice["logprobs"] = choice["logprobs"] or {"content": []}
        told["content"] += piece["logprobs"]["content"]


def _join_calls(calls: list[JSON], pieces: list[JSON]) -> None:
    for piece in pieces:
        while len(calls) <= piece["index"]:
            calls.append({"function": {"name": "", "arguments": ""}})
        call, function = calls[piece["index"]], piece.get("function") or {}
        call |= {key: value for key, value in piece.items() if key not in {"index", "function"} and value is not None}
        for name in ("name", "arguments"):
            call["function"][name] += function.get(name) or ""
