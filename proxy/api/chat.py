"""`POST /v1/chat/completions`: one request's way through the house."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import orjson
from starlette.requests import Request
from starlette.responses import Response

from proxy.admission import Entry
from proxy.answers import Groups
from proxy.api import dialect, render
from proxy.api.counting import count
from proxy.api.dialect import Dialect
from proxy.api.entry import tried
from proxy.api.progress import Progress
from proxy.api.refusing import explained
from proxy.api.services import Services
from proxy.api.serving import Reply, Served
from proxy.api.wire import check_chat, error_response, wish
from proxy.auth import Caller
from proxy.core.calibration import Calibration
from proxy.core.prior import Prior
from proxy.errors import BudgetExceeded, ClientGone, RequestInvalid, TallyError
from proxy.keeping import fingerprint
from proxy.ledger import Refused
from proxy.plan import TRIAL
from proxy.purse import Purse
from proxy.query import Query
from proxy.relay import relayable, sliceable
from proxy.types import JSON, Account, Plan
from proxy.upstream import sse
from proxy.upstream.routing import Route
from proxy.upstream.usage import prompt_worth
from proxy.verdict import Verdict


class ChatEndpoint:
    """Serves chat completions, scaled or passed through, in the words of an endpoint's `spoken` dialect."""

    def __init__(self, services: Services, spoken: Dialect = dialect.chat) -> None:
        self._services = services
        self._spoken = spoken

    async def serve(self, request: Request) -> Response:
        """Check, plan, and answer with something that makes its reply while it is sent."""
        identity = self._services.new_id()
        headers = self._services.door.headers(identity)
        started = self._services.clock()
        try:
            # a key is asked for before the body is read
            caller = await self._services.door.caller(request)
            with self._services.door.enter(caller) as entry:
                headers |= entry.told
                spoken = self._spoken(await self._services.door.body(request))
                query = await self._query(request, caller, spoken.asked, identity, started)
        except TallyError as error:
            self._services.metrics.requests.labels("", "", str(error.status)).inc()
            return error_response(error, headers, self._services.settings.budget_exceeded_status_code)
        headers["x-tally-strategy"] = query.plan.strategy.name
        if query.plan.reason:
            headers["x-tally-reason"] = query.plan.reason
        if query.plan.degraded:
            headers["x-tally-degraded"] = query.plan.degraded
        work = _Work(self._services, query, headers, identity=identity, client=request.headers, entry=entry)
        make = work.relayed if relayable(query) else work.scaled

        async def told() -> Reply:
            try:
                return spoken.told(await make(), identity)
            except BudgetExceeded as error:
                raise await explained(error, query.purse, self._services.shortage) from None

        self._services.metrics.in_flight.inc()
        return Served(
            told,
            streamed=query.plan.stream,
            early=headers,
            budget_status=self._services.settings.budget_exceeded_status_code,
            write_s=self._services.settings.write_s,
            ended=work.ended,
            notes=work.notes,
            broke=spoken.broke,
        )

    async def _query(self, request: Request, caller: Caller, body: JSON, identity: str, started: float) -> Query:
        services = self._services
        checked = check_chat(body, services.settings.max_messages)
        wanted = wish(checked, request.headers.get("x-tally-strategy"), request.path_params.get("strategy"))
        route = services.catalogue.find(checked.model)
        account = Account(caller.tenant.name, caller.key_id, identity)
        free = all(each.rates is not None and each.rates.free for each in route.own)
        left, soft = (caller.left_free, False) if free else (caller.left, caller.soft)
        try:
            plan = services.planner.plan(body, wanted, caller.tenant, key=caller.key, left=left, soft=soft)
        except BudgetExceeded as error:
            purse = Purse(caller.tenant, account, refused=Refused(account, free=free))
            raise await explained(error, purse, services.shortage) from None
        if plan.stream and not route.streams and plan.choices > 1 and plan.strategy.name == "off":
            raise RequestInvalid("stream: this model does not stream several choices.", param="n", code="invalid_value")
        purse = Purse(caller.tenant, account, plan.max_request_nano)
        purse.check_prices(route.own)
        return await _planned(services, plan, body, route=route, purse=purse, started=started)


