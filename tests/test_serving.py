"""How a reply is sent: held back, kept alive, cancelled when the client goes."""

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from proxy.api.serving import Reply, Served
from proxy.errors import BudgetExceeded, NotFound, TallyError, UpstreamError

Work = Callable[[], Awaitable[Reply]]


class Bench:
    """Serves one `Served` after another: what `work` makes, with the headers held for `hold_s`."""

    def __init__(self) -> None:
        self.work: Work
        self.streamed = True
        self.hold_s = 10.0
        self.ended: list[int] = []
        self.cancelled = threading.Event()
        self.over = threading.Event()
        self.url = ""

    async def __call__(self, scope: dict[str, object], receive: object, send: object) -> None:
        served = Served(
            self.work,
            streamed=self.streamed,
            early={"x-early": "yes"},
            budget_status=429,
            hold_s=self.hold_s,
            ended=self._end,
        )
        await served(scope, receive, send)  # type: ignore[arg-type]  # uvicorn's own

    def _end(self, status: int) -> None:
        self.ended.append(status)
        self.over.set()

    def outcome(self) -> list[int]:
        """The statuses reported, once there is one: a moment after the client has read the last byte."""
        assert self.over.wait(5)
        return self.ended

    def get(self) -> httpx.Response:
        return httpx.get(self.url, timeout=10)


@pytest.fixture(scope="module")
def server() -> Iterator[Bench]:
    bench = Bench()
    with _serving(bench) as port:
        bench.url = f"http://127.0.0.1:{port}/"
        yield bench


@pytest.fixture
def bench(server: Bench) -> Iterator[Bench]:
    server.streamed, server.hold_s = True, 10.0
    server.ended.clear()
    server.cancelled.clear()
    server.over.clear()
    yield server
    # a late end would be counted for the next test
    server.outcome()


@contextmanager
def _serving(app: Bench) -> Iterator[int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, log_level="critical", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def replies(*events: bytes, late: TallyError | None = None) -> Reply:
    async def made() -> AsyncGenerator[bytes, None]:
        for item in events:
            yield item
        if late is not None:
            raise late

    return Reply({"x-late": "yes"}, events=made())


def after(seconds: float, reply: Reply | TallyError) -> Work:
    async def work() -> Reply:
        await asyncio.sleep(seconds)
        if isinstance(reply, TallyError):
            raise reply
        return reply

    return work


def test_a_stream_within_the_hold_has_the_headers_of_its_reply_and_no_ping(bench: Bench) -> None:
    bench.work = after(0, replies(b"data: 1\n\n", b"data: [DONE]\n\n"))
    response = bench.get()
    assert response.text == "data: 1\n\ndata: [DONE]\n\n"
    assert response.headers["x-late"] == "yes"
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert bench.outcome() == [200]


def test_a_stream_past_the_hold_is_opened_and_kept_alive_with_comments(bench: Bench) -> None:
    bench.hold_s = 0.01
    bench.work = after(0.1, replies(b"data: 1\n\n"))
    response = bench.get()
    assert response.headers["x-early"] == "yes"
    assert "x-late" not in response.headers
    *pings, data, rest = response.text.split("\n\n")
    assert (data, rest) == ("data: 1", "")
    assert len(pings) >= 2
    assert set(pings) == {": ping"}


def test_an_error_within_the_hold_keeps_its_status(bench: Bench) -> None:
    bench.work = after(0, NotFound("no such model"))
    response = bench.get()
    assert (response.status_code, response.json()["error"]["message"]) == (404, "no such model")
    assert response.headers["x-early"] == "yes"
    assert bench.outcome() == [404]


def test_an_error_past_the_hold_is_an_event(bench: Bench) -> None:
    bench.hold_s = 0.01
    bench.work = after(0.05, UpstreamError("sk-key is wrong", status=401))
    response = bench.get()
    assert response.status_code == 200
    last = response.text.rstrip("\n").split("\n\n")[-1]
    assert last.startswith('data: {"error":{')
    assert "sk-" not in last
    assert bench.outcome() == [502]


def test_an_error_between_events_is_an_event(bench: Bench) -> None:
    bench.work = after(0, replies(b"data: 1\n\n", late=UpstreamError("broke", status=502)))
    first, second, _ = bench.get().text.split("\n\n")
    assert first == "data: 1"
    assert second.startswith('data: {"error":{"message":"broke"')


def test_a_reply_that_is_not_streamed_is_never_pinged(bench: Bench) -> None:
    bench.streamed, bench.hold_s = False, 0.01
    bench.work = after(0.05, Reply({"x-late": "yes"}, b'{"a":1}'))
    response = bench.get()
    assert (response.text, response.headers["x-late"]) == ('{"a":1}', "yes")
    assert response.headers["content-type"] == "application/json"


def test_a_spent_budget_has_the_status_that_the_operator_set(bench: Bench) -> None:
    bench.streamed = False
    bench.work = after(0, BudgetExceeded("spent"))
    response = bench.get()
    assert (response.status_code, response.headers["x-should-retry"]) == (429, "false")


@pytest.mark.parametrize("streamed", [False, True])
def test_the_work_is_cancelled_when_the_client_goes(bench: Bench, streamed: bool) -> None:
    async def work() -> Reply:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            bench.cancelled.set()
            raise
        return Reply({})

    bench.streamed, bench.work = streamed, work
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(bench.url, timeout=0.2)
    assert bench.cancelled.wait(5)
    assert bench.outcome() == [499]


def test_the_events_are_closed_when_the_client_goes(bench: Bench) -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"data: 1\n\n"
                await asyncio.sleep(0.01)
        finally:
            bench.cancelled.set()

    bench.work = after(0, Reply({}, events=events()))
    with httpx.stream("GET", bench.url) as response:
        assert next(response.iter_bytes())
    assert bench.cancelled.wait(5)
