"""Timed runs: one load on one server, and several in alternation, so that all of them meet the same noise."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import log

import orjson

from proxy.types import JSON
from tests.bench.client import Load, Outcome
from tests.bench.processes import cpu_seconds, forget_peak, memory_mb, peak_mb
from tests.bench.serving import ROOT, Running
from tests.process import environment

_WORST = 1.15
"""An exponent above it is worse than linear; what is below it may be noise."""

_FLAT = 0.15
_WARM, _WARM_S = 16, 0.1
_LOOK_S, _LOOKS, _QUIET, _QUIET_MOST_S = 0.05, 3, 0.2, 30.0
"""A server is quiet that takes less than such a share of a core."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one load found: the client's outcome, and what the server took meanwhile."""

    outcome: Outcome
    cpu_ms: float
    before_mb: float
    peak_mb: float

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return self.outcome.rate


@dataclass(frozen=True, slots=True)
class Contender:
    """A server and what it is asked."""

    name: str
    server: Running
    load: Load


def run(server: Running, load: Load) -> Run:
    """One load, in a client process of its own; `cpu_ms` is the server's, a request that was answered."""
    before, memory = cpu_seconds(server.pid), memory_mb(server.pid)
    forget_peak(server.pid)
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.client"],
        input=orjson.dumps(asdict(load)),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    after = _quiet(server)
    outcome = Outcome(**orjson.loads(done.stdout))
    answered = max(1, outcome.requests - outcome.failed)
    return Run(outcome, 1e3 * (after - before) / answered, memory, peak_mb(server.pid))


def _quiet(server: Running) -> float:
    """CPU seconds once the server has nothing left to do: what it writes behind its replies is part of their cost."""
    give_up = time.perf_counter() + _QUIET_MOST_S
    now, looks = cpu_seconds(server.pid), 0
    while looks < _LOOKS and time.perf_counter() < give_up:
        time.sleep(_LOOK_S)
        before, now = now, cpu_seconds(server.pid)
        # on a busy machine it may only have had no turn
        looks = looks + 1 if now - before <= _QUIET * _LOOK_S else 0
    return now


def alternate(contenders: Sequence[Contender], rounds: int) -> dict[str, list[Run]]:
    """A B A B ...: the runs of each, in order of the rounds, after a short one that warms up."""
    for each in contenders:
        run(each.server, replace(each.load, clients=min(_WARM, each.load.clients), seconds=_WARM_S, rate=0.0))
    found: dict[str, list[Run]] = {each.name: [] for each in contenders}
    for _ in range(rounds):
        for each in contenders:
            found[each.name].append(run(each.server, each.load))
    return found


def median(runs: Sequence[Run], what: Callable[[Run], float]) -> float:
    """Over the rounds."""
    return statistics.median(map(what, runs))


def ratio(runs: Sequence[Run], others: Sequence[Run], what: Callable[[Run], float]) -> float:
    """The median of what `runs` have in terms of what `others` have, round by round."""
    return statistics.median(what(one) / (what(other) or 1e-9) for one, other in zip(runs, others, strict=True))


def added(runs: Sequence[Run], others: Sequence[Run], what: Callable[[Run], float]) -> float:
    """The median of what `runs` have more than `others`, round by round."""
    return statistics.median(what(one) - what(other) for one, other in zip(runs, others, strict=True))


def failures(runs: dict[str, list[Run]]) -> list[str]:
    """A line for each contender some of whose requests failed."""
    told = []
    for name, own in runs.items():
        statuses = [f"{count} x {status}" for one in own for status, count in one.outcome.statuses.items()]
        if any(one.outcome.failed for one in own):
            told.append(f"{name}: not all requests were answered ({', '.join(statuses)})")
    return told


def raw(runs: dict[str, list[Run]]) -> JSON:
    """All that was measured, for the file."""
    return {name: [asdict(one) for one in own] for name, own in runs.items()}


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """How steep the cost is at its end: k where it goes as x to the k, by least squares of the last three points."""
    points = [(log(x), log(y)) for x, y in zip(xs, ys, strict=True) if x > 0 and y > 0][-3:]
    if len(points) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def growth(slope: float) -> str:
    """The same in words."""
    if slope > _WORST:
        return "WORSE THAN LINEAR"
    return "flat" if abs(slope) <= _FLAT else "linear at most"
