"""The seeds' sequential baselines: chains of answers that are revised step by step, for live use.

SP1, SP2 and SP3 are what DynScaling's section 4.1 calls the kinds of Wang et al. 2025 (arXiv 2504.14047); multi-round
thinking is Tian et al. 2025 (arXiv 2503.19855). All revise several independent first answers and vote. Where the papers
leave it open: the chains go in step, the last answer of each chain votes (as in SETS, Chen et al. 2025, arXiv
2501.19306; see `core.vote.voices`), and the depth is what the caps allow, also when feedback finds no fault.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Literal

from proxy.core.batch import ROUND_CAP, SAMPLE_CAP, Batch, Limits, QueryState, Step

Method = Literal["sp1", "sp2", "sp3", "multi_round"]

_REVISION: dict[Method, tuple[Step, ...]] = {
    "sp1": ("continue",),
    "sp2": ("feedback", "refine"),
    "sp3": ("feedback", "refine"),
    "multi_round": ("rethink",),
}


@dataclass(slots=True)
class _Chain:
    """One first answer and its revisions: the ids of its finished `answers`, and of the draw it waits for.

    `critic` is feedback that was not used yet. A chain has `ended` when a draw of it was lost: nothing can follow.
    """

    answers: list[int]
    critic: int | None = None
    asked: int | None = None
    step: Step = "answer"
    ended: bool = False

    def hear(self, finished: Container[int]) -> None:
        """Take in how the draw that was asked has ended."""
        if self.asked is None:
            return
        if self.asked not in finished:
            self.ended = True
        elif self.step == "feedback":
            self.critic = self.asked
        elif self.step != "grade":
            self.answers.append(self.asked)
            self.critic = None
        self.asked = None

    def given(self, step: Step) -> tuple[int, ...]:
        """The draws that a step shows."""
        if step == "continue":
            return tuple(self.answers)
        return (self.answers[-1],) if self.critic is None else (self.answers[-1], self.critic)


class SequentialBatch(Batch):
    """Starts `chains` answers, then revises each of them until the samples or the rounds of the `limits` run out.

    - `sp1`: the model is told to wait and thinks on (`continue`), with all of its chain before it; a chat API has it do
      so in a new turn, where budget forcing (Muennighoff et al. 2025, arXiv 2501.19393) lets it write on in the old.
    - `sp2`: it criticises its answer (`feedback`), then answers anew (`refine`): two draws a revision (Self-Refine,
      Madaan et al. 2023, arXiv 2303.17651).
    - `sp3`: the same, and in a last round it scores the answers that vote (`grade`): the scores weigh the vote. An
      earlier answer's score could change nothing, so nobody asks for it.
    - `multi_round`: it answers again, shown nothing but its previous answer (`rethink`).

    Every draw counts as a sample. There are fewer chains where max_samples would not hold one revision of each, and no
    revision is begun that a cap would cut; where samples are left for some chains only, the first ones go on. A chain
    ends where a draw of it is lost, and its last finished answer stands. Queries share nothing.
    """

    def __init__(self, method: Method, *, chains: int = 4, limits: Limits) -> None:
        if chains < 1:
            raise ValueError("chains is at least 1")
        super().__init__(limits)
        self.method = method
        self.chains = chains
        self._revision = _REVISION[method]
        self._grades = method == "sp3"
        self._chains: dict[int, list[_Chain]] = {}

    def _first(self) -> int:
        whole = 1 + len(self._revision) + self._grades
        return min(self.chains, max(1, self.limits.max_samples // whole))

    def _continue(self, state: QueryState) -> None:
        if state.out:
            return
        if state.drawn < self._first() and self._start(state, self._first() - state.drawn):
            return
        finished = sorted(sample.draw for sample in state.samples)
        chains = self._chains.setdefault(state.id, [_Chain([draw]) for draw in finished])
        for chain in chains:
            chain.hear(finished)
        going = [chain for chain in chains if not chain.ended]
        if not (self._refine(state, going) or self._revise(state, going) or self._grade(state, chains)):
            self._decide(state, self._cap(state) if going else None)

    def _refine(self, state: QueryState, chains: Sequence[_Chain]) -> bool:
        """The second half of a revision, where feedback has come."""
        criticised = [chain for chain in chains if chain.critic is not None]
        return self._ask(state, [(chain, chain.given("refine")) for chain in criticised], "refine")

    def _revise(self, state: QueryState, chains: Sequence[_Chain]) -> bool:
        """Begin a revision of as many chains as the caps allow it to be finished for, and graded."""
        if state.rounds + len(self._revision) + self._grades > self.limits.max_rounds:
            return False
        step = self._revision[0]
        return self._ask(state, [(chain, chain.given(step)) for chain in chains[: self._room(state)]], step)

    def _grade(self, state: QueryState, chains: Sequence[_Chain]) -> bool:
        """The last round of `sp3`: each chain's last answer with a label, which is the one that votes."""
        if not self._grades or any(chain.step == "grade" for chain in chains):
            return False
        labelled = {sample.draw for sample in state.samples if sample.label is not None}
        voting = [(chain, [draw for draw in chain.answers if draw in labelled][-1:]) for chain in chains]
        return self._ask(state, [(chain, tuple(last)) for chain, last in voting if last], "grade")

    def _room(self, state: QueryState) -> int:
        """How many revisions max_samples still holds, beside the grades."""
        grades = len(self._chains[state.id]) if self._grades else 0
        return max(0, self.limits.max_samples - state.drawn - grades) // len(self._revision)

    def _cap(self, state: QueryState) -> str:
        return ROUND_CAP if self._room(state) else SAMPLE_CAP

    def _ask(self, state: QueryState, wanted: Sequence[tuple[_Chain, tuple[int, ...]]], step: Step) -> bool:
        """One round: a draw for each chain, shown what stands beside it. False where there is none to make."""
        for nth, (chain, given) in enumerate(wanted):
            # a round that the cap refuses has no first draw, and so no others
            if not self._start(state, 1, given, same_round=nth > 0, step=step):
                return nth > 0
            chain.step = step
            chain.asked = self._next_id - 1
        return bool(wanted)

    def _decide(self, state: QueryState, reason: str | None = None) -> None:
        super()._decide(state, reason)
        self._chains.pop(state.id, None)

    def _left(self, state: QueryState) -> None:
        self._chains.pop(state.id, None)
