"""The lane to OpenAI-compatible servers, against a real one on a socket: replies, streams and every kind of failure."""

import socket
from collections.abc import AsyncIterator

import orjson
import pytest

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.types import JSON
from proxy.upstream import Endpoint
from proxy.upstream.direct import DirectLane, upstream_error
from tests.fake_upstream import Drop, FakeUpstream, Fault, Malformed, Reply
from tests.one_piece import OnePiece

KEY = "sk-a-secret-of-ours"
BODY: JSON = {"model": "small", "messages": [{"role": "user", "content": "What is 6 x 7?"}]}
STREAMED: JSON = {**BODY, "stream": True, "stream_options": {"include_usage": True}}

pytestmark = pytest.mark.anyio


@pytest.fixture
async def lane() -> AsyncIterator[DirectLane]:
    lane = DirectLane()
    yield lane
    await lane.close()


def at(upstream: FakeUpstream, **params: object) -> Endpoint:
    return Endpoint("openai", "small", upstream.base_url, KEY, params)


async def chunks(lane: DirectLane, endpoint: Endpoint, timeout: float = 5.0) -> list[bytes]:
    return [chunk async for chunk in lane.stream(endpoint, STREAMED, timeout)]


async def broken(lane: DirectLane, endpoint: Endpoint) -> tuple[list[bytes], UpstreamError]:
    """What came of a stream that ends without `[DONE]`, and the error that it ends with."""
    seen: list[bytes] = []
    with pytest.raises(UpstreamError) as caught:  # noqa: PT012 - what came before the error counts
        async for chunk in lane.stream(endpoint, STREAMED, 5.0):
            seen.append(chunk)  # noqa: PERF401
    return seen, caught.value


async def failure(lane: DirectLane, endpoint: Endpoint, *, stream: bool, timeout: float = 5.0) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await (chunks(lane, endpoint, timeout) if stream else lane.complete(endpoint, BODY, timeout))
    return caught.value


async def test_a_body_reaches_the_server_as_it_is_with_the_key(lane: DirectLane) -> None:
    body = {**BODY, "seed": 7, "unknown": {"a": [1, None]}, "n": 2}
    with FakeUpstream() as upstream:
        reply = orjson.loads(await lane.complete(at(upstream), body, 5))
        (call,) = upstream.calls
    assert call.body == body
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["42", "42"]


async def test_extra_headers_and_the_organization_are_sent(lane: DirectLane) -> None:
    with FakeUpstream() as upstream:
        await lane.complete(at(upstream, extra_headers={"x-team": "red"}, organization="org-1"), BODY, 5)
        (call,) = upstream.calls
    assert (call.headers["x-team"], call.headers["openai-organization"]) == ("red", "org-1")


async def test_a_cookie_that_one_call_was_given_is_not_sent_with_the_next(lane: DirectLane) -> None:
    with FakeUpstream(Fault(400, headers={"set-cookie": "who=acme; Path=/"})) as upstream:
        # cookies of bare addresses are never kept
        base = upstream.base_url.replace("127.0.0.1", "localhost")
        for _ in range(2):
            await failure(lane, Endpoint("openai", "small", base, KEY, {}), stream=False)
    assert [call.headers.get("cookie") for call in upstream.calls] == [None, None]


async def test_a_stream_gives_the_json_of_each_chunk_and_no_end_mark(lane: DirectLane) -> None:
    with FakeUpstream("one two") as upstream:
        payloads = [orjson.loads(chunk) for chunk in await chunks(lane, at(upstream))]
    texts = [choice["delta"].get("content") for payload in payloads for choice in payload["choices"]]
    assert "".join(text for text in texts if text) == "one two"
    assert payloads[-1]["usage"]["completion_tokens"] == 2


