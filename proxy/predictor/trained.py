"""A trained predictor, at work."""

from proxy.answers import question
from proxy.core.prior import Prior
from proxy.predictor.model import Model
from proxy.types import JSON


class TrainedPredictor:
    """Believes what a model says of the last user turn. A fifth of a millisecond for an ordinary question."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def prior(self, tenant: str, model: str, request: JSON) -> Prior | None:  # noqa: ARG002 - the protocol's
        """The model's belief; None where the request has no text."""
        text = question(request)
        return self._model.prior(text) if text.strip() else None
