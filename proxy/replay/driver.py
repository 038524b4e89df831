"""Deals recorded samples to a batch, as an engine would deal live ones: ask, serve, tell, until nothing is asked.

The draws of one `ask` are served round-robin: the first of every query, then the second, so that a budget which ends on
the way ends evenly. A draw is denied when its query has no recorded sample or no round left, or when the budget is
spent.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from proxy.core.batch import Batch, Cancelled, Denied, Draw, Label, Sample
from proxy.core.vote import Ballot, Rule, poll
from proxy.replay.pool import Question

Unit = Literal["tokens", "samples"]


class Purse:
    """A budget of tokens or of samples. A draw is served while anything is left, so only the last may pass `limit`."""

    def __init__(self, limit: int, unit: Unit) -> None:
        self.limit = limit
        self.unit = unit
        self.spent = 0

    def take(self, tokens: int) -> bool:
        """Pay for one sample of `tokens`; False, and nothing is paid, when the budget is spent."""
        if self.spent >= self.limit:
            return False
        self.spent += tokens if self.unit == "tokens" else 1
        return True

    def give_back(self, tokens: int) -> None:
        """Take back what a cancelled sample did not generate. A sample stays a sample."""
        if self.unit == "tokens":
            self.spent -= tokens


@dataclass(slots=True)
class Hand:
    """What one query was dealt.

    `order` is how its samples lie, `max_rounds` its cap (0: none), `ballots` are by draw, `end` is when it was decided.
    """

    question: Question
    order: Sequence[int]
    max_rounds: int = 0
    dealt: int = 0
    ballots: dict[int, Ballot] = field(default_factory=dict)
    tokens: int = 0
    rounds: int = 0
    end: int = 0

    def deal(self, draw: Draw, purse: Purse) -> Ballot | None:
        """The next sample, paid for; None when none is left, the purse is empty, or the round is one too many."""
        if self.dealt == len(self.order) or 0 < self.max_rounds < draw.round:
            return None
        sample = self.question.samples[self.order[self.dealt]]
        if not purse.take(sample.tokens):
            return None
        self.dealt += 1
        self.rounds = max(self.rounds, draw.round)
        return sample

    def hear(self, draw: int, sample: Ballot) -> Sample:
        """Count a finished sample; returns what the batch is told."""
        self.ballots[draw] = sample
        self.tokens += sample.tokens
        return Sample(draw, sample.label, sample.score, sample.tokens, sample.tokens)

    def verdict(self, rule: Rule) -> Label | None:
        """What the samples say, in draw order, under a rule; None when all abstain."""
        return poll([self.ballots[draw] for draw in sorted(self.ballots)], rule).leader


def drive(batch: Batch, hands: Mapping[int, Hand], purse: Purse) -> None:
    """Run a batch to its end, every outcome told at once, in the order in which draws are served.

    `hands` are by query; the batch is new, and they join it here.
    """
    _join(batch, hands)
    while draws := batch.ask():
        for draw in _round_robin(draws):
            hand = hands[draw.query]
            sample = hand.deal(draw, purse)
            batch.tell(Denied(draw.id) if sample is None else hand.hear(draw.id, sample))


def drive_timed(batch: Batch, hands: Mapping[int, Hand], purse: Purse) -> None:
    """Run a batch to its end with tokens as time: a draw ends `tokens` after its start, and is told then.

    Draws run side by side; those that end together are told in draw order. A decided query leaves the batch, and its
    draws still out are cancelled and pay only for what they had generated. A sample is paid in full at its start.
    """
    _join(batch, hands)
    _Clocked(batch, hands, purse).run()


@dataclass(frozen=True, slots=True)
class _Flying:
    """A draw on its way."""

    sample: Ballot
    start: int


class _Clocked:
    """A discrete-event simulation: `_ends` is a heap of (time, draw, query), and `_flying` is by query and draw."""

    def __init__(self, batch: Batch, hands: Mapping[int, Hand], purse: Purse) -> None:
        self._batch = batch
        self._hands = hands
        self._purse = purse
        self._now = 0
        self._ends: list[tuple[int, int, int]] = []
        self._flying: dict[int, dict[int, _Flying]] = {query: {} for query in hands}

    def run(self) -> None:
        while True:
            while draws := self._batch.ask():
                self._start(draws)
            for query in self._batch.decided():
                self._answer(query)
            if not self._ends:
                return
            self._now, draw, query = heapq.heappop(self._ends)
            ended = self._flying[query].pop(draw, None)
            if ended is not None:
                self._batch.tell(self._hands[query].hear(draw, ended.sample))

    def _start(self, draws: Iterable[Draw]) -> None:
        for draw in _round_robin(draws):
            sample = self._hands[draw.query].deal(draw, self._purse)
            if sample is None:
                self._batch.tell(Denied(draw.id))
            else:
                self._flying[draw.query][draw.id] = _Flying(sample, self._now)
                heapq.heappush(self._ends, (self._now + sample.tokens, draw.id, draw.query))

    def _answer(self, query: int) -> None:
        hand = self._hands[query]
        hand.end = self._now
        self._batch.leave(query)
        late, self._flying[query] = self._flying[query], {}
        for draw, flying in late.items():
            generated = self._now - flying.start
            hand.tokens += generated
            self._purse.give_back(flying.sample.tokens - generated)
            self._batch.tell(Cancelled(draw, generated))


def _join(batch: Batch, hands: Mapping[int, Hand]) -> None:
    for query in hands:
        batch.join(query)
    batch.close()


def _round_robin(draws: Iterable[Draw]) -> list[Draw]:
    """The first draw of every query, then the second of every query, and so on."""
    turns: list[list[Draw]] = []
    seen: dict[int, int] = {}
    for draw in draws:
        turn = seen.get(draw.query, 0)
        seen[draw.query] = turn + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(draw)
    return [draw for turn in turns for draw in turn]
