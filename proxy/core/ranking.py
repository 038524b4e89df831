"""The bandit's ranking: who of many queries has the highest priority, without looking at each of them in Python."""

import math

import numpy as np


def priority(uncertainty: float, drawn: int, used: int, exploration: float) -> float:
    """Algorithm 3 of DynScaling, line 2: u_i + c * sqrt(ln B_used / B_i), for `drawn` = B_i >= 1, `used` >= 1."""
    return uncertainty + exploration * math.sqrt(math.log(used) / drawn)


class Ranking:
    """Arms in order of joining; those that stand in the ranking have an uncertainty u_i and a number of draws B_i.

    An arm is known by its place, which is never given to another one.
    """

    def __init__(self, exploration: float) -> None:
        self._exploration = exploration
        self._places = 0
        self._standing = 0
        self._uncertainty = np.empty(0)
        self._drawn = np.empty(0)

    def __len__(self) -> int:
        """How many arms stand in the ranking."""
        return self._standing

    def add(self) -> int:
        """A new arm's place. It does not stand in the ranking yet."""
        place, self._places = self._places, self._places + 1
        if place == len(self._drawn):
            more = max(64, place)
            # minus infinity is what an arm that does not stand is worth
            self._uncertainty = np.concatenate([self._uncertainty, np.full(more, -np.inf)])
            self._drawn = np.concatenate([self._drawn, np.ones(more)])
        return place

    def stand(self, place: int, uncertainty: float, drawn: int) -> None:
        """Put an arm into the ranking, or change what it stands with."""
        self._standing += math.isinf(self._uncertainty[place])
        self._uncertainty[place] = uncertainty
        self._drawn[place] = drawn

    def leave(self, place: int) -> None:
        """Take an arm out of the ranking, where it stands in it."""
        self._standing -= not math.isinf(self._uncertainty[place])
        self._uncertainty[place] = -np.inf

    def top(self, count: int, used: int) -> list[int]:
        """The places of the `count` arms with the highest `priority`, best first; ties go to the first that joined.

        `used` is B_used, at least 1.
        """
        count = min(count, self._standing)
        if count < 1:
            return []
        values = self._uncertainty[: self._places] + self._exploration * np.sqrt(
            math.log(used) / self._drawn[: self._places]
        )
        if count == 1:
            return [int(values.argmax())]
        return [int(place) for place in (-values).argsort(kind="stable")[:count]]
