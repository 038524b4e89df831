"""What a call costs: the tokens that it took, each at the rate of its kind, rounded up once."""

from collections.abc import Sequence

from proxy.money import Rates, nano
from proxy.types import Usage


def bill(rates: Rates, usage: Usage) -> int:
    """What a call of `usage` costs at `rates`, in nano-USD."""
    return nano(sum(_pico(rates, usage)))


def shares(rates: Rates, usage: Usage, parts: Sequence[int]) -> list[int]:
    """The same, spread over the choices of the call: `parts` are the completion tokens of each, in order of index.

    The first one pays for the prompt. The shares are never negative, and their sum is exactly the call's cost.
    """
    prompt, completion = _pico(rates, usage)
    costs: list[int] = []
    charged = seen = 0
    for index, part in enumerate(parts):
        seen += part
        # an odd token that no choice has is the last one's
        last = index == len(parts) - 1
        total = nano(prompt + (completion if last else completion * seen // max(usage.completion, 1)))
        costs.append(total - charged)
        charged = total
    return costs


def _pico(rates: Rates, usage: Usage) -> tuple[int, int]:
    """Pico-USD for the prompt and for the completion."""
    if rates.plain:
        return usage.prompt * rates.input, usage.completion * rates.output
    if rates.tiers or rates.services:
        rates = rates.at(usage.prompt, usage.service)
    kinds = rates.kinds
    cached = _else(rates.cached_input, rates.input)
    write = _else(kinds.cache_write, rates.input)
    prompt = (
        usage.prompt * rates.input
        + usage.cached * (cached - rates.input)
        + usage.cached_audio * (_else(kinds.cached_audio, cached) - cached)
        + usage.cache_write * (write - rates.input)
        + usage.cache_write_1h * (_else(kinds.cache_write_1h, write) - write)
        + usage.audio_input * (_else(kinds.audio_input, rates.input) - rates.input)
        + usage.image_input * (_else(kinds.image_input, rates.input) - rates.input)
    )
    completion = (
        usage.completion * rates.output
        + usage.reasoning * (_else(kinds.reasoning, rates.output) - rates.output)
        + usage.audio_output * (_else(kinds.audio_output, rates.output) - rates.output)
        + usage.image_output * (_else(kinds.image_output, rates.output) - rates.output)
    )
    return prompt, completion


def _else(rate: int | None, usual: int) -> int:
    return usual if rate is None else rate
