"""Whole comparisons: every strategy at every budget on every pool, or the cost of a target agreement."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from proxy.replay.curves import Point, measure
from proxy.replay.making import Setting
from proxy.replay.pool import Pool
from proxy.replay.search import Reach, reach
from proxy.replay.trial import shuffle
from proxy.types import JSON, Strategy

Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Reached:
    """What a target agreement costs a strategy on one pool, and that over the cost of the first strategy named."""

    pool: str
    strategy: str
    at_agreement: float
    reach: Reach
    ratio: float | None

    def as_json(self) -> JSON:
        """Flat, with `budget`, `tokens_x` and `reached` beside the names."""
        return {
            "pool": self.pool,
            "strategy": self.strategy,
            "at_agreement": self.at_agreement,
            "budget": self.reach.budget,
            "tokens_x": self.reach.tokens_x,
            "reached": self.reach.reached,
            "ratio": self.ratio,
        }


@dataclass(frozen=True, slots=True)
class Average:
    """A strategy over all pools: the mean of `tokens_x`, its ratio to the first strategy's, and the mean of ratios."""

    strategy: str
    tokens_x: float
    ratio: float | None
    mean_ratio: float | None

    def as_json(self) -> JSON:
        """With the pool `mean`."""
        return {
            "pool": "mean",
            "strategy": self.strategy,
            "tokens_x": self.tokens_x,
            "ratio": self.ratio,
            "mean_ratio": self.mean_ratio,
        }


def curves(
    pools: Sequence[Pool],
    strategies: Sequence[Strategy],
    budgets: Sequence[float],
    setting: Setting,
    *,
    trials: int,
    seed: int,
    tick: Tick,
) -> Iterator[Point]:
    """Every strategy at every budget, pool after pool, on the same deals. `tick` is called after each trial."""
    for pool in pools:
        deals = [shuffle(pool, seed, trial) for trial in range(trials)]
        for strategy in strategies:
            for budget in budgets:
                yield measure(pool, deals, strategy, budget, setting, tick=tick)


def costs(
    pools: Sequence[Pool],
    strategies: Sequence[Strategy],
    target: float,
    setting: Setting,
    *,
    trials: int,
    seed: int,
    tick: Tick,
) -> Iterator[Reached]:
    """What the mean agreement `target` costs every strategy on every pool. `tick` is called after each trial."""
    for pool in pools:
        deals = [shuffle(pool, seed, trial) for trial in range(trials)]
        first: float | None = None
        for strategy in strategies:
            measured = partial(measure, pool, deals, strategy, setting=setting, tick=tick)
            found = reach(measured, target, setting.cap)
            first = found.tokens_x if first is None else first
            yield Reached(pool.name, strategy.name, target, found, _over(found.tokens_x, first))


def averages(found: Sequence[Reached]) -> list[Average]:
    """Each strategy over all pools, in the order in which they were named."""
    names = list(dict.fromkeys(line.strategy for line in found))
    first = _mean([line.reach.tokens_x for line in found if line.strategy == names[0]]) if names else 0.0
    result: list[Average] = []
    for name in names:
        own = [line for line in found if line.strategy == name]
        tokens = _mean([line.reach.tokens_x for line in own])
        ratios = [line.ratio for line in own if line.ratio is not None]
        result.append(Average(name, tokens, _over(tokens, first), _mean(ratios) if ratios else None))
    return result


def _over(cost: float, first: float) -> float | None:
    return cost / first if first > 0 else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
