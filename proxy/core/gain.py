"""What further samples of a query are worth: the look-ahead gain of the vote.

The two leading labels of a query have counts c1 >= c2. With a uniform prior, the chance p that a ballot for one of the
two is the leader's is Beta(c1 + 1, c2 + 1), and the leader is the likelier one with probability
P = I_1/2(c2 + 1, c1 + 1) (`vote.confidence`). Among m further ballots the leader's are beta-binomial, and whichever
label then leads is likelier with probability P'. The gain of m ballots is E[P'] - P, in expected agreement with the
label that would win in the long run.

One ballot alone often gains nothing (it cannot turn 3:1), so gains are looked up over several m, and their least
concave majorant says which numbers of further samples are ever worth asking: the first slope is a query's index.
"""

from functools import lru_cache

from proxy.core.vote import confidence

AHEAD = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48)
"""The numbers of further ballots that are looked at."""

Step = tuple[int, float]
"""Further samples, and the gain of each."""


# a pure function of two small integers: what is kept is only its results
@lru_cache(maxsize=16_384)
def steps(first: int, second: int) -> tuple[Step, ...]:
    """The steps of the gain's least concave majorant, for counts first >= second >= 0; slopes fall."""
    points = [(0, 0.0), *((ahead, gain(first, second, ahead)) for ahead in AHEAD)]
    hull: list[Step] = []
    at = 0
    while at < len(points) - 1:
        ahead, best = points[at]
        slopes = [(value - best) / (further - ahead) for further, value in points[at + 1 :]]
        slope = max(slopes)
        if slope <= 0:
            break
        # of equal slopes the longest step, so that slopes fall
        at += 1 + max(i for i, other in enumerate(slopes) if other == slope)
        hull.append((points[at][0] - ahead, slope))
    return tuple(hull)


def worth(first: int, second: int) -> float:
    """The index of a query: the most that a further sample gains, over all look-aheads."""
    found = steps(first, second)
    return found[0][1] if found else 0.0


def gain(first: int, second: int, ahead: int) -> float:
    """E[P'] - P for `ahead` further ballots between labels with counts first >= second."""
    lead, trail = first + 1, second + 1
    chance = 1.0
    for i in range(ahead):
        chance *= (trail + i) / (lead + trail + i)
    expected = 0.0
    for won in range(ahead + 1):
        expected += chance * _surest(first + won, second + ahead - won)
        if won < ahead:
            chance *= (lead + won) * (ahead - won) / ((won + 1) * (trail + ahead - won - 1))
    return max(0.0, expected - _surest(first, second))


@lru_cache(maxsize=16_384)
def _surest(one: int, other: int) -> float:
    return confidence(max(one, other), min(one, other))
