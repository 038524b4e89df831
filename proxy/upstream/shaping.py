"""What LiteLLM's objects hold, in OpenAI's shape."""

import base64
import sys
from array import array
from typing import Any

from proxy.types import JSON
from proxy.upstream import Endpoint


def dumped(model: Any) -> JSON:  # noqa: ANN401 - LiteLLM publishes no types
    """The fields of one of LiteLLM's objects that hold anything."""
    fields: JSON = model.model_dump(mode="json", exclude_none=True, warnings=False)
    return fields


def completion(reply: JSON, endpoint: Endpoint) -> JSON:
    """A whole reply, with the nulls that every client of it knows, and the model's name as the provider has it."""
    reply["model"] = str(reply.get("model") or endpoint.model).removeprefix(f"{endpoint.provider}/")
    for choice in reply.get("choices", ()):
        choice.pop("provider_specific_fields", None)
        choice["message"] = {"content": None, "refusal": None} | _lifted(choice.get("message", {}))
        choice["logprobs"] = _logprobs(choice.get("logprobs"))
    if not any((reply.get("usage") or {}).get(key) for key in ("prompt_tokens", "completion_tokens")):
        # zeros are how LiteLLM says that nothing was told
        reply.pop("usage", None)
    return reply


def chunk(told: JSON) -> JSON:
    """A chunk of a stream."""
    told.pop("provider_specific_fields", None)
    for choice in told.get("choices", ()):
        choice.pop("provider_specific_fields", None)
        choice["delta"] = _lifted(choice.get("delta", {}))
        choice["logprobs"] = _logprobs(choice.get("logprobs"))
        choice.setdefault("finish_reason", None)
    return told


def as_base64(vector: object) -> object:
    """A vector of numbers as OpenAI's base64: 32-bit floats, little-endian."""
    if not isinstance(vector, list):
        return vector
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()


def _logprobs(told: JSON | None) -> JSON | None:
    return None if told is None else {"content": None, "refusal": None} | told


def _lifted(message: JSON) -> JSON:
    """`message` with the fields that LiteLLM puts aside, such as `refusal`, where the provider had them."""
    aside = message.pop("provider_specific_fields", None) or {}
    return {key: value for key, value in aside.items() if value is not None} | message
