"""PETS, offline (Liu et al. 2026, arXiv 2602.16745): the next sample goes where it may settle the majority the most.

A question's answer is the label that infinitely many samples would vote for. Its labels have a Dirichlet posterior with
a flat prior, alpha = 1 + counts over `options` labels, and I(alpha, m) is the chance that m is the likeliest label.
The next sample goes to the question with the largest optimistic gain

    R+ = max over m of h(alpha + e_m) - h(alpha),  h(alpha) = max over m of I(alpha, m),

the optimistic knowledge gradient of crowdsourcing (Chen, Lin and Zhou 2013).

The definition follows the authors' published code for the offline setting (all questions known, one vote a sample), so
equations have no numbers here. Ours, where it is silent or cannot be followed: I is integrated exactly, not estimated
from 500 random draws, so equal gains are equal and go to the question that joined first; votes are not weighed by token
confidence; a label beyond the `options` is one more option, where theirs is thrown away; a sample without an answer and
a lost draw are paid for and change nothing; `width` above 1 and `subset=None`, for live use.
"""

import heapq
import math
from dataclasses import dataclass

import numpy as np

from proxy.core.batch import ROUND_CAP, SAMPLE_CAP, SPENT, Batch, Limits, QueryState
from proxy.core.prior import Prior
from proxy.core.vote import plurality

_NODES = 64


def leads(counts: tuple[int, ...], options: int) -> float:
    """I(alpha, m) for the leader m: the chance that the first of `counts` is that of the likeliest label.

    `counts` are the votes of the labels seen, the most first; labels not seen, up to `options` in all, have none.
    With X_j ~ Gamma(alpha_j) independent it is P(X_m > all others), an integral over x. Error below 1e-6.
    """
    if not counts:
        return 1 / options
    from scipy.special import gammainc

    shape = counts[0] + 1
    # the root of a gamma variable is nearly normal with a deviation of 1/2, so few nodes and narrow ends are enough
    low, high = max(0.0, math.sqrt(shape) - 4.5), math.sqrt(shape) + 5.5
    step = (high - low) / _NODES
    root = low + step * (np.arange(_NODES) + 0.5)
    x = root * root
    density = np.exp((shape - 1) * np.log(x) - x - math.lgamma(shape)) * (2 * root)
    below = (-np.expm1(-x)) ** max(options - len(counts), 0)
    if len(counts) > 1:
        below = below * gammainc(np.array(counts[1:])[:, None] + 1.0, x).prod(axis=0)
    return step * float(density @ below)


def gain(counts: tuple[int, ...], options: int) -> float:
    """R+ for the votes `counts` of the labels seen, the most first. One more vote for the leader settles the most."""
    raised = (counts[0] + 1, *counts[1:]) if counts else (1,)
    return leads(raised, options) - leads(counts, options)


@dataclass(slots=True)
class _Arm:
    """A query as a candidate for samples. `end`: its draws in all when the round it is given is out."""

    state: QueryState
    end: int
    picked: bool = False
    ready: bool = False
    gain: float = 0.0


