"""What LiteLLM's functions are called with."""

from collections.abc import Set

import orjson

from proxy.errors import UpstreamError
from proxy.types import JSON
from proxy.upstream import Endpoint

# What `acompletion` takes by name and means what OpenAI means by it. Every other field of a body goes into the wire
# body as it is: among the names that LiteLLM takes are api_base, fallbacks and mock_response, and a client must not
# reach those.
_PARAMETERS = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream_options",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
NATIVE_PARAMETERS = _PARAMETERS | {"top_k"}
"""Those of providers of another shape, which have no wire body to put `top_k` in."""

_LANE_ONLY = frozenset({"model", "messages", "stream"})
# as with chats a client must not reach anything else that `aembedding` takes by name
_EMBEDDING_PARAMETERS = frozenset({"input", "dimensions", "encoding_format", "user", "input_type"})


def of_chat(endpoint: Endpoint, body: JSON, timeout: float, listed: Set[str] | None) -> JSON:
    """The arguments of `acompletion` for `body`: the operator's parameters, then the client's, then what is fixed.

    `listed` are the parameters of the model by LiteLLM's table, where it is of OpenAI's shape and may judge for itself.
    """
    body = orjson.loads(orjson.dumps(body))  # LiteLLM's transforms work in place, and draws share one body
    names = NATIVE_PARAMETERS if listed is None else _PARAMETERS
    known = {key: value for key, value in body.items() if key in names}
    unknown = {key: value for key, value in body.items() if key not in names | _LANE_ONLY}
    if endpoint.provider == "mistral" and "seed" in known:
        # LiteLLM renames it by way of an extra_body of its own, which ours would replace
        unknown["random_seed"] = known.pop("seed")
    arguments = {**endpoint.params, **known}
    allowed = [] if listed is None else sorted(_PARAMETERS.intersection(arguments) - listed)
    if allowed:
        arguments["allowed_openai_params"] = [*arguments.get("allowed_openai_params", ()), *allowed]
    if unknown:
        arguments["extra_body"] = {**arguments.get("extra_body", {}), **unknown}
    return arguments | {
        **_fixed(endpoint, timeout),
        "messages": body.get("messages"),
        # with tools LiteLLM looks for its own MCP gateway first, and needs a package for that which is not there
        "_skip_mcp_handler": True,
    }


def of_embeddings(endpoint: Endpoint, body: JSON, timeout: float) -> JSON:
    """The arguments of `aembedding` for `body`. Raises UpstreamError for a field that cannot be passed on."""
    for name in sorted(body.keys() - _EMBEDDING_PARAMETERS - {"model"}):
        raise UpstreamError(
            f"{name}: this model's embeddings do not take it",
            status=400,
            type="invalid_request_error",
            code="unknown_parameter",
            param=name,
        )
    told = {name: value for name, value in body.items() if value is not None and name != "model"}
    if told.get("encoding_format") in ("float", "base64"):
        del told["encoding_format"]
    return {**endpoint.params, **told, **_fixed(endpoint, timeout)}


def _fixed(endpoint: Endpoint, timeout: float) -> JSON:
    """Where a call goes, and that it is made once."""
    access = {"api_base": endpoint.api_base, "api_key": endpoint.api_key}
    return {name: value for name, value in access.items() if value is not None} | {
        "model": f"{endpoint.provider}/{endpoint.model}",
        "timeout": timeout,
        "num_retries": 0,
        "max_retries": 0,
        "drop_params": False,
    }
