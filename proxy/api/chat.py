"""`POST /v1/chat/completions`: one request's way through the house."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass

import orjson
from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from proxy.answers import Algebra, Groups
from proxy.api import render
from proxy.api.serving import Reply, Served
from proxy.api.wire import check_chat, error_response, parse_body, wish
from proxy.auth import Auth
from proxy.batcher import Batcher
from proxy.calibration import Calibrator
from proxy.config import GeneralSettings
from proxy.core.calibration import Calibration
from proxy.core.prior import Prior
from proxy.drawing import Query
from proxy.errors import BodyTooLarge, BudgetExceeded, RequestInvalid, TallyError
from proxy.money import usd
from proxy.plan import Planner
from proxy.predictor import Predictor
from proxy.purse import Purse
from proxy.relay import Relay, relayable, sliceable
from proxy.scoring import Scorer
from proxy.telemetry import Metrics
from proxy.types import JSON, Account, Plan
from proxy.upstream.catalogue import Catalogue
from proxy.upstream.usage import prompt_worth
from proxy.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Services:
    """What the endpoints work with, wired in `proxy.app`.

    `clock` is monotonic seconds, `wall` seconds since 1970; `new_id` gives ids that are unique for ever, `number`
    numbers that are unique in this process.
    """

    settings: GeneralSettings
    auth: Auth
    planner: Planner
    catalogue: Catalogue
    batcher: Batcher
    relay: Relay
    scorer: Callable[[Plan], Scorer | None]
    predictor: Predictor | None
    calibrator: Calibrator
    algebra: Algebra | None
    metrics: Metrics
    log: FilteringBoundLogger
    clock: Callable[[], float]
    wall: Callable[[], float]
    new_id: Callable[[], str]
    number: Callable[[], int]


class ChatEndpoint:
    """Serves chat completions, scaled or passed through."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def serve(self, request: Request) -> Response:
        """Check, plan, and answer with something that makes its reply while it is sent."""
        identity = self._services.new_id()
        headers = {"x-request-id": f"req_{identity}"}
        try:
            query = await self._query(request, identity)
        except TallyError as error:
            self._services.metrics.requests.labels("", "", str(error.status)).inc()
            return error_response(error, headers, self._services.settings.budget_exceeded_status_code)
        headers["x-tally-strategy"] = query.plan.strategy.name
        if query.plan.reason:
            headers["x-tally-reason"] = query.plan.reason
        work = _Work(self._services, query, identity, headers)
        self._services.metrics.in_flight.inc()
        return Served(
            work.relayed if relayable(query) else work.scaled,
            streamed=query.plan.stream,
            early=headers,
            budget_status=self._services.settings.budget_exceeded_status_code,
            ended=work.ended,
        )

    async def _query(self, request: Request, identity: str) -> Query:
        services = self._services
        started = services.clock()
        caller = await services.auth.caller(request.headers.get("authorization"))
        services.auth.admit(caller.tenant)
        body = parse_body(await read_body(request, services.settings.max_request_bytes))
        checked = check_chat(body, services.settings.max_messages)
        wanted = wish(checked, request.headers.get("x-tally-strategy"), request.path_params.get("strategy"))
        deployment = services.catalogue.find(checked.model)
        plan = services.planner.plan(body, wanted, caller.tenant)
        if plan.stream and not deployment.streams and (body.get("n") or 1) > 1:
            raise RequestInvalid("stream: this model does not stream several choices.", param="n", code="invalid_value")
        account = Account(caller.tenant.name, caller.key, identity)
        purse = Purse(caller.tenant, account, plan.max_request_nano)
        purse.check_price(deployment)
        # what is passed through has the time that its provider takes
        deadline = started + (deployment.timeout if plan.strategy.name == "off" else plan.strategy.deadline_s)
        return Query(
            id=services.number(),
            plan=plan,
            request=body,
            deployment=deployment,
            purse=purse,
            started=started,
            deadline=deadline,
            scorer=services.scorer(plan),
            prior=await self._prior(plan, body),
            calibration=await self._calibration(plan),
            overhead=prompt_worth(body, deployment) if plan.strategy.name == "adaptive" else 0.0,
            groups=Groups(plan.answer, services.algebra, clock=services.clock, deadline=deadline),
        )

    async def _prior(self, plan: Plan, body: JSON) -> Prior | None:
        predictor = self._services.predictor
        if predictor is None or plan.strategy.name != "optscale":
            return None
        return await predictor.prior(plan.tenant.name, plan.model, body)

    async def _calibration(self, plan: Plan) -> Calibration | None:
        if plan.strategy.name == "off":
            return None
        return await self._services.calibrator.of(plan.tenant.name, plan.model, plan.strategy.name)


