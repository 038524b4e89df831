"""DynScaling: integrated sampling in units, shared out by a bandit (the seed paper's Algorithms 1 to 3).

Where the paper is silent: votes are the union of both halves unless told otherwise, the logarithm is natural, B_i and
B_used count draws started, a remainder r smaller than a unit goes as ceil(r/2) + floor(r/2), and equal priorities go to
the query that joined first.
"""

import heapq
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from proxy.core.batch import CONFIDENT, ROUND_CAP, SAMPLE_CAP, SPENT, Batch, Label, Limits, QueryState
from proxy.core.prior import Prior
from proxy.core.ranking import Ranking
from proxy.core.uncertainty import MEASURES
from proxy.core.vote import confidence
from proxy.types import Uncertainty

Mode = Literal["live", "exact"]

_UNCAPPED = 2**62


@dataclass(slots=True)
class _Arm:
    """A query as a bandit's arm. `half` and `end`: its draws in all when its unit's first half and the unit are out.

    `saw` holds the draws that were shown others; `counts` are all ballots, `conditioned` those of draws in `saw`.
    """

    state: QueryState
    place: int
    half: int
    end: int
    heard: int = 0
    extra: bool = False
    ready: bool = False
    saw: set[int] = field(default_factory=set)
    counts: dict[Label, int] = field(default_factory=dict)
    conditioned: dict[Label, int] = field(default_factory=dict)


