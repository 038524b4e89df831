"""DynScaling: integrated sampling in units, shared out by a bandit (the seed paper's Algorithms 1 to 3).

Where the paper is silent: votes are the union of both halves, the logarithm is natural, B_i and B_used count draws
started, a remainder r smaller than a unit goes as ceil(r/2) + floor(r/2), and equal priorities go to the query that
joined first.
"""

import heapq
import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from proxy.core.batch import CONFIDENT, ROUND_CAP, SAMPLE_CAP, SPENT, Batch, Label, Limits, QueryState
from proxy.core.prior import Prior
from proxy.core.vote import confidence, variation_ratio

Mode = Literal["live", "exact"]

_UNCAPPED = Limits(max_samples=2**62, max_rounds=2**62)


def priority(uncertainty: float, drawn: int, used: int, exploration: float) -> float:
    """Algorithm 3, line 2: u_i + c * sqrt(ln B_used / B_i), for `drawn` = B_i >= 1, `used` = B_used >= 1."""
    return uncertainty + exploration * math.sqrt(math.log(used) / drawn)


@dataclass(slots=True)
class _Arm:
    """A query as a bandit's arm. `half` and `end`: its draws in all when its unit's first half and the unit are out."""

    state: QueryState
    half: int
    end: int
    heard: int = 0
    extra: bool = False
    ready: bool = False
    uncertainty: float = 1.0
    counts: dict[Label, int] = field(default_factory=dict)


