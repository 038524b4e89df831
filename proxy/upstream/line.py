"""Who waits for a deployment, in order of arrival."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count

from proxy.upstream.deployment import Deployment
from proxy.upstream.need import Need, Place

Kind = tuple[tuple[Deployment, ...], int]
"""Calls that take the same: the deployments that they may go to, and the power of two that holds their tokens."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One who waits for a place at one of `among`. `number` is its turn, `since` when it came, in seconds."""

    need: Need
    among: Sequence[Deployment]
    kind: Kind
    number: int
    since: float
    found: "asyncio.Future[Place]"


@dataclass(slots=True, eq=False)
class Line:
    """All who wait, a row for each kind of call. Where the first of a row finds no place, those behind it find none.

    So no more than the first of each row need be looked at, however many wait.
    """

    _rows: dict[Kind, OrderedDict[Waiting, None]] = field(default_factory=dict)
    _numbers: "count[int]" = field(default_factory=count)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def __contains__(self, kind: Kind) -> bool:
        return kind in self._rows

    def add(self, need: Need, among: Sequence[Deployment], *, now: float) -> Waiting:
        """Stand behind all of the same kind."""
        found = asyncio.get_running_loop().create_future()
        waiting = Waiting(need, among, kind_of(need, among), next(self._numbers), now, found)
        self._rows.setdefault(waiting.kind, OrderedDict())[waiting] = None
        return waiting

    def leads(self, waiting: Waiting) -> bool:
        """Whether it is the first of its row."""
        return next(iter(self._rows[waiting.kind])) is waiting

    def remove(self, waiting: Waiting) -> None:
        """Leave the line."""
        row = self._rows[waiting.kind]
        del row[waiting]
        if not row:
            del self._rows[waiting.kind]

    def first(self) -> Iterator[Waiting]:
        """The first of each row, the oldest one first; where that is removed meanwhile, the next of its row follows."""
        # no two have the same number, so kinds are never compared
        ahead = [(next(iter(row)).number, kind) for kind, row in self._rows.items()]
        heapify(ahead)
        while ahead:
            number, kind = heappop(ahead)
            yield next(iter(self._rows[kind]))
            row = self._rows.get(kind)
            if row is not None and (following := next(iter(row)).number) != number:
                heappush(ahead, (following, kind))


def kind_of(need: Need, among: Sequence[Deployment]) -> Kind:
    """What kind of call it is. Tokens count only where a deployment limits them."""
    return tuple(among), max(need.least(deployment) for deployment in among).bit_length()
