"""`POST /v1/embeddings`, `/v1/moderations` and `/v1/rerank`: passed through as they are, inside the budget.

Nothing is sampled, so the strategy is always `off`; of `tally` only `max_cost_usd` has a meaning. What the provider's
`usage` tells is charged at the input rate, and the upper bound of the prompt where it tells nothing. Deployments of
OpenAI-compatible servers have all three; of the others, by LiteLLM, embeddings alone.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from proxy.admission import Entry
from proxy.api.counting import count
from proxy.api.refusing import explained
from proxy.api.services import Services
from proxy.api.serving import Reply, Served
from proxy.api.wire import TallyWish, error_response, known_strategy, validated
from proxy.auth import Caller
from proxy.errors import BudgetExceeded, ClientGone, TallyError
from proxy.ledger import Ledger
from proxy.metering import Errand, Meter
from proxy.money import usd
from proxy.plan import check_model, request_limit
from proxy.purse import Purse
from proxy.types import JSON, Account
from proxy.upstream.routing import Route
from proxy.verdict import bare_row

PATHS = ("embeddings", "moderations", "rerank")
"""What is passed through, below `/v1/`; a path is the purpose of its draw in the ledger, too."""

_OFF = "off"
_MODERATOR = "omni-moderation-latest"


class PassedRequest(BaseModel):
    """A request, as far as tally looks at it; the upstream looks at the rest."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(strict=True, min_length=1, max_length=512)]
    tally: TallyWish | None = None


@dataclass(frozen=True, slots=True)
class _Passed:
    """One request on its way. `started` and `deadline` are on the monotonic clock."""

    body: JSON
    route: Route
    purse: Purse
    started: float
    deadline: float


class PassthroughEndpoint:
    """Serves one of `PATHS`."""

    def __init__(self, path: str, services: Services, meter: Meter, ledger: Ledger) -> None:
        self._path = path
        self._services = services
        self._meter = meter
        self._ledger = ledger

    async def serve(self, request: Request) -> Response:
        """Check, and answer with something that makes its reply while it is sent."""
        services = self._services
        identity = services.new_id()
        headers = services.door.headers(identity)
        try:
            caller = await services.door.caller(request)
            with services.door.enter(caller) as entry:
                headers |= entry.told
                passed = await self._passed(request, caller, identity)
        except TallyError as error:
            services.metrics.requests.labels("", "", str(error.status)).inc()
            return error_response(error, headers, services.settings.budget_exceeded_status_code)
        headers |= {"x-tally-strategy": _OFF, "x-tally-reason": self._path}
        services.metrics.in_flight.inc()
        return Served(
            lambda: self._reply(passed, headers),
            streamed=False,
            early=headers,
            budget_status=services.settings.budget_exceeded_status_code,
            write_s=services.settings.write_s,
            ended=lambda status: self._ended(passed, entry, status),
        )

    async def _passed(self, request: Request, caller: Caller, identity: str) -> _Passed:
        services = self._services
        started = services.clock()
        body = await services.door.body(request)
        if self._path == "moderations" and body.get("model") is None:
            # the one path where OpenAI has a model of its own
            body["model"] = _MODERATOR
        checked = validated(PassedRequest, body)
        known_strategy(request.headers.get("x-tally-strategy"), "x-tally-strategy")
        route = services.catalogue.find(checked.model)
        check_model(caller.tenant, checked.model, caller.key)
        account = Account(caller.tenant.name, caller.key_id, identity)
        asked = None if checked.tally is None else checked.tally.max_cost_usd
        purse = Purse(caller.tenant, account, request_limit(caller.tenant, asked))
        purse.check_prices(route.own)
        return _Passed(body, route, purse, started, started + route.timeout)

    async def _reply(self, passed: _Passed, headers: dict[str, str]) -> Reply:
        route, purse = passed.route, passed.purse
        async with self._recorded(passed):
            posted = await self._meter.passed(
                purse,
                route,
                self._path,
                passed.body,
                Errand(self._path),
                deadline=passed.deadline,
            )
            if posted is None:
                error = BudgetExceeded("The budget does not hold this request.")
                raise await explained(error, purse, self._services.shortage)
        raw, payload, deployment = posted
        if "model" in payload and deployment.endpoint.model != route.model:
            raw = orjson.dumps({**payload, "model": route.model})
        return Reply({**headers, "x-tally-cost-usd": usd(purse.spent)}, raw)

    @asynccontextmanager
    async def _recorded(self, passed: _Passed) -> AsyncIterator[None]:
        """Write the request to the ledger, whatever becomes of it."""
        try:
            yield
        except TallyError as error:
            self._record(passed, error.status, error.code or error.type)
            raise
        except asyncio.CancelledError:
            gone = ClientGone()
            self._record(passed, gone.status, gone.code)
            raise
        self._record(passed, 200, self._path)

    def _record(self, passed: _Passed, status: int, reason: str | None) -> None:
        latency_ms = int((self._services.clock() - passed.started) * 1000)
        row = bare_row(passed.purse, passed.route.model, _OFF, status=status, reason=reason, latency_ms=latency_ms)
        self._ledger.record(row)

    def _ended(self, passed: _Passed, entry: Entry, status: int) -> None:
        paid = passed.purse.paid
        entry.leave(paid.prompt + paid.completion)
        count(
            self._services.metrics,
            self._services.log,
            purse=passed.purse,
            model=passed.route.model,
            strategy=_OFF,
            status=status,
            seconds=self._services.clock() - passed.started,
            samples=None,
        )
