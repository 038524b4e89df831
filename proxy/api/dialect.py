"""Endpoints that are a chat in other words: their requests become chat requests, a chat's reply becomes theirs."""

from collections.abc import Callable
from dataclasses import dataclass

from proxy.api.serving import Reply
from proxy.types import JSON


@dataclass(frozen=True, slots=True)
class Spoken:
    """One request: `asked` is the chat request that it means, `told` puts a chat's reply into the endpoint's shape."""

    asked: JSON
    told: Callable[[Reply], Reply]


Dialect = Callable[[JSON], Spoken]
"""How an endpoint reads a body. Raises RequestInvalid for what no chat can keep."""


def chat(body: JSON) -> Spoken:
    """`/v1/chat/completions` itself: nothing is changed."""
    return Spoken(body, lambda reply: reply)
