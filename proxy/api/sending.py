"""Sends to a client that reads; one that takes nothing for long holds its place from others, and is gone."""

import asyncio

from starlette.types import Message, Send

from proxy.errors import ClientGone


class Sending:
    """`send` with a bound on the seconds that a message waits for its client: then ClientGone is raised.

    One timer looks after all messages of a reply. `close` must be called at its end.
    """

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._since = 0.0
        self._late = False

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        self._task, self._since = asyncio.current_task(), self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)
        try:
            await self._send(message)
        except asyncio.CancelledError:
            if self._late and self._task is not None and not self._task.uncancel():
                raise ClientGone from None
            raise
        finally:
            self._task = None

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        left = self._since + self._seconds - self._loop.time()
        if self._task is None:
            self._timer = None
        elif left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._late = True
            self._task.cancel()
