"""The direct lane's own HTTP/1.1 client, against a raw server that says exactly what a test wants."""

import asyncio
import gzip
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream import Endpoint
from proxy.upstream.connection import Connection, Origin
from proxy.upstream.connections import Connections
from proxy.upstream.direct import DirectLane
from proxy.upstream.target import target

pytestmark = pytest.mark.anyio

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
OK = JSON_HEAD + b"content-length: 2\r\n\r\n{}"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def say(writer: asyncio.StreamWriter, data: bytes, *, close: bool = False) -> None:
    writer.write(data)
    await writer.drain()
    if close:
        writer.close()


class Raw:
    """A server that answers each request with the next of `answers`, the last one again and again."""

    def __init__(self, *answers: bytes | Answer) -> None:
        self._answers = [partial(say, data=each) if isinstance(each, bytes) else each for each in answers]
        self.connections = 0
        self.closed = 0
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def endpoint(self, **params: object) -> Endpoint:
        return Endpoint("openai", "small", self.base_url, "sk-secret", params)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not holds():  # noqa: ASYNC110 - there is no event for what a socket does
                await asyncio.sleep(0.005)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                self.heads.append(head)
                await self._answers[min(len(self.heads), len(self._answers)) - 1](writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed += 1
            writer.close()

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Raw"]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self
            # handlers end when their clients go
            server.close()


@pytest.fixture
async def lane() -> AsyncIterator[DirectLane]:
    lane = DirectLane({})
    yield lane
    await lane.close()
    await asyncio.sleep(0.02)


async def events(lane: DirectLane, raw: Raw, timeout: float = 5.0) -> list[bytes]:
    return [event async for event in lane.stream(raw.endpoint(), {"stream": True}, timeout)]


async def failure(lane: DirectLane, raw: Raw, timeout: float = 5.0) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await lane.complete(raw.endpoint(), {}, timeout)
    return caught.value


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\ntrailer: x\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
)
async def test_a_reply_of_every_framing_is_read_and_its_connection_used_again(lane: DirectLane, answer: bytes) -> None:
    async with Raw(answer).serving() as raw:
        assert [await lane.complete(raw.endpoint(), {"a": 1}, 5) for _ in range(3)] == [b"{}"] * 3
        assert raw.connections == 1
        assert raw.bodies == [b'{"a":1}'] * 3
        await lane.close()


