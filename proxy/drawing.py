"""How a wave of draws becomes outcomes: prompts, calls with `n`, top-ups, retries, answers, scores.

A draw that is lost is an outcome, never an exception.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Literal

import stamina

from proxy.answers import Answer
from proxy.conditioning import prompt, said
from proxy.core.batch import Cancelled, Denied, Draw, Failure, Outcome, Sample
from proxy.core.strategies import scored
from proxy.core.vote import SILENT
from proxy.errors import TallyError, UpstreamError
from proxy.keeping import Kept
from proxy.metering import Errand, Meter
from proxy.query import Drawn, Query
from proxy.scoring import Scorer
from proxy.scoring.grade import grade
from proxy.scoring.logprobs import LogprobScorer
from proxy.types import JSON, Plan, StrategyName

_ATTEMPTS = 3
_LONGEST_WAIT_S = 20.0
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({400, 413, 422})
_SHORT_TOKENS = 1024
_SEEDS = 2**63
_GRACE_S = 1.0
_CANCELLING: frozenset[StrategyName] = frozenset({"dynscaling", "optscale", "adaptive", "adaptive_consistency", "pets"})
"""Strategies that may decide a query while draws of it are in flight."""

Form = Literal["full", "stream", "bare"]
"""How much of a prompt is sent: see `Prompt.seeded`."""


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

    `_untold` maps the draws whose outcome is not told yet to their places; `_missing` are those with no choice, and
    `_reused` those that an earlier try of the request has made already.
    """

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
        self._reused = query.reuse(draws)
        fresh = [draw.id for draw in draws if draw.id not in self._reused]
        self._untold = {draw: kept.place for draw, kept in self._reused.items()}
        self._untold |= {draw: query.places + index for index, draw in enumerate(fresh)}
        self._missing = set(fresh)
        self._last_error: UpstreamError | None = None
        self._kind = draws[0]
        self._prompt = Prompt(query, self._kind)
        query.places += len(fresh)
        query.rounds = max(query.rounds, self._kind.round)

    async def run(self) -> None:
        """Make the draws. Losing one is no error here."""
        fresh = self._still(list(self._untold))
        async with asyncio.TaskGroup() as tasks:
            for draw, kept in self._reused.items():
                self._again(tasks, draw, kept)
            self._spread(tasks, fresh)

    def end(self) -> None:
        """Tell of every draw that has no outcome yet that it was cancelled."""
        for draw in list(self._untold):
            self._out(draw, Cancelled(draw))

    def _spread(self, tasks: asyncio.TaskGroup, draws: Sequence[int]) -> None:
        """Start calls of as many draws each as the deployment is known to take."""
        size = self._query.deployment.max_n or max(1, len(draws))
        for start in range(0, len(draws), size):
            tasks.create_task(self._call(tasks, draws[start : start + size]))

    async def _call(self, tasks: asyncio.TaskGroup, draws: Sequence[int]) -> None:
        """One call, tried again where that helps; what it leaves missing is topped up by further calls."""
        version = self._prompt.version
        try:
            got = await self._attempts(tasks, draws)
        except TallyError as error:
            missing = self._still(draws)
            if not isinstance(error, UpstreamError) or error.status not in _REFUSED:
                self._lose(missing, error)
            elif self._prompt.version > version:
                self._spread(tasks, missing)
            elif len(missing) > 1 or self._prompt.extras or self._prompt.untried_stream:
                await self._refused(tasks, missing)
            else:
                self._lose(missing, error)
            return
        missing = self._still(draws)
        if missing and got:
            self._spread(tasks, missing)
        elif missing:
            self._lose(missing, UpstreamError("the provider's reply has no choices", status=502))

    async def _refused(self, tasks: asyncio.TaskGroup, draws: Sequence[int]) -> None:
        """The request itself is refused, or what tally put into it, or `n`. One bare draw tells the first apart."""
        suspect = self._prompt.extras or self._prompt.untried_stream
        try:
            got = await self._attempts(tasks, draws[:1], "bare")
        except TallyError as error:
            self._lose(self._still(draws), error)
            return
        rest = self._still(draws)
        if got and suspect and (not rest or await self._refuses(tasks, rest[:1], "full")):
            await self._blame(tasks, rest[:1])
        elif got and rest:
            self._query.deployment.learn_max_n(-(-len(draws) // 2))
        self._spread(tasks, self._still(draws))

    async def _blame(self, tasks: asyncio.TaskGroup, draws: Sequence[int]) -> None:
        """Take out what is refused: the stream, or what tally put in. Where both may be it, a stream alone tells."""
        prompt = self._prompt
        if not prompt.untried_stream:
            prompt.strip()
        elif not prompt.extras or (draws and await self._refuses(tasks, draws, "stream")):
            prompt.unstream()
        elif not prompt.untried_stream:
            prompt.strip()

    async def _refuses(self, tasks: asyncio.TaskGroup, draws: Sequence[int], form: Form) -> bool:
        """Whether the deployment refuses a form of the prompt, also for one draw alone."""
        try:
            await self._attempts(tasks, draws, form)
        except TallyError as error:
            if isinstance(error, UpstreamError) and error.status in _REFUSED:
                return True
            self._lose(self._still(draws), error)
        return False

    async def _attempts(self, tasks: asyncio.TaskGroup, draws: Sequence[int], form: Form = "full") -> int:
        """A call and, after an error that may pass, another; returns how many choices the last one gave."""
        got = 0
        async for attempt in stamina.retry_context(on=self._wait, attempts=_ATTEMPTS, timeout=self._left()):
            with attempt:
                try:
                    got = await self._attempt(tasks, self._still(draws), form)
                except UpstreamError as error:
                    # where no budget is left to try again, this is what went wrong
                    self._last_error = error
                    raise
        return got

    async def _attempt(self, tasks: asyncio.TaskGroup, draws: Sequence[int], form: Form) -> int:
        if not draws:
            return 0
        async with self._query.deployment.slot():
            # only now: while the place was waited for, something of the prompt may have been refused
            return await self._call_once(tasks, draws, form)

    async def _call_once(self, tasks: asyncio.TaskGroup, draws: Sequence[int], form: Form) -> int:
        query = self._query
        kind = self._kind if self._prompt.shows(form) else replace(self._kind, given=())
        errand = Errand(kind.step if kind.step in SILENT else "draw", kind.round, self._untold[draws[0]])
        got = 0
        async with self._meter.call(
            query.purse,
            query.deployment,
            self._prompt.seeded(self._first_place(draws), form),
            errand,
            choices=len(draws),
            deadline=query.deadline,
        ) as call:
            for draw in draws[call.granted :]:
                self._out(draw, Denied(draw))
            if not call.granted:
                self._query.errors += [self._last_error] if self._last_error else []
                return 0
            # a call outlives the deadline, which cancels it: what came by then is counted, and nothing is lost
            async with aclosing(call.choices(min(query.deployment.timeout, self._left() + _GRACE_S))) as choices:
                async for choice in choices:
                    if choice.index < call.granted:
                        made = replace(kind, id=draws[choice.index])
                        self._missing.discard(made.id)
                        drawn = query.keep(made, self._untold[made.id], call.row_id(choice.index), choice)
                        self._arrived(tasks, drawn)
                        query.head = query.head or call.assembled.head
                        got += 1
        query.cut |= call.was_cut
        if got and call.whole:
            query.deployment.came(got, of=call.granted)
        return got

    def _again(self, tasks: asyncio.TaskGroup, draw: int, kept: Kept) -> None:
        """A sample that was drawn, and paid for, by an earlier try of the request."""
        query = self._query
        ids = {drawn.place: drawn.draw.id for drawn in query.drawn.values()}
        query.purse.drawn_tokens += kept.choice.tokens
        kind = replace(self._kind, id=draw, given=tuple(ids[place] for place in kept.given))
        self._arrived(tasks, query.keep(kind, kept.place, kept.row, kept.choice, kept.score))

    def _arrived(self, tasks: asyncio.TaskGroup, drawn: Drawn) -> None:
        """A sample that is in hand from now on, also where its score never comes."""
        draw = drawn.draw.id
        if self._kind.step == "grade":
            graded = self._kind.given[0]
            self._query.drawn[graded] = replace(self._query.drawn[graded], score=grade(drawn.choice))
        answer = None if drawn.truncated else drawn.answer
        label = None if answer is None else self._query.groups.quick(answer)
        # what has no ballot is not worth a verifier's price
        scorer = None if self._kind.step in SILENT or drawn.score is not None else self._query.scorer
        if scorer is None and (answer is None or label is not None):
            self._out(draw, Sample(draw, label, drawn.score, drawn.choice.tokens))
        else:
            tasks.create_task(self._judged(drawn, answer, label, scorer))

    async def _judged(self, drawn: Drawn, answer: Answer | None, label: Hashable | None, scorer: Scorer | None) -> None:
        """Tell of a sample once it is known what it is worth, and which others say the same."""
        query, draw, score = self._query, drawn.draw.id, drawn.score
        if scorer is not None:
            score = await scorer.score(query.purse, query.request, drawn.choice, query.deadline)
            query.drawn[draw] = replace(drawn, score=score)
        if answer is not None and label is None:
            label = await query.groups.label(answer)
        self._out(draw, Sample(draw, label, score, drawn.choice.tokens))

    def _first_place(self, draws: Sequence[int]) -> int:
        """The place whose seed a call gets, where choice i has seed + i: draws with gaps between need new places."""
        first, query = self._untold[draws[0]], self._query
        if self._untold[draws[-1]] - first != len(draws) - 1:
            first, query.places = query.places, query.places + len(draws)
        return first

    def _still(self, draws: Sequence[int]) -> list[int]:
        return [draw for draw in draws if draw in self._missing]

    def _lose(self, draws: Sequence[int], error: TallyError) -> None:
        for draw in draws:
            self._query.errors.append(error)
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
    """The body that a wave's calls send: the request with what tally puts in, until something of it is refused.

    An answer can do without the earlier ones that it is shown; any other step is nothing without them, so there its own
    prompt stands for the request. `version` counts what was taken out.
    """

    def __init__(self, query: Query, draw: Draw) -> None:
        self.version = 0
        self._query = query
        shown = prompt(query.request, draw.step, _texts(query, draw)) if draw.given else None
        self._request = query.request if shown is None or draw.step == "answer" else shown
        self._shown = shown if draw.step == "answer" else None
        self._logprobs = _logprobs_wanted(query) if "logprobs" not in query.request else {}
        self._build()

    def shows(self, form: Form) -> bool:
        """Whether a form of it shows earlier draws."""
        return self._request is not self._query.request or (form == "full" and self._shown is not None)

    @property
    def extras(self) -> bool:
        """Whether there is anything in it that tally itself put in, but for asking for a stream."""
        return self._shown is not None or bool(self._logprobs)

    @property
    def untried_stream(self) -> bool:
        """Whether it asks for a stream of a deployment that has never given one."""
        return bool(self._plain.get("stream")) and not self._query.deployment.has_streamed

    def seeded(self, place: int, form: Form) -> JSON:
        """The body with a seed of its own: choice i of a call has seed + i on most servers, so places never clash.

        `full` is all of it, `stream` the request alone, `bare` the request alone and no stream that was never tried.
        """
        body = self._full if form == "full" else self._plain
        if form == "bare" and self.untried_stream:
            body = self._body(self._request, stream=False)
        seed = self._query.request.get("seed")
        # a number that does not fit in 64 bits is no JSON that everybody reads
        return {**body, "seed": seed + place - (seed + place >= _SEEDS) * _SEEDS} if isinstance(seed, int) else body

    def strip(self) -> None:
        """Take out what tally put in, which the deployment refuses; and remember what it would always refuse."""
        if self._logprobs:
            self._query.deployment.gives_logprobs = False
        self._shown, self._logprobs = None, {}
        self._build()
        self.version += 1

    def unstream(self) -> None:
        """Ask for whole replies: the deployment does not stream, and is remembered for it."""
        self._query.deployment.streams = False
        self._build()
        self.version += 1

    def _build(self) -> None:
        self._plain = self._body(self._request)
        self._full = self._body(self._shown or self._request) | self._logprobs

    def _body(self, request: JSON, *, stream: bool = True) -> JSON:
        query = self._query
        body = query.deployment.body(request)
        for name in ("n", "stream", "stream_options"):
            body.pop(name, None)
        if stream and query.deployment.streams and _worth_streaming(query.plan, body):
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return body


def _logprobs_wanted(query: Query) -> JSON:
    """What the draws of a query ask for on behalf of its scores, as far as its deployment gives it."""
    if not scored(query.plan.strategy) or not query.deployment.gives_logprobs:
        return {}
    if query.scorer is None:
        return {"logprobs": True}
    return query.scorer.asks if isinstance(query.scorer, LogprobScorer) else {}


def _texts(query: Query, draw: Draw) -> list[str]:
    """What a draw is shown: what the draws it is given said, or only the answer, where that is all it may see."""
    given = [query.drawn[each] for each in draw.given if each in query.drawn]
    if draw.step != "rethink":
        return [said(drawn.choice) for drawn in given]
    # an answer that was cut to be shown to people is none
    whole = [drawn.answer.text if drawn.answer and not drawn.answer.text.endswith("…") else "" for drawn in given]
    return [text or said(drawn.choice) for text, drawn in zip(whole, given, strict=True)]


def _worth_streaming(plan: Plan, body: JSON) -> bool:
    """Whether draws are streamed: where they may be cancelled, or are not known to be short.

    A call that is not streamed runs on after a disconnect, and is reserved whole.
    """
    if plan.strategy.name in _CANCELLING:
        return True
    limits = [body[key] for key in ("max_completion_tokens", "max_tokens") if isinstance(body.get(key), int)]
    return not limits or min(limits) > _SHORT_TOKENS
