"""`POST /v1/feedback`: whether an answer was right, told by the tenant who got it."""

from collections.abc import Awaitable
from typing import Annotated, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from starlette.requests import Request
from starlette.responses import Response

from proxy.api.entry import Door
from proxy.api.wire import error_response, validated
from proxy.errors import NotFound, TallyError

_MOST_BYTES = 4096
_PREFIXES = ("chatcmpl-", "cmpl-", "resp_")


class Feedback(BaseModel):
    """The body. `id` is the reply's own."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(strict=True, min_length=1, max_length=256)]
    correct: StrictBool


class Tell(Protocol):
    """Keeps what a tenant says of a request's answer; false where it has no such answer."""

    def __call__(self, tenant: str, request: str, *, correct: bool) -> Awaitable[bool]:
        """Raises LedgerUnavailable."""


class FeedbackEndpoint:
    """Takes feedback. It spends nothing, and the last word on an answer counts."""

    def __init__(self, door: Door, tell: Tell) -> None:
        self._door = door
        self._tell = tell

    async def serve(self, request: Request) -> Response:
        """Keep one piece of feedback, and say it again."""
        headers = self._door.headers()
        try:
            caller = await self._door.caller(request)
            entry = self._door.enter(caller)
            headers |= entry.told
            # it asks for nothing that lasts
            entry.leave()
            feedback = validated(Feedback, await self._door.body(request, _MOST_BYTES))
            if not await self._tell(caller.tenant.name, _request(feedback.id), correct=feedback.correct):
                raise NotFound(
                    f"You have no answer with the id {feedback.id!r}. Feedback goes by tally's own ids, of replies that"
                    " were scaled: one that was passed through (strategy off) has its provider's.",
                    param="id",
                )
        except TallyError as error:
            return error_response(error, headers)
        body = {"id": feedback.id, "object": "feedback", "correct": feedback.correct}
        return Response(orjson.dumps(body), 200, headers, "application/json")


def _request(identity: str) -> str:
    """The ledger's name of a request, from the id of its reply; nothing is named by an id of another form."""
    prefix = next((prefix for prefix in _PREFIXES if identity.startswith(prefix)), None)
    return "" if prefix is None else identity.removeprefix(prefix)
