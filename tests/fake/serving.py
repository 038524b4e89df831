"""The ASGI application of the fake upstream: one call's way from request to reply."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from proxy.types import JSON
from tests.fake import wire
from tests.fake.call import Call
from tests.fake.script import Drop, Fault, Malformed, Plain, Reply, Script, Step, as_script

_CHAT = "/v1/chat/completions"
_PLAIN = frozenset({"/v1/embeddings", "/v1/moderations", "/v1/rerank", "/score", "/classify", "/pooling"})

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class FakeApp:
    """Answers chats, embeddings, moderations, rerankings and, at its root, vLLM's rewards by `script`; records calls.

    `hang_up` breaks a client's connection.
    A streamed call stops when its client goes, and bills the tokens sent by then. A call that is not streamed is billed
    whole when it begins, as providers run it to its end whether or not the client stays.
    """

    def __init__(self, script: Script, api_key: str | None, models: Sequence[str]) -> None:
        self.calls: list[Call] = []
        self.in_flight = 0
        self.max_in_flight = 0
        self.hang_up: Callable[[object], None] = lambda _: None
        self._script = as_script(script)
        self._api_key = api_key
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        refusal = self._refuse(headers)
        if refusal is not None:
            await _send_fault(send, refusal)
        elif scope["path"] == "/v1/models":
            await _send_json(send, 200, wire.model_list(self._models))
        elif scope["path"] not in {_CHAT, *_PLAIN} or scope["method"] != "POST":
            await _send_fault(send, Fault(404, f"No such path: {scope['path']}", "invalid_request_error", None))
        else:
            body = await _body(receive)
            if not isinstance(body, dict):
                await _send_fault(send, Fault(400, "The body is not a JSON object.", "invalid_request_error", None))
                return
            call = Call(len(self.calls), scope["path"], headers, body)
            self.calls.append(call)
            await self._watch(_Exchange(self, call, scope.get("client"), send), receive)

    async def _watch(self, exchange: "_Exchange", receive: Receive) -> None:
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(exchange.notice_disconnect(receive))
                await exchange.run(self._script)
                watcher.cancel()
        finally:
            exchange.end()

    def _refuse(self, headers: dict[str, str]) -> Fault | None:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if self._api_key is None or given == self._api_key:
            return None
        # real providers echo a part of the key, which must not reach our own clients
        message = f"Incorrect API key provided: {given[:8]}***{given[-4:]}."
        return Fault(401, message, "invalid_request_error", "invalid_api_key")


class _Exchange:
    """One call being served."""

    def __init__(self, app: FakeApp, call: Call, client: object, send: Send) -> None:
        self._app = app
        self._call = call
        self._client = client
        self._send = send
        self._gone = asyncio.Event()

    def end(self) -> None:
        """Mark the call finished; before the last byte is sent, so that who has read it sees the mark."""
        if self._call.finished is None:
            self._call.finished = time.monotonic()
            self._app.in_flight -= 1

    async def notice_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self._call.finished is None:
            self._call.cancelled = True
        self._gone.set()

    async def run(self, script: Callable[[Call], Step]) -> None:
        step = script(self._call)
        if isinstance(step, Reply | Plain) and isinstance(step, Plain) != (self._call.path in _PLAIN):
            await self._fault(Fault(404, "The model does not support this API.", "invalid_request_error", None))
        elif isinstance(step, Reply):
            await self._reply(step)
        elif isinstance(step, Plain):
            await self._plain(step)
        elif not await self._stays(step.latency):
            return
        elif isinstance(step, Malformed):
            await self._malformed(step)
        elif self._call.stream and step.after_chunks:
            await self._stream(step.reply, step.after_chunks, step)
        elif isinstance(step, Drop):
            await self._hang_up()
        else:
            await self._fault(step)

    async def _reply(self, reply: Reply) -> None:
        call = self._call
        if not reply.choices(call.n):
            message = f"n={call.n} is not supported."
            await self._fault(Fault(400, message, "invalid_request_error", "unsupported_value", param="n"))
        elif call.stream:
            await self._stream(reply)
        else:
            choices = wire.make_choices(call, reply)
            call.bill_prompt(reply.prompt_tokens, reply.cached_tokens)
            call.completion_tokens = sum(made.tokens for made in choices)
            longest = max(len(made.deltas) for made in choices)
            if await self._stays(reply.latency + reply.per_token * longest):
                call.status = 200
                self.end()
                await _send_json(self._send, 200, wire.completion(call, reply, choices))

    async def _plain(self, step: Plain) -> None:
        self._call.bill_prompt(step.prompt_tokens, 0)
        if await self._stays(step.latency):
            self._call.status = 200
            self.end()
            await _send_json(self._send, 200, wire.plain(self._call, step))

    async def _stream(self, reply: Reply, limit: int | None = None, then: Fault | Drop | None = None) -> None:
        call = self._call
        call.bill_prompt(reply.prompt_tokens, reply.cached_tokens)
        if not await self._stays(reply.latency):
            return
        call.status = 200
        await _start(self._send, 200, {"content-type": "text/event-stream"})
        for chunk in wire.chunks(call, reply, wire.make_choices(call, reply)):
            if limit is not None and chunk.tokens:
                if not limit:
                    break
                limit -= 1
            if not await self._stays(reply.per_token if chunk.waits else 0.0):
                return
            call.completion_tokens += chunk.tokens
            await self._event(json.dumps(chunk.body))
        await self._end_stream(then)

    async def _end_stream(self, then: Fault | Drop | None) -> None:
        self.end()
        if isinstance(then, Drop):
            await self._hang_up()
            return
        await self._event("[DONE]" if then is None else json.dumps(wire.error(then)))
        await self._send({"type": "http.response.body"})

    async def _malformed(self, step: Malformed) -> None:
        self._call.status = 200
        self.end()
        if self._call.stream:
            await _start(self._send, 200, {"content-type": "text/event-stream"})
            await self._event(step.body)
            await self._send({"type": "http.response.body"})
        else:
            await _start(self._send, 200, {"content-type": "application/json"})
            await self._send({"type": "http.response.body", "body": step.body.encode()})

    async def _fault(self, fault: Fault) -> None:
        self._call.status = fault.status
        self.end()
        await _send_fault(self._send, fault)

    async def _hang_up(self) -> None:
        self.end()
        self._app.hang_up(self._client)
        # an application that returns sooner has its server say 500 into the broken connection
        await self._gone.wait()

    async def _event(self, data: str) -> None:
        await self._send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})

    async def _stays(self, seconds: float) -> bool:
        """Wait; false as soon as the client has gone."""
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            return True
        return False


async def _body(receive: Receive) -> object:
    data = b""
    while True:
        message = await receive()
        data += message.get("body", b"")
        if not message.get("more_body"):
            break
    try:
        return json.loads(data)
    except ValueError:
        return None


async def _send_json(send: Send, status: int, body: JSON, headers: dict[str, str] | None = None) -> None:
    await _start(send, status, {"content-type": "application/json"} | (headers or {}))
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _send_fault(send: Send, fault: Fault) -> None:
    headers = dict(fault.headers)
    if fault.retry_after is not None:
        headers["retry-after"] = f"{fault.retry_after:g}"
    await _send_json(send, fault.status, wire.error(fault), headers)


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
