"""The states of all tenants and keys in memory that the worker processes of one machine share.

A table of places, each for one scope: a digest of its name, the two arrival times, and how many requests each worker
has inside for it, which that worker alone writes, so that a dead one's can be taken away. An idle scope's place says
nothing that an empty one would not, and is given to whoever needs one.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from struct import Struct

from proxy.admission.states import State
from proxy.errors import RateLimited

_PLACES = 1 << 17
_TRIES = 32
"""In how many places a scope may be: all are taken only where most of the table is, by those active within a minute."""
_RETRY_S = 1.0
# native, so that each is written in one piece and one that is killed leaves no half of it
_KEY, _TIME, _COUNT, _STEPS = Struct("16s"), Struct("q"), Struct("i"), Struct("QQ")
_PLACE = _KEY.size + 2 * _TIME.size
_EMPTY = bytes(_KEY.size)


class Table:
    """The memory of processes that are forks of the one that makes it. `places` is a power of two.

    `lock` is a file, made here, that whoever works on the table holds; the system takes it from one that dies.
    """

    def __init__(self, workers: int, lock: Path, places: int = _PLACES) -> None:
        self.workers = workers
        self.places = places
        self.lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.memory = mmap.mmap(-1, places * (_PLACE + workers * _COUNT.size))

    def close(self) -> None:
        """Let go of it."""
        os.close(self.lock)
        self.memory.close()

    def clear(self, worker: int) -> None:
        """Forget what a worker that is dead had inside."""
        start = self.count_at(worker, 0)
        self.memory[start : start + self.places * _COUNT.size] = bytes(self.places * _COUNT.size)

    def count_at(self, worker: int, place: int) -> int:
        """Where a worker's count of a place stands in the memory."""
        return self.places * _PLACE + (worker * self.places + place) * _COUNT.size


class SharedStates:
    """What one of the workers does with the table. Clocks of all workers show the same time, as monotonic ones do."""

    def __init__(self, table: Table, worker: int) -> None:
        self._table = table
        self._worker = worker

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for those microseconds in which another worker works on the table."""
        # a lock of the process, unlike flock's, which forks share
        fcntl.lockf(self._table.lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._table.lock, fcntl.LOCK_UN)

    def find(self, names: Sequence[str], now: int) -> Sequence[State]:
        """The states of these scopes. Raises RateLimited where there is no place for one."""
        found: list[_Place] = []
        for name in names:
            found.append(self._place(name, now, [place.number for place in found]))
        return found

    def _place(self, name: str, now: int, taken: Sequence[int]) -> "_Place":
        key = blake2b(name.encode(), digest_size=_KEY.size).digest()
        first, step = _STEPS.unpack(key)
        free: _Place | None = None
        for turn in range(_TRIES):
            place = _Place(self._table, self._worker, (first + turn * (step | 1)) % self._table.places)
            if place.key == key:
                return place
            if free is None and place.number not in taken and place.idle(now):
                free = place
            if place.key == _EMPTY:
                # it was empty when the scope came, too, who would be here
                break
        if free is None:
            error = RateLimited("Rate limit reached: too many tenants and keys are active.", retry_after=_RETRY_S)
            raise error
        free.key = key
        return free


class _Place:
    __slots__ = ("_at", "_memory", "_table", "_worker", "number")

    def __init__(self, table: Table, worker: int, number: int) -> None:
        self.number = number
        self._table = table
        self._memory = table.memory
        self._worker = worker
        self._at = number * _PLACE

    @property
    def key(self) -> bytes:
        found: bytes = self._memory[self._at : self._at + _KEY.size]
        return found

    @key.setter
    def key(self, key: bytes) -> None:
        _KEY.pack_into(self._memory, self._at, key)

    @property
    def requests(self) -> int:
        return self._time(0)

    @requests.setter
    def requests(self, tat: int) -> None:
        _TIME.pack_into(self._memory, self._at + _KEY.size, tat)

    @property
    def tokens(self) -> int:
        return self._time(1)

    @tokens.setter
    def tokens(self, tat: int) -> None:
        _TIME.pack_into(self._memory, self._at + _KEY.size + _TIME.size, tat)

    @property
    def inside(self) -> int:
        return sum(self._count(worker) for worker in range(self._table.workers))

    def enter(self) -> None:
        self._add(1)

    def leave(self) -> None:
        self._add(-1)

    def idle(self, now: int) -> bool:
        return self.requests <= now and self.tokens <= now and self.inside == 0

    def _time(self, which: int) -> int:
        return int(_TIME.unpack_from(self._memory, self._at + _KEY.size + which * _TIME.size)[0])

    def _count(self, worker: int) -> int:
        return int(_COUNT.unpack_from(self._memory, self._table.count_at(worker, self.number))[0])

    def _add(self, change: int) -> None:
        _COUNT.pack_into(
            self._memory, self._table.count_at(self._worker, self.number), self._count(self._worker) + change
        )
