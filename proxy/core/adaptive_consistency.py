"""Adaptive-Consistency (Aggarwal et al. 2023, arXiv 2305.11860): draw until the leader is surely the majority."""

from proxy.core.batch import CONFIDENT, ROUND_CAP, SAMPLE_CAP, Batch, Limits, QueryState
from proxy.core.vote import plurality


class AdaptiveConsistencyBatch(Batch):
    """Stops a query once the chance that its leader stays ahead of the second exceeds `threshold`.

    The chance is that of the paper's Beta criterion: P(p > 1/2) for p ~ Beta(c1 + 1, c2 + 1) and the two highest counts
    c1 >= c2, which is 1 - I_1/2(c1 + 1, c2 + 1). It is looked at after every sample; abstentions are no ballots.
    `width` draws are asked at a time and all waited for (1 as published; more, ours, takes fewer rounds). Queries share
    nothing. A decided query may have draws out, which the caller may cancel.

    The paper leaves open what becomes of samples without an answer and of lost draws: both count as drawn.
    ValueError unless `threshold` is in (0, 1) and `width` at least 1.
    """

    def __init__(self, *, threshold: float = 0.95, width: int = 1, limits: Limits) -> None:
        if not 0 < threshold < 1 or width < 1:
            raise ValueError("threshold is in (0, 1), and width at least 1")
        super().__init__(limits)
        self.threshold = threshold
        self.width = width

    def _first(self) -> int:
        return self.width

    def _continue(self, state: QueryState) -> None:
        sure = plurality(sample.label for sample in state.samples).confidence
        if sure is not None and sure > self.threshold:
            self._decide(state, CONFIDENT)
        elif not state.out and not self._start(state, self.width):
            self._decide(state, SAMPLE_CAP if state.drawn >= self.limits.max_samples else ROUND_CAP)
