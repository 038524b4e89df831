"""Logs and metrics: never a prompt, an answer or a key."""

import asyncio
import atexit
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TextIO

import orjson
import stamina
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_CALLBACK = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128)


_MOST_TOLD = 10_000
_TOLD = ("reservations", "nano_usd", "tenants")
"""What a line of the standard library's logger may say beside its event: our own, for libraries may quote prompts."""
_FLUSH_S = 0.1
_STEADY_S = 2.0
"""How long a mark stays at least: a worker may have looked just before another has set it."""


@dataclass(frozen=True, slots=True)
class _Told:
    requests: Counter
    samples: Histogram | None
    seconds: Histogram
    prompt: Counter
    completion: Counter
    cost: Counter


class Marks:
    """What worker processes have told, as empty files in `folder`, so that one of them tells it for all.

    `clock` is seconds since 1970, as files have it.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock

    def turned(self, name: str, *, on: bool) -> bool:
        """Set a mark, or take it away; returns whether it stood otherwise, so that this process is to tell."""
        path = self._folder / f"{blake2b(name.encode(), digest_size=16).hexdigest()}.mark"
        try:
            if on:
                path.touch(exist_ok=False)
            elif self._clock() - path.stat().st_mtime < _STEADY_S:
                return False
            else:
                path.unlink()
        except (FileExistsError, FileNotFoundError):
            return False
        except OSError:
            # better twice than never
            return on
        return True


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

        self.callbacks = Histogram(
            "tally_callback_seconds",
            "CPU seconds of callbacks that kept the event loop waiting, from about 10 ms on",
            buckets=_CALLBACK,
            registry=self._registry,
        )
        self._longest = Gauge(
            "tally_callback_seconds_max",
            "The longest of them since the metrics were last asked for",
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._most = 0.0
        self._told: dict[tuple[str, str, str, int, bool], _Told] = {}

    def told(self, *, model: str, strategy: str, tenant: str, status: int, drawn: bool) -> "_Told":
        """The metrics of requests of one kind, looked up once; `drawn`: they have samples."""
        key = model, strategy, tenant, status, drawn
        found = self._told.get(key)
        if found is None:
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            found = self._told[key] = _Told(
                requests=self.requests.labels(model, strategy, str(status)),
                samples=self.samples.labels(model, strategy) if drawn else None,
                seconds=self.seconds.labels(model, strategy),
                prompt=self.tokens.labels(model, "prompt"),
                completion=self.tokens.labels(model, "completion"),
                cost=self.cost.labels(model, tenant),
            )
        return found

    def callback(self, seconds: float) -> None:
        """Count a callback of so many CPU seconds."""
        self.callbacks.observe(seconds)
        if seconds > self._most:
            self._most = seconds
            self._longest.set(seconds)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        told = self._exposition()
        self._most = 0.0
        self._longest.set(0.0)
        return told

    def _exposition(self) -> bytes:
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
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers = _renderers(people=stream.isatty())
    lines = Lines(stream)
    atexit.register(lines.flush)
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setLevel(number)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(_TOLD)],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("proxy").setLevel(number)


def _renderers(*, people: bool) -> list[structlog.typing.Processor]:
    # plain tracebacks: pretty ones show variables, and with them prompts
    if people:
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json)]


def _json(line: object, **_: object) -> str:
    # what is no JSON is told as text, as by the standard library's encoder with default=repr
    return orjson.dumps(line, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


def flush_logs() -> None:
    """Write the lines that wait."""
    lines = structlog.get_config()["logger_factory"]()
    if isinstance(lines, Lines):
        lines.flush()


class Lines:
    """Where log lines go: warnings and worse at once, others, in an event loop, together after a tenth of a second."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._held: list[str] = []

    def warning(self, line: str) -> None:
        """Write a line, and those that wait."""
        self._held.append(line)
        self.flush()

    error = critical = fatal = exception = warn = warning

    def info(self, line: str) -> None:
        """Write a line soon."""
        self._held.append(line)
        if len(self._held) > 1:
            return
        try:
            asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)
        except RuntimeError:
            self.flush()

    debug = msg = log = info

    def flush(self) -> None:
        """Write what waits."""
        held, self._held = self._held, []
        if held:
            self._stream.write("\n".join([*held, ""]))
            self._stream.flush()
