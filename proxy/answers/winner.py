"""Which of the samples with the winning label is returned."""

from collections.abc import Hashable, Sequence
from math import inf
from statistics import median

from proxy.values import value


@value(frozen=True, slots=True)
class Candidate:
    """A finished sample. `score` is the verifier's, `mean_logprob` its tokens' mean, `length` any measure.

    `bare`: its content is the answer as it stands, with nothing around it that a client would stumble over.
    """

    label: Hashable | None
    truncated: bool = False
    score: float | None = None
    mean_logprob: float | None = None
    length: int = 0
    bare: bool = True


def winner(samples: Sequence[Candidate], label: Hashable | None) -> int:
    """The index in `samples` of the one to return for the winning `label` (None: all abstained).

    In order: complete before truncated, bare before wrapped, best score, highest mean log-probability, length nearest
    the median of those left, earliest. Without a label the complete sample with the best score, the first of equals;
    none complete: the first. ValueError if no sample has the label.
    """
    if label is None:
        complete = [i for i, sample in enumerate(samples) if not sample.truncated]
        return max(complete, key=lambda i: _told(samples[i].score), default=0)
    having = [i for i, sample in enumerate(samples) if sample.label == label]
    eligible = [i for i in having if not samples[i].truncated] or having
    if not eligible:
        raise ValueError("no sample has the winning label")
    middle = median(samples[i].length for i in eligible)

    def rank(index: int) -> tuple[bool, float, float, float]:
        sample = samples[index]
        return sample.bare, _told(sample.score), _told(sample.mean_logprob), -abs(sample.length - middle)

    # max() keeps the first of equals, which is the earliest
    return max(eligible, key=rank)


def _told(value: float | None) -> float:
    return -inf if value is None else value