class _Work:
    def __init__(self, services: Services, query: Query, identity: str, headers: dict[str, str]) -> None:
        self._services = services
        self._query = query
        self._identity = identity
        self._headers = headers

    async def scaled(self) -> Reply:
        query = self._query
        found = await self._services.batcher.submit(query)
        head = self._head(found)
        if query.plan.stream:
            events = _each(render.chunks(found, query.plan, query.request, head))
            return Reply({**self._headers, **render.tally_headers(found)}, events=events)
        body = orjson.dumps(render.completion(found, query.plan, query.request, head))
        return Reply({**self._headers, **render.tally_headers(found)}, body)

    async def relayed(self) -> Reply:
        if self._query.plan.stream:
            # one sample has no confidence, which is known before its first word
            low = {} if self._query.plan.min_confidence is None else render.LOW_CONFIDENCE
            events = await _primed(self._services.relay.stream(self._query))
            return Reply({**self._headers, **low}, events=events)
        try:
            raw, found = await self._services.relay.complete(self._query)
        except BudgetExceeded:
            if not sliceable(self._query):
                raise
            return await self.scaled()
        return Reply({**self._headers, **render.tally_headers(found)}, raw)

    def ended(self, status: int) -> None:
        """Count the request, whatever became of it."""
        query, metrics = self._query, self._services.metrics
        labels = (query.deployment.model_name, query.plan.strategy.name)
        seconds = self._services.clock() - query.started
        metrics.in_flight.dec()
        metrics.requests.labels(*labels, str(status)).inc()
        metrics.seconds.labels(*labels).observe(seconds)
        metrics.samples.labels(*labels).observe(len(query.drawn))
        metrics.tokens.labels(labels[0], "prompt").inc(query.purse.paid.prompt)
        metrics.tokens.labels(labels[0], "completion").inc(query.purse.paid.completion)
        metrics.cost.labels(labels[0], query.plan.tenant.name).inc(query.purse.spent / 1e9)
        self._services.log.info(
            "request",
            request=self._identity,
            tenant=query.plan.tenant.name,
            model=labels[0],
            strategy=labels[1],
            status=status,
            samples=len(query.drawn),
            cost_usd=usd(query.purse.spent),
            seconds=round(seconds, 3),
        )

    def _head(self, found: Verdict) -> JSON:
        """Own id, one `created`, and the model as the client called it; an unscaled reply keeps the upstream's id."""
        own = {"id": f"chatcmpl-{self._identity}", "created": int(self._services.wall())}
        kept = {key: found.head[key] for key in own if found.strategy == "off" and found.head.get(key)}
        return {**own, **kept, "model": self._query.plan.model}


async def read_body(request: Request, limit: int) -> bytes:
    """The body, at most `limit` bytes of it. Raises BodyTooLarge, where the headers tell the size before it came."""
    declared = request.headers.get("content-length", "0")
    parts, size = [], 0
    if not (declared.isdigit() and int(declared) > limit):
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > limit:
                break
        else:
            return b"".join(parts)
    raise BodyTooLarge(f"The body is larger than {limit} bytes.")


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


async def _each(items: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    for item in items:
        yield item
