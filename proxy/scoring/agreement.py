"""Agreement: a sample is as good as the share of its query's ballots that say the same. It costs nothing."""

from collections import Counter
from collections.abc import Hashable, Sequence

from proxy.purse import Purse
from proxy.types import JSON, Choice


class AgreementScorer:
    """Stands for `agreement`, which can be told only when all of a query's ballots are in, where they are counted."""

    async def score(self, purse: Purse, request: JSON, choice: Choice, deadline: float) -> float | None:  # noqa: ARG002 - the protocol's
        """None: a sample by itself agrees with nobody."""
        return None


def agreement(labels: Sequence[Hashable | None]) -> list[float | None]:
    """For each label the share of the ballots, itself among them, that are equal to it; None for an abstention (None).

    Weighted by it, or best by it, the majority wins: a label's share grows with its count.
    """
    counts = Counter(label for label in labels if label is not None)
    ballots = counts.total()
    return [None if label is None else counts[label] / ballots for label in labels]
