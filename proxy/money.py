"""Money in integers: rates in pico-USD a token, amounts in nano-USD.

Every published per-token price is a whole number of pico-dollars; a call's cost is rounded up once, to a whole
number of nano-dollars, so that sums are exact and the account is never short by a fraction.
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, InvalidOperation

NANO_PER_USD = 10**9
PICO_PER_USD = 10**12
PICO_PER_NANO = 10**3


def _decimal(value: object) -> Decimal:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"{value!r} is not a number") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{value!r} is not a finite amount of zero or more")
    return amount


def nano_usd(usd: object) -> int:
    """Nano-USD in `usd` (dollars: a number or its text), rounded down, so that a limit is never widened."""
    return int(_decimal(usd) * NANO_PER_USD)


def pico_usd(usd_per_token: object) -> int:
    """Pico-USD a token in `usd_per_token` (dollars a token: a number or its text such as `1e-7`), rounded up."""
    return int((_decimal(usd_per_token) * PICO_PER_USD).to_integral_value(ROUND_CEILING))


def usd(nano: int) -> str:
    """`nano` (nano-USD) as dollars in plain decimal notation, exact: `usd(1500)` is `"0.0000015"`."""
    text = f"{Decimal(nano).scaleb(-9):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True)
class Rates:
    """What a model costs, in pico-USD a token; `cached_input` is the rate of prompt tokens read from a cache."""

    input: int
    output: int
    cached_input: int | None = None

    def cost(self, prompt: int, completion: int, cached: int = 0) -> int:
        """Nano-USD for a call of `prompt` tokens (`cached` of them cached) and `completion` tokens, rounded up."""
        cached_rate = self.input if self.cached_input is None else self.cached_input
        pico = (prompt - cached) * self.input + cached * cached_rate + completion * self.output
        return -(-pico // PICO_PER_NANO)
