"""Endpoints that are a chat in other words: their requests become chat requests, a chat's reply becomes theirs."""

from collections.abc import Callable

from proxy.api.serving import Reply, error_event
from proxy.errors import RequestInvalid, TallyError
from proxy.types import JSON
from proxy.values import value


@value(frozen=True, slots=True)
class Spoken:
    """One request: `asked` is the chat request that it means, `told` puts a chat's reply into the endpoint's shape.

    `told` is given the request's own id, too, which is in every id of the reply.
    `broke` is how the endpoint tells, in a stream that is open, that there will be no more of it.
    """

    asked: JSON
    told: Callable[[Reply, str], Reply]
    broke: Callable[[TallyError], bytes] = error_event


Dialect = Callable[[JSON], Spoken]
"""How an endpoint reads a body. Raises RequestInvalid for what no chat can keep."""


def chat(body: JSON) -> Spoken:
    """`/v1/chat/completions` itself: nothing is changed."""
    return Spoken(body, lambda reply, _identity: reply)


def invalid(param: str, reason: str) -> RequestInvalid:
    """The error to raise for a field that has the wrong shape."""
    return RequestInvalid(f"{param}: {reason}.", param=param, code="invalid_value")


def unsupported(param: str, reason: str) -> RequestInvalid:
    """The error to raise for a field that no chat can keep."""
    return RequestInvalid(f"{param}: {reason}.", param=param, code="unsupported_value")
