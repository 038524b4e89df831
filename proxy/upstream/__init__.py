"""The providers: two lanes to them, and what is known of each deployment."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from proxy.types import JSON


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a deployment's calls go. `model` is the name sent upstream, `provider` is LiteLLM's name of the provider.

    `params` are what LiteLLM's users put beside the model in `litellm_params`, the ones tally itself reads left out.
    """

    provider: str
    model: str
    api_base: str | None
    api_key: str | None
    params: JSON


class Lane(Protocol):
    """A way to a provider. Bodies are OpenAI-shaped both ways; errors are `UpstreamError` and its children."""

    async def complete(self, endpoint: Endpoint, body: JSON, timeout: float) -> bytes:
        """One call, its whole reply: a chat completion as JSON. `timeout` is in seconds."""

    def stream(self, endpoint: Endpoint, body: JSON, timeout: float) -> AsyncGenerator[bytes, None]:
        """One streamed call: the JSON of each chunk, without `data:` and without `[DONE]`.

        Closing the iterator (`aclose`) disconnects, which is what stops the provider's work.
        """

    async def post(self, endpoint: Endpoint, path: str, body: JSON, timeout: float) -> bytes:
        """One plain POST that is no chat completion, its whole reply: JSON.

        `path` is below the deployment's `api_base`, as in `embeddings`; one that begins with a slash, as `/score`, is
        below the root of the server: `api_base` without the `/v1` that it may end in, for that is where vLLM has it.
        """

    async def close(self) -> None:
        """Let go of connections."""
