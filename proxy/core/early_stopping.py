"""Early-Stopping Self-Consistency (Li et al. 2024, arXiv 2401.10480): draw in windows until one of them agrees."""

from proxy.core.batch import CONFIDENT, ROUND_CAP, SAMPLE_CAP, Batch, Limits, QueryState


class EarlyStoppingBatch(Batch):
    """Draws `window` samples at a time and stops a query when all answers of one window are the same (entropy 0).

    Else it goes on to the caps. The vote is over the samples of all windows. Queries share nothing.

    The paper leaves open what becomes of samples without an answer and of lost draws: a window with either does not
    agree, nor does one that the sample cap cut short. A probe is the first draw of the first window.
    ValueError when `window` is below 1; a window of 1 always agrees.
    """

    def __init__(self, *, window: int = 5, limits: Limits) -> None:
        if window < 1:
            raise ValueError("window is at least 1")
        super().__init__(limits)
        self.window = window
        self._earlier: dict[int, int] = {}

    def _first(self) -> int:
        return self.window

    def _continue(self, state: QueryState) -> None:
        if state.out:
            return
        if self._agrees(state):
            self._decide(state, CONFIDENT)
            return
        # only a probe and the sample cap leave a window unfinished
        missing = -state.drawn % self.window
        if not missing:
            self._earlier[state.id] = len(state.samples)
        if not self._start(state, missing or self.window):
            self._decide(state, SAMPLE_CAP if state.drawn >= self.limits.max_samples else ROUND_CAP)

    def _agrees(self, state: QueryState) -> bool:
        """Whether the last window is whole, and of one answer."""
        labels = [sample.label for sample in state.samples[self._earlier.get(state.id, 0) :]]
        return len(labels) == self.window and labels[0] is not None and len(set(labels)) == 1

    def _left(self, state: QueryState) -> None:
        self._earlier.pop(state.id, None)
