"""A provider that costs next to nothing, on raw sockets: `python -m tests.bench.upstream`.

It prints its port and serves until its standard input ends. Of HTTP/1.1 and of OpenAI's API it speaks what the
benchmark needs: chats, whole and streamed, with `n` and with prompts that it finds in its cache; `GET /meter`; and
Anthropic's messages. How it behaves stands in the path before `/v1`: see `Manner`.
"""

import asyncio
import re
import resource
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import count
from typing import cast

import orjson
import uvloop

from proxy.types import JSON

ANSWERS = ("42", "42", "41", "42", "42", "43", "42", "41")
_LEAD = ("Let", " us", " see", ".", " The", " answer", " is")
TOKENS = len(_LEAD) + 1
"""The tokens of a short reply."""

_BACKLOG = 4096
_CACHED_FROM, _CACHED_STEP = 1024, 128
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_ENVELOPE = '"id":"chatcmpl-bench","created":1750000000,"model":"small","system_fingerprint":null'
_LAST = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Manner:
    """How a reply is made: `delay` ms before its first byte and `pace` ms between chunks, of which there are `tokens`.

    `most` is the largest `n` that is taken; of more choices only so many come.
    """

    delay: int = 0
    most: int = 128
    tokens: int = TOKENS
    pace: int = 0

    def base(self, port: int) -> str:
        """The base URL of a provider with these manners."""
        told = ",".join(f"{name}={value}" for name, value in asdict(self).items())
        return f"http://127.0.0.1:{port}/{told}/v1"

    @classmethod
    def read(cls, path: str) -> "Manner":
        """The manners that a path tells."""
        told = dict(pair.split("=") for pair in path.split("/")[1].split(",") if "=" in pair)
        return cls(**{field.name: int(told[field.name]) for field in fields(cls) if field.name in told})


@dataclass(slots=True)
class Meter:
    """What was served, to be billed."""

    calls: int = 0
    choices: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    most_at_once: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    prompt: int
    cached: int
    completion: int

    def text(self) -> str:
        return (
            f'"usage":{{"prompt_tokens":{self.prompt},"completion_tokens":{self.completion},'
            f'"total_tokens":{self.prompt + self.completion},'
            f'"prompt_tokens_details":{{"cached_tokens":{self.cached}}}}}'
        )


class Provider:
    """What all connections share: the meter, the cache, and the turn of the answers."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.open = 0
        self._seen: set[int] = set()
        self._turns = count()
        self._manners: dict[str, Manner] = {}

    def manner(self, path: str) -> Manner:
        found = self._manners.get(path)
        if found is None:
            found = self._manners[path] = Manner.read(path)
        return found

    def answers(self, number: int) -> list[str]:
        return [ANSWERS[next(self._turns) % len(ANSWERS)] for _ in range(number)]

    def warm(self, texts: tuple[str, ...]) -> bool:
        """Whether a prompt that comes now is in the cache: it is from the first byte of the first reply to it on."""
        return hash(texts) in self._seen

    def bill(self, texts: tuple[str, ...], choices: int, tokens: int, *, warm: bool) -> Usage:
        prompt = sum(len(text) // 4 + 3 for text in texts)
        cached = prompt // _CACHED_STEP * _CACHED_STEP if warm else 0
        meter = self.meter
        meter.calls += 1
        meter.choices += choices
        meter.prompt_tokens += prompt
        meter.cached_tokens += cached
        meter.completion_tokens += tokens * choices
        return Usage(prompt, cached, tokens * choices)

    def keep(self, texts: tuple[str, ...]) -> None:
        if sum(map(len, texts)) >= _CACHED_FROM * 4:
            self._seen.add(hash(texts))


@dataclass(frozen=True, slots=True)
class _Asking:
    """A call: its body, the texts of its prompt, whether they are in the cache; `foreign` is Anthropic's shape."""

    body: JSON
    texts: tuple[str, ...]
    warm: bool
    foreign: bool