@pytest.mark.parametrize(
    "answer",
    [
        partial(say, data=JSON_HEAD + b"\r\n{}", close=True),
        partial(say, data=JSON_HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\n{}"),
        partial(say, data=b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}"),
        partial(say, data=OK + OK),
    ],
)
async def test_a_connection_that_cannot_be_used_again_is_not(lane: DirectLane, answer: Answer) -> None:
    async with Raw(answer).serving() as raw:
        assert [await lane.complete(raw.endpoint(), {}, 5) for _ in range(2)] == [b"{}"] * 2
        assert raw.connections == 2
        await raw.until(lambda: raw.closed == 2)


async def test_a_reply_that_comes_byte_by_byte_is_whole(lane: DirectLane) -> None:
    async def slowly(writer: asyncio.StreamWriter) -> None:
        for place in range(len(OK)):
            await say(writer, OK[place : place + 1])
            await asyncio.sleep(0)

    async with Raw(slowly).serving() as raw:
        assert await lane.complete(raw.endpoint(), {}, 5) == b"{}"
        await lane.close()


@pytest.mark.parametrize("encoding", [b"gzip", b"x-gzip", b"GZIP"])
async def test_a_reply_that_is_packed_unasked_is_unpacked(lane: DirectLane, encoding: bytes) -> None:
    packed = gzip.compress(b'{"a": 1}')
    head = JSON_HEAD + b"content-encoding: %b\r\ncontent-length: %d\r\n\r\n" % (encoding, len(packed))
    async with Raw(head + packed).serving() as raw:
        assert await lane.complete(raw.endpoint(), {}, 5) == b'{"a": 1}'
        assert b"accept-encoding" not in raw.heads[0].lower()
        await lane.close()


async def test_what_is_not_packed_as_it_says_is_a_broken_connection(lane: DirectLane) -> None:
    async with Raw(JSON_HEAD + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}").serving() as raw:
        assert isinstance(await failure(lane, raw), UpstreamUnreachable)


@pytest.mark.parametrize(
    "answer",
    [
        partial(say, data=b"", close=True),
        partial(say, data=JSON_HEAD + b"content-length: 20\r\n\r\n{}", close=True),
        partial(say, data=EVENTS + b"2\r\n{", close=True),
        partial(say, data=b"SSH-2.0-OpenSSH_9\r\n"),
        partial(say, data=b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"),
    ],
)
async def test_a_reply_that_breaks_off_or_is_none_may_have_cost_and_is_not_asked_for_again(
    lane: DirectLane, answer: Answer
) -> None:
    async with Raw(answer).serving() as raw:
        error = await failure(lane, raw, 1.0)
        assert isinstance(error, UpstreamUnreachable)
        assert error.sent
        assert len(raw.heads) == 1
        await raw.until(lambda: raw.closed == 1)


async def test_a_connection_that_the_server_closed_while_idle_is_not_used(lane: DirectLane) -> None:
    async def close_soon(writer: asyncio.StreamWriter) -> None:
        await say(writer, OK, close=True)

    async with Raw(close_soon, OK).serving() as raw:
        assert await lane.complete(raw.endpoint(), {}, 5) == b"{}"
        await raw.until(lambda: raw.closed == 1)
        await asyncio.sleep(0.02)
        assert await lane.complete(raw.endpoint(), {}, 5) == b"{}"
        assert raw.connections == 2
        await lane.close()


async def test_a_call_on_a_kept_connection_that_is_closed_under_it_is_an_error_and_never_made_twice(
    lane: DirectLane,
) -> None:
    async with Raw(OK, partial(say, data=b"", close=True), OK).serving() as raw:
        await lane.complete(raw.endpoint(), {}, 5)
        assert (await failure(lane, raw)).sent
        assert len(raw.heads) == 2
        assert await lane.complete(raw.endpoint(), {}, 5) == b"{}"
        await lane.close()


async def test_words_that_nobody_asked_for_close_an_idle_connection(lane: DirectLane) -> None:
    async def chatty(writer: asyncio.StreamWriter) -> None:
        await say(writer, OK)
        await asyncio.sleep(0.02)
        await say(writer, OK)

    async with Raw(chatty).serving() as raw:
        assert await lane.complete(raw.endpoint(), {}, 5) == b"{}"
        await raw.until(lambda: raw.closed == 1)
        assert await lane.complete(raw.endpoint(), {}, 5) == b"{}"
        assert raw.connections == 2


async def test_a_timeout_closes_the_connection(lane: DirectLane) -> None:
    async with Raw(partial(say, data=JSON_HEAD)).serving() as raw:
        error = await failure(lane, raw, 0.1)
        assert isinstance(error, UpstreamTimeout)
        assert error.sent
        await raw.until(lambda: raw.closed == 1)


async def test_a_cancelled_call_closes_its_connection(lane: DirectLane) -> None:
    async with Raw(partial(say, data=JSON_HEAD)).serving() as raw:
        task = asyncio.get_running_loop().create_task(lane.complete(raw.endpoint(), {}, 5))
        await raw.until(lambda: bool(raw.heads))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await raw.until(lambda: raw.closed == 1)


async def test_a_stream_that_is_closed_early_closes_its_connection(lane: DirectLane) -> None:
    async with Raw(EVENTS + chunk(b"data: 1\n\n")).serving() as raw:
        stream = lane.stream(raw.endpoint(), {}, 5)
        assert await anext(stream) == b"1"
        await stream.aclose()
        await raw.until(lambda: raw.closed == 1)


async def test_a_stream_read_to_its_end_leaves_a_connection_to_use_again(lane: DirectLane) -> None:
    whole = EVENTS + chunk(b"data: 1\n\ndata: ") + chunk(b"2\n\n") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    async with Raw(whole).serving() as raw:
        assert [await events(lane, raw) for _ in range(2)] == [[b"1", b"2"]] * 2
        assert raw.connections == 1
        await lane.close()


async def test_a_server_is_held_back_while_nobody_reads_its_stream(lane: DirectLane) -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await say(writer, EVENTS)
        for _ in range(400):
            await say(writer, chunk(b"data: " + b"x" * 65_536 + b"\n\n"))
            sent += 1
        await say(writer, chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with Raw(flood).serving() as raw:
        stream = lane.stream(raw.endpoint(), {}, 20)
        await anext(stream)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        # 26 MB are on offer; what waits is in the buffers of two sockets, and in ours
        assert sent < 300
        assert sum([len(event) async for event in stream]) == 399 * 65_536
        await lane.close()


async def test_a_large_error_in_place_of_a_stream_is_read_whole(lane: DirectLane) -> None:
    body = b'{"error": {"message": "no"}, "more": "' + b"x" * 2_000_000 + b'"}'
    head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with Raw(head + body).serving() as raw:
        with pytest.raises(UpstreamError, match="no"):
            await events(lane, raw)
        await lane.close()


async def test_redirects_are_not_followed(lane: DirectLane) -> None:
    moved = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n"
    async with Raw(moved).serving() as raw:
        assert await lane.complete(raw.endpoint(), {}, 5) == b""
        assert len(raw.heads) == 1
        await lane.close()


async def test_calls_at_once_have_a_connection_each_and_the_next_ones_use_them_again(lane: DirectLane) -> None:
    async with Raw(OK).serving() as raw:
        for _ in range(3):
            await asyncio.gather(*(lane.complete(raw.endpoint(), {}, 5) for _ in range(8)))
        assert raw.connections == 8
        await lane.close()
        await raw.until(lambda: raw.closed == 8)


async def test_a_connection_that_is_not_made_in_time_costs_nothing() -> None:
    connections = Connections()
    # it waits for a greeting in TLS that never comes
    async with Raw(OK).serving() as raw:
        with pytest.raises(UpstreamTimeout) as caught:
            await connections.take(Origin(True, "127.0.0.1", raw.port), 0.1)
        assert not caught.value.sent
        await raw.until(lambda: raw.connections == raw.closed)
    connections.close()


async def test_a_name_that_does_not_exist_cannot_be_reached() -> None:
    connections = Connections()
    with pytest.raises(UpstreamUnreachable) as caught:
        await connections.take(Origin(False, "nowhere.invalid", 80), 5)
    assert not caught.value.sent
    connections.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for `localhost` in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


async def test_a_server_that_nobody_vouches_for_is_not_spoken_to(lane: DirectLane, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with Raw(OK).serving(context) as raw:
        endpoint = Endpoint("openai", "small", f"https://localhost:{raw.port}/v1", "sk-secret", {})
        with pytest.raises(UpstreamUnreachable) as caught:
            await lane.complete(endpoint, {}, 5)
        assert not caught.value.sent
        assert raw.heads == []


async def test_a_server_with_a_certificate_that_is_trusted_is_called_over_tls(
    lane: DirectLane, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with Raw(OK).serving(context) as raw:
        endpoint = Endpoint("openai", "small", f"https://localhost:{raw.port}/v1", "sk-secret", {})
        assert [await lane.complete(endpoint, {}, 5) for _ in range(2)] == [b"{}", b"{}"]
        assert raw.connections == 1
        await lane.close()


async def test_a_proxy_of_the_environment_is_used_but_for_hosts_that_are_spared() -> None:
    async with Raw(OK).serving() as raw:
        proxied = DirectLane({"http_proxy": f"http://127.0.0.1:{raw.port}", "no_proxy": "spared.invalid"})
        endpoint = Endpoint("openai", "small", "http://models.invalid/v1", "sk-secret", {})
        assert await proxied.complete(endpoint, {"a": 1}, 5) == b"{}"
        assert raw.heads[0].startswith(b"POST http://models.invalid/v1/chat/completions HTTP/1.1")
        assert raw.bodies == [b'{"a":1}']
        with pytest.raises(UpstreamUnreachable):
            await proxied.complete(Endpoint("openai", "small", "http://spared.invalid/v1", None, {}), {}, 5)
        await proxied.close()


@pytest.mark.parametrize(
    ("base", "environ", "proxy"),
    [
        ("http://a.example/v1", {}, None),
        ("http://a.example/v1", {"HTTP_PROXY": "http://p"}, "http://p"),
        ("https://a.example/v1", {"http_proxy": "http://p"}, None),
        ("https://a.example/v1", {"all_proxy": "http://p"}, "http://p"),
        ("http://a.example/v1", {"http_proxy": "http://p", "no_proxy": "b.example, .example"}, None),
        ("http://a.example/v1", {"http_proxy": "http://p", "no_proxy": "*"}, None),
        ("http://a.example:8/v1", {"http_proxy": "http://p", "no_proxy": "a.example:8"}, None),
        ("http://ba.example/v1", {"http_proxy": "http://p", "no_proxy": "a.example"}, "http://p"),
        ("http://localhost:8/v1", {"http_proxy": "http://p"}, None),
    ],
)
def test_which_calls_go_through_a_proxy(base: str, environ: dict[str, str], proxy: str | None) -> None:
    found = target(Endpoint("openai", "small", base, None, {}), "chat/completions", environ)
    assert found.proxy == proxy
    assert (found.origin is None) == (proxy is not None)


def test_the_head_of_a_request_has_its_path_its_host_and_the_operators_own_headers() -> None:
    extra = {"X-Team": "red", "Authorization": "Basic eA==", "User-Agent": "us"}
    found = target(Endpoint("openai", "m", "https://[::1]:8443/a/v1", "k", {"extra_headers": extra}), "/score", {})
    assert found.origin == Origin(True, "::1", 8443)
    lines = found.head.decode().split("\r\n")
    assert lines[:2] == ["POST /a/score HTTP/1.1", "host: [::1]:8443"]
    assert set(lines[2:-1]) == {
        "accept: */*",
        "user-agent: us",
        "content-type: application/json",
        "authorization: Basic eA==",
        "x-team: red",
    }
    assert lines[-1] == "content-length: "


@pytest.mark.parametrize("base", ["http://user:word@a.example/v1", "http://ä.example/v1", "http://a.example/v1?b=c"])
def test_an_address_of_a_rare_kind_is_left_to_the_session(base: str) -> None:
    assert target(Endpoint("openai", "m", base, None, {}), "chat/completions", {}).origin is None


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\0b"])
def test_a_header_with_a_line_break_is_refused(value: str) -> None:
    endpoint = Endpoint("openai", "m", "http://a.example/v1", None, {"extra_headers": {"x": value}})
    with pytest.raises(ValueError, match="line break"):
        target(endpoint, "chat/completions", {})


async def test_a_connection_that_was_lost_before_a_request_says_so() -> None:
    connection = Connection(Origin(False, "a", 1))
    connection.close()
    connection.send(b"x", whole=True)
    with pytest.raises(UpstreamUnreachable):
        await connection.whole()


@pytest.mark.parametrize(
    "answer",
    [
        JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n2  \r\n{}\r\n0\r\n\r\n",
        OK.replace(b"\r\n", b"\n"),
        OK.replace(b"\r\n\r\n", b"\r\nx-odd: a\x01b\r\n\r\n"),
    ],
)
async def test_a_reply_that_is_a_little_wrong_is_read_as_others_read_it(lane: DirectLane, answer: bytes) -> None:
    async with Raw(answer).serving() as raw:
        assert await lane.complete(raw.endpoint(), {}, 5) == b"{}"
        await lane.close()


async def test_a_connection_whose_reader_left_in_the_middle_serves_the_next_call(lane: DirectLane) -> None:
    """More than is read ahead has come, to its end, when the first reader goes."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 1000 + b'"}}]}\n\n'
    big, small = EVENTS + chunk(event * 400), EVENTS + chunk(event)
    done = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    async with Raw(big + done, small + done).serving() as raw:
        stream = lane.stream(raw.endpoint(), {"stream": True}, 5)
        await anext(stream)
        await asyncio.sleep(0.2)
        await stream.aclose()
        assert len(await events(lane, raw, 2)) == 1
        await lane.close()


async def test_a_body_without_an_end_is_not_whole_when_it_is_tally_that_hangs_up(lane: DirectLane) -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        await say(writer, JSON_HEAD + b'\r\n{"id":')
        await asyncio.sleep(2)

    async with Raw(half).serving() as raw:
        assert isinstance(await failure(lane, raw, 0.2), UpstreamTimeout)
        call = asyncio.create_task(lane.complete(raw.endpoint(), {}, 5))
        await raw.until(lambda: len(raw.heads) == 2)
        await asyncio.sleep(0.1)
        await lane.close()
        with pytest.raises(UpstreamUnreachable):
            await call


async def test_a_connection_whose_request_is_not_all_sent_is_not_kept(lane: DirectLane) -> None:
    """The server has refused it before it has read it, and reads no further."""
    reached = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
        await reached.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        endpoint = Endpoint("openai", "small", f"http://127.0.0.1:{port}/v1", None, {})
        with pytest.raises(UpstreamError) as caught:
            await lane.complete(endpoint, {"text": "x" * 16_000_000}, 5)
        assert caught.value.status == 413
        with pytest.raises(UpstreamError) as caught:
            await lane.complete(endpoint, {}, 5)
        # on a connection of its own, not behind the rest of the first
        assert caught.value.status == 413
        reached.set()
        server.close()


async def test_the_operators_host_stands_alone(lane: DirectLane) -> None:
    async with Raw(OK).serving() as raw:
        await lane.complete(raw.endpoint(extra_headers={"Host": "inner.example"}), {}, 5)
        assert raw.heads[0].lower().count(b"\r\nhost:") == 1
        assert b"host: inner.example\r\n" in raw.heads[0]
        await lane.close()


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint("openai", "small", "http://127.0.0.1:99999/v1", None, {}),
        Endpoint("openai", "small", "http://a..b:80/v1", None, {}),
        Endpoint("openai", "small", "http://127.0.0.1:9/v1", "sk-line\n", {}),
        Endpoint("openai", "small", "http://127.0.0.1:9/v1", None, {"extra_headers": {"x-a": "b\r\nc"}}),
    ],
)
async def test_what_cannot_be_sent_is_known_not_to_be_sent(lane: DirectLane, endpoint: Endpoint) -> None:
    with pytest.raises(UpstreamUnreachable) as caught:
        await lane.complete(endpoint, {}, 5)
    assert not caught.value.sent
    assert "sk-line" not in str(caught.value)


@pytest.mark.parametrize(("spared", "through"), [("10.0.0.0/8", False), ("10.1.2.3", False), ("192.168.0.0/16", True)])
def test_no_proxy_knows_networks(spared: str, through: bool) -> None:
    environ = {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": spared}
    endpoint = Endpoint("openai", "small", "http://10.1.2.3:8000/v1", None, {})
    assert (target(endpoint, "chat/completions", environ).proxy is not None) is through
