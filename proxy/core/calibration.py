"""From a confidence to the chance of being right, learned from answers that somebody has judged.

A confidence says how sure the vote is of the model's own favourite; the model may be wrong about it, and be so often.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, log, log1p

from proxy.core.newton import Bend, Box, minimise

FEWEST = 30
"""With fewer judged answers nothing is believed."""

_EDGE = 0.001
"""Confidences are told apart no nearer to 0 and 1: no number of judged answers that there will be tells more."""

_BOX: Box = ((-20.0, 20.0), (0.0, 20.0))
_INTERCEPT_SD = _SLOPE_SD = 1.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """logit(chance of being right) = intercept + slope * logit(confidence), with a slope of at least 0.

    Platt's scaling (1999) on log-odds, as beta calibration with both slopes alike (Kull et al. 2017). `outcomes` is how
    many judged answers it was learned from.
    """

    intercept: float
    slope: float
    outcomes: int

    def chance(self, confidence: float) -> float:
        """The chance in [0, 1] that an answer of this confidence is right; it never falls where confidence rises."""
        return _logistic(self.intercept + self.slope * _logit(confidence))


def calibrate(outcomes: Iterable[tuple[float, bool]]) -> Calibration | None:
    """The calibration that `(confidence, whether it was right)` teaches; None below 30, or where all are of one kind.

    The most probable one under a weak prior: intercept 0 and slope 1, where a confidence is the chance itself, each
    with a standard deviation of 1.
    """
    # as many terms as there are tenths, however many outcomes: it is fitted between requests
    counts = Counter((round(_logit(confidence), 1), right) for confidence, right in outcomes)
    whole = counts.total()
    if whole < FEWEST or len({right for _, right in counts}) < 2:
        return None
    weighed = [(at, right, float(count)) for (at, right), count in counts.items()]

    def loss(intercept: float, slope: float) -> Bend:
        return sum((_loss(intercept, slope, *each) for each in weighed), _doubt(intercept, slope))

    (intercept, slope), _ = minimise(loss, (0.0, 1.0), _BOX)
    return Calibration(intercept, slope, whole)


def _doubt(intercept: float, slope: float) -> Bend:
    """Minus the logarithm of the prior."""
    a, b = intercept / _INTERCEPT_SD**2, (slope - 1) / _SLOPE_SD**2
    value = (intercept * a + (slope - 1) * b) / 2
    return Bend(value, (a, b), (1 / _INTERCEPT_SD**2, 0.0, 1 / _SLOPE_SD**2))


def _loss(intercept: float, slope: float, at: float, right: bool, count: float) -> Bend:
    """Minus the log-likelihood of `count` like outcomes at a confidence whose logit is `at`."""
    score = intercept + slope * at
    chance = _logistic(score)
    lost = max(score, 0.0) + log1p(exp(-abs(score))) - right * score
    off, bend = count * (chance - right), count * chance * (1 - chance)
    return Bend(count * lost, (off, off * at), (bend, bend * at, bend * at * at))


def _logit(confidence: float) -> float:
    inside = min(max(confidence, _EDGE), 1 - _EDGE)
    return log(inside / (1 - inside))


def _logistic(score: float) -> float:
    # the exponent is never positive: what it would be of a large one overflows
    return 1 / (1 + exp(-score)) if score >= 0 else exp(score) / (1 + exp(score))
