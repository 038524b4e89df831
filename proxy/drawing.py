"""How a wave of draws becomes outcomes: prompts, calls with `n`, top-ups, retries, answers, scores.

A draw that is lost is an outcome, never an exception.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import stamina

from proxy.answers import Answer, mean_logprob, read, truncated
from proxy.conditioning import conditioned
from proxy.core.batch import Cancelled, Denied, Draw, Failure, Outcome, Sample
from proxy.errors import LedgerUnavailable, RequestInvalid, TallyError, UpstreamError
from proxy.metering import Errand, Meter, Purse
from proxy.scoring import Scorer
from proxy.types import JSON, Choice, Plan
from proxy.upstream.deployment import Deployment

_ATTEMPTS = 3
_LONGEST_WAIT_S = 20.0
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({400, 413, 422})
_SHORT_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Drawn:
    """A finished sample with its text. `row` is its line in the ledger; `place` its place among its query's draws."""

    place: int
    row: str
    choice: Choice
    answer: Answer | None
    truncated: bool
    score: float | None
    mean_logprob: float | None


@dataclass(slots=True, eq=False)
class Query:
    """One request in a batch, with what was drawn for it. `started` and `deadline` are on the monotonic clock.

    `drawn` is by id of the draw; `places` counts the draws started; `errors` are why draws were lost.
    """

    id: int
    plan: Plan
    request: JSON
    deployment: Deployment
    purse: Purse
    started: float
    deadline: float
    scorer: Scorer | None = None
    drawn: dict[int, Drawn] = field(default_factory=dict)
    places: int = 0
    rounds: int = 0
    head: JSON = field(default_factory=dict)
    errors: list[TallyError] = field(default_factory=list)

    def keep(self, draw: int, place: int, row: str, choice: Choice, score: float | None = None) -> Drawn:
        """Keep a finished choice as a sample of this query."""
        drawn = self.drawn[draw] = Drawn(
            place=place,
            row=row,
            choice=choice,
            answer=read(choice, self.plan.answer, self.request),
            truncated=truncated(choice),
            score=score,
            mean_logprob=mean_logprob(choice),
        )
        return drawn

    def in_order(self) -> list[Drawn]:
        """The finished samples in draw order, whatever order they came in."""
        return sorted(self.drawn.values(), key=lambda drawn: drawn.place)


class Drawer:
    """Makes draws. `clock` is monotonic seconds."""

    def __init__(self, meter: Meter, *, clock: Callable[[], float]) -> None:
        self._meter = meter
        self._clock = clock

    def wave(self, query: Query, draws: Sequence[Draw], tell: Callable[[Outcome], None]) -> "Wave":
        """One wave of draws that share a prompt, ready to `run`; it tells the outcome of each draw once."""
        return Wave(self._meter, self._clock, query, draws, tell)


