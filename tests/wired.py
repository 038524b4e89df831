"""The proxy's engine on a bench: ledger, meter, drawer and batcher, real and wired, without the HTTP edge."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import numpy as np

from proxy.batcher import Batcher
from proxy.core.batch import Batch
from proxy.core.strategies import batch_for
from proxy.drawing import Drawer
from proxy.engine import Engine
from proxy.ledger.checking import TenantCheck, check
from proxy.ledger.reports import RequestLine, draws, verdicts
from proxy.ledger.sqlite import SqliteLedger
from proxy.metering import Meter
from proxy.purse import Purse
from proxy.query import Query
from proxy.scoring import Scorer
from proxy.types import JSON, Account, Plan, Strategy, Tenant
from proxy.upstream import Endpoint, Lane
from proxy.upstream.deployment import Deployment
from proxy.upstream.direct import DirectLane
from proxy.upstream.group import Group
from proxy.upstream.routing import Route
from tests.served import RATES

QUESTION = "What is six times seven?"
SECRET = "sk-upstream-secret"


class Bench:
    """One tenant, `acme`, and one deployment, `small`."""

    def __init__(self, ledger: SqliteLedger, batcher: Batcher, meter: Meter, deployment: Deployment) -> None:
        self.ledger = ledger
        self.batcher = batcher
        self.meter = meter
        self.deployment = deployment
        self.route = Route("small", [Group((deployment,))], clock=time.monotonic)
        self.tenant = Tenant("acme")
        self._number = count()

    def purse(self, limit: int | None = None, tenant: Tenant | None = None) -> Purse:
        paying = tenant or self.tenant
        return Purse(paying, Account(paying.name, None, f"request{next(self._number)}"), limit)

    def query(
        self,
        strategy: str = "self_consistency",
        *,
        deadline_s: float = 20.0,
        limit: int | None = None,
        probe: bool = False,
        scorer: Scorer | None = None,
        tenant: Tenant | None = None,
        parameters: JSON | None = None,
        **request: Any,
    ) -> Query:
        """A query; `parameters` are the strategy's, `request` what the client sends."""
        purse = self.purse(limit, tenant)
        shape = Strategy(strategy, **{"samples": 4, **(parameters or {})})  # type: ignore[arg-type]  # any name of one
        now = time.monotonic()
        return Query(
            id=next(self._number),
            plan=Plan(purse.tenant, "small", shape, probe=probe),
            request={"model": "small", "messages": [{"role": "user", "content": QUESTION}], **request},
            route=self.route,
            purse=purse,
            started=now,
            deadline=now + deadline_s,
            scorer=scorer,
        )

    async def standing(self) -> TenantCheck:
        """Where the tenant stands, when everything is written."""
        await self.ledger.flush()
        return (await self.ledger.run(check))[0]

    async def rows(self) -> list[JSON]:
        """The ledger's draws, oldest first."""
        await self.ledger.flush()
        return await self.ledger.run(lambda books: list(draws(books)))

    async def requests(self) -> list[RequestLine]:
        """The ledger's requests, latest first."""
        await self.ledger.flush()
        return await self.ledger.run(lambda books: verdicts(books, limit=100))


@asynccontextmanager
async def bench(
    base_url: str = "",
    *,
    lane: Lane | None = None,
    tenants: tuple[Tenant, ...] = (),
    slice_tokens: int = 1024,
    window_s: float = 0.005,
    max_queries: int = 32,
    cache_first: bool = False,
    make: Callable[[Strategy], Batch] = lambda strategy: batch_for(strategy, lambda: np.random.default_rng(7)),
    **known: Any,
) -> AsyncIterator[Bench]:
    """A bench whose deployment is at `base_url`, or behind `lane`; `known` is what is known of the deployment."""
    owned = DirectLane()
    payers = tenants or (Tenant("acme"),)
    ledger = SqliteLedger.open("sqlite://", clock=time.time, prepare=lambda books: books.adopt(payers, {}))
    meter = Meter(ledger, clock=time.monotonic, slice_tokens=slice_tokens)
    engine = Engine(Drawer(meter, clock=time.monotonic, cache_first=cache_first), ledger, clock=time.monotonic)
    endpoint = Endpoint("openai", "small", base_url, SECRET, {})
    deployment = Deployment("small", endpoint, lane or owned, **{"rates": RATES, **known})
    batcher = Batcher(engine, lambda *key: make(key[-1]), window_s=window_s, max_queries=max_queries)
    try:
        async with batcher:
            made = Bench(ledger, batcher, meter, deployment)
            made.tenant = payers[0]
            yield made
    finally:
        await owned.close()
        await ledger.close()
