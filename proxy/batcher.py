"""Gathers queries into micro-batches and runs the engine on each.

A batch is of one tenant, one model, one strategy and its parameters. It takes queries for a window from its first one
on, or until it is full; first draws start at arrival, so the window adds no latency.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

import structlog

from proxy.core.batch import Batch
from proxy.engine import Closed, Engine, Inbox, Joined, Left, Ticket
from proxy.errors import Overloaded, TallyError
from proxy.faults import contained
from proxy.keeping import EMPTY
from proxy.query import Query
from proxy.types import Strategy
from proxy.verdict import GONE, Verdict

_Key = tuple[str, str, Strategy]


@dataclass(slots=True, eq=False)
class _Open:
    """A batch that still takes queries."""

    key: _Key
    inbox: Inbox = field(default_factory=asyncio.Queue)
    tickets: list[Ticket] = field(default_factory=list)


class Batcher:
    """An async context manager: batches run inside it, and leaving it waits for all of them.

    `make` builds a batch for a tenant, a model and a strategy; `window_s` in seconds and `max_queries` say when a batch
    is full.
    """

    def __init__(
        self, engine: Engine, make: Callable[[str, str, Strategy], Batch], *, window_s: float, max_queries: int
    ) -> None:
        self._engine = engine
        self._make = make
        self._window_s = window_s
        self._max_queries = max_queries
        self._open: dict[_Key, _Open] = {}
        self._tasks = asyncio.TaskGroup()
        self._log = structlog.get_logger("tally.batcher")

    async def __aenter__(self) -> "Batcher":
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for batch in list(self._open.values()):
            self._close(batch)
        await self._tasks.__aexit__(kind, error, trace)

    async def submit(self, query: Query) -> Verdict:
        """The verdict on `query`. Cancelling this takes the query out of its batch and cancels its draws."""
        ticket = Ticket(query, asyncio.get_running_loop().create_future())
        batch = self._join(ticket)
        try:
            return await ticket.reply
        except asyncio.CancelledError:
            batch.inbox.put_nowait(Left(ticket, GONE))
            raise

    def decline(self, query: Query) -> None:
        """Have a query recorded whose client went before it was submitted."""
        ticket = Ticket(query, asyncio.get_running_loop().create_future())
        ticket.reply.cancel()
        self._join(ticket)

    def _join(self, ticket: Ticket) -> _Open:
        batch = self._batch(ticket.query)
        batch.tickets.append(ticket)
        batch.inbox.put_nowait(Joined(ticket))
        if len(batch.tickets) >= self._max_queries:
            self._close(batch)
        return batch

    def _batch(self, query: Query) -> _Open:
        key = (query.plan.tenant.name, query.plan.model, query.plan.strategy)
        batch = self._open.get(key)
        if batch is None:
            batch = self._open[key] = _Open(key)
            self._tasks.create_task(self._supervise(batch))
            asyncio.get_running_loop().call_later(self._window_s, self._close, batch)
        return batch

    def _close(self, batch: _Open) -> None:
        if self._open.get(batch.key) is batch:
            del self._open[batch.key]
            batch.inbox.put_nowait(Closed())

    async def _supervise(self, batch: _Open) -> None:
        """Run a batch. Whatever goes wrong in it ends here, and every query of it is answered."""
        told = {"tenant": batch.key[0], "model": batch.key[1], "strategy": batch.key[2].name}
        try:
            with contained(self._log, "batch_failed", **told):
                await self._engine.run(self._make(*batch.key), batch.inbox)
        finally:
            self._close(batch)
            for ticket in batch.tickets:
                if ticket.query.claim is not None:
                    # what a fault has touched is no start for another try
                    ticket.query.claim.settled(lambda: EMPTY)
                if not ticket.reply.done():
                    ticket.reply.set_exception(_unanswered())


def _unanswered() -> TallyError:
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return Overloaded("the proxy is shutting down")
    return TallyError("the proxy failed on this request; its log says why", code="internal_error")
