"""How sure a vote is: the posterior chance that a label is the mode, the answer that the model gives most often."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from math import exp, lgamma, log, log1p, prod, sqrt

from proxy.core.vote import confidence

_TAIL = 21.0
"""What is cut off at either end of the integral is below e^-21."""

_FEWEST, _MOST = 16, 1 << 14
_EXACT = 1e-8
_REACH = 9.0
"""Standard deviations below its mean from which on a Poisson's terms are added up; what is before is below 1e-16."""


def chance_of_mode(counts: Sequence[int], place: int = 0) -> float:
    """The chance that the label at `place` is the most probable one of those seen, given each label's ballots.

    The labels' probabilities are Dirichlet(1 + counts). A label alone is held against one unseen rival. Of two labels
    it is 1 - I_1/2(c1 + 1, c2 + 1), `vote.confidence`; of more it is at most that of any two, for each of the others
    may be the mode, too. It need not be the leader's: a vote by scores may have another winner. The error is below
    1e-6.

    Strategies stop by the two-count form: it costs microseconds where it is looked at after every sample, the third
    label hardly moves it near a target, and it is the criterion of their papers.
    """
    rivals = sorted([*counts[:place], *counts[place + 1 :]], reverse=True) or [0]
    return _chance(counts[place], tuple(rivals))


@lru_cache(maxsize=4096)
def _chance(own: int, rivals: tuple[int, ...]) -> float:
    """P(G > max G_i) for independent gammas of shapes own + 1 and rival + 1, of which a Dirichlet is made.

    Over x = e^t the integrand falls off fast on both sides, so that the trapezoid rule gains digits with every point.
    """
    if len(rivals) == 1:
        return confidence(own, rivals[0])
    shape = own + 1
    shapes = [(count + 1, len(list(equal))) for count, equal in groupby(reversed(rivals))]
    scale = lgamma(shape)

    def density(t: float) -> float:
        x = exp(t)
        return exp(shape * t - x - scale) * _all_below(x, shapes)

    low = max(log(each) - _far(each) for each in (shape, shapes[-1][0]))
    high = log(shape) + log1p(_far(shape))
    return min(1.0, _integral(density, low, high)) if low < high else 0.0


def _far(shape: int) -> float:
    """Chernoff's bounds: a gamma is under shape * e^-far, or over shape * (1 + far), with a chance below e^-_TAIL."""
    return _TAIL / shape + sqrt(2 * _TAIL / shape)


def _all_below(x: float, shapes: Sequence[tuple[int, int]]) -> float:
    """P(all gammas < x), given `(shape, how many)` with shapes rising: F_k(x) = 1 - e^-x sum_{j<k} x^j / j!."""
    j = max(0, int(x - _REACH * sqrt(x)))
    term, above = exp(j * log(x) - x - lgamma(j + 1)), 0.0
    found = []
    for shape, many in shapes:
        while j < shape:
            above += term
            j += 1
            term *= x / j
        found.append(max(0.0, 1.0 - above) ** many)
    return prod(found)


def _integral(function: Callable[[float], float], low: float, high: float) -> float:
    """The trapezoid rule, with twice the points until that changes nothing; nothing is left at the two ends."""
    points = _FEWEST
    step = (high - low) / points
    total = sum(function(low + step * place) for place in range(1, points))
    while True:
        before = step * total
        total += sum(function(low + step * (place + 0.5)) for place in range(points))
        points, step = 2 * points, step / 2
        if abs(step * total - before) < _EXACT or points >= _MOST:
            return step * total
