"""Empirical Bayes: a tenant's and model's next question is believed to score as its last ones did."""

import math
from asyncio import Lock
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from statistics import fmean

from proxy.core.prior import Prior
from proxy.types import JSON

LAST = 200
"""How many past requests are looked at: enough for every figure, and recent."""

FEWEST = 8
"""With fewer past requests nothing is believed."""

_FLOOR = 0.02
_KEPT_S = 60.0
_MOST_KEPT = 1024

Read = Callable[[str, str, int], Awaitable[list[list[float]]]]
"""The scores of each of the last requests of a tenant to a model, at most so many (`recent_scores`)."""


class HistoryPredictor:
    """Reads the ledger at most once a minute for each tenant and model. `clock` is monotonic seconds."""

    def __init__(self, read: Read, *, clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        # requests that come together would all read the same
        self._reading = Lock()
        self._known: OrderedDict[tuple[str, str], tuple[float, Prior | None]] = OrderedDict()

    async def prior(self, tenant: str, model: str, request: JSON) -> Prior | None:  # noqa: ARG002 - the protocol's
        """The pooled history, whatever is asked; None where it is short. Raises what reading the ledger raises."""
        key = tenant, model
        if not self._knows(key):
            async with self._reading:
                if not self._knows(key):
                    await self._learn(key)
        return self._known[key][1]

    def _knows(self, key: tuple[str, str]) -> bool:
        return key in self._known and self._clock() < self._known[key][0] + _KEPT_S

    async def _learn(self, key: tuple[str, str]) -> None:
        now = self._clock()
        self._known[key] = now, pooled(await self._read(*key, LAST))
        self._known.move_to_end(key)
        if len(self._known) > _MOST_KEPT:
            self._known.popitem(last=False)


def pooled(scores: Sequence[Sequence[float]]) -> Prior | None:
    """The prior that past requests' scores (clipped to [0, 1]) teach; None with fewer than 8 requests of two scores.

    mu and sigma are the means of the requests' own means and standard deviations. Their spread over requests, less what
    comes of having seen so few scores of each, is how far the next one may be off: at least 0.02.
    """
    seen = [[min(max(score, 0.0), 1.0) for score in each] for each in scores if len(each) > 1]
    if len(seen) < FEWEST:
        return None
    means, deviations = [fmean(each) for each in seen], [math.sqrt(_variance(each, 1)) for each in seen]
    # the sampling variances of a mean and, nearly, of a standard deviation
    of_means = fmean(sd * sd / len(each) for sd, each in zip(deviations, seen, strict=True))
    of_deviations = fmean(sd * sd / (2 * (len(each) - 1)) for sd, each in zip(deviations, seen, strict=True))
    return Prior(
        mu=fmean(means),
        sigma=max(fmean(deviations), _FLOOR),
        mu_sd=max(_variance(means) - of_means, _FLOOR**2) ** 0.5,
        sigma_sd=max(_variance(deviations) - of_deviations, _FLOOR**2) ** 0.5,
    )


def _variance(values: Sequence[float], lost: int = 0) -> float:
    """The mean square off the mean, of `lost` degrees of freedom less. Exact fractions would take tens of ms here."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - lost)
