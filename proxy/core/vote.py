"""The vote: plurality over labels, ties to the earliest answer, abstentions left out."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb

from proxy.core.batch import Label


@dataclass(frozen=True, slots=True)
class Votes:
    """The result of a vote: `(label, count)` pairs, most first, ties in order of first appearance."""

    counts: tuple[tuple[Label, int], ...]
    abstained: int

    @property
    def leader(self) -> Label | None:
        """The label with most votes, or None when every sample abstained."""
        return self.counts[0][0] if self.counts else None

    @property
    def confidence(self) -> float | None:
        """How sure the leader is the mode (see `confidence`), or None when every sample abstained."""
        if not self.counts:
            return None
        return confidence(self.counts[0][1], self.counts[1][1] if len(self.counts) > 1 else 0)


def plurality(labels: Iterable[Label | None]) -> Votes:
    """Count `labels`, given in draw order (not in order of arrival, so that the same samples give the same verdict)."""
    counts: dict[Label, int] = {}
    abstained = 0
    for label in labels:
        if label is None:
            abstained += 1
        else:
            counts[label] = counts.get(label, 0) + 1
    # sorted() is stable and a dict keeps insertion order, so ties stay with the earliest answer
    return Votes(tuple(sorted(counts.items(), key=lambda item: -item[1])), abstained)


def confidence(first: int, second: int) -> float:
    """1 - I_1/2(first + 1, second + 1): the posterior chance that the leader of two counts is the likelier of the two.

    The regularised incomplete beta at 1/2 is the binomial tail P(Bin(first + second + 1, 1/2) <= second).
    """
    trials = first + second + 1
    below: int = sum(comb(trials, k) for k in range(second + 1))
    return 1.0 - below / (1 << trials)


def variation_ratio(counts: Iterable[int]) -> float:
    """The share of ballots that are not the leader's, for the labels' `counts`; 1 where there is no ballot at all."""
    listed = list(counts)
    return 1.0 - max(listed) / sum(listed) if listed else 1.0