class DynScalingBatch(Batch):
    """Gives every query one unit, then each next unit to the queries that are the most in doubt.

    A unit is ceil(unit/2) independent draws, then floor(unit/2) draws that each see up to `thought_length` of the
    unit's own finished ones in random order (none finished: independent again): two rounds. The batch's budget is
    `mean_samples` for every query that joined; what one leaves unspent is the others'.

    `exact` is Algorithm 1 as published: once closed, the top `subset` queries (default 1) get a unit each, all of them
    are waited for, until the whole budget is spent; only then are queries decided. The `limits` do not apply.

    `live` also stops a query after a complete unit whose leading label has at least `target` confidence, keeps to the
    `limits`, starts no unit that the round cap would cut, and waits for no straggler: complete queries compete for
    at most `subset` units in flight (default: the units left when allocation begins, over the units that the round cap
    still allows a query, rounded up). A denied draw counts as started in both modes.
    """

    def __init__(
        self,
        *,
        unit: int = 8,
        thought_length: int = 4,
        exploration: float = 0.25,
        mean_samples: int = 16,
        mode: Mode = "live",
        subset: int | None = None,
        target: float = 0.95,
        limits: Limits,
        rng: np.random.Generator,
    ) -> None:
        if not 1 <= unit <= mean_samples:
            raise ValueError("unit is at least 1, and mean_samples at least unit")
        if thought_length < 0 or (subset is not None and subset < 1):
            raise ValueError("thought_length is at least 0, and subset at least 1")
        super().__init__(limits if mode == "live" else _UNCAPPED)
        self.unit = unit
        self.thought_length = thought_length
        self.exploration = exploration
        self.mean_samples = mean_samples
        self.mode = mode
        self.target = target
        self._subset = 1 if subset is None and mode == "exact" else subset
        self._rng = rng
        self._arms: dict[int, _Arm] = {}
        self._budget = 0
        self._committed = 0
        self._ready = 0
        self._extra = 0

    @property
    def unallotted(self) -> int:
        """Draws of the budget that no query has made, nor will make to complete its unit."""
        return self._budget - self._committed

    def join(self, query: int, *, probe: bool = False, prior: Prior | None = None) -> None:
        """Add a query and its `mean_samples` of budget."""
        super().join(query, probe=probe, prior=prior)
        size = min(self.unit, self.limits.max_samples)
        self._arms[query] = _Arm(self._queries[query], half=-(-size // 2), end=size)
        self._budget += self.mean_samples
        self._committed += size

    def _first(self) -> int:
        return -(-min(self.unit, self.limits.max_samples) // 2)

    def _continue(self, state: QueryState) -> None:
        if state.out:
            return
        arm = self._arms[state.id]
        if state.drawn < arm.half and self._start(state, arm.half - state.drawn):
            return
        if state.drawn < arm.end and self._condition(state, arm):
            return
        self._complete(state, arm)

    def _condition(self, state: QueryState, arm: _Arm) -> int:
        """Algorithm 2, lines 3 to 7: the second half of a unit. Returns how many draws it started."""
        finished = sorted(sample.draw for sample in state.samples[arm.heard :])
        count = arm.end - state.drawn
        # sorting random keys is a random order, and its head a sample without replacement: one call for all draws
        orders = self._rng.random((count, len(finished))).argsort(axis=1)[:, : self.thought_length].tolist()
        for nth, order in enumerate(orders):
            # a round that the cap refuses has no first draw, and so no others
            if not self._start(state, 1, tuple([finished[i] for i in order]), same_round=nth > 0):
                return nth
        return count

    def _complete(self, state: QueryState, arm: _Arm) -> None:
        for sample in state.samples[arm.heard :]:
            if sample.label is not None:
                arm.counts[sample.label] = arm.counts.get(sample.label, 0) + 1
        arm.uncertainty = variation_ratio(arm.counts.values())
        arm.ready = True
        self._ready += 1
        if arm.extra:
            arm.extra = False
            self._extra -= 1
        reason = self._stop(state, arm)
        if reason is not None:
            self._decide(state, reason)

    def _stop(self, state: QueryState, arm: _Arm) -> str | None:
        """Why a query gets no further unit, or None; never in `exact`."""
        if self.mode == "exact":
            return None
        first, second = heapq.nlargest(2, [0, 0, *arm.counts.values()])
        if first and confidence(first, second) >= self.target:
            return CONFIDENT
        if state.drawn >= self.limits.max_samples:
            return SAMPLE_CAP
        if state.rounds + self._rounds > self.limits.max_rounds:
            return ROUND_CAP
        return None

    @property
    def _rounds(self) -> int:
        """How many rounds a unit takes."""
        return min(self.unit, 2)

    def _allocate(self) -> None:
        if self._may_rank() and self.unallotted:
            self._allot()
        if self._may_rank() and not self.unallotted:
            for arm in [arm for arm in self._arms.values() if arm.ready]:
                self._decide(arm.state, None if self.mode == "exact" else SPENT)

    def _may_rank(self) -> bool:
        """Whether units may be given out: after the close, and in `exact` only once every query's unit is complete."""
        return self.closed and self._ready > 0 and (self.mode == "live" or self._ready == len(self._arms))

    def _allot(self) -> None:
        """Algorithm 1, lines 8 to 14: one more unit to the top-ranked queries."""
        slots = self._width() - self._extra
        if slots <= 0:
            return
        used = self.started
        # nlargest is stable and arms stand in order of joining, so ties go to the first that joined
        for arm in heapq.nlargest(
            slots,
            [arm for arm in self._arms.values() if arm.ready],
            key=lambda arm: priority(arm.uncertainty, arm.state.drawn, used, self.exploration),
        ):
            size = min(self.unit, self.unallotted, self.limits.max_samples - arm.state.drawn)
            if size > 0:
                self._more(arm, size)

    def _width(self) -> int:
        """|S|; the default of `live` is settled when the first unit is given out."""
        if self._subset is None:
            units = -(-self.unallotted // self.unit)
            stages = max(self.limits.max_rounds // self._rounds - 1, 1)
            self._subset = -(-units // stages)
        return self._subset

    def _more(self, arm: _Arm, size: int) -> None:
        drawn = arm.state.drawn
        arm.half, arm.end = drawn + -(-size // 2), drawn + size
        arm.heard = len(arm.state.samples)
        arm.ready, arm.extra = False, True
        self._ready -= 1
        self._extra += 1
        self._committed += size
        self._start(arm.state, arm.half - drawn)

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
            self._extra -= arm.extra
