"""OptScale without training: draws until the best score is good enough with the confidence asked (the second seed)."""

import math
from typing import Literal

from proxy.core.batch import NO_SCORES, QUALITY, ROUND_CAP, SAMPLE_CAP, Batch, Limits, QueryState
from proxy.core.truncnorm import fit, samples_needed


class OptScaleBatch(Batch):
    """Fits a truncated normal to each query's scores and draws the N* of equation 8.

    A query starts with ceil(5/16 * max_samples) draws, at least 2 (3, 5, 10, 20 of 8, 16, 32, 64, as published). Once
    they are back it is fitted: by likelihood (equation 13), or with the query's prior (equation 12). What it lacks to
    N* is asked at once, and it is decided when it has N* scores ("quality reached"). `refit`: `always` renews the fit
    and N* with every further score, as the paper has it; `once` keeps the first, as the paper's own code does. Without
    a prior a fit takes two scores, with one a single score: fewer among the first draws decide it ("no scores").
    Scores are clipped to [0, 1]. Queries share nothing.

    Draws that one round's scores lead to are of the next round, however these scores trickle in.

    A decided query may have draws out, which the caller may cancel. `s_min` in (0, 1] is the score that is good enough,
    `confidence` in (0, 1) the chance that the best score reaches it (alpha in equation 6).
    """

    def __init__(
        self,
        *,
        s_min: float = 0.95,
        confidence: float = 0.9,
        refit: Literal["always", "once"] = "always",
        limits: Limits,
    ) -> None:
        if not (0 < s_min <= 1 and 0 < confidence < 1):
            raise ValueError("s_min is in (0, 1], and confidence in (0, 1)")
        super().__init__(limits)
        self.s_min = s_min
        self.confidence = confidence
        self.refit = refit
        self._kept: dict[int, float] = {}
        self._heads: dict[int, int] = {}

    def _first(self) -> int:
        most = self.limits.max_samples
        return min(max(2, -(-5 * most // 16)), most)

    def _continue(self, state: QueryState) -> None:
        if state.drawn < self._first() and self._start(state, self._first() - state.drawn):
            return
        if state.drawn - len(state.out) < self._first() and state.out:
            return
        scores = _scores(state)
        if len(scores) < (2 if state.prior is None else 1):
            self._decide(state, NO_SCORES if state.drawn > 1 else self._cap(state))
            return
        wanted = self._wanted(state, scores)
        if len(scores) >= wanted:
            self._decide(state, QUALITY)
            return
        wanted = min(wanted, self.limits.max_samples)
        self._top_up(state, int(wanted) - len(scores) - len(state.out))
        if not state.out:
            self._decide(state, self._cap(state))

    def _left(self, state: QueryState) -> None:
        self._kept.pop(state.id, None)
        self._heads.pop(state.id, None)

    def _wanted(self, state: QueryState, scores: list[float]) -> float:
        """N*, infinite where no number of draws is enough."""
        if state.id in self._kept:
            return self._kept[state.id]
        needed = samples_needed(*fit(scores, state.prior), self.s_min, self.confidence)
        wanted = math.inf if needed is None else needed
        if self.refit == "once":
            self._kept[state.id] = wanted
        return wanted

    def _top_up(self, state: QueryState, count: int) -> None:
        # while nothing of the newest round has been seen, more draws come as early as if they had been part of it
        head = self._heads.get(state.id)
        joins = head is not None and bool(state.out) and all(sample.draw < head for sample in state.samples)
        first = self._next_id
        if self._start(state, count, same_round=joins) and not joins:
            self._heads[state.id] = first

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
