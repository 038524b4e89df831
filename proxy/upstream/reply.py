"""A provider's reply, or one chunk of it, as JSON."""

import orjson

from proxy.errors import UpstreamMalformed
from proxy.types import JSON
from proxy.upstream import Endpoint
from proxy.upstream.direct import error_from


def parsed(raw: bytes, endpoint: Endpoint) -> JSON:
    """What was said. Raises UpstreamMalformed where it is no JSON object, and UpstreamError where it tells of one."""
    try:
        payload = orjson.loads(raw)
    except orjson.JSONDecodeError:
        payload = None
    if not isinstance(payload, dict):
        raise UpstreamMalformed("the provider's reply is not JSON")
    if payload.get("error"):
        raise error_from(502, payload, secret=endpoint, sent=True)
    return payload


def prompt_usage(payload: JSON) -> JSON | None:
    """The `usage` of a call that generates nothing, as that of one that does; some servers tell the sum alone."""
    usage = payload.get("usage")
    if not isinstance(usage, dict):
        return None
    return {"prompt_tokens": usage.get("prompt_tokens") or usage.get("total_tokens")}