class Wave:
    """Draws on their way. `end` must follow `run`, also where `run` was cancelled before it began.

    `_untold` maps the draws whose outcome is not told yet to their places; `_missing` are those with no choice."""

    def __init__(
        self,
        meter: Meter,
        clock: Callable[[], float],
        query: Query,
        draws: Sequence[Draw],
        tell: Callable[[Outcome], None],
    ) -> None:
        self._meter = meter
        self._clock = clock
        self._query = query
        self._tell = tell
        self._untold = {draw.id: query.places + index for index, draw in enumerate(draws)}
        self._missing = set(self._untold)
        self._round = draws[0].round
        self._prompt = Prompt(query, draws[0].given)
        query.places += len(draws)
        query.rounds = max(query.rounds, self._round)

    async def run(self) -> None:
        """Make the draws. Losing one is no error here."""
        async with asyncio.TaskGroup() as tasks:
            self._spread(tasks, list(self._untold))

    def end(self) -> None:
        """Tell of every draw that has no outcome yet that it was cancelled."""
        for draw in list(self._untold):
            self._out(draw, Cancelled(draw))

    def _spread(self, tasks: asyncio.TaskGroup, draws: Sequence[int], size: int | None = None) -> None:
        """Start calls of `size` draws each (None: as many as the deployment is known to take)."""
        learning = size is not None
        size = max(1, min(size or len(draws), self._query.deployment.max_n or len(draws)))
        for start in range(0, len(draws), size):
            tasks.create_task(self._call(tasks, draws[start : start + size], learning=learning))

    async def _call(self, tasks: asyncio.TaskGroup, draws: Sequence[int], *, learning: bool) -> None:
        """One call, tried again where that helps; what it leaves missing is topped up by further calls."""
        prompt = self._prompt.version
        try:
            got = await self._attempts(tasks, draws)
        except UpstreamError as error:
            missing = self._still(draws)
            if error.status in _REFUSED and (prompt != self._prompt.version or self._prompt.relax()):
                self._spread(tasks, missing)
            elif error.status in _REFUSED and len(missing) > 1:
                await self._halve(tasks, missing)
            else:
                self._lose(missing, error)
            return
        except (LedgerUnavailable, RequestInvalid) as error:
            self._lose(self._still(draws), error)
            return
        self._prompt.learn()
        missing = self._still(draws)
        if got and (missing or learning):
            self._query.deployment.learn_max_n(got)
        if missing and got:
            self._spread(tasks, missing, got)
        elif missing:
            self._lose(missing, UpstreamError("the provider's reply has no choices", status=502))

    async def _halve(self, tasks: asyncio.TaskGroup, draws: Sequence[int]) -> None:
        """Some refuse `n`, some take only so many. One draw alone tells that from a request that is wrong in itself."""
        try:
            await self._attempts(tasks, draws[:1])
        except (UpstreamError, LedgerUnavailable) as error:
            self._lose(self._still(draws), error)
            return
        self._spread(tasks, self._still(draws), len(draws) // 2)

    async def _attempts(self, tasks: asyncio.TaskGroup, draws: Sequence[int]) -> int:
        """A call and, after an error that may pass, another; returns how many choices the last one gave."""
        got = 0
        async for attempt in stamina.retry_context(on=self._wait, attempts=_ATTEMPTS, timeout=self._left()):
            with attempt:
                got = await self._attempt(tasks, self._still(draws))
        return got

    async def _attempt(self, tasks: asyncio.TaskGroup, draws: Sequence[int]) -> int:
        if not draws:
            return 0
        query = self._query
        place = self._untold[draws[0]]
        errand = Errand("draw", self._round, place)
        got = 0
        async with (
            query.deployment.slot(),
            self._meter.call(
                query.purse,
                query.deployment,
                self._prompt.seeded(place),
                errand,
                choices=len(draws),
                deadline=query.deadline,
            ) as call,
        ):
            for draw in draws[call.granted :]:
                self._out(draw, Denied(draw))
            if not call.granted:
                return 0
            async with aclosing(call.choices(self._left())) as choices:
                async for choice in choices:
                    if choice.index < call.granted:
                        self._missing.discard(draws[choice.index])
                        self._arrived(tasks, draws[choice.index], call.row_id(choice.index), choice)
                        query.head = query.head or call.assembled.head
                        got += 1
        return got

    def _arrived(self, tasks: asyncio.TaskGroup, draw: int, row: str, choice: Choice) -> None:
        if self._query.scorer is None:
            self._finish(draw, row, choice, None)
        else:
            tasks.create_task(self._scored(self._query.scorer, draw, row, choice))

    async def _scored(self, scorer: Scorer, draw: int, row: str, choice: Choice) -> None:
        query = self._query
        self._finish(draw, row, choice, await scorer.score(query.purse, query.request, choice, query.deadline))

    def _finish(self, draw: int, row: str, choice: Choice, score: float | None) -> None:
        drawn = self._query.keep(draw, self._untold[draw], row, choice, score)
        label = None if drawn.answer is None or drawn.truncated else drawn.answer.label
        self._out(draw, Sample(draw, label, score, choice.tokens))

    def _still(self, draws: Sequence[int]) -> list[int]:
        return [draw for draw in draws if draw in self._missing]

    def _lose(self, draws: Sequence[int], error: TallyError) -> None:
        self._query.errors.append(error)
        for draw in draws:
            self._out(draw, Failure(draw))

    def _out(self, draw: int, outcome: Outcome) -> None:
        self._missing.discard(draw)
        del self._untold[draw]
        self._tell(outcome)

    def _left(self) -> float:
        return max(0.001, self._query.deadline - self._clock())

    def _wait(self, error: Exception) -> bool | float:
        """Whether, or in how many seconds, a call that failed with `error` is tried again."""
        if not isinstance(error, UpstreamError) or error.status not in _RETRIED:
            return False
        if error.retry_after is None:
            return True
        return error.retry_after if error.retry_after <= min(_LONGEST_WAIT_S, self._left()) else False


class Prompt:
    """The body that a wave's calls send, and what may be taken out of it where a deployment refuses it.

    `version` counts what was taken out.
    """

    def __init__(self, query: Query, given: Sequence[int]) -> None:
        self.version = 0
        self._query = query
        attempts = [query.drawn[draw].choice.content for draw in given if draw in query.drawn]
        self._shown = conditioned(query.request, attempts)
        self._wanted_logprobs = query.plan.strategy.name == "optscale" and query.deployment.gives_logprobs
        self._logprobs = self._wanted_logprobs
        self._body = self._build()

    def seeded(self, place: int) -> JSON:
        """The body with a seed of its own: choice i of a call has seed + i on most servers, so places never clash."""
        seed = self._query.request.get("seed")
        return {**self._body, "seed": seed + place} if isinstance(seed, int) else self._body

    def relax(self) -> bool:
        """Take out what tally itself put in, one thing at a time; false when nothing is left."""
        if self._shown is not None:
            self._shown = None
        elif self._logprobs and "logprobs" not in self._query.request:
            self._logprobs = False
        else:
            return False
        self.version += 1
        self._body = self._build()
        return True

    def learn(self) -> None:
        """A call went through: remember what had to be taken out for it."""
        if self._wanted_logprobs and not self._logprobs:
            self._query.deployment.gives_logprobs = False

    def _build(self) -> JSON:
        query = self._query
        body = query.deployment.body(self._shown or query.request)
        for name in ("n", "stream", "stream_options"):
            body.pop(name, None)
        if query.deployment.streams and _worth_streaming(query.plan, body):
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        if self._logprobs:
            body.setdefault("logprobs", True)
        return body


def _worth_streaming(plan: Plan, body: JSON) -> bool:
    """Whether draws are streamed: where they may be cancelled, or are not known to be short.

    A call that is not streamed runs on after a disconnect, and is reserved whole.
    """
    if plan.strategy.name in {"dynscaling", "optscale"}:
        return True
    limits = [body[key] for key in ("max_completion_tokens", "max_tokens") if isinstance(body.get(key), int)]
    return not limits or min(limits) > _SHORT_TOKENS
