"""Verifiers: how good one sample looks, in [0, 1]."""

from typing import Protocol

from proxy.purse import Purse
from proxy.types import JSON, Choice


class Scorer(Protocol):
    """Scores a sample. What that costs is charged to the purse."""

    async def score(self, purse: Purse, request: JSON, choice: Choice, deadline: float) -> float | None:
        """The score of `choice` as a reply to `request`, in [0, 1], or None when there is none.

        `deadline` is on the monotonic clock. Errors of an upstream are no errors here: they give None.
        """
