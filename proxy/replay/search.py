"""The budget at which a strategy's mean agreement reaches a target."""

from collections.abc import Callable
from dataclasses import dataclass

from proxy.replay.curves import Point

_CLOSE = 0.04
_LEAST = 0.01


@dataclass(frozen=True, slots=True)
class Reach:
    """What `agreement` costs: `budget` and `tokens_x` in multiples of one sample a question.

    `reached` False: it never gets there within the cap, and both count as the cap.
    """

    budget: float
    tokens_x: float
    reached: bool


def reach(measured: Callable[[float], Point], target: float, cap: int) -> Reach:
    """Search the budget (0 to `cap`) whose mean agreement first reaches `target`.

    Budgets double from 1 until one reaches it; the gap is then halved until it is 4 % wide, and tokens are read off
    the straight line between its ends. `measured` gives the point of a budget. A pool without tokens counts budgets.
    """
    low = measured(0.0)
    if low.agreement >= target:
        return Reach(0.0, 0.0, reached=True)
    high = measured(1.0)
    while high.agreement < target:
        if high.budget >= cap:
            return Reach(float(cap), float(cap), reached=False)
        low, high = high, measured(min(2 * high.budget, float(cap)))
    while high.budget - low.budget > max(_CLOSE * high.budget, _LEAST):
        middle = measured((low.budget + high.budget) / 2)
        low, high = (low, middle) if middle.agreement >= target else (middle, high)
    return _between(low, high, target)


def _between(low: Point, high: Point, target: float) -> Reach:
    gap = high.agreement - low.agreement
    part = (target - low.agreement) / gap if gap > 0 else 0.0
    budget = low.budget + part * (high.budget - low.budget)
    tokens = _tokens(low) + part * (_tokens(high) - _tokens(low))
    return Reach(budget, tokens, reached=True)


def _tokens(point: Point) -> float:
    return point.budget if point.tokens_x is None else point.tokens_x
