"""Logs and metrics: never a prompt, an answer or a key."""

import logging
import sys
from pathlib import Path
from typing import TextIO

import stamina
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The proxy's Prometheus metrics, in a registry of their own.

    `shared` is the folder where several worker processes gather theirs, so that each tells the sums of all; the
    variable PROMETHEUS_MULTIPROC_DIR must have named it before this module was imported.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._registry = CollectorRegistry()
        self._shared = shared
        labels = ("model", "strategy")
        self.requests = Counter(
            "tally_requests", "Requests by their HTTP status", (*labels, "status"), registry=self._registry
        )
        self.samples = Histogram(
            "tally_request_samples", "Samples a request", labels, buckets=_SAMPLES, registry=self._registry
        )
        self.seconds = Histogram(
            "tally_request_seconds", "Seconds a request", labels, buckets=_SECONDS, registry=self._registry
        )
        self.tokens = Counter("tally_tokens", "Tokens paid", ("model", "kind"), registry=self._registry)
        self.cost = Counter("tally_cost_usd", "US dollars paid", ("model", "tenant"), registry=self._registry)
        self.soft = Gauge(
            "tally_soft_budget_used",
            "Whether the soft budget of a tenant (no key) or of a key is used up",
            ("tenant", "key"),
            registry=self._registry,
            # the workers look at the same budgets, so that whoever looked last knows best
            multiprocess_mode="livemostrecent",
        )
        self.in_flight = Gauge(
            "tally_requests_in_flight", "Requests being served", registry=self._registry, multiprocess_mode="livesum"
        )

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        if self._shared is None:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together, str(self._shared))  # type: ignore[no-untyped-call]  # it has no types
        return generate_latest(together)


def configure_logging(level: str, stream: TextIO = sys.stderr) -> None:
    """Structured logs, one JSON object a line, on `stream`; text for people where it is a terminal.

    The lines of libraries are among them, from warnings on: below that they may quote prompts.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    # a retry's own log line would quote the provider, and providers quote prompts
    stamina.instrumentation.set_on_retry_hooks(())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers = _renderers(people=stream.isatty())
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setLevel(number)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("proxy").setLevel(number)


def _renderers(*, people: bool) -> list[structlog.typing.Processor]:
    # plain tracebacks: pretty ones show variables, and with them prompts
    if people:
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
