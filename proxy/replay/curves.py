"""What a strategy gives at a budget: means over trials with their intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.replay.making import Setting
from proxy.replay.pool import Pool
from proxy.replay.trial import Deal, Trial, play
from proxy.types import JSON, Strategy, StrategyName

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Point:
    """One strategy at one budget on one pool: means a question over the trials.

    `tokens_x` and `latency_x` are multiples of the pool's mean tokens a sample, None for a pool without tokens;
    `latency_x` is None too where tokens are not time. Intervals are 95 % ones of the mean over trials, by Student's t:
    they hold the chance of the draws, not that of the questions. One trial has none.
    """

    pool: str
    strategy: StrategyName
    budget: float
    unit: str
    tokens_x: float | None
    samples: float
    rounds: float
    accuracy: float | None
    accuracy_ci: Interval | None
    agreement: float
    agreement_ci: Interval | None
    latency_x: float | None = None

    def as_json(self) -> JSON:
        """The point with its published keys; `latency_x` only where there is one."""
        keys = [key for key in self.__slots__ if key != "latency_x" or self.latency_x is not None]
        return {key: list(value) if isinstance(value := getattr(self, key), tuple) else value for key in keys}


def measure(
    pool: Pool,
    deals: Sequence[Deal],
    strategy: Strategy,
    budget: float,
    setting: Setting,
    *,
    tick: Callable[[], None] = lambda: None,
) -> Point:
    """Play every deal and average. `tick` is called after each trial."""
    trials: list[Trial] = []
    for deal in deals:
        trials.append(play(pool, deal, strategy, budget, setting))
        tick()
    accuracies = [trial.accuracy for trial in trials if trial.accuracy is not None]
    agreements = [trial.agreement for trial in trials]
    price = pool.mean_tokens
    return Point(
        pool=pool.name,
        strategy=strategy.name,
        budget=budget,
        unit=setting.unit,
        tokens_x=_mean([trial.tokens for trial in trials]) / price if price else None,
        samples=_mean([trial.samples for trial in trials]),
        rounds=_mean([trial.rounds for trial in trials]),
        accuracy=_mean(accuracies) if accuracies else None,
        accuracy_ci=interval(accuracies),
        agreement=_mean(agreements),
        agreement_ci=interval(agreements),
        latency_x=_mean([trial.latency for trial in trials]) / price if price and setting.durations else None,
    )


def interval(shares: Sequence[float]) -> Interval | None:
    """The 95 % interval of the mean of `shares`, by Student's t, kept in [0, 1]; None for fewer than two."""
    if len(shares) < 2:
        return None
    # scipy is a third of a second to import
    from scipy.special import stdtrit

    mean = _mean(shares)
    variance = math.fsum((share - mean) ** 2 for share in shares) / (len(shares) - 1)
    half = float(stdtrit(len(shares) - 1, 0.975)) * math.sqrt(variance / len(shares))
    return max(0.0, mean - half), min(1.0, mean + half)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
