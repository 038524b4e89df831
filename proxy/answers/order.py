"""In which order the samples of one query are returned, where a client asks for several."""

from collections.abc import Collection, Hashable, Iterator, Sequence
from itertools import islice

from proxy.answers.winner import Candidate, winner


def ranked(
    samples: Sequence[Candidate],
    answers: Sequence[Hashable],
    first: int,
    count: int,
    *,
    silent: Collection[int] = (),
) -> list[int]:
    """The places of up to `count` samples, the best first; `first` is that of the verdict's own winner.

    After it comes one sample for each further answer (`answers`: the labels, most votes first), then the other samples
    of the leading answers, then those without an answer. What was cut, or may not vote, comes after all of these, in
    the same order. `silent` are the places of samples that are no answers and never returned.
    """
    others = [place for place in range(len(samples)) if place != first and place not in silent]
    return [first, *islice(_rest(samples, answers, first, others), max(0, count - 1))]


def _rest(
    samples: Sequence[Candidate], answers: Sequence[Hashable], first: int, others: Sequence[int]
) -> Iterator[int]:
    said = {samples[first].label}
    for truncated in (False, True):
        left = [place for place in others if samples[place].truncated is truncated]
        by_label = {label: _best_first(samples, left, label) for label in (*answers, None)}
        for label in answers:
            place = None if label in said else next(by_label[label], None)
            if place is not None:
                said.add(label)
                yield place
        for label in (*answers, None):
            yield from by_label[label]


def _best_first(samples: Sequence[Candidate], places: Sequence[int], label: Hashable | None) -> Iterator[int]:
    """The samples with a label, each the one to return of those that are left."""
    left = [place for place in places if samples[place].label == label]
    while left:
        yield left.pop(winner([samples[place] for place in left], label))
