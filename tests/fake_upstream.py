"""A real OpenAI-compatible chat server on a loopback socket, scripted by the test that starts it.

    with FakeUpstream(Scripted({"6 x 7": ["42", "41", "42"]})) as upstream:
        client = OpenAI(base_url=upstream.base_url, api_key="any")

It runs in a thread with an event loop of its own, so that a test in any loop, or a subprocess, can call it.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import anyio
import uvicorn

from tests.fake.call import Call, Meter
from tests.fake.script import Content, Drop, Fault, InOrder, Malformed, Plain, Reply, Script, Scripted, Turns
from tests.fake.serving import FakeApp
from tests.fake.tokens import count_prompt, tokenize

__all__ = [
    "Call",
    "Content",
    "Drop",
    "FakeUpstream",
    "Fault",
    "InOrder",
    "Malformed",
    "Meter",
    "Plain",
    "Reply",
    "Script",
    "Scripted",
    "Turns",
    "count_prompt",
    "tokenize",
]


class FakeUpstream:
    """The server, from `with` to the end of its block. `api_key`: the one key it takes (None: any or none)."""

    def __init__(
        self, script: Script = "42", *, api_key: str | None = None, models: Sequence[str] = ("small",)
    ) -> None:
        self._app = FakeApp(script, api_key, models)
        self.meter = Meter(self._app.calls)

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def calls(self) -> list[Call]:
        """The chat completions that were asked for, in order of arrival."""
        return self._app.calls

    @property
    def in_flight(self) -> int:
        """Calls being served now."""
        return self._app.in_flight

    @property
    def max_in_flight(self) -> int:
        """The most calls that were served at one time."""
        return self._app.max_in_flight

    async def until(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        """Wait until `condition` holds, for example that a call was `cancelled`; TimeoutError after `timeout` s."""
        with anyio.fail_after(timeout):
            while not condition():  # noqa: ASYNC110 - the server is in another thread
                await anyio.sleep(0.005)

    def wait(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        """`until` for a test without an event loop."""
        give_up = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > give_up:
                raise TimeoutError
            time.sleep(0.005)

    def __enter__(self) -> Self:
        # asyncio turns Nagle's delay off only on sockets that say they are TCP
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        self._port = int(listener.getsockname()[1])
        self._server = _Server(self._app)
        self._app.hang_up = self._server.hang_up
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="fake-upstream")
        self._thread.start()
        if not self._server.ready.wait(10):
            raise TimeoutError("the fake upstream did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()
        self._thread.join(10)
        if self._thread.is_alive():
            raise TimeoutError("the fake upstream did not stop")


class _Server(uvicorn.Server):
    """uvicorn without its tenths of a second at start and stop."""

    def __init__(self, app: FakeApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                timeout_keep_alive=600,
                backlog=1024,
            )
        )
        self.ready = threading.Event()

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._leave = asyncio.Event()
        await self.on_tick(0)
        self.ready.set()
        await self._leave.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        for server in self.servers:
            server.close()
        for task in self.server_state.tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.gather(*self.server_state.tasks, return_exceptions=True)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._leave.set)

    def hang_up(self, client: object) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport.get_extra_info("peername") == client:
                connection.transport.abort()
