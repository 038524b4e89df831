"""How far a strategy's confidences can be believed: what was told beside what was right."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from proxy.core.calibration import Calibration, calibrate
from proxy.evaluation.asking import Result
from proxy.evaluation.stats import wilson
from proxy.types import STRATEGIES

EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Where bins begin and end: finer where votes are sure, as most are. A confidence on an edge is in the upper bin."""


@dataclass(frozen=True, slots=True)
class Bin:
    """The answered questions whose confidence is in [low, high): their mean confidence, and how many were right."""

    low: float
    high: float
    questions: int
    confidence: float
    right: int

    @property
    def share(self) -> float:
        """The share of right answers."""
        return self.right / self.questions

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of that share."""
        return wilson(self.right, self.questions)

    @property
    def gap(self) -> float:
        """How far the answers were better than their confidence, or worse (below 0)."""
        return self.share - self.confidence


@dataclass(frozen=True, slots=True)
class Reliability:
    """A strategy's bins that hold any question, lowest first, and all of them in one."""

    strategy: str
    bins: tuple[Bin, ...]
    whole: Bin

    @property
    def error(self) -> float:
        """The expected calibration error: the mean size of the bins' gaps, weighed by their questions (Naeini 2015)."""
        return sum(each.questions * abs(each.gap) for each in self.bins) / self.whole.questions


def reliability(strategy: str, results: Iterable[Result]) -> Reliability | None:
    """The reliability of a strategy's answers; None where none was voted on."""
    outcomes = _outcomes(results)
    if not outcomes:
        return None
    bins = []
    for low, high in pairwise(EDGES):
        inside = [each for each in outcomes if low <= each[0] < high or each[0] == high == EDGES[-1]]
        if inside:
            bins.append(_bin(low, high, inside))
    return Reliability(strategy, tuple(bins), _bin(EDGES[0], EDGES[-1], outcomes))


def calibrations(model: str, results: Iterable[Result]) -> dict[tuple[str, str], Calibration]:
    """What the answers teach of a model's confidences, by model and strategy; too few answers teach nothing."""
    kept = list(results)
    found: dict[tuple[str, str], Calibration] = {}
    for strategy in STRATEGIES:
        learned = calibrate(_outcomes(result for result in kept if result.served == strategy))
        if learned is not None:
            found[model, strategy] = learned
    return found


def _outcomes(results: Iterable[Result]) -> list[tuple[float, bool]]:
    return [(result.confidence, result.correct) for result in results if result.confidence is not None]


def _bin(low: float, high: float, outcomes: Sequence[tuple[float, bool]]) -> Bin:
    right = sum(correct for _, correct in outcomes)
    return Bin(low, high, len(outcomes), fmean(confidence for confidence, _ in outcomes), right)
