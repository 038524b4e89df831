"""Confidence from the model's own token log-probabilities."""

import asyncio
from collections.abc import Sequence
from itertools import accumulate
from math import exp, isfinite, log

from proxy.answers import mean_logprob
from proxy.purse import Purse
from proxy.scoring import Scorer
from proxy.types import JSON, Choice, Confidence

WINDOW = 2048
"""Tokens of a group, as in DeepConf."""

TOP = 5
"""Alternatives asked for of each token: no provider that tells them tells fewer."""

_FLOOR = -100.0
"""What is never sampled is told as -9999 or worse by some, and one such token would outweigh all others."""


class LogprobScorer:
    """A reply's confidence in itself; where the provider told no log-probabilities, what `otherwise` says.

    `mean` is the geometric mean of the tokens' probabilities, exp(mean of log p_i). `lowest_group` looks at the least
    sure passage, `window` tokens long: see `lowest_group`.
    """

    def __init__(
        self, otherwise: Scorer | None = None, *, confidence: Confidence = "mean", window: int = WINDOW
    ) -> None:
        self._otherwise = otherwise
        self._confidence = confidence
        self._window = window

    @property
    def asks(self) -> JSON:
        """What a draw's request must say for this scorer to have something to look at."""
        return {"logprobs": True} | ({"top_logprobs": TOP} if self._confidence == "lowest_group" else {})

    async def score(self, purse: Purse, request: JSON, choice: Choice, deadline: float) -> float | None:
        """The confidence, in [0, 1], without a call."""
        if self._confidence == "lowest_group":
            # of the ten thousands of tokens of a model that thinks it takes longer than the event loop may stand still
            found = await asyncio.to_thread(lowest_group, choice, self._window)
        else:
            mean = mean_logprob(choice)
            found = None if mean is None else min(1.0, exp(mean))
        if found is None and self._otherwise is not None:
            return await self._otherwise.score(purse, request, choice, deadline)
        return found


def lowest_group(choice: Choice, window: int = WINDOW) -> float | None:
    """DeepConf's lowest group confidence (arXiv 2508.15260, section 3.1) in [0, 1], or None where nothing was told.

    The confidence of token i is C_i = -1/k * sum over its k likeliest alternatives j of log P_i(j), which is ln k where
    all are alike, and grows as one outdoes the others. A group's is the mean over `window` tokens in a row (over all of
    a shorter reply); the lowest, C, becomes max(0, 1 - ln k / C), which grows with C; k is the most that was told of
    any token. Where fewer than two were told of any token that mean says nothing, and the tokens' own
    log-probabilities stand in: C_i = log p_i, and the score is exp(C), a geometric mean like that of `mean`.
    """
    entries = (choice.logprobs or {}).get("content")
    told = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    tops = [_values(entry.get("top_logprobs")) for entry in told]
    if tops and all(len(top) > 1 for top in tops):
        lowest = _lowest_mean([-sum(top) / len(top) for top in tops], window)
        return max(0.0, 1.0 - log(max(map(len, tops))) / lowest) if lowest > 0 else 0.0
    own = _values(told)
    return min(1.0, exp(_lowest_mean(own, window))) if own else None


def _values(entries: object) -> list[float]:
    """The log-probabilities told in a list of entries."""
    told = [entry.get("logprob") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [max(float(value), _FLOOR) for value in told if isinstance(value, float | int) and isfinite(value)]


def _lowest_mean(values: Sequence[float], window: int) -> float:
    """The lowest mean over `window` values in a row, or over all where there are fewer."""
    width = min(window, len(values))
    sums = [0.0, *accumulate(values)]
    return min(sums[end] - sums[end - width] for end in range(width, len(sums))) / width
