"""What a vote of eight costs: latency beside that of one call of 200 ms, and CPU with and without `n`."""

from typing import Any

from tests.bench import measuring
from tests.bench.findings import Fact, Found, Grid, number
from tests.bench.measuring import Contender, Run, median, ratio
from tests.bench.stage import Stage

_ONE, _VOTE, _SINGLE = "one call of 200 ms", "self_consistency 8", "self_consistency 8, no n"
_AIMS = {1: 1.10, 16: 1.25}
_CPU_AIMS = {_VOTE: 1.0, _SINGLE: 2.0}
_LONGER = 2.0


def measure(stage: Stage) -> Found:
    """Both."""
    found = Found("scaled")
    rows = []
    for clients, aim in _AIMS.items():
        runs = measuring.alternate(_slow(stage, clients), stage.effort.rounds)
        rows += [_row(f"{name}, {clients} clients", own, runs[_ONE]) for name, own in runs.items()]
        for name in (_VOTE, _SINGLE):
            share = ratio(runs[name], runs[_ONE], lambda run: run.outcome.p50)
            found.facts.append(Fact(f"{name}: latency in terms of one call, {clients} clients", share, aim, " x"))
        found.notes += measuring.failures(runs)
        found.raw[f"{clients} clients"] = measuring.raw(runs)
    runs = measuring.alternate(_fast(stage), stage.effort.rounds)
    for name, aim in _CPU_AIMS.items():
        found.facts.append(Fact(f"{name}: CPU a request", median(runs[name], lambda run: run.cpu_ms), aim, " ms"))
    found.notes += measuring.failures(runs)
    found.raw["cpu"] = measuring.raw(runs)
    columns = ["", "p50 ms", "p99 ms", "p50 in terms of one call"]
    found.grids.append(Grid("an upstream of 200 ms", columns, rows))
    return found


def _slow(stage: Stage, clients: int) -> list[Contender]:
    tally, upstream = stage.tally, stage.upstream
    wish: dict[str, Any] = {"clients": clients, "seconds": _LONGER * stage.effort.seconds, "least": 8}
    return [
        Contender(_ONE, upstream, stage.load(upstream, "slow", **wish)),
        Contender(_VOTE, tally, stage.load(tally, "slow", "self_consistency", **wish)),
        Contender(_SINGLE, tally, stage.load(tally, "slow-single", "self_consistency", **wish)),
    ]


def _fast(stage: Stage) -> list[Contender]:
    tally = stage.tally
    models = {_VOTE: "fast", _SINGLE: "single"}
    return [Contender(name, tally, stage.load(tally, model, "self_consistency")) for name, model in models.items()]


def _row(name: str, own: list[Run], one: list[Run]) -> list[str]:
    share = ratio(own, one, lambda run: run.outcome.p50)
    shown = [median(own, lambda run: run.outcome.p50), median(own, lambda run: run.outcome.p99)]
    return [name, *map(number, shown), f"{share:.2f} x"]
