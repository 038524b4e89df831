"""Whether a provider's prompt cache is worth waiting for."""

from proxy.types import JSON
from proxy.upstream.deployment import Deployment
from proxy.upstream.usage import PROMPT_SHARE, prompt_bound

LEAST_TOKENS = 1024
"""Shorter prompts are cached by no provider: the least is 1,024 tokens at OpenAI's, 1,024 to 4,096 at others'."""


def caches(deployment: Deployment, request: JSON) -> bool:
    """Whether the prompt is likely long enough to be cached, and not known to cost the same from there."""
    rates = deployment.rates
    if rates is not None and (rates.cached_input is None or rates.cached_input >= rates.input):
        return False
    return prompt_bound(request) * (deployment.prompt_share or PROMPT_SHARE) >= LEAST_TOKENS
