"""Money is in integers, exact, and rounded so that the account is never short."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.money import Kinds, Rates, nano_usd, pico_usd, usd

rates = st.integers(0, 10**9)
tokens = st.integers(0, 10**9)


@pytest.mark.parametrize(
    ("dollars", "nano"),
    [(10, 10**10), (0.1, 10**8), ("0.05", 5 * 10**7), (Decimal("1e-9"), 1), (0, 0), ("1.9999999999", 1_999_999_999)],
)
def test_a_limit_in_dollars_is_rounded_down(dollars: object, nano: int) -> None:
    assert nano_usd(dollars) == nano


@pytest.mark.parametrize(
    ("dollars", "pico"), [("1e-7", 10**5), (4.0e-7, 4 * 10**5), (1.5e-10, 150), ("1e-13", 1), (0, 0)]
)
def test_a_rate_in_dollars_a_token_is_rounded_up(dollars: object, pico: int) -> None:
    assert pico_usd(dollars) == pico


@pytest.mark.parametrize("value", ["ten", None, -1, "-0.1", float("nan"), float("inf"), "", [1]])
def test_what_is_no_amount_is_named_in_the_error(value: object) -> None:
    for parse in (nano_usd, pico_usd):
        with pytest.raises(ValueError, match="is not a") as caught:
            parse(value)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0"), (1500, "0.0000015"), (10**9, "1"), (10**10, "10"), (2_500_000_000, "2.5"), (1, "0.000000001")],
)
def test_dollars_are_shown_exactly_and_plainly(nano: int, text: str) -> None:
    assert usd(nano) == text


@given(st.integers(0, 10**18))
def test_what_is_shown_can_be_read_back(nano: int) -> None:
    assert nano_usd(usd(nano)) == nano


@given(st.builds(Rates, rates, rates, st.none() | rates), tokens, tokens, tokens)
def test_a_cost_is_the_exact_sum_rounded_up_to_a_whole_nano_dollar(
    price: Rates, fresh: int, cached: int, completion: int
) -> None:
    cached_rate = price.input if price.cached_input is None else price.cached_input
    exact = Fraction(fresh * price.input + cached * cached_rate + completion * price.output, 1000)
    assert 0 <= price.cost(fresh + cached, completion, cached) - exact < 1


def test_free_tokens_cost_nothing() -> None:
    assert Rates(0, 0).cost(10**6, 10**6) == 0
    assert Rates(0, 0).free
    assert not Rates(0, 1).free


TIERED = Rates(1, 10, tiers=((100, Rates(2, 20)), (200, Rates(4, 40))), services=(("priority", Rates(3, 30)),))


@pytest.mark.parametrize(
    ("prompt", "service", "rate"),
    [(100, "", 1), (101, "", 2), (200, "flex", 2), (201, "", 4), (10**6, "", 4), (0, "", 1), (500, "priority", 3)],
)
def test_the_whole_call_is_billed_at_the_tier_that_its_prompt_reaches(prompt: int, service: str, rate: int) -> None:
    found = TIERED.at(prompt, service)
    assert (found.input, found.output) == (rate, 10 * rate)


@pytest.mark.parametrize(
    ("prompt", "services", "dearest"),
    [(100, None, (3, 30)), (100, {"flex"}, (1, 10)), (201, set(), (4, 40)), (150, {"priority"}, (3, 30))],
)
def test_the_dearest_rates_are_of_what_may_apply(
    prompt: int, services: set[str] | None, dearest: tuple[int, int]
) -> None:
    assert TIERED.dearest(prompt, services) == Rates(*dearest)


def test_kinds_that_a_call_cannot_have_do_not_make_it_dearer() -> None:
    sound = Rates(1, 2, kinds=Kinds(audio_input=50, audio_output=60, cache_write=5))
    assert sound.dearest(10) == Rates(50, 60)
    assert sound.dearest(10, without={"audio_input", "audio_output"}) == Rates(5, 2)


def test_plain_rates_are_their_own_dearest() -> None:
    plain = Rates(3, 4)
    assert plain.dearest(10**9) is plain
