"""How cost grows: with concurrency, samples, the prompt's length, the ledger's rows and the number of tenants.

Cost is CPU milliseconds a request, the least of the rounds, for noise only adds. The exponent is that of the last three
points. For concurrency, rows and tenants it is that of the cost of so many requests together: one among a thousand, or
with ten million before it, must not cost more than one alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.bench import measuring, serving
from tests.bench.client import MARK, Load
from tests.bench.filling import fill, populate
from tests.bench.findings import Curve, Fact, Found, Grid, number
from tests.bench.measuring import Contender, Run, exponent, growth
from tests.bench.serving import Running
from tests.bench.stage import Stage

OFF, VOTE = "off", "self_consistency 8"
STRATEGIES = {OFF: "off", VOTE: "self_consistency"}
CONCURRENCY, SAMPLES, PROMPT, ROWS, TENANTS = (
    "requests at once",
    "samples",
    "tokens of the prompt",
    "rows in the ledger",
    "tenants",
)
_TOGETHER = (CONCURRENCY, ROWS, TENANTS)
_CONCURRENCY = (1, 4, 16, 64, 250, 1000)
_SAMPLES = (1, 2, 4, 8, 16, 32, 64)
_PROMPT = (10, 1_000, 10_000, 50_000, 200_000)
_TENANTS = (1, 10, 100, 1_000, 10_000)
_ROWS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_FEW = 4
_SHARE = 0.5
"""Of the seconds of other runs: there are many here."""

_AIM = 1.15

Line = dict[float, list[Run]]
Loads = dict[tuple[str, float], Load]
"""By the line's name and the place on the axis."""


def measure(stage: Stage) -> Found:
    """A table and a curve for each axis and strategy."""
    found = Found("growth")
    rounds = max(1, stage.effort.rounds // 2)
    _add(found, CONCURRENCY, _by_load(stage, rounds, _concurrency))
    _add(found, SAMPLES, _by_load(stage, rounds, _samples))
    _add(found, PROMPT, _by_load(stage, rounds, _prompts))
    _add(found, ROWS, _rows(stage, rounds))
    _add(found, TENANTS, _tenants(stage, rounds))
    return found


def _concurrency(stage: Stage, tally: Running) -> Loads:
    sizes = _fewer(stage, _CONCURRENCY)
    return {
        (name, size): stage.load(tally, "fast", strategy, clients=size, seconds=_seconds(stage))
        for name, strategy in STRATEGIES.items()
        for size in sizes
    }


def _samples(stage: Stage, tally: Running) -> Loads:
    sizes = _fewer(stage, _SAMPLES)
    return {
        (name, size): stage.load(
            tally,
            model,
            "self_consistency",
            clients=_FEW,
            seconds=_seconds(stage),
            tally={"samples": size, "max_samples": size},
        )
        for name, model in (("with n", "fast"), ("no n", "single"))
        for size in sizes
    }


def _prompts(stage: Stage, tally: Running) -> Loads:
    sizes = _fewer(stage, _PROMPT)
    return {
        (name, size): stage.load(
            tally,
            "fast",
            strategy,
            clients=_FEW,
            seconds=_seconds(stage),
            messages=[{"role": "user", "content": f"Question {MARK}: what is 6 x 7? " + "word" * size}],
        )
        for name, strategy in STRATEGIES.items()
        for size in sizes
    }


def _by_load(stage: Stage, rounds: int, make: Callable[[Stage, Running], Loads]) -> dict[str, Line]:
    """A server of their own for each axis: what one asked must not weigh on the next."""
    folder = stage.folder("growth")
    config = serving.configuration(stage.entries(["fast", "single"]), folder, scaling={"max_samples": max(_SAMPLES)})
    with serving.tally(config, folder) as tally:
        loads = make(stage, tally)
        contenders = [Contender(f"{name}@{x}", tally, load) for (name, x), load in loads.items()]
        runs = measuring.alternate(contenders, rounds)
    lines: dict[str, Line] = {}
    for name, x in loads:
        lines.setdefault(name, {})[x] = runs[f"{name}@{x}"]
    return lines


def _rows(stage: Stage, rounds: int) -> dict[str, Line]:
    """One ledger that is filled more and more between runs."""
    folder = stage.folder("rows")
    file = folder / "tally.db"
    config = serving.configuration(stage.entries(["fast"]), folder)
    with serving.tally(config, folder, settle=False):
        pass  # makes the ledger and its tenant
    lines: dict[str, Line] = {name: {} for name in STRATEGIES}
    for size in (size for size in _ROWS if size <= stage.effort.rows):
        fill(file, "acme", size)
        with serving.tally(config, folder, settle=False) as tally:
            for name, runs in _both(stage, tally, rounds).items():
                lines[name][size] = runs
    return lines


def _tenants(stage: Stage, rounds: int) -> dict[str, Line]:
    """All tenants' keys go in turn."""
    folder = stage.folder("tenants")
    file = folder / "tally.db"
    config = serving.configuration(stage.entries(["fast"]), folder, tenants=[])
    lines: dict[str, Line] = {name: {} for name in STRATEGIES}
    keys: list[str] = []
    for size in _fewer(stage, _TENANTS):
        keys += populate(file, range(len(keys), size))
        with serving.tally(config, folder, settle=False) as tally:
            for name, runs in _both(stage, tally, rounds, tuple(keys)).items():
                lines[name][size] = runs
    return lines


def _both(stage: Stage, tally: Running, rounds: int, keys: tuple[str, ...] = ()) -> dict[str, list[Run]]:
    contenders = []
    for name, strategy in STRATEGIES.items():
        load = stage.load(tally, "fast", strategy, seconds=_seconds(stage))
        contenders.append(Contender(name, tally, replace(load, keys=keys) if keys else load))
    return measuring.alternate(contenders, rounds)


def _seconds(stage: Stage) -> float:
    return _SHARE * stage.effort.seconds


def _fewer(stage: Stage, sizes: Sequence[int]) -> Sequence[int]:
    """The ends and the middle where it must be quick."""
    return (sizes[0], sizes[len(sizes) // 2], sizes[-1]) if stage.effort.quick else sizes


def _add(found: Found, axis: str, lines: dict[str, Line]) -> None:
    xs = list(next(iter(lines.values())))
    rows = []
    for name, line in lines.items():
        costs = [min(run.cpu_ms for run in line[x]) for x in xs]
        totals = [x * cost for x, cost in zip(xs, costs, strict=True)] if axis in _TOGETHER else costs
        slope = exponent(xs, totals)
        rows.append([name, *map(number, costs), f"{slope:.2f}", growth(slope)])
        found.curves.append(Curve(axis, name, xs, costs))
        found.facts.append(Fact(f"cost against {axis}, {name}: exponent", slope, _AIM))
        found.notes += measuring.failures({f"{name}, {axis} {x:,}": runs for x, runs in line.items()})
        found.raw[f"{axis}, {name}"] = measuring.raw({str(x): runs for x, runs in line.items()})
    found.grids.append(Grid(f"CPU ms a request by {axis}", ["", *(f"{x:,}" for x in xs), "exponent", ""], rows))
