"""Whether two answers count as the same, as far as that can be told at once."""

from fractions import Fraction
from functools import lru_cache
from math import inf

from proxy.answers import units
from proxy.answers.answer import Answer
from proxy.types import AnswerSpec

_TINY, _ROUNDED = 1e-150, 1e-12


def alike(one: Answer, other: Answer, spec: AnswerSpec) -> bool | None:
    """Whether two answers count as the same under `spec`; None where only algebra can tell. Symmetric, never raises.

    Quantities are, with one value in one unit, or where one of the two has no unit and its number is as the other's is
    written: `5 km` is `5000 m` and `5`, not `5 m`. Values may differ by `spec.tolerance` of the larger. Two plain
    numbers are never left to algebra: 1/3 is not 0.333333.
    """
    if one.label == other.label:
        return True
    first, second = one.label, other.label
    if not isinstance(first, tuple) or not isinstance(second, tuple):
        return False
    if first[:1] == second[:1] == ("quantity",):
        return _same_quantity(first, second, spec.tolerance)
    if one.formula is None or other.formula is None or first[:1] == second[:1] == ("number",):
        return False
    return None


def _same_quantity(one: tuple[object, ...], other: tuple[object, ...], tolerance: float) -> bool:
    _, value, unit, written = one
    _, other_value, other_unit, other_written = other
    if isinstance(unit, str) and isinstance(other_unit, str):
        return units.same(unit, other_unit) and _near(value, other_value, tolerance)
    return _near(written, other_written, tolerance)


def _near(one: object, other: object, tolerance: float) -> bool:
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    if one == other or not tolerance:
        return one == other
    (first, rough), (second, other_rough) = _value(one), _value(other)
    # most are far from each other, and fractions take ten times as long to tell it
    if abs(rough - other_rough) > (2 * tolerance + _ROUNDED) * max(abs(rough), abs(other_rough)) + _TINY:
        return False
    # as the setting is written: 0.1 is a tenth here, not the float beside it
    return abs(first - second) <= _value(str(tolerance))[0] * max(abs(first), abs(second))


@lru_cache(maxsize=4096)
def _value(text: str) -> tuple[Fraction, float]:
    """A number, and the float beside it: 0 for a very small one, infinity for a very large one, which tells nothing."""
    exact = Fraction(text)
    return exact, 0.0 if abs(exact) < _TINY else float(exact) if abs(exact) < 1 / _TINY else inf