class _Work:
    def __init__(
        self,
        services: Services,
        query: Query,
        headers: dict[str, str],
        *,
        identity: str,
        client: Mapping[str, str],
        entry: Entry,
    ) -> None:
        self._services = services
        self._query = query
        self._identity = identity
        self._headers = headers
        self._client = client
        self._entry = entry
        self.notes: asyncio.Queue[bytes] | None = None
        if query.plan.stream and query.plan.strategy.name != "off" and Progress.wanted(query.request):
            progress = Progress(query)
            query.heard, self.notes = progress.hear, progress.notes

    async def scaled(self) -> Reply:
        query = self._query
        await self._claim()
        found = await self._services.batcher.submit(query)
        self._shadow()
        head, paid = self._head(found), self._services.settings.usage == "paid"
        if query.plan.stream:
            events = _each(render.chunks(found, query.plan, query.request, head, paid=paid))
            return Reply({**self._headers, **render.tally_headers(found)}, events=events)
        body = orjson.dumps(render.completion(found, query.plan, query.request, head, paid=paid))
        return Reply({**self._headers, **render.tally_headers(found)}, body)

    async def relayed(self) -> Reply:
        if self._query.plan.stream:
            # one sample has no confidence, which is known before its first word
            low = {} if self._query.plan.min_confidence is None else render.LOW_CONFIDENCE
            source = self._services.relay.stream(self._query)
            events = await _primed(source)
            if self._query.plan.shadow is not None:
                events = _before_end(events, self._shadow)
            return Reply({**self._headers, **low}, events=events, source=source)
        if self._query.plan.reason == TRIAL and sliceable(self._query):
            # a call that is not streamed costs its worst case when its client goes, and nothing of it can be kept
            return await self.scaled()
        try:
            raw, found = await self._services.relay.complete(self._query)
        except BudgetExceeded:
            if not sliceable(self._query):
                raise
            return await self.scaled()
        self._shadow()
        return Reply({**self._headers, **render.tally_headers(found)}, raw)

    def _shadow(self) -> None:
        """Begin the vote that nobody waits for, where one is planned, once the client's answer is whole and paid."""
        plan = self._query.plan.shadow
        if plan is not None:
            self._services.shadows.start(partial(self._unseen, plan), self._shadowed)

    async def _unseen(self, plan: Plan) -> Query:
        """The query of that vote: its first sample is the client's answer, and what it may cost is what that left."""
        query, services = self._query, self._services
        made = await _planned(
            services,
            plan,
            query.request,
            route=query.route,
            purse=replace(query.purse, held=0),
            started=services.clock(),
        )
        stock = query.remains()
        # what was passed through has the places that its provider gave it
        made.start_from(replace(stock, places=max([stock.places, *(kept.place + 1 for kept in stock.samples)])))
        return made

    def _shadowed(self, shadow: Query) -> None:
        """Count what a shadow cost beyond the client's answer."""
        served, metrics, model = self._query, self._services.metrics, self._query.route.model
        tokens, before = shadow.purse.paid, served.purse.paid
        metrics.tokens.labels(model, "prompt").inc(tokens.prompt - before.prompt)
        metrics.tokens.labels(model, "completion").inc(tokens.completion - before.completion)
        spent = shadow.purse.spent - served.purse.spent
        metrics.cost.labels(model, served.plan.tenant.name).inc(spent / 1e9)

    async def _claim(self) -> None:
        """Take over what an earlier try of the same request has drawn; one that is being stopped is waited for."""
        query, services = self._query, self._services
        key = (query.purse.account.key, query.plan, fingerprint(orjson.dumps(query.request)))
        # what is not at hand then has the other half of the time to be drawn
        half = max(0.0, query.deadline - services.clock()) / 2
        try:
            query.claim = await services.keeper.claim(key, tried(self._client), wait_s=half)
        except asyncio.CancelledError:
            services.batcher.decline(query)
            raise
        query.start_from(query.claim.stock)

    def ended(self, status: int) -> None:
        """Count the request, whatever became of it."""
        query, services = self._query, self._services
        if query.claim is not None and status == ClientGone.status:
            query.claim.left()
        elif query.claim is not None:
            query.claim.answered()
        self._entry.leave(query.purse.paid.prompt + query.purse.paid.completion)
        count(
            services.metrics,
            services.log,
            purse=query.purse,
            model=query.route.model,
            strategy=query.plan.strategy.name,
            status=status,
            seconds=services.clock() - query.started,
            samples=len(query.drawn),
        )

    def _head(self, found: Verdict) -> JSON:
        """Own id, one `created`, and the model as the client called it; an unscaled reply keeps the upstream's id."""
        own = {"id": f"chatcmpl-{self._identity}", "created": int(self._services.wall())}
        kept = {key: found.head[key] for key in own if found.strategy == "off" and found.head.get(key)}
        return {**own, **kept, "model": self._query.plan.model}


async def _planned(services: Services, plan: Plan, body: JSON, *, route: Route, purse: Purse, started: float) -> Query:
    """The query that a plan makes of a request; `started` is on the monotonic clock."""
    # what is passed through has the time that its provider takes
    deadline = started + (route.timeout if plan.strategy.name == "off" else plan.strategy.deadline_s)
    return Query(
        id=services.number(),
        plan=plan,
        request=body,
        route=route,
        purse=purse,
        started=started,
        deadline=deadline,
        scorer=services.scorer(plan),
        prior=await _prior(services, plan, body),
        calibration=await _calibration(services, plan),
        overhead=prompt_worth(body, route.first) if plan.strategy.name == "adaptive" else 0.0,
        groups=Groups(plan.answer, services.algebra, clock=services.clock, deadline=deadline),
    )


async def _prior(services: Services, plan: Plan, body: JSON) -> Prior | None:
    if services.predictor is None or plan.strategy.name != "optscale":
        return None
    return await services.predictor.prior(plan.tenant.name, plan.model, body)


async def _calibration(services: Services, plan: Plan) -> Calibration | None:
    if plan.strategy.name == "off":
        return None
    return await services.calibrator.of(plan.tenant.name, plan.model, plan.strategy.name)


async def _primed(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same events, the first one fetched already: an error before it is raised here."""
    first = await anext(events, None)

    async def rest() -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            if first is not None:
                yield first
            async for item in events:
                yield item

    return rest()


async def _before_end(events: AsyncGenerator[bytes, None], do: Callable[[], None]) -> AsyncGenerator[bytes, None]:
    """The same events, with something done before the last one: a client may go as soon as it has that."""
    async with aclosing(events):
        async for item in events:
            if item == sse.END:
                do()
            yield item


async def _each(items: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    for item in items:
        yield item