class PetsBatch(Batch):
    """Shares `mean_samples` for every query that joined, one pick after the other, and then decides all queries.

    Each query starts with `width` draws (published: a warm-up of 1). Once the batch is closed, a pick gives a query
    `width` further draws (published: 1), and the `subset` queries with the largest gain (published: 1) are picked
    whenever every draw is back, until the budget is spent. A query that meets a cap is decided at once, and what it
    leaves unspent is the others'. A denied draw counts as started.

    None, for live use, fits the budget to the rounds. `width=None`: with so many a query can draw twice the mean within
    the round cap, or its sample cap if that is less. `subset=None`: nothing waits for a straggler; queries whose draws
    are back compete for so many picks in flight as are left when the first is made, over the rounds left then.

    `options` is the number of different answers that a question is taken to have at least (published: the number of
    choices, which is 4, or 32 for free answers; the fewer, the sooner a leader is believed). ValueError when
    `mean_samples`, `width` or `subset` is below 1, or `options` below 2.
    """

    def __init__(
        self,
        *,
        mean_samples: int = 16,
        width: int | None = 1,
        subset: int | None = 1,
        options: int = 4,
        limits: Limits,
    ) -> None:
        if width is None:
            width = -(-min(limits.max_samples, 2 * mean_samples) // limits.max_rounds)
        if min(mean_samples, width, 1 if subset is None else subset) < 1 or options < 2:
            raise ValueError("mean_samples, width and subset are at least 1, and options at least 2")
        super().__init__(limits)
        self.mean_samples = mean_samples
        self.width = width
        self.options = options
        self._subset = subset
        self._waits = subset is not None
        self._size = min(width, mean_samples, limits.max_samples)
        self._arms: dict[int, _Arm] = {}
        self._gains: dict[tuple[int, ...], float] = {}
        self._budget = 0
        self._committed = 0
        self._ready = 0
        self._picked = 0

    @property
    def unallotted(self) -> int:
        """Draws of the budget that no query has made, nor will make to complete its round."""
        return self._budget - self._committed

    def join(self, query: int, *, probe: bool = False, prior: Prior | None = None, overhead: float = 0.0) -> None:
        """Add a query and its `mean_samples` of budget."""
        super().join(query, probe=probe, prior=prior, overhead=overhead)
        self._arms[query] = _Arm(self._queries[query], self._size)
        self._budget += self.mean_samples
        self._committed += self._size

    def _first(self) -> int:
        return self._size

    def _continue(self, state: QueryState) -> None:
        arm = self._arms[state.id]
        # only a probe leaves something of the first draws to be asked
        if state.out or (state.drawn < arm.end and self._start(state, arm.end - state.drawn)):
            return
        if arm.picked:
            arm.picked = False
            self._picked -= 1
        if state.drawn >= self.limits.max_samples:
            self._decide(state, SAMPLE_CAP)
        elif state.rounds >= self.limits.max_rounds:
            self._decide(state, ROUND_CAP)
        else:
            arm.gain = self._gain(state)
            arm.ready = True
            self._ready += 1

    def _gain(self, state: QueryState) -> float:
        counts = tuple(count for _, count in plurality(sample.label for sample in state.samples).counts)
        if counts not in self._gains:
            self._gains[counts] = gain(counts, self.options)
        return self._gains[counts]

    def _allocate(self) -> None:
        if self._may_pick() and self.unallotted:
            self._pick()
        if self._may_pick() and not self.unallotted:
            for arm in [arm for arm in self._arms.values() if arm.ready]:
                self._decide(arm.state, SPENT)

    def _may_pick(self) -> bool:
        return self.closed and self._ready > 0 and (not self._waits or self._ready == len(self._arms))

    def _pick(self) -> None:
        slots = max(self._slots() - self._picked, 0)
        # nlargest is stable and arms stand in order of joining, so ties go to the first that joined
        ready = [arm for arm in self._arms.values() if arm.ready]
        for arm in heapq.nlargest(slots, ready, key=lambda arm: arm.gain):
            drawn = arm.state.drawn
            size = min(self.width, self.unallotted, self.limits.max_samples - drawn)
            if size > 0:
                arm.end = drawn + size
                arm.ready, arm.picked = False, True
                self._ready -= 1
                self._picked += 1
                self._committed += size
                self._start(arm.state, size)

    def _slots(self) -> int:
        """How many picks may be in flight; the default is settled when the first is made."""
        if self._subset is None:
            picks = -(-self.unallotted // self.width)
            self._subset = -(-picks // max(self.limits.max_rounds - 1, 1))
        return self._subset

    def _decide(self, state: QueryState, reason: str | None = None) -> None:
        super()._decide(state, reason)
        self._release(state)

    def _left(self, state: QueryState) -> None:
        self._release(state)

    def _release(self, state: QueryState) -> None:
        """Take a query out of the ranking; what it did not draw goes back to the budget."""
        arm = self._arms.pop(state.id, None)
        if arm is not None:
            self._committed -= arm.end - state.drawn
            self._ready -= arm.ready
            self._picked -= arm.picked
