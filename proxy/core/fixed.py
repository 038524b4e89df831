"""A fixed number of independent draws a query: self-consistency (Wang et al. 2023), and `off`, which is one draw."""

from proxy.core.batch import ROUND_CAP, SAMPLE_CAP, Batch, Limits, QueryState


class FixedBatch(Batch):
    """Draws `samples` for every query and decides it when all of them came back."""

    def __init__(self, samples: int, limits: Limits) -> None:
        if samples < 1:
            raise ValueError("samples is at least 1")
        super().__init__(limits)
        self.samples = samples

    def _first(self) -> int:
        return self.samples

    def _continue(self, state: QueryState) -> None:
        if state.probe and state.drawn == 1:
            self._start(state, self.samples - 1)
        if not state.out:
            self._decide(state, self._short(state))

    def _short(self, state: QueryState) -> str | None:
        """The cap that kept a query from its full number of draws, or None."""
        if state.drawn >= self.samples:
            return None
        return SAMPLE_CAP if state.drawn >= self.limits.max_samples else ROUND_CAP
