"""The whole way of a micro-batch: ask the batch, draw, tell the batch, answer who is decided, until all are."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby

from proxy.answers import votable
from proxy.core.batch import BUDGET, FAILED, Batch, Denied, Draw, Outcome, Sample
from proxy.core.vote import SILENT
from proxy.drawing import Drawer, Wave
from proxy.errors import ClientGone, TallyError
from proxy.ledger import Ledger, RequestRow
from proxy.picking import Picker, to_pick
from proxy.query import Query
from proxy.values import value
from proxy.verdict import (
    DEADLINE,
    GONE,
    PROSE,
    SHADOW,
    Verdict,
    failed_row,
    fields_vote,
    refusal,
    refused_row,
    request_row,
    verdict,
)

CONTENT_FILTER = "content filter"
_SHORT = frozenset({GONE, DEADLINE, BUDGET})
"""Why a query ends whose missing choices cannot be drawn."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A query on its way through the engine; `reply` gets its verdict or its error."""

    query: Query
    reply: "asyncio.Future[Verdict]"
    waves: "list[asyncio.Task[None]]" = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


@value(frozen=True, slots=True)
class Joined:
    """A query comes into the batch."""

    ticket: Ticket


@value(frozen=True, slots=True)
class Left:
    """A query goes before it was decided: its client is gone, or its deadline has come."""

    ticket: Ticket
    reason: str


@value(frozen=True, slots=True)
class Closed:
    """Nobody joins any more."""


@value(frozen=True, slots=True)
class Told:
    """A draw of a query has ended."""

    ticket: Ticket
    outcome: Outcome


Event = Joined | Left | Closed | Told
Inbox = asyncio.Queue[Event]


class Engine:
    """Runs batches, and writes each request's verdict to the ledger. `clock` is monotonic seconds.

    Without a `picker` free prose is answered with its first complete sample.
    """

    def __init__(
        self, drawer: Drawer, ledger: Ledger, *, clock: Callable[[], float], picker: Picker | None = None
    ) -> None:
        self._drawer = drawer
        self._ledger = ledger
        self._picker = picker
        self._clock = clock

    async def run(self, batch: Batch, inbox: Inbox) -> None:
        """Run one batch to its end; it ends when it was closed, all were answered and every draw was told."""
        async with asyncio.TaskGroup() as tasks:
            run = _Run(
                drawer=self._drawer,
                ledger=self._ledger,
                clock=self._clock,
                picker=self._picker,
                batch=batch,
                inbox=inbox,
                tasks=tasks,
            )
            while True:
                run.start(batch.ask())
                for query in batch.decided():
                    run.answer(query, batch.reason(query))
                if batch.done and not batch.outstanding:
                    return
                run.hear(await inbox.get())


