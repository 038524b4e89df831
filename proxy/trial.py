"""Trying tally on a tenant's traffic: which of its requests are scaled, and votes that nobody waits for."""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from types import TracebackType

import orjson
import structlog

from proxy.errors import TallyError
from proxy.faults import contained
from proxy.query import Query
from proxy.types import JSON
from proxy.verdict import Verdict

MOST_SHADOWS = 64
"""Shadows that run at once; a request that comes when there are so many goes without, which the log tells."""


def lot(tenant: str, request: JSON) -> float:
    """Where a request falls in [0, 1): evenly over different bodies, and always alike for the same one.

    So a retry falls on the same side of a tenant's `scale_fraction`, and whatever is scaled at a smaller fraction is
    scaled at a larger one, too.
    """
    body = orjson.dumps(request, option=orjson.OPT_SORT_KEYS)
    digest = blake2b(orjson.dumps(tenant) + body, digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / (1 << 53)


class Shadows:
    """Votes in the background: an async context manager, which leaving waits for, at most `patience` seconds.

    `submit` has a query drawn and voted on; `patience` is asked when the waiting begins. What goes wrong in a shadow
    ends with it, and is only logged.
    """

    def __init__(self, submit: Callable[[Query], Awaitable[Verdict]], *, patience: Callable[[], float]) -> None:
        self._submit = submit
        self._patience = patience
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
            await asyncio.wait(self._running, timeout=self._patience())
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    def start(self, make: Callable[[], Awaitable[Query]], ended: Callable[[Query], None]) -> bool:
        """Vote on the query that `make` makes, and tell `ended` of it, whatever became of it; does not wait.

        False where too many run already.
        """
        if len(self._running) >= MOST_SHADOWS:
            self._log.warning("shadow_left_out", running=len(self._running))
            return False
        task = self._tasks.create_task(self._run(make, ended))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return True

    async def _run(self, make: Callable[[], Awaitable[Query]], ended: Callable[[Query], None]) -> None:
        with contained(self._log, "shadow_failed"):
            try:
                await self._vote(make, ended)
            except TallyError as error:
                self._log.info("shadow_failed", reason=error.message)

    async def _vote(self, make: Callable[[], Awaitable[Query]], ended: Callable[[Query], None]) -> None:
        query = await make()
        try:
            await self._submit(query)
        finally:
            ended(query)
