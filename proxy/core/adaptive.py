"""The adaptive strategy: every sample goes where it is expected to change the answer most, per token.

A query's index is the gain of `proxy.core.gain` divided by the expected cost of a ballot. Two ways to spend on it:

- with a `Bank` (live; in replay one query at a time, or in batches of a size): each query goes on while its index is
  above the bank's price and the bank can pay. Queries wait for nobody, so batches may be of any size, and of one.
- without (a closed batch with a budget of its own): the batch spends `mean_samples` for each of its queries, best index
  first; one sample at a time, or, where the rounds are limited, in waves that divide what is left of the budget.

With R rounds a query opens with 3/2 * mean_samples / R draws, at least 2: two ballots are the least that can disagree.
Where each wave pays for a prompt that costs as much as w samples, it opens with at least sqrt(2 w mean_samples), the
economic order quantity, and a further wave must be worth its prompt too. A wave asks a share of what looks worth asking
in all, because early ballots tell where later ones belong.
"""

import heapq
import math
from dataclasses import dataclass, field

from proxy.core.bank import Bank
from proxy.core.batch import (
    CONFIDENT,
    PRICED,
    ROUND_CAP,
    SAMPLE_CAP,
    SPENT,
    Batch,
    Cancelled,
    Label,
    Limits,
    Outcome,
    QueryState,
    Sample,
    Step,
)
from proxy.core.gain import steps, worth
from proxy.core.prior import Prior
from proxy.core.vote import confidence

_SHRINK = 3.0
"""How many samples of mean cost a query's own mean cost is weighed against."""


@dataclass(slots=True)
class _Tally:
    """A query's count so far: `first` and `second` are its two leading counts, `taken` what its draws out may cost."""

    state: QueryState
    counts: dict[Label, int] = field(default_factory=dict)
    leader: Label | None = None
    first: int = 0
    second: int = 0
    heard: int = 0
    ballots: int = 0
    tokens: int = 0
    waves: int = 0
    taken: float = 0.0
    spent: float = 0.0

    def count(self, label: Label) -> None:
        """Add a ballot."""
        self.ballots += 1
        votes = self.counts[label] = self.counts.get(label, 0) + 1
        if label == self.leader:
            self.first = votes
        elif votes > self.first:
            self.leader, self.first, self.second = label, votes, self.first
        else:
            self.second = max(self.second, votes)


