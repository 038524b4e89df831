"""The replicas on one Postgres, and who of them is dead.

A replica holds an advisory lock, shared by its connections, for as long as it lives. Its reservations are owned by the
lock's number and its process. A lock that nobody holds is not enough: a replica that has just lost its connections
makes new ones. So an owner is dead where its process is surely gone, or once its lock has been free for some seconds.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Self

from proxy.ledger.process import Process

_NAME = re.compile(r"(-[0-9]{1,19})(?:/([0-9a-f]*)/([0-9]+)/([0-9]*))?")
_NOBODY = Process("", 0, "")


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica: the number of its lock, which is negative, and its process."""

    lock: int
    process: Process

    def __str__(self) -> str:
        process = self.process
        return f"{self.lock}/{process.host}/{process.pid}/{process.born}"

    @classmethod
    def read(cls, owner: str) -> Self | None:
        """The replica that owns a reservation; None where the owner never was here, as after a copy."""
        found = _NAME.fullmatch(owner)
        if found is None:
            return None
        lock, host, pid, born = found.groups()
        return cls(int(lock), _NOBODY if pid is None else Process(host, int(pid), born))


class Suspects:
    """Owners whose locks were free, and since when: `clock` counts seconds, and is never put back."""

    def __init__(self, clock: Callable[[], float], grace_s: float) -> None:
        self._clock = clock
        self._grace_s = grace_s
        self._since: dict[str, float] = {}
        self._looked = clock()

    def dead(self, owners: Collection[str], held: Collection[int]) -> list[str]:
        """Those of all `owners` who are dead, after a look at the locks that are `held` now."""
        now = self._clock()
        if now - self._looked > self._grace_s / 2:
            # whoever could not look for so long may have lost the server when all others did
            self._since.clear()
        self._looked = now
        known = {owner: Replica.read(owner) for owner in owners}
        free = {owner: replica for owner, replica in known.items() if replica is None or replica.lock not in held}
        self._since = {owner: self._since.get(owner, now) for owner in free}
        return [
            owner
            for owner, replica in free.items()
            if replica is None or replica.process.gone or now - self._since[owner] >= self._grace_s
        ]
