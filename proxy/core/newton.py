"""The least value of a smooth function of two variables in a box: Newton's method with damping.

Two variables and exact second derivatives need a few microseconds a step, where a general library needs a millisecond.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

_STEPS = 60
_EASY, _STUCK = 1e-4, 1e12
_GAIN = 1e-11


@dataclass(frozen=True, slots=True)
class Bend:
    """A function at a point: its value, gradient `(x, y)` and second derivatives `(xx, xy, yy)`."""

    value: float
    gradient: tuple[float, float]
    hessian: tuple[float, float, float]

    def __add__(self, other: "Bend") -> "Bend":
        (x, y), (xx, xy, yy) = other.gradient, other.hessian
        return Bend(
            self.value + other.value,
            (self.gradient[0] + x, self.gradient[1] + y),
            (self.hessian[0] + xx, self.hessian[1] + xy, self.hessian[2] + yy),
        )


Point = tuple[float, float]
Box = tuple[tuple[float, float], tuple[float, float]]


def minimise(function: Callable[[float, float], Bend], start: Point, box: Box) -> tuple[Point, float]:
    """A local minimum inside `box`, and the value there; the start is put into the box first.

    Levenberg's damping: a step that does not go down is tried again shorter and nearer to the steepest way down.
    """
    point = _inside(start, box)
    bend = function(*point)
    damping = 0.0
    for _ in range(_STEPS):
        step = _step(bend, point, box, damping)
        if step is None:
            damping = _more(damping)
            if damping > _STUCK:
                break
            continue
        tried = _inside((point[0] + step[0], point[1] + step[1]), box)
        found = function(*tried)
        gain = bend.value - found.value
        if not gain > 0:
            damping = _more(damping)
            if tried == point or damping > _STUCK:
                break
            continue
        point, bend = tried, found
        # a heavily damped step gains little wherever it is made
        if damping <= 1 and gain <= _GAIN * (1 + abs(bend.value)):
            break
        damping = damping / 10 if damping > _EASY else 0.0
    return point, bend.value


def _step(bend: Bend, point: Point, box: Box, damping: float) -> Point | None:
    """Newton's step along the variables that no bound holds; None where it would not lead down."""
    (gx, gy), (xx, xy, yy) = bend.gradient, bend.hessian
    holds_x, holds_y = _held(point[0], gx, box[0]), _held(point[1], gy, box[1])
    xx, yy = xx + damping * (1 + abs(xx)), yy + damping * (1 + abs(yy))
    if holds_x and holds_y:
        return 0.0, 0.0
    if holds_x:
        return (0.0, -gy / yy) if yy > 0 else None
    if holds_y:
        return (-gx / xx, 0.0) if xx > 0 else None
    area = xx * yy - xy * xy
    if not (xx > 0 and 0 < area < inf):
        return None
    return (xy * gy - yy * gx) / area, (xy * gx - xx * gy) / area


def _held(at: float, slope: float, bounds: tuple[float, float]) -> bool:
    """Whether going down leads out of the box here."""
    return (at <= bounds[0] and slope >= 0) or (at >= bounds[1] and slope <= 0)


def _more(damping: float) -> float:
    return damping * 10 if damping else _EASY


def _inside(point: Point, box: Box) -> Point:
    (x, y), ((left, right), (low, high)) = point, box
    return min(max(x, left), right), min(max(y, low), high)