class AdaptiveBatch(Batch):
    """Draws where a sample is worth most, until the confidence asked, a cap, the price or the budget ends a query.

    `mean_samples` is what a query may take in the mean, in samples of mean cost. A query is decided early when its
    leader is as sure as `target` (1: never before it is certain); draws still out are then the caller's to cancel, and
    one that is cancelled counts for half of what it was expected to cost.
    `bank`: see above; without it `sample_tokens` may tell the mean cost of a sample, else opening samples do.
    `by_tokens` False: every sample costs the same, whatever its length. `least_share`, in [0, 1], is what a wave by the
    bank's price asks at least of what is worth asking: every wave pays for its prompt and takes its time.
    ValueError when `mean_samples` is below 1.
    """

    def __init__(
        self,
        *,
        mean_samples: float,
        target: float = 1.0,
        limits: Limits,
        bank: Bank | None = None,
        sample_tokens: float | None = None,
        by_tokens: bool = True,
        least_share: float = 0.5,
    ) -> None:
        if mean_samples < 1:
            raise ValueError("mean_samples is at least 1")
        super().__init__(limits)
        self.mean_samples = mean_samples
        self.target = target
        self._by_tokens = by_tokens
        self._least_share = least_share
        self._alone = bank is None
        # a closed batch is its own bank: everything that came in with its queries may be spent, on any of them
        self._bank = bank or Bank(mean_samples, bound=float("inf"), sample_tokens=sample_tokens)
        self._tallies: dict[int, _Tally] = {}
        self._ready: dict[int, _Tally] = {}
        self._ranking: list[tuple[float, int]] = []
        # what is held back for draws whose query was decided or left before they were told
        self._late: dict[int, float] = {}
        self._stepwise = limits.max_rounds >= limits.max_samples

    def join(self, query: int, *, probe: bool = False, prior: Prior | None = None, overhead: float = 0.0) -> None:
        """Add a query and its credit."""
        super().join(query, probe=probe, prior=prior, overhead=overhead)
        self._tallies[query] = _Tally(self._queries[query])
        self._bank.open()

    def tell(self, outcome: Outcome) -> None:
        """Hear how a draw ended. What was held back for it when its query ended is put right, unless it was cancelled.

        What a cancelled draw took is not told, so the half that was held back for it stands.
        """
        super().tell(outcome)
        held = self._late.pop(outcome.draw, None)
        if held is not None and not isinstance(outcome, Cancelled):
            self._bank.correct(self._spent(outcome) - held)

    def _first(self) -> int:
        share = round(1.5 * self.mean_samples / self.limits.max_rounds)
        # two of little more would leave next to nothing to allocate
        least = 1 if self._stepwise and self._alone and self.mean_samples < 2.5 else 2
        return int(min(max(least, share), max(1.0, self.mean_samples), self.limits.max_samples))

    def _opening(self, state: QueryState) -> int:
        wave = self._overhead(state)
        dear = min(round(math.sqrt(2 * wave * self.mean_samples)), int(self.mean_samples), self.limits.max_samples)
        return max(self._first(), dear)

    def _start(
        self,
        state: QueryState,
        count: int,
        given: tuple[int, ...] = (),
        *,
        same_round: bool = False,
        step: Step = "answer",
    ) -> int:
        """Ask draws, and take what they may cost out of the bank."""
        started = super()._start(state, count, given, same_round=same_round, step=step)
        tally = self._tallies[state.id]
        self._take(tally, started * self._cost(tally))
        return started

    def _hear(self, state: QueryState, outcome: Outcome) -> None:
        super()._hear(state, outcome)
        tally = self._tallies[state.id]
        expected = tally.taken / (len(state.out) + 1)
        if isinstance(outcome, Sample):
            if tally.heard < 2:
                self._bank.learn(outcome.tokens + state.overhead / self.mean_samples)
            self._pay_waves(tally)
            tally.heard += 1
            tally.tokens += outcome.tokens
            if outcome.label is not None:
                tally.count(outcome.label)
        actual = expected / 2 if isinstance(outcome, Cancelled) else self._spent(outcome)
        tally.spent += actual
        self._take(tally, -expected)
        self._bank.take(actual)

    def _pay_waves(self, tally: _Tally) -> None:
        """Pay for the waves that have begun: only a sample that came back shows that there was one."""
        overhead = (tally.state.rounds - tally.waves) * self._overhead(tally.state)
        tally.waves = tally.state.rounds
        tally.spent += overhead
        self._bank.take(overhead)

    def _overhead(self, state: QueryState) -> float:
        """What a wave costs beside its samples, in samples of mean cost."""
        return self._bank.cost(state.overhead, 0) if self._by_tokens else 0.0

    def _spent(self, outcome: Outcome) -> float:
        """What a draw took, in samples of mean cost: only samples cost anything."""
        if not isinstance(outcome, Sample):
            return 0.0
        return self._bank.cost(outcome.tokens) if self._by_tokens else 1.0

    def _take(self, tally: _Tally, samples: float) -> None:
        tally.taken += samples
        self._bank.take(samples)

    def _cost(self, tally: _Tally) -> float:
        """What one more sample of a query is expected to cost, in samples of mean cost: shrunk to the mean."""
        if not self._by_tokens:
            return 1.0
        return (self._bank.cost(tally.tokens, tally.heard) + _SHRINK) / (tally.heard + _SHRINK)

    def _ballot_cost(self, tally: _Tally) -> float:
        """What one more ballot is expected to cost: samples that abstain are paid for and gain nothing."""
        return self._cost(tally) * (tally.heard + 1) / (tally.ballots + 1)

    def _continue(self, state: QueryState) -> None:
        tally = self._tallies[state.id]
        if tally.first and confidence(tally.first, tally.second) >= self.target:
            self._decide(state, CONFIDENT)
        elif not state.out:
            self._go_on(state, tally)

    def _go_on(self, state: QueryState, tally: _Tally) -> None:
        opening = self._opening(state) if state.rounds < 2 else 0
        if state.drawn < opening and state.probe and self._start(state, opening - state.drawn):
            return
        if state.drawn >= self.limits.max_samples:
            self._decide(state, SAMPLE_CAP)
        elif state.rounds >= self.limits.max_rounds:
            self._decide(state, ROUND_CAP)
        elif self._alone:
            self._ready[state.id] = tally
            if self._stepwise:
                heapq.heappush(self._ranking, (-self._index(tally), state.id))
        else:
            self._buy(state, tally)

    def _index(self, tally: _Tally) -> float:
        """Gain of agreement a sample of mean cost."""
        return worth(tally.first, tally.second) / self._ballot_cost(tally)

    def _buy(self, state: QueryState, tally: _Tally) -> None:
        """Go on by the bank's price: how many samples are worth it in all, and this wave's share of them."""
        cost, overhead = self._cost(tally), self._overhead(state)
        price = self._bank.price
        least = price * self._ballot_cost(tally)
        worthwhile = [(count, slope) for count, slope in steps(tally.first, tally.second) if slope >= least]
        if sum(count * (slope - least) for count, slope in worthwhile) <= price * overhead:
            self._decide(state, PRICED)
        elif self._bank.balance < cost + overhead:
            self._decide(state, SPENT)
        else:
            wanted = min(sum(count for count, _ in worthwhile), int((self._bank.balance - overhead) / cost))
            self._start(state, _share(wanted, self.limits.max_rounds - state.rounds, self._least_share))

    def _allocate(self) -> None:
        if not (self._alone and self.closed):
            return
        if self._stepwise:
            self._draw_best()
        elif self._ready and len(self._ready) == len(self._tallies):
            self._draw_wave()

    def _draw_best(self) -> None:
        """One sample for the best index; nothing while one is out."""
        while self._ranking and not self._out:
            _, query = heapq.heappop(self._ranking)
            tally = self._ready.pop(query, None)
            if tally is not None and self._bank.balance > 0:
                self._start(tally.state, 1)
            elif tally is not None:
                self._decide(tally.state, SPENT)

    def _draw_wave(self) -> None:
        """Ask this wave's share of what looks worth asking with all that is left of the budget."""
        wanted = self._divide()
        rounds_left = self.limits.max_rounds - max(tally.state.rounds for tally in self._ready.values())
        for query, tally in list(self._ready.items()):
            if not wanted or rounds_left < 1:
                self._decide(tally.state, SPENT if not wanted else ROUND_CAP)
            elif query in wanted:
                del self._ready[query]
                self._start(tally.state, _share(wanted[query], rounds_left))

    def _divide(self) -> dict[int, int]:
        """What is left of the budget divided over all queries, best slopes first: further samples by query."""
        left = self._bank.balance
        ranking = [self._rank(query, tally, 0) for query, tally in self._ready.items()]
        heapq.heapify(ranking)
        wanted: dict[int, int] = {}
        while ranking and left > 0:
            slope, query, step = heapq.heappop(ranking)
            tally = self._ready[query]
            room = self.limits.max_samples - tally.state.drawn - wanted.get(query, 0)
            if slope < 0 and room > 0:
                cost = self._cost(tally)
                count = min(steps(tally.first, tally.second)[step][0], room, max(1, int(left / cost)))
                wanted[query] = wanted.get(query, 0) + count
                left -= count * cost
                heapq.heappush(ranking, self._rank(query, tally, step + 1))
        return wanted

    def _rank(self, query: int, tally: _Tally, step: int) -> tuple[float, int, int]:
        found = steps(tally.first, tally.second)
        return (-found[step][1] / self._ballot_cost(tally) if step < len(found) else 0.0, query, step)

    def _decide(self, state: QueryState, reason: str | None = None) -> None:
        super()._decide(state, reason)
        self._forget(state)

    def _left(self, state: QueryState) -> None:
        self._forget(state)

    def _drop(self, state: QueryState) -> None:
        """Take back draws that were never handed out, and put back what was taken for them."""
        before = len(state.out)
        super()._drop(state)
        tally = self._tallies.get(state.id)
        if tally is not None and before:
            self._take(tally, -tally.taken * (before - len(state.out)) / before)

    def _forget(self, state: QueryState) -> None:
        """Take a query out of the ranking; its draws still out count for half of what was taken for them."""
        tally = self._tallies.pop(state.id, None)
        self._ready.pop(state.id, None)
        if tally is not None:
            if state.out:
                self._late |= dict.fromkeys(state.out, tally.taken / 2 / len(state.out))
            self._take(tally, -tally.taken / 2)
            self._bank.settle(tally.spent + tally.taken)


def _share(wanted: int, rounds_left: int, least: float = 0.0) -> int:
    """A wave's share of what is worth asking in all: somewhat more than an even one, and all of it at the last."""
    return max(1, round(wanted * min(max(1.2 / rounds_left, least), 1.0)))