class _Run:
    def __init__(
        self,
        *,
        drawer: Drawer,
        ledger: Ledger,
        clock: Callable[[], float],
        picker: Picker | None,
        batch: Batch,
        inbox: Inbox,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._drawer = drawer
        self._ledger = ledger
        self._clock = clock
        self._picker = picker
        self._batch = batch
        self._inbox = inbox
        self._tasks = tasks
        self._open: dict[int, Ticket] = {}

    def start(self, draws: tuple[Draw, ...]) -> None:
        """Start draws, those of one query that share a prompt together."""
        for (query, *_), shared in groupby(draws, key=lambda draw: (draw.query, draw.given, draw.step)):
            ticket = self._open[query]
            wave = self._drawer.wave(ticket.query, list(shared), self._tell(ticket))
            task = self._tasks.create_task(wave.run())
            task.add_done_callback(_end(wave))
            ticket.waves.append(task)

    def hear(self, event: Event) -> None:
        """Pass an event on to the batch."""
        match event:
            case Joined(ticket) if ticket.reply.done():
                # it left before it came: there is nothing to draw for it
                self._tasks.create_task(self._reply(ticket, GONE))
            case Joined(ticket):
                self._join(ticket)
            case Left(ticket, reason):
                if ticket.query.id in self._open:
                    self.answer(ticket.query.id, reason)
            case Closed():
                self._batch.close()
            case Told(ticket, outcome):
                self._batch.tell(outcome)
                if ticket.query.heard is not None and isinstance(outcome, Sample):
                    ticket.query.heard(outcome)
                stop = self._stops(ticket.query, outcome)
                if stop is not None and ticket.query.id in self._open:
                    self.answer(ticket.query.id, stop)

    def answer(self, query: int, reason: str | None) -> None:
        """Take a query out of the batch and answer it with what was drawn."""
        ticket = self._open.pop(query)
        self._batch.leave(query)
        if ticket.timer is not None:
            ticket.timer.cancel()
        self._tasks.create_task(self._reply(ticket, reason))

    def _join(self, ticket: Ticket) -> None:
        query = ticket.query
        self._open[query.id] = ticket
        self._batch.join(query.id, probe=query.plan.probe, prior=query.prior, overhead=query.overhead)
        left = max(0.0, query.deadline - self._clock())
        loop = asyncio.get_running_loop()
        ticket.timer = loop.call_later(left, self._inbox.put_nowait, Left(ticket, DEADLINE))

    def _tell(self, ticket: Ticket) -> Callable[[Outcome], None]:
        return lambda outcome: self._inbox.put_nowait(Told(ticket, outcome))

    async def _reply(self, ticket: Ticket, reason: str | None) -> None:
        """Answer when every draw has ended, so that what it cost is known; those that still run are cancelled."""
        query = ticket.query
        reason = await self._filled(ticket, reason)
        for wave in ticket.waves:
            wave.cancel()
        if ticket.waves:
            await asyncio.wait(ticket.waves)
        if query.claim is not None:
            query.claim.settled(query.remains)
        await query.settle()
        reason = await self._picked(ticket, reason)
        latency_ms = int((self._clock() - query.started) * 1000)
        try:
            if fields_vote(query.plan):
                # large documents take longer, field by field, than the event loop may stand still
                found = await asyncio.to_thread(verdict, query, reason)
            else:
                found = verdict(query, reason)
        except TallyError as error:
            self._fail(ticket, failed_row(query.plan, query.purse, error, latency_ms), error)
            return
        refused = None if reason == GONE else refusal(query.plan, found)
        if refused is not None:
            self._fail(ticket, refused_row(query.plan, found, refused, latency_ms), refused)
            return
        status = ClientGone.status if reason == GONE else 200
        if status == 200 or query.plan.reason != SHADOW:
            self._ledger.record(request_row(query.plan, found, latency_ms, status))
        if not ticket.reply.done():
            ticket.reply.set_result(found)

    def _fail(self, ticket: Ticket, row: RequestRow, error: TallyError) -> None:
        # a shadow that fails leaves what is written of the answer that its client got
        if ticket.query.plan.reason != SHADOW:
            self._ledger.record(row)
        if not ticket.reply.done():
            ticket.reply.set_exception(error)

    async def _filled(self, ticket: Ticket, reason: str | None) -> str | None:
        """See that there is a sample for each choice that the client wants; the reason, as it is after that."""
        query = ticket.query
        if not query.drawn or not _lacking(query) or reason in _SHORT or ticket.reply.done():
            return reason
        filling = self._tasks.create_task(self._fill(ticket))
        # nobody pays for the choices of a client that went
        ticket.reply.add_done_callback(lambda _: filling.cancel())
        _, late = await asyncio.wait([filling], timeout=max(0.0, query.deadline - self._clock()))
        filling.cancel()
        if ticket.reply.done():
            return GONE
        if late:
            return DEADLINE
        return reason if filling.cancelled() else filling.result() or reason

    async def _fill(self, ticket: Ticket) -> str | None:
        """Wait for the draws that are out, and make those that are missing after them; why there are still too few.

        The batch, which was left, knows nothing of these draws.
        """
        query = ticket.query
        if ticket.waves:
            await asyncio.wait(ticket.waves)
        missing = _lacking(query)
        if not missing:
            return None
        outcomes: list[Outcome] = []
        draws = [Draw(-1 - index, query.id, round=query.rounds + 1) for index in range(missing)]
        wave = self._drawer.wave(query, draws, outcomes.append)
        task = self._tasks.create_task(wave.run())
        task.add_done_callback(_end(wave))
        ticket.waves.append(task)
        await asyncio.wait([task])
        if not _lacking(query):
            return None
        return BUDGET if any(isinstance(outcome, Denied) for outcome in outcomes) else FAILED

    async def _picked(self, ticket: Ticket, reason: str | None) -> str | None:
        """Have a sample of free prose picked while somebody waits for it; the reason, as it is after that."""
        if self._picker is None or ticket.reply.done() or not to_pick(ticket.query.plan):
            return reason
        picking = self._tasks.create_task(self._picker.pick(ticket.query))
        # nobody pays for the pick of a client that went
        ticket.reply.add_done_callback(lambda _: picking.cancel())
        await asyncio.wait([picking])
        return GONE if ticket.reply.done() else reason

    def _stops(self, query: Query, outcome: Outcome) -> str | None:
        """Why a sample just told ends its query, or None."""
        if not isinstance(outcome, Sample):
            return None
        drawn = query.drawn[outcome.draw]
        if query.filtered and query.plan.strategy.name != "off" and not _lacking(query):
            return CONTENT_FILTER
        if query.plan.probe and drawn.place == 0:
            worth = votable(drawn.choice, drawn.answer, query.plan.answer, query.request)
            return None if worth else PROSE
        return None


def _lacking(query: Query) -> int:
    """How many samples there are too few for the choices that the client wants."""
    return max(0, query.plan.choices - sum(drawn.draw.step not in SILENT for drawn in query.drawn.values()))


def _end(wave: Wave) -> "Callable[[asyncio.Task[None]], None]":
    return lambda _: wave.end()
