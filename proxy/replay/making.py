"""From a strategy and a budget to the core's batch and its purse: the one place that knows what each strategy needs.

Every batch may draw `cap` samples a query, or as many as were recorded; the budget ends it by denial:

- fixed-N strategies (`self_consistency`, `best_of_n`) ask N = cap, and round-robin dealing spends the budget evenly, so
  a budget of X multiples is N = X, fractions of it too. One query at a time (`stream`), N is the budget itself, counted
  in samples even when budgets are in tokens: an N that shrinks on long answers would be another strategy;
- those that stop by themselves (`adaptive_consistency`, `early_stopping`, `optscale`) have the cap as their maximum;
- `adaptive` as one batch has the budget to itself; in batches of a size, and one query at a time, all share one bank
  and one purse, as a tenant's live queries do;
- `dynscaling` is Algorithm 1 as published (`exact`, |S| = 1 unless told) with independent draws alone, since a pool has
  no conditioned ones; `pets` picks one query and draw at a time. With a limit of R rounds as many are picked a wave as
  spend the budget in R waves, and what is drawn one by one comes in R equal parts of twice the budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np

from proxy.core.adaptive import AdaptiveBatch
from proxy.core.adaptive_consistency import AdaptiveConsistencyBatch
from proxy.core.bank import Bank
from proxy.core.batch import Batch, Limits
from proxy.core.fixed import FixedBatch
from proxy.core.strategies import batch_for, scored
from proxy.errors import TallyError
from proxy.replay.driver import Purse, Unit
from proxy.replay.pool import Pool, Question
from proxy.types import Strategy, StrategyName

Arrivals = Literal["batch", "stream"]

FIXED: frozenset[StrategyName] = frozenset({"off", "self_consistency", "best_of_n"})
CONDITIONED: frozenset[StrategyName] = frozenset({"sp1", "sp2", "sp3", "multi_round"})
REPLAYABLE: tuple[StrategyName, ...] = (
    "off",
    "self_consistency",
    "adaptive",
    "best_of_n",
    "dynscaling",
    "optscale",
    "adaptive_consistency",
    "early_stopping",
    "pets",
)

_NO_CAP = 2**62
_LEAST_CREDIT = 0.01


@dataclass(frozen=True, slots=True)
class Setting:
    """How a pool is played, the same for all strategies of a comparison.

    `unit` is what budgets count. `batch_size` 0 is the whole pool as one batch; a `stream` is one query at a time.
    `cap` is in samples a query, `rounds` in waves a query (0: no limit). `durations`: tokens are time.
    """

    unit: Unit = "tokens"
    batch_size: int = 0
    arrivals: Arrivals = "batch"
    cap: int = 64
    rounds: int = 0
    durations: bool = False


def replayable(name: str) -> StrategyName:
    """The strategy of this name. TallyError when there is none, or it cannot be replayed."""
    if name in CONDITIONED:
        raise TallyError(f"{name} cannot be replayed: its draws see earlier ones, and a pool has no conditioned draws")
    for known in REPLAYABLE:
        if known == name:
            return known
    raise TallyError(f"{name!r} is no strategy that can be replayed: choose from {', '.join(REPLAYABLE)}")


def check_pool(name: StrategyName, pool: Pool, unit: Unit) -> None:
    """TallyError when this pool has not what a strategy, or a budget in this unit, needs."""
    if scored(Strategy(name)) and not pool.scored:
        raise TallyError(f"{name} needs scores, and no sample of {pool.name} has one")
    if unit == "tokens" and not pool.mean_tokens:
        raise TallyError(f"{pool.name} counts no tokens: use --unit samples")


class Maker:
    """Makes the batches and purses of one trial, in the order of their queries; it lives as long as the trial.

    `budget` is in multiples of one sample a question. `lots` is the generator of batches that draw lots.
    """

    def __init__(
        self, strategy: Strategy, budget: float, setting: Setting, pool: Pool, lots: np.random.Generator
    ) -> None:
        self._strategy = strategy
        self._budget = budget
        self._setting = setting
        self._lots = lots
        counted = setting.arrivals == "stream" and strategy.name in FIXED
        self._unit: Unit = "samples" if counted else setting.unit
        self._price = pool.mean_tokens if self._unit == "tokens" else 1.0
        self._tokens = pool.mean_tokens or None
        self._bank: Bank | None = None
        self._shared: Purse | None = None
        if strategy.name == "adaptive" and (setting.batch_size or setting.arrivals == "stream"):
            self._bank = Bank(max(budget, _LEAST_CREDIT), sample_tokens=self._tokens)
            self._shared = Purse(self._whole(len(pool.questions)), self._unit)

    def purse(self, before: int, after: int) -> Purse:
        """The share of the queries from the `before`-th to the `after`-th; what rounding takes, the next one gets."""
        if self._shared is not None:
            return self._shared
        return Purse(self._whole(after) - self._whole(before), self._unit)

    def batch(self, questions: Sequence[Question]) -> Batch:
        """A fresh batch for these questions."""
        recorded = max(1, *(len(question.samples) for question in questions))
        limits = Limits(min(self._setting.cap, recorded), self._setting.rounds or _NO_CAP)
        match self._strategy.name:
            case "self_consistency" | "best_of_n":
                return FixedBatch(limits.max_samples, limits)
            case "adaptive":
                return self._adaptive(limits)
            case "dynscaling":
                return self._dynscaling(limits, len(questions))
            case "pets":
                return self._pets(limits, len(questions))
            case "adaptive_consistency":
                width = self._width(limits)
                return AdaptiveConsistencyBatch(threshold=self._strategy.threshold, width=width, limits=limits)
            case _:
                # what shares nothing is the live batch under other caps
                live = replace(self._strategy, max_samples=limits.max_samples, max_rounds=limits.max_rounds)
                return batch_for(live, lambda: self._lots)

    def _adaptive(self, limits: Limits) -> Batch:
        return AdaptiveBatch(
            mean_samples=max(1.0, self._budget),
            target=self._strategy.target,
            limits=limits,
            bank=self._bank,
            sample_tokens=self._tokens,
            by_tokens=self._unit == "tokens",
            # without a limit of rounds a wave costs nothing
            least_share=0.5 if self._setting.rounds else 0.0,
        )

    def _dynscaling(self, limits: Limits, queries: int) -> Batch:
        from proxy.core.dynscaling import DynScalingBatch

        strategy = self._strategy
        return DynScalingBatch(
            unit=strategy.unit,
            thought_length=strategy.thought_length,
            exploration=strategy.exploration,
            uncertainty=strategy.uncertainty,
            votes="all",
            integrated=False,
            dynamic=strategy.dynamic,
            subset=self._subset(queries, strategy.unit),
            # more than the cap lets anybody draw: the purse ends it
            mean_samples=max(limits.max_samples, strategy.unit),
            target=strategy.target,
            mode="exact",
            limits=limits,
            rng=self._lots,
        )

    def _pets(self, limits: Limits, queries: int) -> Batch:
        from proxy.core.pets import PetsBatch

        width = self._width(limits)
        return PetsBatch(
            mean_samples=limits.max_samples, width=width, subset=self._subset(queries, width), limits=limits
        )

    def _width(self, limits: Limits) -> int:
        """Draws a query and wave of those that draw one by one: few rounds want wider ones, to twice the budget."""
        return ceil(min(limits.max_samples, 2 * self._budget) / limits.max_rounds) or 1

    def _subset(self, queries: int, size: int) -> int:
        """How many queries get `size` draws a wave: as told, else 1, or what spends the budget in its rounds."""
        if self._strategy.subset is not None:
            return self._strategy.subset
        further = (self._budget / size - 1) * queries
        rounds = self._setting.rounds
        return max(1, ceil(further / (rounds - 1))) if rounds > 1 else 1

    def _whole(self, questions: int) -> int:
        # a hair more than the product, which may lie a rounding error below a whole number
        return int(self._budget * questions * self._price + 1e-6)
