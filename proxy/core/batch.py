"""The contract of every strategy: ask and tell.

A batch is the state machine over the queries of one micro-batch. It says which draws to start (`ask`), hears how each
ended (`tell`), and names the queries that can be answered (`decided`). It knows labels, scores, tokens and costs as
plain values; it never sees text, a clock, a currency or a socket, so the same code runs live, in replay and under
property tests.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

from proxy.core.prior import Prior
from proxy.values import value

Label = Hashable
"""What a sample votes for. Equal labels are the same answer."""

BUDGET = "budget"
FAILED = "failed"
ROUND_CAP = "round cap"
SAMPLE_CAP = "sample cap"
CONFIDENT = "confident"
SPENT = "share spent"
QUALITY = "quality reached"
NO_SCORES = "no scores"
PRICED = "not worth more"


Step = Literal["answer", "continue", "feedback", "refine", "grade", "rethink"]
"""What a draw does with the samples it is given.

`answer` sees them as earlier attempts, or answers alone; `continue` is told to wait and think on; `feedback` criticises
one and is no ballot; `refine` answers anew after one and its feedback; `grade` scores one and is no ballot; `rethink`
sees nothing of one but its answer.
"""


@value(frozen=True, slots=True)
class Draw:
    """One sample to be made. `given` holds the ids of the finished draws that its prompt shows (none: independent)."""

    id: int
    query: int
    given: tuple[int, ...] = ()
    round: int = 1
    step: Step = "answer"


@value(frozen=True, slots=True)
class Sample:
    """A finished draw. `label` None abstains; `score` in [0, 1] or None; `tokens` and `cost` are what it took."""

    draw: int
    label: Label | None
    score: float | None = None
    tokens: int = 0
    cost: int = 0


@value(frozen=True, slots=True)
class Failure:
    """A draw that the upstream lost."""

    draw: int


@value(frozen=True, slots=True)
class Denied:
    """A draw that was not started: the budget does not hold it."""

    draw: int


@value(frozen=True, slots=True)
class Cancelled:
    """A draw that was stopped on the way, and what it had cost by then."""

    draw: int
    cost: int = 0


Outcome = Sample | Failure | Denied | Cancelled


@value(frozen=True, slots=True)
class Limits:
    """Caps of one query: samples started, and rounds (waves of draws; a conditioned half is a round of its own)."""

    max_samples: int = 32
    max_rounds: int = 6

    def __post_init__(self) -> None:
        if self.max_samples < 1 or self.max_rounds < 1:
            raise ValueError("max_samples and max_rounds are at least 1")


@dataclass(slots=True)
class QueryState:
    """What a batch knows of one query. `samples` are in order of arrival; `out` are the draws not yet told."""

    id: int
    probe: bool
    prior: Prior | None = None
    overhead: float = 0.0
    drawn: int = 0
    rounds: int = 0
    out: set[int] = field(default_factory=set)
    samples: list[Sample] = field(default_factory=list)
    denied: bool = False
    decided: bool = False
    reason: str | None = None


class Batch(ABC):
    """The bookkeeping of all strategies; each adds `_first`, `_continue` and, to share a budget, `_allocate`.

    The caller starts every draw that `ask` returns and tells exactly one outcome for each. `done` means that nothing
    more will be asked; an empty `ask()` with draws out means wait. `started` counts draws, `tokens` and `cost` sum what
    they took, also of queries that left.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.closed = False
        self.tokens = 0
        self.cost = 0
        self.started = 0
        self._next_id = 0
        self._queries: dict[int, QueryState] = {}
        self._out: dict[int, Draw] = {}
        self._changed: dict[int, None] = {}
        self._pending: dict[int, Draw] = {}
        self._decided: dict[int, None] = {}
        self._undecided = 0

    def join(self, query: int, *, probe: bool = False, prior: Prior | None = None, overhead: float = 0.0) -> None:
        """Add a query. A probing query makes one draw first, and goes on only when that one came back.

        `prior` is what is believed of its scores, for strategies that fit them; `overhead` what each wave of its draws
        costs beside the samples (the prompt), in tokens of samples, for strategies that weigh costs.
        """
        if self.closed:
            raise ValueError("the batch is closed")
        if query in self._queries:
            raise ValueError(f"query {query} has joined already")
        self._queries[query] = QueryState(query, probe, prior, overhead)
        self._changed[query] = None
        self._undecided += 1

    def leave(self, query: int) -> None:
        """Take a query out, answered or given up. Outcomes of its draws are still to be told, and only accounted."""
        state = self._queries.pop(query)
        self._changed.pop(query, None)
        self._drop(state)
        if state.decided:
            del self._decided[query]
        else:
            self._undecided -= 1
        self._left(state)

    def close(self) -> None:
        """Say that no more queries will join."""
        self.closed = True

    def ask(self) -> tuple[Draw, ...]:
        """The draws to start now."""
        self._advance()
        draws, self._pending = tuple(self._pending.values()), {}
        return draws

    def tell(self, outcome: Outcome) -> None:
        """Hear how a draw ended. Each draw is told once; a second time is an error of the caller."""
        draw = self._out.pop(outcome.draw, None)
        if draw is None:
            raise ValueError(f"draw {outcome.draw} was never asked or has been told already")
        if isinstance(outcome, Sample):
            self.tokens += outcome.tokens
            self.cost += outcome.cost
        elif isinstance(outcome, Cancelled):
            self.cost += outcome.cost
        state = self._queries.get(draw.query)
        # an id may have left and joined again: the old one's draws are not the new one's
        if state is not None and draw.id in state.out:
            state.out.remove(draw.id)
            if not state.decided:
                self._hear(state, outcome)
                self._changed[draw.query] = None

    def decided(self) -> tuple[int, ...]:
        """The queries that can be answered now, until they leave; the first decided comes first."""
        self._advance()
        return tuple(self._decided)

    def reason(self, query: int) -> str | None:
        """Why a decided query stopped before its full measure, or None."""
        return self._queries[query].reason

    @property
    def done(self) -> bool:
        """Whether nothing more will be asked."""
        self._advance()
        return self.closed and not self._undecided and not self._pending

    @property
    def outstanding(self) -> int:
        """How many draws have been asked and not told."""
        return len(self._out)

    @abstractmethod
    def _first(self) -> int:
        """How many draws a query starts with."""

    def _opening(self, state: QueryState) -> int:  # noqa: ARG002 - most strategies open every query alike
        """How many draws this query starts with."""
        return self._first()

    @abstractmethod
    def _continue(self, state: QueryState) -> None:
        """Start what this query needs next, or decide it. Called after an outcome, while it is open and not denied."""

    def _allocate(self) -> None:  # noqa: B027 - most strategies share nothing between queries
        """Share out a common budget, after every changed query has continued."""

    def _left(self, state: QueryState) -> None:  # noqa: B027 - most strategies keep nothing of their own
        """Forget what the strategy itself kept of a query that left."""

    def _hear(self, state: QueryState, outcome: Outcome) -> None:
        if isinstance(outcome, Sample):
            state.samples.append(outcome)
        elif isinstance(outcome, Denied):
            state.denied = True

    def _advance(self) -> None:
        changed, self._changed = self._changed, {}
        for query in changed:
            self._step(self._queries[query])
        self._allocate()

    def _step(self, state: QueryState) -> None:
        if state.denied:
            self._drop(state)
            if not state.out:
                self._decide(state, BUDGET)
        elif not state.drawn:
            self._start(state, 1 if state.probe else self._opening(state))
        elif not state.out and not state.samples:
            self._decide(state, FAILED)
        else:
            self._continue(state)

    def _start(
        self,
        state: QueryState,
        count: int,
        given: tuple[int, ...] = (),
        *,
        same_round: bool = False,
        step: Step = "answer",
    ) -> int:
        """Ask `count` draws for a query, fewer where a cap is met; returns how many."""
        if not same_round and state.rounds >= self.limits.max_rounds:
            return 0
        count = min(count, self.limits.max_samples - state.drawn)
        if count > 0 and not same_round:
            state.rounds += 1
        for _ in range(count):
            draw = Draw(self._next_id, state.id, given, state.rounds, step)
            self._next_id += 1
            self.started += 1
            state.drawn += 1
            state.out.add(draw.id)
            self._out[draw.id] = draw
            self._pending[draw.id] = draw
        return max(count, 0)

    def _decide(self, state: QueryState, reason: str | None = None) -> None:
        self._drop(state)
        state.decided = True
        state.reason = reason
        self._decided[state.id] = None
        self._undecided -= 1

    def _drop(self, state: QueryState) -> None:
        """Take back a query's draws that were planned and never handed out: they count as never started."""
        for draw in [draw for draw in state.out if draw in self._pending]:
            del self._pending[draw]
            del self._out[draw]
            state.out.remove(draw)
            state.drawn -= 1
            self.started -= 1
