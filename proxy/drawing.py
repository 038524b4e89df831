"""How a wave of draws becomes outcomes: prompts, calls with `n`, top-ups, retries, answers, scores.

A draw that is lost is an outcome, never an exception.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from operator import is_

import stamina

from proxy.answers import Answer
from proxy.conditioning import prompt, said
from proxy.core.batch import Cancelled, Denied, Draw, Failure, Outcome, Sample
from proxy.core.vote import SILENT
from proxy.errors import BudgetExceeded, TallyError, UpstreamError, UpstreamTimeout
from proxy.keeping import Kept
from proxy.metering import Errand, Meter, MeteredCall
from proxy.prompting import Form, Prompt
from proxy.query import Drawn, Query
from proxy.scoring import Scorer
from proxy.scoring.grade import grade
from proxy.upstream.caching import caches
from proxy.upstream.deployment import Deployment
from proxy.upstream.need import Need, Place
from proxy.upstream.routing import Tour

_LONGEST_WAIT_S = 20.0
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({400, 413, 422})
_GRACE_S = 1.0
_TELLING_S = 0.05
_CACHING_SHARE = 0.25
"""The most of the time that is left which draws wait for a prompt's cache."""


class Drawer:
    """Makes draws. `clock` is monotonic seconds; `cache_first`: a long prompt is cached before it goes out again."""

    def __init__(self, meter: Meter, *, clock: Callable[[], float], cache_first: bool = False) -> None:
        self._meter = meter
        self._clock = clock
        self._cache_first = cache_first

    def wave(self, query: Query, draws: Sequence[Draw], tell: Callable[[Outcome], None]) -> "Wave":
        """One wave of draws that share a prompt, ready to `run`; it tells the outcome of each draw once."""
        return Wave(self._meter, self._clock, query, draws, tell, cache_first=self._cache_first)


