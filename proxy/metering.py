"""One upstream call inside a reservation: reserve, send, extend, settle exactly once, whatever happens.

Everything that costs money goes through here: draws, relayed calls, judges, reward models, embeddings.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from math import ceil
from types import TracebackType
from typing import NamedTuple

from proxy.errors import BudgetExceeded, UpstreamError
from proxy.ledger import Amount, DrawRow, Ledger, Refused, Reservation, Settlement
from proxy.ledger.rows import row_id, rows, split
from proxy.money import Rates
from proxy.purse import Purse
from proxy.types import JSON, Choice, Usage
from proxy.upstream.asked import asking, dearest, given_service
from proxy.upstream.assemble import Assembler
from proxy.upstream.billing import shares
from proxy.upstream.deployment import Deployment
from proxy.upstream.limits import Taken
from proxy.upstream.need import Need, Place
from proxy.upstream.reply import parsed, prompt_usage
from proxy.upstream.routing import Route, Tour
from proxy.upstream.skim import Pattern, Skimmer
from proxy.upstream.usage import PROMPT_SHARE, billed, output_bound
from proxy.values import value

UNKNOWN_OUTPUT = 16_384
"""Tokens reserved for a choice that comes in one piece when nobody says how long it can get."""

_GRACE_S = 60.0
_LEAST_S = 0.001
_MARGIN = 8
_FREE = Rates(0, 0)
DRAW = "draw"
"""What a call is for whose choices are samples."""

_ASIDE = frozenset({"judge", "universal"})
"""Calls whose completions are no samples: they are paid for, and not in the usage that the client is told."""


@value(frozen=True, slots=True)
class Errand:
    """What a call is for, as its ledger rows tell it: `index` is the first draw's place in its query."""

    purpose: str
    round: int = 1
    index: int = 0

    @property
    def samples(self) -> int:
        """How many samples a choice of it is: 1 for a draw, 0 for all else."""
        return int(self.purpose == DRAW)


class Chunk(NamedTuple):
    """One chunk of a streamed call: its bytes, the same parsed, and the choices that it finished.

    One that only adds a text, as another did before, is not parsed: it is `alike` that, and finishes nothing.
    """

    raw: bytes
    payload: JSON
    finished: Sequence[Choice] = ()
    alike: Pattern | None = None


class Posted(NamedTuple):
    """What a plain POST was answered with: its bytes, the same parsed, and who said so."""

    raw: bytes
    payload: JSON
    deployment: Deployment


