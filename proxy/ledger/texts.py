"""What was asked and said in a request, as it is kept for a tenant that wants it."""

import json
from collections.abc import Iterable

import orjson

from proxy.ledger import Text, Texts
from proxy.types import JSON, Tenant

MOST_BYTES = 262_144
"""Bytes of UTF-8 that are kept of one text."""


def kept(tenant: Tenant, request: JSON, messages: Iterable[tuple[str, JSON]]) -> Texts | None:
    """The prompt and the samples' `messages`, each with the id of its draw; None for a tenant that stores nothing."""
    if not tenant.store_samples:
        return None
    samples = [_text(draw, message) for draw, message in messages]
    return Texts(tenant.store_samples_days, (_text("", request.get("messages")), *samples))


def _text(draw: str, said: object) -> Text:
    written = _json(said)
    if len(written) <= MOST_BYTES:
        return Text(draw, written.decode())
    return Text(draw, written[:MOST_BYTES].decode(errors="ignore"), cut=True)


def _json(said: object) -> bytes:
    try:
        return orjson.dumps(said)
    except orjson.JSONEncodeError:
        # half a surrogate pair, which has no place in UTF-8, or a number beyond 64 bits
        return json.dumps(said).encode()