async def test_closing_a_stream_stops_the_server(lane: DirectLane) -> None:
    with FakeUpstream(Reply(("one two three four five",), per_token=0.02)) as upstream:
        stream = lane.stream(at(upstream), STREAMED, 5)
        await anext(stream)
        await stream.aclose()
        await upstream.until(lambda: upstream.calls[0].cancelled)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_keeps_all_that_the_server_said(lane: DirectLane, stream: bool) -> None:
    fault = Fault(429, "Slow down.", "tokens", "rate_limited", param="messages", retry_after=1.5)
    with FakeUpstream(fault) as upstream:
        error = await failure(lane, at(upstream), stream=stream)
    assert (error.status, error.message, error.type) == (429, "Slow down.", "tokens")
    assert (error.code, error.param, error.retry_after, error.sent) == ("rate_limited", "messages", 1.5, False)


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_of_the_key_stays_in_a_message(lane: DirectLane, stream: bool) -> None:
    with FakeUpstream(Fault(400, f"Bad key {KEY}, I said {KEY}.")) as upstream:
        error = await failure(lane, at(upstream), stream=stream)
    assert error.message == "Bad key ***, I said ***."


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_is_too_slow_is_a_timeout_that_may_have_cost(lane: DirectLane, stream: bool) -> None:
    with FakeUpstream(Reply(latency=30)) as upstream:
        error = await failure(lane, at(upstream), stream=stream, timeout=0.1)
    assert isinstance(error, UpstreamTimeout)
    assert (error.status, error.sent) == (504, True)


async def test_a_stream_that_stalls_is_a_timeout(lane: DirectLane) -> None:
    with FakeUpstream(Reply(("one two three",), per_token=30)) as upstream:
        error = await failure(lane, at(upstream), stream=True, timeout=0.2)
    assert isinstance(error, UpstreamTimeout)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_connection_costs_nothing_and_names_no_address(lane: DirectLane, stream: bool) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        endpoint = Endpoint("openai", "small", f"http://127.0.0.1:{port}/v1", KEY, {})
        error = await failure(lane, endpoint, stream=stream)
    assert isinstance(error, UpstreamUnreachable)
    assert (error.status, error.sent) == (502, False)
    assert str(port) not in error.message


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_that_breaks_may_have_cost(lane: DirectLane, stream: bool) -> None:
    with FakeUpstream(Drop()) as upstream:
        error = await failure(lane, at(upstream), stream=stream)
    assert isinstance(error, UpstreamUnreachable)
    assert (error.status, error.sent) == (502, True)


async def test_a_connection_that_breaks_in_a_stream_gives_what_came_and_then_the_error(lane: DirectLane) -> None:
    seen: list[bytes] = []

    async def read() -> None:
        async for chunk in lane.stream(at(upstream), STREAMED, 5):
            seen.append(chunk)  # noqa: PERF401 - what came before the error is wanted

    with FakeUpstream(Drop(after_chunks=2)) as upstream, pytest.raises(UpstreamUnreachable) as caught:
        await read()
    assert caught.value.sent
    assert b"one" in b"".join(seen)


async def test_a_server_that_answers_a_streamed_call_in_one_piece_gives_that_piece(lane: DirectLane) -> None:
    with OnePiece(b'{"id": "x",\n "choices": []}') as server:
        assert await chunks(lane, Endpoint("openai", "small", server.base_url, None, {})) == [
            b'{"id": "x",\n "choices": []}'
        ]


async def test_an_error_event_in_a_stream_is_handed_on(lane: DirectLane) -> None:
    with FakeUpstream(Fault(500, "It broke.", after_chunks=1)) as upstream:
        seen, error = await broken(lane, at(upstream))
    assert orjson.loads(seen[-1])["error"]["message"] == "It broke."
    assert (error.status, error.sent) == (502, True)


async def test_bytes_that_are_no_json_are_handed_on_as_they_are(lane: DirectLane) -> None:
    with FakeUpstream(Malformed("{oops")) as upstream:
        assert await lane.complete(at(upstream), BODY, 5) == b"{oops"
        assert (await broken(lane, at(upstream)))[0] == [b"{oops"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": "no"}', "no"),
        (b'{"message": "no", "code": 40}', "no"),
        (b"no\n", "no"),
        (b"", "the provider answered with status 418"),
        (b"[]", "the provider answered with status 418"),
    ],
)
def test_errors_of_every_shape_have_a_message(content: bytes, message: str) -> None:
    assert upstream_error(418, {}, content).message == message


def test_a_key_at_the_end_of_what_is_kept_of_a_message_is_no_half_key() -> None:
    error = upstream_error(400, {}, b"x" * 1990 + KEY.encode() + b"y", KEY)
    assert "sk-a" not in error.message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_seconds(headers: dict[str, str], seconds: float | None) -> None:
    assert upstream_error(429, headers, b"").retry_after == seconds
