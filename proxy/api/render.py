"""A verdict in OpenAI's shapes: one completion, or chunks of a stream."""

from collections.abc import Iterator, Mapping

import orjson

from proxy.money import usd
from proxy.types import JSON, Choice, Plan
from proxy.upstream import sse
from proxy.verdict import Verdict

PING = b": ping\n\n"
LOW_CONFIDENCE: Mapping[str, str] = {"x-tally-low-confidence": "true"}


def completion(found: Verdict, plan: Plan, request: JSON, head: JSON, *, paid: bool = False) -> JSON:
    """`chat.completion` with each winning sample's own message; `head` holds its id, created and model.

    `paid`: its usage is every token that was paid for.
    """
    body: JSON = {
        "id": head["id"],
        "object": "chat.completion",
        "created": head["created"],
        "model": head["model"],
        "choices": [
            {
                "index": index,
                "message": {"refusal": None, **choice.message},
                "logprobs": choice.logprobs if request.get("logprobs") else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(found.choices)
        ],
        "usage": found.paid_usage if paid else found.usage,
        **_rest(found),
    }
    if plan.show_tally:
        body["tally"] = found.tally()
    return body


def chunks(found: Verdict, plan: Plan, request: JSON, head: JSON, *, paid: bool = False) -> Iterator[bytes]:
    """The same as server-sent events: of each choice the role, the message, the finish; the usage if asked; `[DONE]`.

    The last chunk before `[DONE]` carries the `tally` object.
    """
    common = {
        "id": head["id"],
        "object": "chat.completion.chunk",
        "created": head["created"],
        "model": head["model"],
        **_rest(found),
    }
    deltas = [
        delta
        for index, choice in enumerate(found.choices)
        for delta in _deltas(index, choice, logprobs=bool(request.get("logprobs")))
    ]
    payloads = [{**common, "choices": [delta]} for delta in deltas]
    if plan.include_usage:
        payloads = [{**payload, "usage": None} for payload in payloads]
        payloads.append({**common, "choices": [], "usage": found.paid_usage if paid else found.usage})
    if plan.show_tally:
        payloads[-1]["tally"] = found.tally()
    yield from map(event, payloads)
    yield sse.END


def _deltas(index: int, choice: Choice, *, logprobs: bool) -> Iterator[JSON]:
    """One choice in pieces."""
    role = {
        "role": choice.message.get("role", "assistant"),
        "content": None if choice.message.get("content") is None else "",
        "refusal": None,
    }
    said = {key: value for key, value in choice.message.items() if key != "role" and value is not None}
    if isinstance(said.get("tool_calls"), list):
        # some providers give every call the index 0, also in a whole message
        said["tool_calls"] = [
            {"index": place, **call} | {"index": place} for place, call in enumerate(said["tool_calls"])
        ]
    yield _delta(index, role)
    yield {**_delta(index, said), "logprobs": choice.logprobs if logprobs else None}
    yield _delta(index, {}, choice.finish_reason)


def event(payload: JSON) -> bytes:
    """One server-sent event."""
    return sse.event(orjson.dumps(payload))


def tally_headers(found: Verdict) -> Mapping[str, str]:
    """The `x-tally-*` headers of an answer that is known whole."""
    headers = {
        "x-tally-strategy": found.strategy,
        "x-tally-samples": str(found.samples),
        "x-tally-cost-usd": usd(found.purse.spent),
    }
    if found.confidence is not None:
        headers["x-tally-confidence"] = f"{found.confidence:.4f}"
    if found.low_confidence:
        headers |= LOW_CONFIDENCE
    if found.reason is not None:
        headers["x-tally-reason"] = found.reason
    if found.degraded is not None:
        headers["x-tally-degraded"] = found.degraded
    return headers


def _delta(index: int, delta: JSON, finish: str | None = None) -> JSON:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def _rest(found: Verdict) -> JSON:
    return {name: found.head[name] for name in ("system_fingerprint", "service_tier") if found.head.get(name)}
