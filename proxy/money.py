"""Money in integers: rates in pico-USD a token, amounts in nano-USD.

Every published per-token price is a whole number of pico-dollars; a call's cost is rounded up once, to a whole
number of nano-dollars, so that sums are exact and the account is never short by a fraction.
"""

from collections.abc import Container, Sequence
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
    whole, rest = divmod(abs(nano), NANO_PER_USD)
    text = f"{whole}.{rest:09d}".rstrip("0") if rest else str(whole)
    return f"-{text}" if nano < 0 else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """Rates of the kinds of token that may have a price of their own, in pico-USD a token; None: they have none.

    In the prompt: written to a cache (`cache_write`, or `cache_write_1h` where it is kept for an hour), read from one
    as sound, sound and pictures; else they cost `input`, or what is cached. In the completion: reasoning, sound and
    pictures; else they cost `output`.
    """

    cache_write: int | None = None
    cache_write_1h: int | None = None
    cached_audio: int | None = None
    audio_input: int | None = None
    image_input: int | None = None
    reasoning: int | None = None
    audio_output: int | None = None
    image_output: int | None = None


IN_PROMPT = ("cached_input", "cache_write", "cache_write_1h", "cached_audio", "audio_input", "image_input")
IN_COMPLETION = ("reasoning", "audio_output", "image_output")
_NO_KINDS = Kinds()


@dataclass(frozen=True, slots=True)
class Rates:
    """What a model costs, in pico-USD a token; `cached_input` is the rate of prompt tokens read from a cache.

    `kinds` are further rates. `tiers` are thresholds, ascending, each with the rates of the whole of a call whose
    prompt has more tokens than that. `services` are the rates of each grade of service that has its own, such as
    `priority` and `flex`.
    """

    input: int
    output: int
    cached_input: int | None = None
    kinds: Kinds = _NO_KINDS
    tiers: "tuple[tuple[int, Rates], ...]" = ()
    services: "tuple[tuple[str, Rates], ...]" = ()

    def cost(self, prompt: int, completion: int, cached: int = 0) -> int:
        """Nano-USD for a call of `prompt` tokens (`cached` of them cached) and `completion` tokens, rounded up.

        All of it text, and at the usual service.
        """
        rates = self.at(prompt) if self.tiers else self
        cached_rate = rates.input if rates.cached_input is None else rates.cached_input
        return nano((prompt - cached) * rates.input + cached * cached_rate + completion * rates.output)

    @property
    def plain(self) -> bool:
        """Whether there is one rate in and one out, and no more."""
        return not (self.tiers or self.services) and self.kinds is _NO_KINDS and self.cached_input is None

    @property
    def free(self) -> bool:
        """Whether nothing costs anything."""
        return self.plain and not self.input and not self.output

    def at(self, prompt: int, service: str = "") -> "Rates":
        """The rates of a call whose prompt has `prompt` tokens, at a grade of service (else at the usual one)."""
        found = next((rates for name, rates in self.services if name == service), self)
        return next((rates for above, rates in reversed(found.tiers) if prompt > above), found)

    def dearest(
        self, prompt: int, services: Container[str] | None = None, without: Container[str] = frozenset()
    ) -> "Rates":
        """The most that a token may cost, in and out, in any call whose prompt has at most `prompt` tokens.

        `services` are the grades of service that it may get beside the usual one (None: any), `without` the kinds of
        token (fields of `Kinds`) that it cannot have.
        """
        if self.plain:
            return self
        grades = [self, *(rates for name, rates in self.services if services is None or name in services)]
        grades += [rates for grade in tuple(grades) for above, rates in grade.tiers if prompt > above]
        return Rates(
            max(rate for grade in grades for rate in grade._rates(grade.input, IN_PROMPT, without)),
            max(rate for grade in grades for rate in grade._rates(grade.output, IN_COMPLETION, without)),
        )

    def rate(self, kind: str) -> int | None:
        """The rate of a kind of token, a field of `Kinds` or `cached_input`; None where it has none of its own."""
        found: int | None = self.cached_input if kind == "cached_input" else getattr(self.kinds, kind)
        return found

    def _rates(self, plain: int, kinds: Sequence[str], without: Container[str]) -> list[int]:
        if self.kinds is _NO_KINDS:
            return [plain] if self.cached_input is None or kinds is IN_COMPLETION else [plain, self.cached_input]
        own = [self.rate(kind) for kind in kinds if kind not in without]
        return [plain, *(rate for rate in own if rate is not None)]


def nano(pico: int) -> int:
    """`pico` (pico-USD) as nano-USD, rounded up."""
    return -(-pico // PICO_PER_NANO)
