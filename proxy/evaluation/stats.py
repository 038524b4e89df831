"""The statistics of an evaluation: intervals of shares, paired tests, quantiles."""

from collections.abc import Sequence
from math import comb, sqrt

Z_95 = 1.959963984540054
"""The standard normal's 97.5 % quantile."""


def wilson(right: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927), within [0, 1]; all of it where there is no trial."""
    if not trials:
        return 0.0, 1.0
    share, square = right / trials, z * z
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = z / (1 + square / trials) * sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    # at the ends the interval touches 0 and 1 exactly, which floats miss by a hair
    return 0.0 if right == 0 else middle - half, 1.0 if right == trials else middle + half


def sign_test(better: int, worse: int) -> float:
    """The two-sided exact p-value of `better` against `worse` discordant pairs: the exact test of McNemar (1947).

    Under the null hypothesis each pair falls to either side with chance 1/2; 1 where there is none.
    """
    pairs = better + worse
    tail = sum(comb(pairs, k) for k in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / (1 << pairs))


def quantile(values: Sequence[float], q: float) -> float:
    """The `q` quantile (0 to 1) of one or more values, linear between neighbours."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
