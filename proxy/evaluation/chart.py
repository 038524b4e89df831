"""Accuracy against cost, as points and axes that a PNG and a page draw alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from proxy.evaluation.summary import Summary

# distinct also for most who see colours otherwise (Okabe and Ito 2008), then darker ones
COLOURS = (
    *("#6b7280", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#7c3aed", "#92400e", "#be123c", "#365314", "#1e3a8a", "#a16207"),
)
_TICKS = 5
_PAD = 0.08


@dataclass(frozen=True, slots=True)
class Point:
    """A strategy: its place, the ends of its 95 % interval in y, and its colour."""

    name: str
    x: float
    y: float
    low: float
    high: float
    colour: str


@dataclass(frozen=True, slots=True)
class Axis:
    """What is measured, from where to where, and the ticks with their texts."""

    title: str
    start: float
    end: float
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """Where a value stands between the two ends, in [0, 1]."""
        return (value - self.start) / (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Chart:
    """Accuracy in percent against what a question costs."""

    x: Axis
    y: Axis
    points: tuple[Point, ...]


def chart(summaries: Sequence[Summary]) -> Chart | None:
    """The chart of the strategies that answered anything, or None. Cost is in tokens where none of them cost money."""
    shown = [summary for summary in summaries if summary.answered]
    if not shown:
        return None
    paid = any(summary.cost_usd for summary in shown)
    points = tuple(_point(summary, index, paid=paid) for index, summary in enumerate(shown))
    title = "cost of 1,000 questions, USD" if paid else "tokens a question"
    widest = max(point.x for point in points) or 1.0
    low, high = min(point.low for point in points), max(point.high for point in points)
    room = max(high - low, 5.0) * _PAD
    return Chart(
        _axis(title, 0.0, widest * (1 + _PAD), "$" if paid else "", ""),
        _axis("right answers, 95 % interval", max(0.0, low - room), min(100.0, high + room), "", " %"),
        points,
    )


def _point(summary: Summary, index: int, *, paid: bool) -> Point:
    low, high = summary.interval
    return Point(
        summary.strategy,
        summary.cost_usd * 1000 if paid else summary.tokens,
        100 * summary.accuracy,
        100 * low,
        100 * high,
        COLOURS[index % len(COLOURS)],
    )


def _axis(title: str, start: float, end: float, before: str, after: str) -> Axis:
    step = _step(end - start)
    decimals = max(0, -floor(log10(step)))
    values = [step * place for place in range(ceil(start / step - 1e-9), floor(end / step + 1e-9) + 1)]
    return Axis(title, start, end, tuple((value, f"{before}{value:,.{decimals}f}{after}") for value in values))


def _step(width: float) -> float:
    """The step of 1, 2 or 5 times a power of ten that makes about five ticks."""
    rough = width / _TICKS
    power: float = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
