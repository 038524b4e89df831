"""The answers of one query in groups that count as the same."""

import asyncio
from collections.abc import Hashable, Sequence
from typing import Protocol

from proxy.answers.alike import alike
from proxy.answers.answer import Answer
from proxy.types import AnswerSpec

_MOST_FORMULAS = 12
"""Groups that a formula is compared with by algebra; a model that says more different ones has no majority."""


class Algebra(Protocol):
    """Tells whether two formulas are equal, at a bounded cost."""

    async def same(self, one: str, other: str) -> bool | None:
        """Whether two answers, as replies write them, are equal; None where it could not be told within the limit."""


class Groups:
    """Puts each answer with the first group whose first member is alike.

    Being alike is no equivalence relation (a tolerance, a unit that one of two leaves out, algebra with a time limit),
    so the order decides: `label` goes by the order of arrival, for draws that are still to be planned, `in_order` by
    the order given, which is draw order for the verdict. Without `algebra` formulas are compared as they stand.
    """

    def __init__(self, spec: AnswerSpec, algebra: Algebra | None = None) -> None:
        self._spec = spec
        self._algebra = algebra
        self._members: list[Answer] = []
        self._told: dict[frozenset[str], bool | None] = {}
        # two answers that come together must not found the same group twice
        self._placing = asyncio.Lock()

    def quick(self, answer: Answer) -> Hashable | None:
        """The label of an answer's group, in order of arrival, where no algebra is needed to tell it; else None."""
        member = self._match(answer, self._members)
        if member is not None:
            return member.label
        if self._placing.locked() or self._undecided(answer, self._members):
            return None
        self._members.append(answer)
        return answer.label

    async def label(self, answer: Answer) -> Hashable:
        """The label of an answer's group, in order of arrival."""
        async with self._placing:
            return await self._place(answer, self._members)

    async def in_order(self, answers: Sequence[Answer | None]) -> list[Hashable | None]:
        """The label of each answer's group, in the order given; None for None."""
        members: list[Answer] = []
        return [None if answer is None else await self._place(answer, members) for answer in answers]

    async def _place(self, answer: Answer, members: list[Answer]) -> Hashable:
        member = self._match(answer, members)
        if member is not None:
            return member.label
        for other in self._undecided(answer, members):
            if await self._same(answer, other):
                return other.label
        members.append(answer)
        return answer.label

    def _match(self, answer: Answer, members: Sequence[Answer]) -> Answer | None:
        return next((member for member in members if alike(member, answer, self._spec)), None)

    def _undecided(self, answer: Answer, members: Sequence[Answer]) -> list[Answer]:
        """The first members that only algebra can tell from an answer, at most twelve."""
        if self._algebra is None or answer.formula is None:
            return []
        open_ones = [member for member in members if alike(member, answer, self._spec) is None]
        return open_ones[:_MOST_FORMULAS]

    async def _same(self, one: Answer, other: Answer) -> bool | None:
        if self._algebra is None or one.formula is None or other.formula is None:
            return None
        pair = frozenset((one.formula, other.formula))
        if pair not in self._told:
            # always the same way round, so that what is told does not hang on who came first
            self._told[pair] = await self._algebra.same(*sorted((one.formula, other.formula)))
        return self._told[pair]
