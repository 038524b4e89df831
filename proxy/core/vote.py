"""The vote: plurality over labels unless a rule says otherwise, ties to the earliest answer, abstentions left out."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Literal

from proxy.core.batch import Draw, Label, Step
from proxy.values import value

SILENT: frozenset[Step] = frozenset({"feedback", "grade"})
"""Steps whose samples are no answers: they have no ballot, and are never returned."""

_REVISING: frozenset[Step] = frozenset({"continue", "refine", "rethink"})


@value(frozen=True, slots=True)
class Ballot:
    """What a sample brings to the vote: its label (None abstains), score, length, and whether it saw others.

    `kin` are the classes that the label is of, coarsest first; equal labels have equal kin.
    """

    label: Label | None
    score: float | None = None
    tokens: int = 0
    conditioned: bool = False
    kin: tuple[Hashable, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """How ballots become a verdict.

    `majority` counts, `weighted` adds up scores (one below 0 weighs nothing), `best` takes the label of the best score.
    A ballot whose score never came counts as the mean of those that did; without any the majority decides. What is
    equal goes to the label with more ballots; then, where it has at most `shorter` of them, to the one whose samples
    took fewer tokens in the mean; then to the one whose sample came first. `conditioned`: samples that saw others are
    the only voters while there is one with an answer.
    """

    by: Literal["majority", "weighted", "best"] = "majority"
    shorter: int = 0
    conditioned: bool = False


@value(frozen=True, slots=True)
class Votes:
    """The result of a vote: `(label, count)` pairs, the leader first, ties in order of first appearance."""

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
        return confidence(self.counts[0][1], max((count for _, count in self.counts[1:]), default=0))


@dataclass(slots=True)
class _Group:
    """The ballots of one label, or of one class of labels. `place` is that of the first; `best` is the best score."""

    place: int
    kin: tuple[Hashable, ...] = ()
    count: int = 0
    tokens: int = 0
    weight: float = 0.0
    best: float = field(default=float("-inf"))

    def measure(self, by: str) -> float:
        """What the group is ranked by before its count."""
        if by == "majority":
            return 0.0
        return self.weight if by == "weighted" else self.best

    def add(self, tokens: int, score: float) -> None:
        """Count one ballot more."""
        self.count += 1
        self.tokens += tokens
        if score > 0.0:
            self.weight += score
        self.best = max(self.best, score)


def poll(ballots: Sequence[Ballot], rule: Rule) -> Votes:
    """The verdict of `ballots`, given in draw order, under a rule.

    Where labels have kin, the classes are voted on first, coarsest first, by the same rule, ties to the class that came
    first; so a class's labels stay together.
    """
    groups: dict[Label, _Group] = {}
    classes: dict[tuple[Hashable, ...], _Group] = {}
    voting = admitted(ballots, rule)
    scores = [score for ballot in voting if ballot.label is not None and (score := _score(ballot)) is not None]
    by = rule.by if scores else "majority"
    mean = sum(scores) / len(scores) if scores else 0.0
    for place, ballot in enumerate(voting):
        if ballot.label is None:
            continue
        told = _score(ballot)
        score = mean if told is None else told
        group = groups.get(ballot.label)
        if group is None:
            group = groups[ballot.label] = _Group(place, ballot.kin)
        group.add(ballot.tokens, score)
        for end in range(1, len(ballot.kin) + 1):
            kin = ballot.kin[:end]
            group = classes.get(kin)
            if group is None:
                group = classes[kin] = _Group(place)
            group.add(ballot.tokens, score)

    def rank(label: Label) -> tuple[float, ...]:
        group = groups[label]
        above = [classes[group.kin[:end]] for end in range(1, len(group.kin) + 1)]
        ranks = [part for each in above for part in (-each.measure(by), -each.count, each.place)]
        length = group.tokens / group.count if group.count <= rule.shorter else 0.0
        return *ranks, -group.measure(by), -group.count, length, group.place

    counts = tuple((label, groups[label].count) for label in sorted(groups, key=rank))
    return Votes(counts, len(ballots) - sum(count for _, count in counts))


def admitted(ballots: Sequence[Ballot], rule: Rule) -> Sequence[Ballot]:
    """The ballots as a rule has them vote: those that it does not admit abstain."""
    if rule.conditioned and any(ballot.conditioned and ballot.label is not None for ballot in ballots):
        return [ballot if ballot.conditioned else Ballot(None) for ballot in ballots]
    return ballots


def _score(ballot: Ballot) -> float | None:
    return None if ballot.score is None or isnan(ballot.score) else ballot.score


def voices(draws: Sequence[Draw], labels: Sequence[Label | None]) -> list[bool]:
    """Which samples may vote, for finished draws in the order they were started and what each says.

    Of a chain of revisions only the last answer with a label votes: it stands in place of all that it was made from.
    Where no sample has a label, the last answer of each chain speaks for it. Feedback and grades never do.
    """
    mute = all(label is None for label in labels)
    replaced: set[int] = set()
    for draw, label in zip(reversed(draws), reversed(labels), strict=True):
        # what replaces one that was replaced itself came earlier in this loop: a draw is given finished ones only
        if draw.step in _REVISING and (mute or label is not None or draw.id in replaced):
            replaced.update(draw.given)
    return [draw.step not in SILENT and draw.id not in replaced for draw in draws]


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
    if first < second:
        return 1.0 - confidence(second, first)
    trials = first + second + 1
    below = ways = 1
    # each binomial coefficient from the one before: of a thousand ballots in microseconds, where apart they take ms
    for k in range(second):
        ways = ways * (trials - k) // (k + 1)
        below += ways
    return 1.0 - below / (1 << trials)
