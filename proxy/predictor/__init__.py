"""What is believed of a question's verifier scores before any of its samples is scored (OptScale, equations 10 and 11).

Two sources: the tenant's and model's own history, and a small regressor trained on questions' texts.
"""

from typing import Protocol

from proxy.core.prior import Prior
from proxy.types import JSON


class Predictor(Protocol):
    """Believes something of scores yet to come."""

    async def prior(self, tenant: str, model: str, request: JSON) -> Prior | None:
        """What is believed of the scores of a tenant's request to a model; None: nothing."""
