"""What a stream that is passed through costs: the first event that a client sees, and events a second."""

from collections.abc import Callable

from tests.bench import measuring
from tests.bench.findings import Fact, Found, Grid, number
from tests.bench.measuring import Contender, Run, added, median, ratio
from tests.bench.sections.overhead import LITELLM, OFF, UPSTREAM
from tests.bench.stage import LONG, PACED, Stage

_FEW = 4


def measure(stage: Stage) -> Found:
    """First events with four clients and a provider that takes its time; then 16 clients and one that does not."""
    paced = measuring.alternate(_contenders(stage, "paced", clients=_FEW), stage.effort.rounds)
    fast = measuring.alternate(_contenders(stage, "long"), stage.effort.rounds)
    first = added(paced[OFF], paced[UPSTREAM], lambda run: run.outcome.first_p50)
    chunks = ratio(fast[OFF], fast[LITELLM], _events) if LITELLM in fast else None
    return Found(
        "stream",
        facts=[
            Fact("off, streamed: first event added, median", first, 2, " ms"),
            Fact("off, streamed: events/s in terms of LiteLLM proxy's", chunks, 10, " x", least=True),
        ],
        grids=[
            _grid(f"{_FEW} clients, first event after {PACED.delay} ms, then one every {PACED.pace} ms", paced),
            _grid(f"16 clients, {LONG.tokens} events as fast as they go", fast),
        ],
        notes=[*measuring.failures(paced), *measuring.failures(fast)],
        raw={"paced": measuring.raw(paced), "fast": measuring.raw(fast)},
    )


def _contenders(stage: Stage, model: str, clients: int = 16) -> list[Contender]:
    servers = [(UPSTREAM, stage.upstream, ""), (OFF, stage.tally, "off")]
    if stage.litellm is not None:
        servers.append((LITELLM, stage.litellm, ""))
    wish = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 2 * LONG.tokens}
    return [
        Contender(name, server, stage.load(server, model, strategy, clients=clients, **wish))
        for name, server, strategy in servers
    ]


def _grid(title: str, runs: dict[str, list[Run]]) -> Grid:
    columns: dict[str, Callable[[Run], float]] = {
        "first event p50 ms": lambda run: run.outcome.first_p50,
        "p99 ms": lambda run: run.outcome.first_p99,
        "events/s": _events,
        "CPU us an event": lambda run: 1e3 * run.cpu_ms * run.outcome.requests / max(1, run.outcome.events),
    }
    rows = [[name, *(number(median(own, what)) for what in columns.values())] for name, own in runs.items()]
    return Grid(title, ["", *columns], rows)


def _events(run: Run) -> float:
    return run.outcome.event_rate
