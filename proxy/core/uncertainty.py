"""How much in doubt the answer to a query is, from the counts of its labels: DynScaling's u_i (section 3.4).

The paper defines the variation ratio and only names the two others; what it leaves open is settled here. Every measure
takes the ballots of each label, in any order and each at least 1, and gives a number in [0, 1]: 0 where all ballots
agree, 1 where there is no ballot at all.
"""

import heapq
import math
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from proxy.types import Uncertainty

Measure = Callable[[Collection[int]], float]
"""From the counts of the labels to a number in [0, 1]."""


def variation_ratio(counts: Collection[int]) -> float:
    """1 - max_a count(a) / n_i, as published: the share of ballots that are not the leader's."""
    return 1.0 - max(counts) / sum(counts) if counts else 1.0


def normalised_entropy(counts: Collection[int]) -> float:
    """-sum_a p_a ln p_a / ln n_i, with p_a = count(a) / n_i: 1 where every ballot differs.

    By ln n_i and not by the logarithm of the number of labels, which would call two answers at a draw as doubtful as
    eight answers of eight ballots. One ballot: 0.
    """
    ballots = sum(counts)
    if ballots < 2:
        return 1.0 - ballots
    # the sum over n ln n of the counts is exact at both ends, where probabilities would round
    return 1.0 - sum(count * math.log(count) for count in counts) / (ballots * math.log(ballots))


def inverse_margin(counts: Collection[int]) -> float:
    """1 - (c_1 - c_2) / n_i for the two largest counts c_1 >= c_2: 1 where the leader is tied."""
    if not counts:
        return 1.0
    first, second = heapq.nlargest(2, [*counts, 0])
    return 1.0 - (first - second) / sum(counts)


MEASURES: Mapping[Uncertainty, Measure] = MappingProxyType(
    {
        "variation_ratio": variation_ratio,
        "normalised_entropy": normalised_entropy,
        "inverse_margin": inverse_margin,
    }
)
"""The measures by name."""
