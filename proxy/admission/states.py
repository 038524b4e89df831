"""What is kept of each tenant and key: when its rates will be full again, and how many requests it has inside."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class State(Protocol):
    """Of one scope. `requests` and `tokens` are the theoretical arrival times of the two rates, in nanoseconds."""

    requests: int
    tokens: int

    @property
    def inside(self) -> int:
        """How many requests are being served."""

    def enter(self) -> None:
        """Count a request more."""

    def leave(self) -> None:
        """Count one less."""


class States(Protocol):
    """Of all scopes."""

    def held(self) -> AbstractContextManager[None]:
        """Nobody else reads or writes a state within."""

    def find(self, names: Sequence[str], now: int) -> Sequence[State]:
        """The states of these scopes, of whom nothing may be known yet; `now` is in nanoseconds.

        They stay where they are while a request is inside, else until what is held ends. Raises RateLimited where there
        is no place for one.
        """


class Private:
    """The states of a process that serves alone."""

    def __init__(self) -> None:
        self._states: dict[str, _Private] = {}

    def held(self) -> AbstractContextManager[None]:
        """Nothing: nobody else is there."""
        return nullcontext()

    def find(self, names: Sequence[str], _now: int) -> Sequence[State]:
        """The states of these scopes."""
        return [self._states.setdefault(name, _Private()) for name in names]


class _Private:
    __slots__ = ("inside", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = self.inside = 0

    def enter(self) -> None:
        self.inside += 1

    def leave(self) -> None:
        self.inside -= 1