class Wave:
    """Draws on their way. `end` must follow `run`, also where `run` was cancelled before it began.

    `_untold` maps the draws whose outcome is not told yet to their places; `_missing` are those with no choice, and
    `_reused` those that an earlier try of the request has made already. `_useless` are fallbacks that refused the
    request, or cannot be paid: they are not asked again.
    """

    def __init__(
        self,
        meter: Meter,
        clock: Callable[[], float],
        query: Query,
        draws: Sequence[Draw],
        tell: Callable[[Outcome], None],
        *,
        cache_first: bool = False,
    ) -> None:
        self._meter = meter
        self._clock = clock
        self._cache_first = cache_first
        self._query = query
        self._tell = tell
        self._reused = query.reuse(draws)
        fresh = [draw.id for draw in draws if draw.id not in self._reused]
        self._untold = {draw: kept.place for draw, kept in self._reused.items()}
        self._untold |= {draw: query.places + index for index, draw in enumerate(fresh)}
        self._missing = set(fresh)
        self._last_error: UpstreamError | None = None
        self._kind = draws[0]
        self._shown = prompt(query.request, self._kind.step, _texts(query, self._kind)) if self._kind.given else None
        self._prompts: dict[Deployment, Prompt] = {}
        self._useless: set[Deployment] = set()
        query.places += len(fresh)
        query.rounds = max(query.rounds, self._kind.round)

    async def run(self) -> None:
        """Make the draws. Losing one is no error here."""
        fresh = self._still(list(self._untold))
        async with asyncio.TaskGroup() as tasks:
            for draw, kept in self._reused.items():
                self._again(tasks, draw, kept)
            if fresh:
                # the first call needs no task of its own
                await self._call(tasks, fresh)

    def end(self) -> None:
        """Tell of every draw that has no outcome yet that it was cancelled."""
        for draw in list(self._untold):
            self._out(draw, Cancelled(draw))

    def _spread(self, tasks: asyncio.TaskGroup, draws: Sequence[int]) -> None:
        """Start a call for draws; those that its deployment does not take at once get calls of their own."""
        if draws:
            tasks.create_task(self._call(tasks, draws))

    async def _call(self, tasks: asyncio.TaskGroup, draws: Sequence[int]) -> None:
        """One call, tried again where that helps; what it leaves missing is topped up by further calls."""
        call = _Call(draws)
        try:
            got = await self._attempts(tasks, call)
        except TallyError as error:
            self._lose(self._still(call.draws), error)
            return
        missing = self._still(call.draws)
        if call.refusal is not None and call.prompt is not None:
            await self._refused(tasks, call.prompt, missing, call.refusal, since=call.version)
        elif got:
            self._spread(tasks, missing)
        else:
            self._lose(missing, UpstreamError("the provider's reply has no choices", status=502))

    async def _refused(
        self, tasks: asyncio.TaskGroup, prompt: Prompt, draws: Sequence[int], refusal: UpstreamError, *, since: int
    ) -> None:
        """The request itself is refused, or what tally put into it, or `n`. One bare draw tells the first apart."""
        suspect = prompt.extras or prompt.untried_stream
        if prompt.version > since:
            self._spread(tasks, draws)
        elif len(draws) > 1 or suspect:
            await self._tell_apart(tasks, prompt, draws, suspect=suspect)
        else:
            self._give_up(tasks, prompt.deployment, draws, refusal)

    async def _tell_apart(
        self, tasks: asyncio.TaskGroup, prompt: Prompt, draws: Sequence[int], *, suspect: bool
    ) -> None:
        bare = _Call(draws[:1], "bare", prompt.deployment)
        try:
            got = await self._attempts(tasks, bare)
        except TallyError as error:
            self._give_up(tasks, prompt.deployment, draws, error)
            return
        if bare.refusal is not None:
            self._give_up(tasks, prompt.deployment, draws, bare.refusal)
            return
        rest = self._still(draws)
        if got and suspect and (not rest or await self._refuses(tasks, prompt, rest[:1], "full")):
            await self._blame(tasks, prompt, rest[:1])
        elif got and rest:
            prompt.deployment.learn_max_n(-(-len(draws) // 2))
        self._spread(tasks, self._still(draws))

    async def _blame(self, tasks: asyncio.TaskGroup, prompt: Prompt, draws: Sequence[int]) -> None:
        """Take out what is refused: the stream, or what tally put in. Where both may be it, a stream alone tells."""
        if not prompt.untried_stream:
            prompt.strip()
        elif not prompt.extras or (draws and await self._refuses(tasks, prompt, draws, "stream")):
            prompt.unstream()
        elif not prompt.untried_stream:
            prompt.strip()

    async def _refuses(self, tasks: asyncio.TaskGroup, prompt: Prompt, draws: Sequence[int], form: Form) -> bool:
        """Whether the deployment refuses a form of the prompt, also for one draw alone."""
        call = _Call(draws, form, prompt.deployment)
        try:
            await self._attempts(tasks, call)
        except TallyError as error:
            if not self._dismissed(prompt.deployment, error):
                self._lose(self._still(draws), error)
        return call.refusal is not None

    async def _attempts(self, tasks: asyncio.TaskGroup, call: "_Call") -> int:
        """A call and, after an error that may pass, another; returns how many choices the last one gave."""
        try:
            # most calls need no second attempt, nor what looks after one
            return await self._attempt(tasks, call)
        except UpstreamError as error:
            if self._wait(error) is False:
                raise
            failed: UpstreamError | None = error
        got, attempts = 0, 1 + self._query.route.retries
        async for attempt in stamina.retry_context(on=self._wait, attempts=attempts, timeout=self._left()):
            with attempt:
                if failed is not None:
                    first, failed = failed, None
                    raise first
                got = await self._attempt(tasks, call)
        return got

    async def _attempt(self, tasks: asyncio.TaskGroup, call: "_Call") -> int:
        """A call to one deployment and, where it fails, to the next."""
        tour = self._tour(call)
        while draws := self._still(call.draws):
            tour.need.choices = len(draws)
            async with tour.stop() as place:
                call.draws, rest = draws[: place.choices], draws[place.choices :]
                # only now: while the place was waited for, something of the prompt may have been refused
                call.prompt = self._prompt(place.deployment)
                call.version = call.prompt.version
                call.cached = self._caching(place.deployment, rest)
                if call.cached is None:
                    self._spread(tasks, rest)
                else:
                    tasks.create_task(self._after(call.cached, tasks, rest))
                try:
                    return await self._call_once(tasks, call, place, call.prompt)
                except UpstreamError as error:
                    if place.deployment in self._query.route.own:
                        # where no budget is left to try again, this is what went wrong
                        self._last_error = error
                    if error.status not in _REFUSED:
                        raise
                    # nothing that another deployment, or another try, would mend
                    call.refusal = error
                    return 0
                finally:
                    if call.cached is not None:
                        call.cached.set()
        return 0

    def _caching(self, deployment: Deployment, rest: Sequence[int]) -> asyncio.Event | None:
        """What the `rest` waits for where this call is to write their prompt into the provider's cache; or None."""
        query = self._query
        if not (self._cache_first and rest) or deployment in query.cached or not caches(deployment, query.request):
            return None
        query.cached.add(deployment)
        return asyncio.Event()

    async def _after(self, cached: asyncio.Event, tasks: asyncio.TaskGroup, draws: Sequence[int]) -> None:
        """Start calls for draws once their prompt is in the cache, or it takes too long to get there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._left() * _CACHING_SHARE):
                await cached.wait()
        self._spread(tasks, self._still(draws))

    def _tour(self, call: "_Call") -> Tour:
        query, only = self._query, call.only
        fits = self._fits if only is None else partial(is_, only)
        need = Need(self._shown or query.request)
        # what is told of full limits must be told before the deadline, which else ends all that waits
        return Tour(query.route, need, fits=fits, deadline=query.deadline - _TELLING_S, patient=True)

    def _fits(self, deployment: Deployment) -> bool:
        return deployment not in self._useless and self._query.purse.knows_price(deployment)

    def _prompt(self, deployment: Deployment) -> Prompt:
        found = self._prompts.get(deployment)
        if found is None:
            found = self._prompts[deployment] = Prompt(self._query, deployment, self._kind.step, self._shown)
        return found

    async def _call_once(self, tasks: asyncio.TaskGroup, asked: "_Call", place: Place, prompt: Prompt) -> int:
        query, deployment, draws, form = self._query, place.deployment, asked.draws, asked.form
        kind = self._kind if prompt.shows(form) else replace(self._kind, given=())
        errand = Errand(kind.step if kind.step in SILENT else "draw", kind.round, self._untold[draws[0]])
        began = self._clock()
        async with self._meter.call(
            query.purse,
            deployment,
            prompt.seeded(self._first_place(draws), form),
            errand,
            choices=len(draws),
            deadline=query.deadline,
            taken=place.taken,
        ) as call:
            if not call.granted or self._too_few(call.granted, len(draws)):
                raise BudgetExceeded("The budget does not hold this draw.")
            for draw in draws[call.granted :]:
                self._out(draw, Denied(draw))
            call.begun = None if asked.cached is None else asked.cached.set
            try:
                # a call outlives the deadline, which cancels it: what came by then is counted, and nothing is lost
                got = await self._read(tasks, call, kind, draws, min(deployment.timeout, self._left() + _GRACE_S))
            except asyncio.CancelledError:
                if not call.assembled.started:
                    self._silent(deployment, since=began)
                raise
        query.cut |= call.was_cut
        if got and call.whole:
            deployment.came(got, of=call.granted)
        return got

    def _too_few(self, granted: int, wanted: int) -> bool:
        """Whether the budget holds one sample of several, and the tenant wants nothing less than a vote."""
        first = not self._query.drawn and self._query.plan.strategy.name != "off"
        return first and granted == 1 < wanted and self._query.plan.tenant.on_exhausted == "refuse"

    async def _read(
        self, tasks: asyncio.TaskGroup, call: MeteredCall, kind: Draw, draws: Sequence[int], left: float
    ) -> int:
        """Take in the choices of a call as they come; how many there were of those that were asked for."""
        query, got = self._query, 0
        async with aclosing(call.choices(left)) as choices:
            async for choice in choices:
                if choice.index < call.granted:
                    made = Draw(draws[choice.index], kind.query, kind.given, kind.round, kind.step)
                    self._missing.discard(made.id)
                    self._arrived(tasks, query.keep(made, self._untold[made.id], call.row_id(choice.index), choice))
                    query.head = query.head or call.assembled.head
                    got += 1
        return got

    def _silent(self, deployment: Deployment, *, since: float) -> None:
        """A call that brought nothing was stopped: the deadline, if it is that, cancels what never fails by itself."""
        query, now = self._query, self._clock()
        # one that began late says nothing of its deployment
        if now >= query.deadline - _TELLING_S and now - since >= (query.deadline - query.started) / 2:
            deployment.failed(UpstreamTimeout("the provider did not answer in time"))

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

    def _give_up(
        self, tasks: asyncio.TaskGroup, deployment: Deployment, draws: Sequence[int], error: TallyError
    ) -> None:
        """Lose draws that one deployment alone was asked for, or begin anew without it where it is a fallback."""
        if self._dismissed(deployment, error):
            self._spread(tasks, self._still(draws))
        else:
            self._lose(self._still(draws), error)

    def _dismissed(self, deployment: Deployment, error: TallyError) -> bool:
        """Whether it is only a fallback that cannot do it, which is left out from now on."""
        if deployment in self._query.route.own or not isinstance(error, UpstreamError | BudgetExceeded):
            return False
        self._useless.add(deployment)
        return True

    def _lose(self, draws: Sequence[int], error: TallyError) -> None:
        denied = isinstance(error, BudgetExceeded)
        if not denied:
            self._query.errors += [error] * len(draws)
        elif draws and self._last_error is not None:
            self._query.errors.append(self._last_error)
        for draw in draws:
            self._out(draw, Denied(draw) if denied else Failure(draw))

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


@dataclass(slots=True)
class _Call:
    """Draws that are asked for together, in one `form`, of any deployment or of one `only`.

    `prompt` is what the last deployment was sent, as it was in `version`; `refusal` is why that did not take it.
    `cached` is set once the prompt is in the provider's cache, where others wait for that.
    """

    draws: Sequence[int]
    form: Form = "full"
    only: Deployment | None = None
    prompt: Prompt | None = None
    version: int = 0
    refusal: UpstreamError | None = None
    cached: asyncio.Event | None = None


def _texts(query: Query, draw: Draw) -> list[str]:
    """What a draw is shown: what the draws it is given said, or only the answer, where that is all it may see."""
    given = [query.drawn[each] for each in draw.given if each in query.drawn]
    if draw.step != "rethink":
        return [said(drawn.choice) for drawn in given]
    # an answer that was cut to be shown to people is none
    whole = [drawn.answer.text if drawn.answer and not drawn.answer.text.endswith("…") else "" for drawn in given]
    return [text or said(drawn.choice) for text, drawn in zip(whole, given, strict=True)]
