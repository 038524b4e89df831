"""What calls cost is exact, rounded up once, never above what is reserved, and spread over choices without loss."""

from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from proxy.money import IN_COMPLETION, IN_PROMPT, Kinds, Rates
from proxy.types import Usage
from proxy.upstream.billing import bill, shares

RATE = st.integers(0, 10**8)
MAYBE = st.none() | RATE
SERVICES = ("priority", "flex", "ultrafast")
FLAT = st.builds(
    Rates,
    RATE,
    RATE,
    MAYBE,
    st.builds(Kinds, **{kind: MAYBE for kind in (*IN_PROMPT, *IN_COMPLETION) if kind != "cached_input"}),
)
TIERS = st.dictionaries(st.integers(1, 10**6), FLAT, max_size=3).map(lambda found: tuple(sorted(found.items())))


def tiered(flat: Rates, tiers: tuple[tuple[int, Rates], ...]) -> Rates:
    return replace(flat, tiers=tiers)


GRADE = st.builds(tiered, FLAT, TIERS.filter(lambda tiers: len({above for above, _ in tiers}) == len(tiers)))


@st.composite
def all_rates(draw: st.DrawFn) -> Rates:
    own = draw(st.dictionaries(st.sampled_from(SERVICES), GRADE, max_size=2))
    return replace(draw(GRADE), services=tuple(own.items()))


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Any usage whose parts are no more than their wholes."""

    def part(most: int) -> int:
        return draw(st.integers(0, most))

    prompt, completion = part(2 * 10**6), part(10**5)
    cached = part(prompt)
    write = part(prompt - cached)
    audio = part(prompt - cached - write)
    reasoning = part(completion)
    spoken = part(completion - reasoning)
    return Usage(
        prompt,
        completion,
        cached,
        reasoning,
        cached_audio=part(cached),
        cache_write=write,
        cache_write_1h=part(write),
        audio_input=audio,
        image_input=part(prompt - cached - write - audio),
        audio_output=spoken,
        image_output=part(completion - reasoning - spoken),
        service=draw(st.sampled_from(("", *SERVICES))),
    )


def by_hand(rates: Rates, usage: Usage) -> Fraction:
    """Nano-USD, each token at the rate of its kind, not rounded."""
    flat = rates.at(usage.prompt, usage.service)

    def rate(*kinds: str) -> int:
        plain = flat.output if kinds[0] in IN_COMPLETION else flat.input
        return next((found for kind in kinds if (found := flat.rate(kind)) is not None), plain)

    text = usage.prompt - usage.cached - usage.cache_write - usage.audio_input - usage.image_input
    said = usage.completion - usage.reasoning - usage.audio_output - usage.image_output
    pico = (
        text * flat.input
        + (usage.cached - usage.cached_audio) * rate("cached_input")
        + usage.cached_audio * rate("cached_audio", "cached_input")
        + (usage.cache_write - usage.cache_write_1h) * rate("cache_write")
        + usage.cache_write_1h * rate("cache_write_1h", "cache_write")
        + usage.audio_input * rate("audio_input")
        + usage.image_input * rate("image_input")
        + said * flat.output
        + usage.reasoning * rate("reasoning")
        + usage.audio_output * rate("audio_output")
        + usage.image_output * rate("image_output")
    )
    return Fraction(pico, 1000)


@given(all_rates(), usages())
def test_a_call_costs_the_exact_sum_of_its_kinds_of_token_rounded_up_once(rates: Rates, usage: Usage) -> None:
    assert 0 <= bill(rates, usage) - by_hand(rates, usage) < 1


@given(all_rates(), usages(), st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 10**5))
def test_what_is_reserved_is_never_below_what_is_billed(
    rates: Rates, usage: Usage, longer: int, piece: int, more: int
) -> None:
    dearest = rates.dearest(usage.prompt + longer, {usage.service})
    pieces, rest = divmod(usage.completion + more, piece)
    reserved = dearest.cost(usage.prompt + longer, 0) + dearest.cost(0, rest)
    # piece by piece, each rounded up
    assert reserved + pieces * dearest.cost(0, piece) >= bill(rates, usage)


@given(all_rates(), usages())
def test_kinds_that_a_call_does_not_have_need_no_reservation(rates: Rates, usage: Usage) -> None:
    silent = replace(
        usage, cached_audio=0, audio_input=0, image_input=0, audio_output=0, image_output=0, cache_write_1h=0
    )
    absent = {"cached_audio", "audio_input", "image_input", "audio_output", "image_output"}
    # writes for an hour cost what others do where they have no price, so that only their own price may be left out
    dearest = rates.dearest(usage.prompt, None, absent | {"cache_write_1h"})
    assert dearest.cost(silent.prompt, silent.completion) >= bill(rates, silent)


@given(all_rates(), usages(), st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_the_shares_of_the_choices_sum_to_the_cost_of_the_call(rates: Rates, usage: Usage, weights: list[int]) -> None:
    whole = max(sum(weights), 1)
    parts = [usage.completion * weight // whole for weight in weights]
    parts[-1] += usage.completion - sum(parts)
    costs = shares(rates, usage, parts)
    assert sum(costs) == bill(rates, usage)
    assert min(costs) >= 0
    assert costs[0] >= bill(rates, replace(usage, completion=0, reasoning=0, audio_output=0, image_output=0))


def test_a_call_that_was_never_made_costs_nothing() -> None:
    assert bill(Rates(1, 1), Usage()) == 0
    assert shares(Rates(1, 1), Usage(), []) == []


def test_plain_usage_costs_what_the_rates_alone_say() -> None:
    rates = Rates(150_000, 600_000, 75_000)
    assert bill(rates, Usage(1_000, 10, cached=300)) == rates.cost(1_000, 10, 300)
