"""Confidence from the model's own token log-probabilities."""

from math import exp

from proxy.answers import mean_logprob
from proxy.purse import Purse
from proxy.scoring import Scorer
from proxy.types import JSON, Choice


class LogprobScorer:
    """The geometric mean of the tokens' probabilities; where the provider told none, what `otherwise` says."""

    def __init__(self, otherwise: Scorer | None = None) -> None:
        self._otherwise = otherwise

    async def score(self, purse: Purse, request: JSON, choice: Choice, deadline: float) -> float | None:
        """exp of the mean log-probability of the choice's tokens."""
        mean = mean_logprob(choice)
        if mean is not None:
            return min(1.0, exp(mean))
        return await self._otherwise.score(purse, request, choice, deadline) if self._otherwise else None
