"""The answers of one query in groups that count as the same."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import Protocol

from proxy.answers.alike import alike
from proxy.answers.answer import Answer
from proxy.types import AnswerSpec

_MOST_FORMULAS = 12
"""Groups that a formula is compared with by algebra; a model that says more different ones has no majority."""

_PATIENCE_S = 5.0
_BREATH = 16


class Algebra(Protocol):
    """Tells whether two formulas are equal, at a bounded cost."""

    async def same(self, one: str, other: str) -> bool | None:
        """Whether two answers, as replies write them, are equal; None where it could not be told within the limit."""


class Groups:
    """Puts each answer with the first group whose first member is alike.

    Being alike is no equivalence relation (a tolerance, a unit that one of two leaves out, algebra with a time limit),
    so the order decides: `label` goes by the order of arrival, for draws that are still to be planned, `in_order` by
    the order given, which is draw order for the verdict. Equal labels always share a group. What can be told at once
    comes before what algebra tells.

    Without `algebra` formulas are compared as they stand; so are those that were not told of within five seconds in
    all, or before `deadline`. Both are seconds of `clock`, which is monotonic; without one only the seconds that the
    algebra itself allows a pair hold. A pair is told once, and what could not be told is not asked again.
    """

    def __init__(
        self,
        spec: AnswerSpec,
        algebra: Algebra | None = None,
        *,
        clock: Callable[[], float] | None = None,
        deadline: float = inf,
    ) -> None:
        self._spec = spec
        self._algebra = algebra
        self._clock = clock
        self._deadline = deadline
        self._patience = _PATIENCE_S
        self._arrived = _Placed(spec)
        self._told: dict[frozenset[str], bool | None] = {}
        # two answers that come together must not found the same group twice
        self._placing = asyncio.Lock()

    def quick(self, answer: Answer) -> Hashable | None:
        """The label of an answer's group, in order of arrival, where no algebra is needed to tell it; else None."""
        found, doubtful = self._arrived.find(answer)
        if found is not None:
            return self._arrived.put(answer, found)
        if self._placing.locked() or (doubtful and self._algebra is not None):
            return None
        return self._arrived.put(answer, answer)

    async def label(self, answer: Answer) -> Hashable:
        """The label of an answer's group, in order of arrival."""
        async with self._placing:
            return await self._place(answer, self._arrived)

    async def in_order(self, answers: Sequence[Answer | None]) -> list[Hashable | None]:
        """The label of each answer's group, in the order given; None for None."""
        placed = _Placed(self._spec)
        labels: list[Hashable | None] = []
        for index, answer in enumerate(answers):
            if index % _BREATH == _BREATH - 1:
                # a thousand different answers are half a million pairs: others are served between them
                await asyncio.sleep(0)
            labels.append(None if answer is None else await self._place(answer, placed))
        return labels

    async def _place(self, answer: Answer, placed: "_Placed") -> Hashable:
        found, doubtful = placed.find(answer)
        if found is None:
            for other in doubtful[:_MOST_FORMULAS]:
                if await self._same(answer, other):
                    found = other
                    break
        return placed.put(answer, found or answer)

    async def _same(self, one: Answer, other: Answer) -> bool | None:
        if self._algebra is None or one.formula is None or other.formula is None:
            return None
        pair = frozenset((one.formula, other.formula))
        if pair not in self._told:
            # always the same way round, so that what is told does not hang on who came first
            self._told[pair] = await self._ask(self._algebra, *sorted((one.formula, other.formula)))
        return self._told[pair]

    async def _ask(self, algebra: Algebra, one: str, other: str) -> bool | None:
        """Ask algebra, as long as there is time."""
        if self._clock is None:
            return await algebra.same(one, other)
        began = self._clock()
        left = min(self._patience, self._deadline - began)
        if left <= 0:
            return None
        try:
            async with asyncio.timeout(left):
                return await algebra.same(one, other)
        except TimeoutError:
            return None
        finally:
            self._patience -= self._clock() - began


class _Placed:
    """Answers in groups, each known by its first member."""

    def __init__(self, spec: AnswerSpec) -> None:
        self._spec = spec
        self._firsts: list[Answer] = []
        self._groups: dict[Hashable, Answer] = {}

    def find(self, answer: Answer) -> tuple[Answer | None, list[Answer]]:
        """The first member that an answer is alike; else those that only algebra can tell it from."""
        known = self._groups.get(answer.label)
        if known is not None:
            return known, []
        doubtful = []
        for first in self._firsts:
            verdict = alike(first, answer, self._spec)
            if verdict:
                return first, []
            if verdict is None:
                doubtful.append(first)
        return None, doubtful

    def put(self, answer: Answer, first: Answer) -> Hashable:
        """Put an answer into the group of `first`, which may be itself; the group's label."""
        if first is answer:
            self._firsts.append(answer)
        self._groups[answer.label] = first
        return first.label
