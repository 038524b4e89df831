"""A server that is full, or is told too much or too slowly, says so, and still answers whoever watches it."""

import asyncio
import json
import select
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.gate import Gate
from proxy.api.serving import Reply as Answer
from proxy.api.serving import Served
from proxy.ledger.reports import verdicts
from tests.fake_upstream import FakeUpstream, Reply
from tests.process import Server, serving
from tests.served import KEY, ServedTally, configuration
from tests.staged import ASK, JSON

READ_S = 0.5
HEADER_BYTES = 4096
BODY = {"model": "small", "messages": ASK}


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(lambda call: Reply(latency=0.6 if call.question == "slow" else 0.0)) as server:
        yield server


@pytest.fixture(scope="module")
def server(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`tally serve` itself: what reads the sockets is its own."""
    folder: Path = tmp_path_factory.mktemp("limits")
    settings = {"read_s": READ_S, "max_header_bytes": HEADER_BYTES}
    config = configuration(upstream.base_url, folder, general_settings=settings)
    (folder / "tally.yaml").write_text(yaml.safe_dump(config))
    with serving(upstream, folder, "--config", "tally.yaml", environ={}) as running:
        yield running


def request(*headers: str, body: bytes = b"", length: int | None = None) -> bytes:
    """A chat request as it is on the wire; `length` is what it says of its body."""
    lines = [
        "POST /self_consistency/v1/chat/completions HTTP/1.1",
        "host: tally",
        f"authorization: Bearer {KEY}",
        "content-type: application/json",
        f"content-length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Wire:
    """A raw connection."""

    def __init__(self, server: Server) -> None:
        url = httpx.URL(server.url)
        self._socket = socket.create_connection((url.host, url.port or 0), timeout=5)

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_until_answered(self, data: bytes, size: int) -> None:
        """Send in pieces of `size`, until the server has something to say to it."""
        for start in range(0, len(data), size):
            if select.select([self._socket], [], [], 0.01)[0]:
                return
            self.send(data[start : start + size])

    def rest(self) -> bytes:
        """All that comes until the server closes."""
        parts = []
        while part := self._read():
            parts.append(part)
        return b"".join(parts)

    def reply(self) -> tuple[int, JSON]:
        """One reply, with a connection that stays open."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._some()
        head, body = data.split(b"\r\n\r\n", 1)
        sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while len(body) < int(sizes[0].split(b":")[1]):
            body += self._some()
        return parsed(head + b"\r\n\r\n" + body)

    def _some(self) -> bytes:
        part = self._read()
        assert part, "the server closed the connection"
        return part

    def _read(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except ConnectionResetError:
            return b""


def parsed(reply: bytes) -> tuple[int, JSON]:
    """The status and the body of a whole reply."""
    head, body = reply.split(b"\r\n\r\n", 1)
    return int(head.split(b" ")[1]), json.loads(body)


def well(server: Server) -> None:
    """The server still answers."""
    with Wire(server) as wire:
        wire.send(request(body=json.dumps(BODY).encode()))
        status, body = wire.reply()
    assert (status, body["choices"][0]["message"]["content"]) == (200, "42")


@pytest.mark.parametrize("pieces", [1, 20])
def test_headers_over_the_limit_are_refused_and_the_connection_closed(server: Server, pieces: int) -> None:
    data = request(*(f"x-{number}: {'a' * 100}" for number in range(60)), body=b"{}")
    size = -(-len(data) // pieces)
    with Wire(server) as wire:
        wire.send_until_answered(data, size)
        status, body = parsed(wire.rest())
    assert (status, body["error"]["code"]) == (431, "headers_too_large")
    well(server)


def test_one_header_without_an_end_is_refused_before_it_ends(server: Server) -> None:
    with Wire(server) as wire:
        wire.send(b"GET /health/liveliness HTTP/1.1\r\nx-long: ")
        for _ in range(40):
            time.sleep(0.001)
            try:
                wire.send(b"a" * 1000)
            except OSError:
                break
        else:
            pytest.fail("forty times a thousand bytes were taken")
    well(server)


def test_a_first_line_over_the_limit_is_refused(server: Server) -> None:
    with Wire(server) as wire:
        wire.send(b"GET /" + b"a" * 2 * HEADER_BYTES + b" HTTP/1.1\r\nhost: tally\r\n\r\n")
        assert parsed(wire.rest())[0] == 431


def test_headers_within_the_limit_are_served_also_byte_by_byte(server: Server) -> None:
    data = request(f"x-long: {'a' * 3000}", body=json.dumps(BODY).encode())
    with Wire(server) as wire:
        for start in range(0, len(data), 7):
            wire.send(data[start : start + 7])
        assert wire.reply()[0] == 200


@pytest.mark.parametrize("begun", [b"", b"\r\n"])
def test_a_connection_that_says_nothing_is_closed_without_a_word(server: Server, begun: bytes) -> None:
    started = time.monotonic()
    with Wire(server) as wire:
        wire.send(begun)
        assert wire.rest() == b""
    assert READ_S * 0.8 <= time.monotonic() - started < READ_S + 2


def test_headers_that_drip_are_cut_off_in_time(server: Server) -> None:
    started = time.monotonic()
    with Wire(server) as wire:
        wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: tally\r\n")
        wire.send_until_answered(b"x-drip: a\r\n" * 200, 11)
        assert READ_S * 0.8 <= time.monotonic() - started < READ_S + 2
        status, body = parsed(wire.rest())
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    well(server)


def test_a_body_that_does_not_come_is_a_408_and_the_end_of_the_connection(server: Server) -> None:
    started = time.monotonic()
    with Wire(server) as wire:
        wire.send(request(body=b'{"model":', length=1000))
        reply = wire.rest()
    status, body = parsed(reply)
    assert (status, body["error"]["code"], body["error"]["type"]) == (408, "request_timeout", "invalid_request_error")
    assert b"connection: close" in reply.lower()
    assert time.monotonic() - started < READ_S + 2
    well(server)


def test_feedback_that_does_not_come_is_a_408_too(server: Server) -> None:
    started = time.monotonic()
    with Wire(server) as wire:
        wire.send(
            request(body=b'{"id":', length=100).replace(b"self_consistency/v1/chat/completions", b"off/v1/feedback")
        )
        status, body = parsed(wire.rest())
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    assert time.monotonic() - started < READ_S + 2


def test_feedback_counts_among_the_requests_a_minute_and_the_list_of_models_does_not(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with ServedTally(configuration(upstream.base_url, tmp_path, tenant={"rpm_limit": 1})) as tally:
        told = [tally.post({"id": "chatcmpl-1", "correct": True}, path="/v1/feedback") for _ in range(2)]
        assert [reply.status_code for reply in told] == [404, 429]
        assert tally.post(BODY).status_code == 429
        assert tally.get("/v1/models").status_code == 200


def test_a_client_that_goes_amid_its_body_harms_nobody(server: Server) -> None:
    with Wire(server) as wire:
        wire.send(request(body=b'{"model":', length=1000))
        time.sleep(0.05)
    well(server)
    assert "Exception in ASGI application" not in server.output.read_text()


def test_an_answer_may_take_longer_than_a_request_and_a_kept_connection_may_rest(server: Server) -> None:
    slow = json.dumps({**BODY, "messages": [{"role": "user", "content": "slow"}]}).encode()
    with Wire(server) as wire:
        wire.send(request(body=slow))
        assert wire.reply()[0] == 200
        time.sleep(READ_S + 0.2)
        wire.send(request(body=json.dumps(BODY).encode()))
        assert wire.reply()[0] == 200


def test_a_line_end_between_requests_does_not_hold_a_connection_for_ever(server: Server) -> None:
    with Wire(server) as wire:
        wire.send(request(body=json.dumps(BODY).encode()))
        assert wire.reply()[0] == 200
        wire.send(b"\r\n")
        assert wire.rest() == b""


def test_two_requests_in_one_piece_are_both_served(server: Server) -> None:
    data = request(body=json.dumps(BODY).encode())
    with Wire(server) as wire:
        wire.send(data + data.replace(b"content-type", b"connection: close\r\ncontent-type"))
        assert wire.rest().count(b"HTTP/1.1 200") == 2


@pytest.mark.anyio
async def test_over_its_bound_a_server_says_503_and_when_to_come_back_and_still_tells_its_health(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    config = configuration(upstream.base_url, tmp_path, general_settings={"max_in_flight": 3})
    headers = {"authorization": f"Bearer {KEY}"}
    slow: JSON = {**BODY, "messages": [{"role": "user", "content": "slow"}]}
    with ServedTally(config) as tally:
        async with httpx.AsyncClient(base_url=tally.url, headers=headers, timeout=10) as client:

            async def ask() -> httpx.Response:
                return await client.post("/self_consistency/v1/chat/completions", json=slow)

            async with asyncio.TaskGroup() as tasks:
                before = len(upstream.calls)
                inside = [tasks.create_task(ask()) for _ in range(3)]
                await upstream.until(lambda: len(upstream.calls) == before + 3)
                refused = [await ask(), await client.get("/v1/models")]
                watched = [await client.get(path) for path in ("/health/liveliness", "/health/readiness", "/metrics")]
            assert [task.result().status_code for task in inside] == [200, 200, 200]
            assert [(reply.status_code, reply.headers["retry-after"]) for reply in refused] == [(503, "1")] * 2
            error = refused[0].json()["error"]
            assert (error["code"], error["type"]) == ("overloaded", "server_error")
            assert refused[0].headers["x-request-id"].startswith("req_")
            assert [reply.status_code for reply in watched] == [200, 200, 200]
            assert 'tally_requests_total{model="",status="503",strategy=""} 2.0' in watched[2].text
            # a client has its answer a moment before the server has let go of the request
            async with asyncio.timeout(10):
                while (await ask()).status_code != 200:  # noqa: ASYNC110 - what ends is in another thread
                    await asyncio.sleep(0.05)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/health/liveliness", "/health/liveness", "/health/readiness", "/metrics"])
async def test_a_full_gate_lets_whoever_watches_in(path: str) -> None:
    assert await _through_a_full_gate(path) is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    "path",
    ["/health", "/healthy", "/metricsx/v1/embeddings", "/health/v1/chat/completions", "/metrics/", "/openapi.json", ""],
)
async def test_a_full_gate_lets_in_nothing_that_only_begins_like_a_watchers_path(path: str) -> None:
    assert await _through_a_full_gate(path) == 503


async def _through_a_full_gate(path: str) -> int | None:
    """The status that a gate without any room answers itself; None: it let the request in."""
    seen: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        pass

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            seen.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    await Gate(application, most=0, new_id=lambda: "1")({"type": "http", "path": path}, receive, send)
    return seen[0] if seen else None


@pytest.mark.anyio
async def test_a_client_that_never_reads_loses_its_place_its_call_and_what_was_reserved_for_it(tmp_path: Path) -> None:
    long = Reply(["word " * 400], system_fingerprint="f" * 50_000)
    settings = {"max_in_flight": 1, "write_s": 0.3}
    body = json.dumps({**BODY, "stream": True}).encode()
    with (
        FakeUpstream(lambda call: Reply() if call.question == "short" else long) as endless,
        ServedTally(configuration(endless.base_url, tmp_path, general_settings=settings)) as tally,
        socket.socket() as deaf,
    ):
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", httpx.URL(tally.url).port))
        deaf.sendall(request(body=body).replace(b"self_consistency", b"off"))
        await endless.until(lambda: len(endless.calls) > 0)
        short = {**BODY, "messages": [{"role": "user", "content": "short"}]}
        await endless.until(lambda: tally.post(short).status_code == 200)
        await endless.until(lambda: endless.calls[0].cancelled and not tally.balance().reserved.nano)
        with tally.books() as books:
            assert [line.status for line in verdicts(books) if line.strategy == "off"] == [499]


@pytest.mark.anyio
async def test_an_answer_and_its_source_are_closed_when_its_client_reads_no_pings() -> None:
    closed: list[str] = []
    ended: list[int] = []

    async def never(name: str) -> AsyncGenerator[bytes, None]:
        try:
            yield b""
            yield b""
        finally:
            closed.append(name)

    source = never("source")
    await anext(source)

    async def work() -> Answer:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            # it came just then
            return Answer({}, events=never("events"), source=source)
        raise AssertionError

    async def send(message: Any) -> None:
        await asyncio.sleep(5)

    async def receive() -> Any:
        await asyncio.sleep(5)

    served = Served(work, streamed=True, early={}, hold_s=0.01, write_s=0.05, ended=ended.append)
    async with asyncio.timeout(2):
        await served({"type": "http"}, receive, send)
    assert ended == [499]
    assert closed == ["source"]


@given(st.lists(st.sampled_from(["come", "go", "fail"]), max_size=40), st.integers(1, 4))
def test_a_gate_lets_in_its_number_and_as_many_again_as_went(moves: list[str], most: int) -> None:
    async def run() -> None:
        waiting: list[asyncio.Future[None]] = []
        seen: list[int] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            future = asyncio.get_running_loop().create_future()
            waiting.append(future)
            await future

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen.append(message["status"])

        gate = Gate(application, most=most, new_id=lambda: "1")
        tasks: list[asyncio.Task[None]] = []
        inside = refused = 0
        for move in moves:
            if move == "come":
                tasks.append(await _begun(gate, send))
                refused += inside == most
                inside = min(most, inside + 1)
            elif waiting:
                future = waiting.pop()
                future.set_result(None) if move == "go" else future.set_exception(ValueError("broken"))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                inside -= 1
            assert len(waiting) == inside
        assert seen == [503] * refused
        for future in waiting:
            future.set_result(None)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


async def _begun(gate: Gate, send: Callable[[Any], Awaitable[None]]) -> "asyncio.Task[None]":
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    task = asyncio.get_running_loop().create_task(gate({"type": "http", "path": "/v1/models"}, receive, send))
    for _ in range(3):
        await asyncio.sleep(0)
    return task