class Meter:
    """Opens metered calls. `clock` is monotonic seconds; `slice_tokens` the output reserved at a time."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float], slice_tokens: int = 1024) -> None:
        self._ledger = ledger
        self._clock = clock
        self._slice = slice_tokens

    def call(
        self,
        purse: Purse,
        deployment: Deployment,
        body: JSON,
        errand: Errand,
        *,
        choices: int,
        deadline: float,
        taken: Taken | None = None,
        generates: bool = True,
    ) -> "_Opening":
        """Reserve for up to `choices` choices (`granted` says for how many) and settle when the block ends.

        `body` is the upstream's, without `n`; `deadline` is on the monotonic clock; `taken` is the call's part of the
        deployment's minute; `generates` false: there is only a prompt to pay for. Raises LedgerUnavailable, and
        RequestInvalid where a limit in money meets an unknown price, of the model or of what the body turns on.
        """
        call = MeteredCall(
            ledger=self._ledger,
            clock=self._clock,
            purse=purse,
            deployment=deployment,
            body=body,
            errand=errand,
            slice_tokens=self._slice,
            taken=taken,
            generates=generates,
        )
        return _Opening(call, choices, deadline - self._clock() + _GRACE_S)

    async def post(
        self, purse: Purse, route: Route, path: str, request: JSON, errand: Errand, *, deadline: float
    ) -> JSON | None:
        """One plain POST that generates nothing (see `Lane.post`): its reply, or None where the budget has no room.

        Its prompt is reserved, at most so many tokens as it has bytes, and what the server's `usage` tells is charged,
        at the deployment's input rate; the reservation where it tells nothing. Holds one of the deployment's places.
        Raises UpstreamError, LedgerUnavailable, RateLimited where no deployment has room in time, and RequestInvalid
        where a limit in money meets an unknown price.
        """
        posted = await self.passed(purse, route, path, request, errand, deadline=deadline)
        return None if posted is None else posted.payload

    async def passed(
        self, purse: Purse, route: Route, path: str, request: JSON, errand: Errand, *, deadline: float
    ) -> Posted | None:
        """The same for a reply that is passed on."""
        need = Need(request, generates=False)
        tour = Tour(route, need, fits=purse.knows_price, deadline=deadline)
        try:
            while True:
                async with tour.stop() as place:
                    return await self._post(purse, place, path, request, errand=errand, deadline=deadline)
        except BudgetExceeded:
            return None

    async def _post(
        self, purse: Purse, place: Place, path: str, request: JSON, *, errand: Errand, deadline: float
    ) -> Posted:
        deployment = place.deployment
        body = deployment.body(request)
        async with self.call(
            purse, deployment, body, errand, choices=1, deadline=deadline, taken=place.taken, generates=False
        ) as call:
            if not call.granted:
                raise BudgetExceeded("The budget does not hold this request.")
            left = max(_LEAST_S, deadline - self._clock())
            raw, payload = await call.post(path, min(deployment.timeout, left))
        return Posted(raw, payload, deployment)


class _Opening:
    """The block of a metered call; a class, for there are very many."""

    __slots__ = ("_call", "_choices", "_lifetime")

    def __init__(self, call: "MeteredCall", choices: int, lifetime: float) -> None:
        self._call = call
        self._choices = choices
        self._lifetime = lifetime

    async def __aenter__(self) -> "MeteredCall":
        opened = False
        try:
            self._call.check()
            await self._call.reserve(self._choices, self._lifetime)
            opened = True
        finally:
            if not opened:
                self._call.settle()
        return self._call

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.settle()


class MeteredCall:
    """One call. Read it with `choices()`, `payloads()`, `complete()` or `post()`, once.

    `begun` is called at every chunk of a stream: the provider has read the prompt.
    `generates` false: nothing is generated, so that there is only a prompt to pay for.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        clock: Callable[[], float],
        purse: Purse,
        deployment: Deployment,
        body: JSON,
        errand: Errand,
        slice_tokens: int,
        taken: Taken | None = None,
        generates: bool = True,
    ) -> None:
        self.attempt = f"{purse.account.request}.{next(purse.attempts)}"
        self.granted = 0
        self.begun: Callable[[], None] | None = None
        self.assembled = Assembler()
        self._ledger = ledger
        self._clock = clock
        self._started = clock()
        self._purse = purse
        self._deployment = deployment
        self._body = body
        self._errand = errand
        self._taken = taken
        self._asked = asking(deployment, body)
        self._rates = deployment.rates or _FREE
        self._generates = generates
        self._bound = output_bound(body, deployment) if generates else 0
        self._prompt = purse.bounds.of(body)
        self._dearest = dearest(self._rates, self._prompt, self._asked)
        whole = not body.get("stream") or deployment.hidden_reasoning
        worst = self._bound if self._bound is not None else UNKNOWN_OUTPUT
        self._slice = worst if whole else min(slice_tokens, worst)
        self._held = Amount()
        self._output = 0
        self._sent = False
        self._ended = False
        self._settled = False
        self._status = "ok"
        self._finish: dict[int, str | None] = {}

    def check(self) -> None:
        """Raises RequestInvalid where a limit in money meets an unknown price."""
        self._purse.check_price(self._deployment)
        self._purse.check_request(self._deployment, self._body)

    async def reserve(self, choices: int, lifetime: float) -> None:
        """Reserve the prompt and a slice of output a choice; `granted` tells for how many choices there was room.

        Each at the dearest rate that may apply: how long the prompt is, what of it is cached, and which service is
        given, only the reply tells.
        """
        base = Amount(self._dearest.cost(self._prompt, 0), self._prompt)
        each = Amount(self._dearest.cost(0, self._slice), self._slice, self._errand.samples)
        wanted = self._purse.room(base.nano, each.nano, choices)
        if wanted:
            # held from before the wait, so that a neighbour of the same request sees it
            self._hold(base.nano + wanted * each.nano, base.tokens + wanted * each.tokens)
            wish = Reservation(self.attempt, self._purse.account, base, each, wanted, lifetime)
            try:
                self.granted = await self._ledger.reserve(wish)
            finally:
                self._purse.held -= self._held.nano
                self._held = Amount()
        if self.granted < choices:
            self._purse.refused = Refused(self._purse.account, base, each, choices)
        if self.granted:
            self._hold(base.nano + self.granted * each.nano, base.tokens + self.granted * each.tokens)
            self._output = self.granted * self._slice

    async def choices(self, timeout: float) -> AsyncGenerator[Choice, None]:
        """Every choice as it is finished; the last one only when the whole call is over and settled."""
        waiting: list[Choice] = []
        if self._body.get("stream"):
            async with aclosing(self.payloads(timeout)) as chunks:
                async for chunk in chunks:
                    waiting += chunk.finished
                    while waiting and (len(waiting) > 1 or self.assembled.finished < self.granted):
                        yield waiting.pop(0)
        else:
            waiting = (await self.complete(timeout))[1]
        self.settle()
        for choice in waiting:
            yield choice

    async def complete(self, timeout: float) -> tuple[bytes, list[Choice]]:
        """The whole reply of a call that is not streamed: its bytes and its choices."""
        self._sent = True
        try:
            raw = await self._deployment.lane.complete(self._deployment.endpoint, self._upstream_body(), timeout)
            finished = self._feed(self._parsed(raw))
        except UpstreamError as error:
            self._failed(error)
            raise
        self._ended = True
        return raw, finished

    async def post(self, path: str, timeout: float) -> tuple[bytes, JSON]:
        """The whole reply of a plain POST to `path`: its bytes, and the same parsed."""
        self._sent = True
        try:
            raw = await self._deployment.lane.post(self._deployment.endpoint, path, self._body, timeout)
            payload = self._parsed(raw)
        except UpstreamError as error:
            self._failed(error)
            raise
        self.assembled.usage = prompt_usage(payload)
        self._ended = True
        return raw, payload

    async def payloads(self, timeout: float) -> AsyncGenerator[Chunk, None]:
        """Each chunk of a streamed call as it came.

        The reservation is extended before it is used up; where that is denied the call is cut: what has come so far
        is given as finished, with finish_reason `length` and no bytes, and nothing more is read.
        """
        self._sent = True
        lines = self._deployment.lane.stream(self._deployment.endpoint, self._upstream_body(), timeout)
        skimmer = Skimmer()
        try:
            async for raw in lines:
                chunk = self._chunk(raw, skimmer)
                self._deployment.has_streamed = True
                if self.begun is not None:
                    self.begun()
                yield chunk
                if not (self._holds() or await self._extended()):
                    self._status = "cut"
                    yield Chunk(b"", {}, self.assembled.cut())
                    return
            self._ended = True
            if self.assembled.finished < self.assembled.started:
                # the provider said that it was done, and forgot to say why
                yield Chunk(b"", {}, self.assembled.cut("stop"))
        except UpstreamError as error:
            # a connection that breaks after the last word takes nothing from the answer
            if self.assembled.finished < self.granted:
                self._failed(error)
                raise
            self._ended = True
        finally:
            await lines.aclose()

    def settle(self) -> None:
        """End the reservation, once: charge what the provider told, else what was counted, else all of it."""
        if self._settled:
            return
        self._settled = True
        if self._taken is not None and not self._sent:
            self._taken.undo()
        if not self.granted:
            return
        usage, rates = self._usage()
        if self._taken is not None:
            self._taken.correct(usage.prompt + usage.completion)
        paid = self._rows(usage, rates)
        self._purse.held -= self._held.nano
        nano = sum(row.cost_nano for row in paid)
        drawn = self._errand.purpose not in _ASIDE and self.assembled.finished > 0
        self._purse.pay(usage, nano, drawn=drawn, bound=self._prompt)
        self._ledger.settle(Settlement(self.attempt, self._purse.account, paid))

    @property
    def whole(self) -> bool:
        """Whether the call came to its own end, neither cut nor broken."""
        return self._ended

    @property
    def was_cut(self) -> bool:
        """Whether the budget cut it short."""
        return self._status == "cut"

    def row_id(self, index: int) -> str:
        """The ledger's id of the draw that choice `index` is."""
        return row_id(self.attempt, index)

    def _hold(self, nano: int, tokens: int) -> None:
        self._held = Amount(self._held.nano + nano, self._held.tokens + tokens)
        self._purse.held += nano

    def _upstream_body(self) -> JSON:
        return self._body if self.granted == 1 else {**self._body, "n": self.granted}

    def _parsed(self, raw: bytes) -> JSON:
        return parsed(raw, self._deployment.endpoint)

    def _feed(self, payload: JSON) -> list[Choice]:
        finished = self.assembled.feed(payload)
        self._finish.update((choice.index, choice.finish_reason) for choice in finished)
        return finished

    def _chunk(self, raw: bytes, skimmer: Skimmer) -> Chunk:
        text = skimmer.skim(raw)
        if text is not None and skimmer.pattern is not None:
            self.assembled.skim(skimmer.pattern, text)
            return Chunk(raw, skimmer.pattern.payload, alike=skimmer.pattern)
        payload = self._parsed(raw)
        finished = self._feed(payload)
        skimmer.learn(raw, payload)
        return Chunk(raw, payload, finished)

    def _holds(self) -> bool:
        """Whether the reservation surely holds what may come next: a bound that is cheap, for it is at every chunk."""
        # a token is a byte or more, unless deltas were seen to hide some
        used = max(self.assembled.size, self.assembled.deltas * self._deployment.tokens_per_delta)
        return used < self._output // 2

    async def _extended(self) -> bool:
        """Whether the reservation holds what may come next; asks for another slice when it is nearly used up."""
        used = sum(self._estimate(index) for index in range(self.assembled.started))
        most = None if self._bound is None else self._bound * self.granted
        whole = most is not None and self._output >= most
        # an estimate may be a little over what max_tokens allows; an upstream that ignores it goes far over
        if used + self._output // 4 < self._output or (whole and used <= 2 * self._output + _MARGIN):
            return True
        tokens = self._slice * self.granted
        if most is not None and not whole:
            tokens = min(tokens, most - self._output)
        more = Amount(self._dearest.cost(0, tokens), tokens)
        if not self._purse.room(more.nano, 0, 1):
            return False
        # held from before the wait, so that a neighbour of the same request sees it
        self._hold(more.nano, more.tokens)
        if not await self._ledger.extend(self.attempt, more):
            self._hold(-more.nano, -more.tokens)
            return False
        self._output += tokens
        return True

    def _estimate(self, index: int) -> int:
        return self.assembled.estimate(index, self._deployment.tokens_per_delta)

    def _share(self, index: int) -> int:
        """About how many tokens a choice has: no more than it may have, whatever can be counted."""
        counted = self._estimate(index)
        return counted if self._bound is None else min(counted, self._bound)

    def _failed(self, error: UpstreamError) -> None:
        self._status = "lost" if error.sent else "failed"

    def _usage(self) -> tuple[Usage, Rates]:
        """What the call took, and the rates of it; where nobody can know, what was reserved."""
        streamed = bool(self._body.get("stream"))
        usage = billed(self.assembled, self._deployment, self.granted, self._bound) if self._ended else None
        if usage is not None and (usage.prompt or self._generates):
            share = self._deployment.prompt_share
            self._deployment.prompt_share = max(share, min(1.0, usage.prompt / self._prompt))
            return self._served(usage), self._rates
        if self._status == "ok" and not self._ended:
            self._status = "cancelled"
        if not self._sent or self._status == "failed":
            return Usage(), self._rates
        hidden = self._deployment.hidden_reasoning or (not streamed and not self._ended) or not self._generates
        if hidden or self._status == "lost":
            return Usage(self._prompt, self._output, estimated=True), self._dearest
        counted = sum(self._share(index) for index in range(self.granted))
        usage = Usage(self._prompt_estimate(), min(counted, self._output), estimated=True)
        return self._served(usage), self._rates

    def _served(self, usage: Usage) -> Usage:
        """`usage` with the grade of service that was given, where that has a price of its own."""
        if not self._rates.services:
            return usage
        return replace(usage, service=given_service(self.assembled.service, self._asked.get("service_tier")))

    def _prompt_estimate(self) -> int:
        """About how many tokens the prompt has: by the request's own, by the deployment's, else half of the bound."""
        if self._purse.prompt_bound and not self._purse.prompt_estimated:
            return min(self._prompt, self._purse.prompt(self._prompt))
        return ceil(self._prompt * (self._deployment.prompt_share or PROMPT_SHARE))

    def _rows(self, usage: Usage, rates: Rates) -> tuple[DrawRow, ...]:
        alone = self.granted == 1
        parts = [usage.completion] if alone else split(usage.completion, list(map(self._share, range(self.granted))))
        costs = shares(rates, usage, parts)
        whole = DrawRow(
            id=self.attempt,
            purpose=self._errand.purpose,
            round=self._errand.round,
            index=self._errand.index,
            status=self._status,
            model=f"{self._deployment.endpoint.provider}/{self._deployment.endpoint.model}",
            deployment=self._deployment.name,
            prompt_tokens=usage.prompt,
            cached_tokens=usage.cached,
            completion_tokens=usage.completion,
            reasoning_tokens=usage.reasoning,
            cost_nano=sum(costs),
            estimated=usage.estimated,
            finish_reason=None,
            latency_ms=int((self._clock() - self._started) * 1000),
            # a call that took nothing is no sample
            samples=self._errand.samples if usage.prompt or usage.completion else 0,
        )
        return rows(whole, parts, costs, self._finish)
