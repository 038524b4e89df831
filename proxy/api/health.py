"""Whether the server lives, whether it is ready, and its metrics."""

from collections.abc import Awaitable, Callable

import orjson
from starlette.requests import Request
from starlette.responses import Response

from proxy.errors import LedgerUnavailable
from proxy.telemetry import Metrics


class HealthEndpoints:
    """`probe` raises LedgerUnavailable when the ledger cannot be written."""

    def __init__(self, metrics: Metrics, probe: Callable[[], Awaitable[None]]) -> None:
        self._metrics = metrics
        self._probe = probe

    async def liveliness(self, _: Request) -> Response:
        """LiteLLM's word for it: the process answers."""
        return Response(b'"I\'m alive!"', media_type="application/json")

    async def readiness(self, _: Request) -> Response:
        """200 when requests can be served, 503 when the ledger cannot be kept."""
        try:
            await self._probe()
        except LedgerUnavailable as error:
            return Response(
                orjson.dumps({"status": "unavailable", "reason": error.message}), 503, {}, "application/json"
            )
        return Response(orjson.dumps({"status": "ready", "db": "connected"}), 200, {}, "application/json")

    async def metrics(self, _: Request) -> Response:
        """Prometheus' text format."""
        return Response(self._metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
