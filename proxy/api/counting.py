"""What the metrics and the log tell of a request that has ended."""

from structlog.typing import FilteringBoundLogger

from proxy.money import usd
from proxy.purse import Purse
from proxy.telemetry import Metrics


def count(
    metrics: Metrics,
    log: FilteringBoundLogger,
    *,
    purse: Purse,
    model: str,
    strategy: str,
    status: int,
    seconds: float,
    samples: int | None,
) -> None:
    """Count one request, whatever became of it. `model` is the client's name of it; `samples` None: it draws none."""
    told = metrics.told(
        model=model, strategy=strategy, tenant=purse.tenant.name, status=status, drawn=samples is not None
    )
    metrics.in_flight.dec()
    told.requests.inc()
    told.seconds.observe(seconds)
    if samples is not None and told.samples is not None:
        told.samples.observe(samples)
    told.prompt.inc(purse.paid.prompt)
    told.completion.inc(purse.paid.completion)
    told.cost.inc(purse.spent / 1e9)
    log.info(
        "request",
        request=purse.account.request,
        tenant=purse.tenant.name,
        model=model,
        strategy=strategy,
        status=status,
        samples=samples or 0,
        cost_usd=usd(purse.spent),
        seconds=round(seconds, 3),
    )
