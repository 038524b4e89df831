"""Trying tally on a tenant's traffic: which of its requests are scaled, and votes that nobody waits for."""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from types import TracebackType

import orjson
import structlog

from proxy.errors import TallyError
from proxy.query import Query
from proxy.types import JSON
from proxy.verdict import Verdict

MOST_SHADOWS = 64
"""Shadows that run at once; a request that comes when there are so many goes without."""


def lot(tenant: str, request: JSON) -> float:
    """Where a request falls in [0, 1): evenly over different bodies, and always alike for the same one.

    So a retry falls on the same side of a tenant's `scale_fraction`, and whatever is scaled at a smaller fraction is
    scaled at a larger one, too.
    """
    body = orjson.dumps(request, option=orjson.OPT_SORT_KEYS)
    digest = blake2b(orjson.dumps(tenant) + body, digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / (1 << 53)


class Shadows:
    """Votes in the background: an async context manager, which leaving waits for, at most `patience_s` seconds.

    `submit` has a query drawn and voted on. What goes wrong in a shadow ends with it, and is only logged.
    """

    def __init__(self, submit: Callable[[Query], Awaitable[Verdict]], *, patience_s: float) -> None:
        self._submit = submit
        self._patience_s = patience_s
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("tally.shadows")

    async def __aenter__(self) -> "Shadows":
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._running:
            await asyncio.wait(self._running, timeout=self._patience_s)
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    def start(self, make: Callable[[], Awaitable[Query]], ended: Callable[[Query], None]) -> bool:
        """Vote on the query that `make` makes, and tell `ended` of it, whatever became of it; does not wait.

        False where too many run already.
        """
        if len(self._running) >= MOST_SHADOWS:
            return False
        task = self._tasks.create_task(self._run(make, ended))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return True

    async def _run(self, make: Callable[[], Awaitable[Query]], ended: Callable[[Query], None]) -> None:
        # an error that left this task would end the group, and the server with it
        (error,) = await asyncio.gather(self._vote(make, ended), return_exceptions=True)
        if isinstance(error, TallyError):
            self._log.info("shadow_failed", reason=error.message)
        elif isinstance(error, Exception):
            self._log.error("shadow_failed", exc_info=error)

    async def _vote(self, make: Callable[[], Awaitable[Query]], ended: Callable[[Query], None]) -> None:
        query = await make()
        try:
            await self._submit(query)
        finally:
            ended(query)
