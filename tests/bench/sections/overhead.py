"""What a request costs that is not streamed, at 16 clients and a provider that answers at once."""

from collections.abc import Sequence
from dataclasses import replace

from tests.bench import measuring
from tests.bench.findings import Bar, Fact, Found, Grid, number
from tests.bench.measuring import Contender, Run, added, median, ratio
from tests.bench.stage import Stage

OFF, VOTE, ADAPTIVE = "tally off", "tally self_consistency 8", "tally adaptive"
UPSTREAM, LITELLM, ITS_HUB = "upstream itself", "LiteLLM proxy", "its-hub, 8 samples"
RELAY = "a bare relay: Starlette, aiohttp"
_ARRIVALS = 40.0
_OPEN = 3.0

# the aims in milliseconds, where a bare relay takes a tenth of one
_RELAYS = {OFF: 3.5, VOTE: 10, f"{VOTE}, no n": 20}

Runs = dict[str, list[Run]]


def measure(stage: Stage) -> Found:
    """The closed loop for all; then arrivals at random, so many a second, for those that only pass on."""
    runs = measuring.alternate(_contenders(stage), stage.effort.rounds)
    passing = [each for each in _contenders(stage) if each.name in (UPSTREAM, OFF, LITELLM)]
    seconds = stage.effort.seconds * _OPEN
    opened = measuring.alternate(
        [replace(each, load=replace(each.load, rate=_ARRIVALS, seconds=seconds)) for each in passing],
        max(1, stage.effort.rounds // 2),
    )
    title = f"{_ARRIVALS:g} arrivals a second, at random"
    return Found(
        "overhead",
        facts=list(_facts(runs)),
        grids=[grid("16 clients, not streamed, upstream answers at once", runs), grid(title, opened)],
        bars=[Bar(name, *_bar(own)) for name, own in runs.items()],
        notes=[*measuring.failures(runs), *measuring.failures(opened)],
        raw={"closed": measuring.raw(runs), "open": measuring.raw(opened)},
    )


def _contenders(stage: Stage) -> list[Contender]:
    tally = stage.tally
    found = [
        Contender(UPSTREAM, stage.upstream, stage.load(stage.upstream, "fast")),
        Contender(RELAY, stage.relay, stage.load(stage.relay, "fast")),
        Contender(OFF, tally, stage.load(tally, "fast", "off")),
        Contender(VOTE, tally, stage.load(tally, "fast", "self_consistency")),
        Contender(f"{VOTE}, no n", tally, stage.load(tally, "single", "self_consistency")),
        Contender(f"{VOTE}, sliced", tally, stage.load(tally, "fast", "self_consistency", max_tokens=None)),
        Contender(ADAPTIVE, tally, stage.load(tally, "fast", "adaptive")),
    ]
    for name, server in ((LITELLM, stage.litellm), (ITS_HUB, stage.its_hub)):
        if server is not None:
            model = "fast" if name == LITELLM else "small"
            found.append(Contender(name, server, stage.load(server, model)))
    return found


def grid(title: str, runs: Runs) -> Grid:
    """A row for each contender; ratios are to LiteLLM's proxy, where it ran."""
    columns = ["", "requests/s", "p50 ms", "p95 ms", "p99 ms", "CPU ms a request", "peak MB"]
    columns += ["CPU below LiteLLM's", "rate above LiteLLM's"]
    return Grid(title, columns, [_row(name, own, runs.get(LITELLM)) for name, own in runs.items()])


def _row(name: str, own: Sequence[Run], others: Sequence[Run] | None) -> list[str]:
    cells = [
        median(own, lambda run: run.rate),
        median(own, lambda run: run.outcome.p50),
        median(own, lambda run: run.outcome.p95),
        median(own, lambda run: run.outcome.p99),
        median(own, _cpu),
        max(run.peak_mb for run in own),
    ]
    shares = ["-", "-"]
    if others is not None and name != UPSTREAM:
        shares = [
            f"{number(ratio(others, own, _cpu))} x",
            f"{number(ratio(own, others, lambda run: run.rate))} x",
        ]
    return [name, *map(number, cells), *shares]


def _bar(own: Sequence[Run]) -> tuple[float, float, float]:
    return (
        median(own, _cpu),
        median(own, lambda run: run.outcome.p50),
        median(own, lambda run: run.outcome.p99),
    )


def _cpu(run: Run) -> float:
    return run.cpu_ms


def _facts(runs: Runs) -> list[Fact]:
    off, others = runs[OFF], runs.get(LITELLM)
    cpu = rate = None
    if others is not None:
        cpu = ratio(others, off, _cpu)
        rate = ratio(off, others, lambda run: run.rate)
    return [
        Fact("off: CPU a request", median(off, _cpu), 0.35, " ms"),
        *(
            Fact(f"{name}: CPU in terms of a bare relay's", ratio(runs[name], runs[RELAY], _cpu), aim, " x")
            for name, aim in _RELAYS.items()
        ),
        Fact("off: LiteLLM proxy's CPU in terms of it", cpu, 16, " x", least=True),
        Fact("off: requests/s in terms of LiteLLM proxy's", rate, 12, " x", least=True),
        Fact("off: p99 added to the upstream's", added(off, runs[UPSTREAM], lambda run: run.outcome.p99), 10, " ms"),
    ]
