"""OptScale without training: draws until the best score is good enough with the confidence asked (the second seed)."""

import math

from proxy.core.batch import NO_SCORES, QUALITY, ROUND_CAP, SAMPLE_CAP, Batch, Limits, QueryState
from proxy.core.truncnorm import fit, samples_needed


class OptScaleBatch(Batch):
    """Fits a truncated normal to each query's scores and draws the N* of equation 8.

    A query starts with ceil(5/16 * max_samples) draws, at least 2 (3, 5, 10, 20 of 8, 16, 32, 64, as published). Once
    they are back, every further score renews the fit and N*: a query is decided when it has N* scores ("quality
    reached"), and what it lacks to N* is asked at once. Fewer than two scores among the first draws decide it
    ("no scores"). Scores are clipped to [0, 1]. Queries share nothing.

    A decided query may have draws out, which the caller may cancel. `s_min` in (0, 1] is the score that is good enough,
    `confidence` in (0, 1) the chance that the best score reaches it (alpha in equation 6).
    """

    def __init__(self, *, s_min: float = 0.95, confidence: float = 0.9, limits: Limits) -> None:
        if not (0 < s_min <= 1 and 0 < confidence < 1):
            raise ValueError("s_min is in (0, 1], and confidence in (0, 1)")
        super().__init__(limits)
        self.s_min = s_min
        self.confidence = confidence

    def _first(self) -> int:
        most = self.limits.max_samples
        return min(max(2, -(-5 * most // 16)), most)

    def _continue(self, state: QueryState) -> None:
        if state.drawn < self._first() and self._start(state, self._first() - state.drawn):
            return
        if state.drawn - len(state.out) < self._first() and state.out:
            return
        scores = _scores(state)
        if len(scores) < 2:
            self._decide(state, NO_SCORES if state.drawn > 1 else self._cap(state))
            return
        needed = samples_needed(*fit(scores), self.s_min, self.confidence)
        if needed is not None and len(scores) >= needed:
            self._decide(state, QUALITY)
            return
        wanted = self.limits.max_samples if needed is None else needed
        self._start(state, wanted - len(scores) - len(state.out))
        if not state.out:
            self._decide(state, self._cap(state))

    def _cap(self, state: QueryState) -> str:
        return SAMPLE_CAP if state.drawn >= self.limits.max_samples else ROUND_CAP


def _scores(state: QueryState) -> list[float]:
    """The query's scores, clipped to [0, 1], in draw order; what is no number is no score."""
    samples = sorted(state.samples, key=lambda sample: sample.draw)
    return [
        min(max(sample.score, 0.0), 1.0)
        for sample in samples
        if sample.score is not None and not math.isnan(sample.score)
    ]