class DynScalingBatch(Batch):
    """Gives every query one unit, then each next unit to the queries that are the most in doubt.

    A unit is ceil(unit/2) independent draws, then floor(unit/2) draws that each see up to `thought_length` of the
    unit's own finished ones in random order (none finished: independent again): two rounds. The batch's budget is
    `mean_samples` for every query that joined; what one leaves unspent is the others'.

    `exact` is Algorithm 1 as published: once closed, the top `subset` queries (default 1) get a unit each, all of them
    are waited for, until the whole budget is spent; only then are queries decided. Of the `limits` (default: none)
    max_samples alone applies: a query that has met it leaves the ranking, and its budget goes to the others.

    `live` also stops a query after a complete unit whose leading label has at least `target` confidence, keeps to the
    `limits`, starts no unit that the round cap would cut, and waits for no straggler: complete queries compete for
    at most `subset` units in flight (default: the units left when allocation begins, over the units that the round cap
    still allows a query, rounded up). A denied draw counts as started in both modes.

    `uncertainty` is the measure of doubt, u_i. With `votes` `conditioned` it and the confidence are taken of the
    ballots of draws that saw others, while there is one, as the verdict then is (`core.vote.Rule`).

    The paper's ablations: without `integrated` sampling all draws of a unit are independent, in one round; without
    `dynamic` allocation each query gets its own `mean_samples`, unit after unit, and no one else's.
    """

    def __init__(
        self,
        *,
        unit: int = 8,
        thought_length: int = 4,
        exploration: float = 0.25,
        uncertainty: Uncertainty = "variation_ratio",
        votes: Literal["all", "conditioned"] = "all",
        integrated: bool = True,
        dynamic: bool = True,
        mean_samples: int = 16,
        mode: Mode = "live",
        subset: int | None = None,
        target: float = 0.95,
        limits: Limits | None = None,
        rng: np.random.Generator,
    ) -> None:
        if not 1 <= unit <= mean_samples:
            raise ValueError("unit is at least 1, and mean_samples at least unit")
        if thought_length < 0 or (subset is not None and subset < 1):
            raise ValueError("thought_length is at least 0, and subset at least 1")
        super().__init__(_limits(mode, limits))
        self.unit = unit
        self.thought_length = thought_length
        self.votes = votes
        self.integrated = integrated
        self.dynamic = dynamic
        self.mean_samples = mean_samples
        self.mode = mode
        self.target = target
        self._doubt = MEASURES[uncertainty]
        self._subset = 1 if subset is None and mode == "exact" else subset
        self._rng = rng
        self._arms: dict[int, _Arm] = {}
        self._ranking = Ranking(exploration)
        self._placed: dict[int, _Arm] = {}
        self._budget = 0
        self._committed = 0
        self._ready = 0
        self._extra = 0

    @property
    def unallotted(self) -> int:
        """Draws of the budget that no query has made, nor will make to complete its unit."""
        return self._budget - self._committed

    def join(self, query: int, *, probe: bool = False, prior: Prior | None = None, overhead: float = 0.0) -> None:
        """Add a query and its `mean_samples` of budget."""
        super().join(query, probe=probe, prior=prior, overhead=overhead)
        size = min(self.unit, self.limits.max_samples)
        arm = _Arm(self._queries[query], self._ranking.add(), half=self._half(size), end=size)
        self._arms[query] = self._placed[arm.place] = arm
        self._budget += self.mean_samples
        self._committed += size

    def _first(self) -> int:
        return self._half(min(self.unit, self.limits.max_samples))

    def _half(self, size: int) -> int:
        """How many of a unit's `size` draws are independent."""
        return -(-size // 2) if self.integrated else size

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
            given = tuple([finished[i] for i in order])
            # a round that the cap refuses has no first draw, and so no others
            if not self._start(state, 1, given, same_round=nth > 0):
                return nth
            if given:
                arm.saw.add(self._next_id - 1)
        return count

    def _complete(self, state: QueryState, arm: _Arm) -> None:
        for sample in state.samples[arm.heard :]:
            if sample.label is not None:
                arm.counts[sample.label] = arm.counts.get(sample.label, 0) + 1
                if sample.draw in arm.saw:
                    arm.conditioned[sample.label] = arm.conditioned.get(sample.label, 0) + 1
        if arm.extra:
            arm.extra = False
            self._extra -= 1
        votes = arm.conditioned if self.votes == "conditioned" and arm.conditioned else arm.counts
        reason = self._stop(state, votes)
        if reason is not None:
            self._decide(state, reason)
        elif self.dynamic:
            self._rank(arm, self._doubt(votes.values()))
        elif not self._more(arm, min(self.unit, self.mean_samples - state.drawn)):
            self._decide(state, self._spent(state))

    def _stop(self, state: QueryState, votes: dict[Label, int]) -> str | None:
        """Why a query gets no further unit, or None; never in `exact`."""
        if self.mode == "exact":
            return None
        first, second = heapq.nlargest(2, [0, 0, *votes.values()])
        if first and confidence(first, second) >= self.target:
            return CONFIDENT
        if state.drawn >= self.limits.max_samples:
            return SAMPLE_CAP
        if state.rounds + self._rounds > self.limits.max_rounds:
            return ROUND_CAP
        return None

    def _spent(self, state: QueryState) -> str | None:
        """Why a query ends that could have gone on, had there been more for it."""
        if state.drawn >= self.limits.max_samples:
            return SAMPLE_CAP
        return None if self.mode == "exact" else SPENT

    @property
    def _rounds(self) -> int:
        """How many rounds a unit takes."""
        return 2 if self.integrated and self.unit > 1 else 1

    def _rank(self, arm: _Arm, doubt: float) -> None:
        arm.ready = True
        self._ready += 1
        if arm.state.drawn < self.limits.max_samples:
            self._ranking.stand(arm.place, doubt, arm.state.drawn)

    def _unrank(self, arm: _Arm) -> None:
        self._ready -= arm.ready
        arm.ready = False
        self._ranking.leave(arm.place)

    def _allocate(self) -> None:
        if self._may_rank() and self._may_allot():
            self._allot()
        if self._may_rank() and not self._may_allot():
            for arm in [arm for arm in self._arms.values() if arm.ready]:
                self._decide(arm.state, self._spent(arm.state))

    def _may_rank(self) -> bool:
        """Whether units may be given out: after the close, and in `exact` only once every query's unit is complete."""
        return self.closed and self._ready > 0 and (self.mode == "live" or self._ready == len(self._arms))

    def _may_allot(self) -> bool:
        """Whether there is a unit to give out, and somebody to get it."""
        return self.unallotted > 0 and len(self._ranking) > 0

    def _allot(self) -> None:
        """Algorithm 1, lines 8 to 14: one more unit to the top-ranked queries."""
        for place in self._ranking.top(self._width() - self._extra, self.started):
            arm = self._placed[place]
            if self._more(arm, min(self.unit, self.unallotted)):
                arm.extra = True
                self._extra += 1

    def _width(self) -> int:
        """|S|; the default of `live` is settled when the first unit is given out."""
        if self._subset is None:
            units = -(-self.unallotted // self.unit)
            stages = max(self.limits.max_rounds // self._rounds - 1, 1)
            self._subset = -(-units // stages)
        return self._subset

    def _more(self, arm: _Arm, size: int) -> int:
        """Start another unit of up to `size` draws; returns how many it will have."""
        drawn = arm.state.drawn
        size = min(size, self.limits.max_samples - drawn)
        if size < 1:
            return 0
        arm.half, arm.end = drawn + self._half(size), drawn + size
        arm.heard = len(arm.state.samples)
        self._unrank(arm)
        self._committed += size
        self._start(arm.state, arm.half - drawn)
        return size

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
            self._extra -= arm.extra
            self._unrank(arm)
            del self._placed[arm.place]


def _limits(mode: Mode, limits: Limits | None) -> Limits:
    if mode == "live":
        return limits or Limits()
    return Limits(limits.max_samples if limits else _UNCAPPED, _UNCAPPED)