class Connection(asyncio.Protocol):
    """One client's connection; one request at a time."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._loop = asyncio.get_running_loop()
        self._data = bytearray()
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own are no children of asyncio's
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._timer is not None:
            self._timer.cancel()
            self._done()

    def data_received(self, data: bytes) -> None:
        self._data += data
        head = self._data.find(b"\r\n\r\n")
        if head < 0:
            return
        found = _LENGTH.search(self._data, 0, head + 2)
        end = head + 4 + (int(found[1]) if found else 0)
        if len(self._data) < end:
            return
        path = self._data[: self._data.find(b"\r\n")].split(b" ")[1].decode()
        body = bytes(self._data[head + 4 : end])
        del self._data[:end]
        self._serve(path, body)

    def _serve(self, path: str, body: bytes) -> None:
        provider = self._provider
        if not body:
            self._whole(orjson.dumps(asdict(provider.meter)))
            return
        asked, manner = orjson.loads(body), provider.manner(path)
        provider.open += 1
        provider.meter.most_at_once = max(provider.meter.most_at_once, provider.open)
        texts = tuple(_text(message.get("content")) for message in asked["messages"])
        asking = _Asking(asked, texts, warm=provider.warm(texts), foreign=path.endswith("/messages"))
        if manner.delay:
            self._timer = self._loop.call_later(manner.delay / 1000, self._reply, manner, asking)
        else:
            self._reply(manner, asking)

    def _reply(self, manner: Manner, asking: _Asking) -> None:
        provider, asked = self._provider, asking.body
        answers = provider.answers(min(asked.get("n") or 1, manner.most))
        usage = provider.bill(asking.texts, len(answers), manner.tokens, warm=asking.warm)
        provider.keep(asking.texts)
        if asked.get("stream"):
            wanted = usage if (asked.get("stream_options") or {}).get("include_usage") else None
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            self._stream(_events(answers, manner.tokens, wanted), manner.pace)
            return
        self._done()
        self._whole(_message(answers[0], usage) if asking.foreign else _completion(answers, manner.tokens, usage))

    def _stream(self, events: Iterator[bytes], pace: int) -> None:
        event = next(events, None)
        if event is None:
            self._done()
            self._transport.write(_chunk(_LAST) + b"0\r\n\r\n")
            return
        self._transport.write(_chunk(event))
        # one write a turn of the loop, as tokens come, and not all of them in one segment
        self._timer = (
            self._loop.call_later(pace / 1000, self._stream, events, pace)
            if pace
            else self._loop.call_soon(self._stream, events, pace)
        )

    def _done(self) -> None:
        self._timer = None
        self._provider.open -= 1

    def _whole(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _text(content: object) -> str:
    return content if isinstance(content, str) else str(content)


def _pieces(answer: str, tokens: int) -> Iterator[str]:
    for _ in range(tokens - TOKENS):
        yield "so "
    yield from _LEAD
    yield f" {answer}."


def _completion(answers: list[str], tokens: int, usage: Usage) -> bytes:
    choices = ",".join(
        f'{{"index":{index},"message":{{"role":"assistant","content":"{"".join(_pieces(answer, tokens))}",'
        f'"refusal":null}},"logprobs":null,"finish_reason":"stop"}}'
        for index, answer in enumerate(answers)
    )
    told = '"object":"chat.completion","service_tier":"default"'
    return f'{{{_ENVELOPE},{told},"choices":[{choices}],{usage.text()}}}'.encode()


def _message(answer: str, usage: Usage) -> bytes:
    """In Anthropic's shape."""
    text = "".join(_pieces(answer, TOKENS))
    return (
        '{"id":"msg_bench","type":"message","role":"assistant","model":"small","stop_reason":"end_turn",'
        f'"stop_sequence":null,"content":[{{"type":"text","text":"{text}"}}],'
        f'"usage":{{"input_tokens":{usage.prompt},"output_tokens":{usage.completion}}}}}'
    ).encode()


def _events(answers: list[str], tokens: int, usage: Usage | None) -> Iterator[bytes]:
    """What is written at a time: a token of every choice."""
    null = ',"usage":null' if usage else ""

    def event(index: int, delta: str, finish: str = "null") -> str:
        choice = f'{{"index":{index},"delta":{{{delta}}},"logprobs":null,"finish_reason":{finish}}}'
        return f'data: {{{_ENVELOPE},"object":"chat.completion.chunk","choices":[{choice}]{null}}}\n\n'

    roles = [event(index, '"role":"assistant","content":""') for index in range(len(answers))]
    yield "".join(roles).encode()
    for step in zip(*(_pieces(answer, tokens) for answer in answers), strict=True):
        yield "".join(event(index, f'"content":"{piece}"') for index, piece in enumerate(step)).encode()
    yield "".join(event(index, "", '"stop"') for index in range(len(answers))).encode()
    if usage:
        yield f'data: {{{_ENVELOPE},"object":"chat.completion.chunk","choices":[],{usage.text()}}}\n\n'.encode()


async def serve() -> None:
    """Serve until standard input ends."""
    provider = Provider()
    loop = asyncio.get_running_loop()
    # asyncio turns Nagle's delay off only on sockets that say they are TCP
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = await loop.create_server(lambda: Connection(provider), sock=listener, backlog=_BACKLOG)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await ended.wait()
    server.close()


def raise_files() -> None:
    """Let this process, and those that it starts, open as many files as the machine allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    raise_files()
    uvloop.run(serve())
