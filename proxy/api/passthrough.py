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

from proxy.api.chat import Services, read_body
from proxy.api.counting import count
from proxy.api.serving import Reply, Served
from proxy.api.wire import TallyWish, error_response, known_strategy, parse_body, validated
from proxy.errors import BudgetExceeded, ClientGone, TallyError
from proxy.ledger import Ledger, RequestRow
from proxy.metering import Errand, Meter
from proxy.money import nano_usd, usd
from proxy.plan import check_model
from proxy.purse import Purse
from proxy.types import JSON, Account, Tenant
from proxy.upstream.deployment import Deployment

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
    deployment: Deployment
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
        headers = {"x-request-id": f"req_{identity}"}
        try:
            passed = await self._passed(request, identity)
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
            ended=lambda status: self._ended(passed, status),
        )

    async def _passed(self, request: Request, identity: str) -> _Passed:
        services = self._services
        started = services.clock()
        caller = await services.auth.caller(request.headers.get("authorization"))
        services.auth.admit(caller.tenant)
        settings = services.settings
        body = parse_body(await read_body(request, settings.max_request_bytes, settings.read_s))
        if self._path == "moderations" and body.get("model") is None:
            # the one path where OpenAI has a model of its own
            body["model"] = _MODERATOR
        checked = validated(PassedRequest, body)
        known_strategy(request.headers.get("x-tally-strategy"), "x-tally-strategy")
        known_strategy(request.path_params.get("strategy"), "path")
        deployment = services.catalogue.find(checked.model)
        check_model(caller.tenant, checked.model)
        account = Account(caller.tenant.name, caller.key, identity)
        purse = Purse(caller.tenant, account, _limit(caller.tenant, checked.tally))
        purse.check_price(deployment)
        return _Passed(body, deployment, purse, started, started + deployment.timeout)

    async def _reply(self, passed: _Passed, headers: dict[str, str]) -> Reply:
        deployment, purse = passed.deployment, passed.purse
        async with self._recorded(passed):
            posted = await self._meter.passed(
                purse,
                deployment,
                self._path,
                deployment.body(passed.body),
                Errand(self._path),
                deadline=passed.deadline,
            )
            if posted is None:
                raise BudgetExceeded("The budget does not hold this request.")
        raw, payload = posted
        if "model" in payload and deployment.endpoint.model != deployment.model_name:
            raw = orjson.dumps({**payload, "model": deployment.model_name})
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
        self._ledger.record(
            RequestRow(
                account=passed.purse.account,
                model=passed.deployment.model_name,
                strategy=_OFF,
                status=status,
                samples=0,
                abstained=0,
                rounds=0,
                winner=None,
                answer=None,
                first_answer=None,
                confidence=None,
                cost_nano=passed.purse.spent,
                reason=reason,
                latency_ms=int((self._services.clock() - passed.started) * 1000),
            )
        )

    def _ended(self, passed: _Passed, status: int) -> None:
        count(
            self._services.metrics,
            self._services.log,
            purse=passed.purse,
            model=passed.deployment.model_name,
            strategy=_OFF,
            status=status,
            seconds=self._services.clock() - passed.started,
            samples=None,
        )


def _limit(tenant: Tenant, asked: TallyWish | None) -> int | None:
    """The most nano-USD that a request may cost: the lower of the tenant's limit and its own."""
    own = None if asked is None or asked.max_cost_usd is None else nano_usd(asked.max_cost_usd)
    limits = [limit for limit in (own, tenant.max_request_nano) if limit is not None]
    return min(limits) if limits else None
