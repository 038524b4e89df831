"""What a tenant or a key may do, as it is written and shown: in the file, in the admin API and at the command line.

The names are LiteLLM's where it has them. Money is written in US dollars and kept in nano-USD.
"""

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from proxy.money import nano_usd, usd
from proxy.types import JSON, STRATEGIES, Budget, Limits, OnExhausted, ScaleUntil, StrategyName
from proxy.windows import parse_duration

_MAX_COUNT = 10**15
_MAX_NANO = 10**18
MOST_SAMPLES = 1024
"""The most samples, or rounds, that anybody may ask for in one request."""

_MOST_BUDGETS = 16
_LONGEST = 100 * 366 * 86_400
_TOO_SMALL = "is smaller than a nano-dollar (1e-9)"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 30 * 86_400}

FIELDS: Mapping[str, str] = {
    "max_budget": "max_nano",
    "soft_budget": "soft_nano",
    "token_budget": "max_tokens",
    "sample_budget": "max_drawn",
    "budget_duration": "duration",
    "budgets": "budgets",
    "rpm_limit": "rpm_limit",
    "tpm_limit": "tpm_limit",
    "max_parallel_requests": "max_parallel",
    "models": "models",
    "strategies": "strategies",
    "strategy": "strategy",
    "max_samples": "max_samples",
    "max_rounds": "max_rounds",
    "max_cost_usd": "max_request_nano",
    "scale_until": "scale_until",
    "on_exhausted": "on_exhausted",
    "blocked": "blocked",
}
"""What operators call each field of `Limits`."""

_MONEY = frozenset({"max_nano", "soft_nano", "max_request_nano"})

RANGES: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("max_budget", "soft_budget", "max_cost_usd"), (0, _MAX_NANO)),
    **dict.fromkeys(("token_budget", "sample_budget"), (0, _MAX_COUNT)),
    **dict.fromkeys(("rpm_limit", "tpm_limit", "max_parallel_requests"), (1, _MAX_COUNT)),
    **dict.fromkeys(("max_samples", "max_rounds"), (1, MOST_SAMPLES)),
}
"""The least and the most that each number may be, money in nano-USD."""


def duration(text: str) -> str:
    """The text of a duration such as `30d`. Raises ValueError that says what is wrong."""
    seconds(text)
    return text


def seconds(text: str) -> float:
    """How long a duration such as `30d` is, in seconds; a month counts as 30 days. ValueError names what is wrong."""
    count, unit = parse_duration(text)
    length = count * _SECONDS[unit]
    if length > _LONGEST:
        raise ValueError(f"{text!r} is more than a hundred years")
    return float(length)


def _countable(amount: Decimal) -> Decimal:
    if amount and not nano_usd(amount):
        raise ValueError(_TOO_SMALL)
    return amount


Usd = Annotated[Decimal, Field(ge=0, le=10**9, allow_inf_nan=False), AfterValidator(_countable)]
Count = Annotated[int, Field(ge=0, le=_MAX_COUNT)]
PerMinute = Annotated[int, Field(ge=1, le=_MAX_COUNT)]
Number = Annotated[int, Field(ge=1, le=MOST_SAMPLES)]
Duration = Annotated[str, AfterValidator(duration)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class Section(BaseModel):
    """A part of the file; what it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)


class BudgetConfig(Section):
    """What may be spent in each window of one length."""

    budget_duration: Duration | None = Field(
        default=None, description="30s, 30m, 24h, 1d, 7d, 1mo, daily, weekly or monthly; none given: for ever"
    )
    max_budget: Usd | None = Field(default=None, description="US dollars a window")
    token_budget: Count | None = Field(default=None, description="tokens a window, prompt and completion")
    sample_budget: Count | None = Field(default=None, description="samples a window")

    def budget(self) -> Budget:
        """The same as a value for the other rooms."""
        return Budget(self.budget_duration, _nano(self.max_budget), self.token_budget, self.sample_budget)


class LimitsConfig(BudgetConfig):
    """What a tenant or a key may do; null means no limit."""

    soft_budget: Usd | None = Field(
        default=None, description="US dollars of the first window, spent and reserved; see scale_until"
    )
    budgets: Annotated[tuple[BudgetConfig, ...], Field(max_length=_MOST_BUDGETS)] = Field(
        default=(), description="further windows, all of which hold beside the first"
    )
    rpm_limit: PerMinute | None = Field(default=None, description="requests a minute")
    tpm_limit: PerMinute | None = Field(default=None, description="tokens a minute")
    max_parallel_requests: PerMinute | None = Field(default=None, description="requests at once")
    models: tuple[Name, ...] | None = Field(default=None, description="model names that may be used; none given: all")
    strategies: tuple[StrategyName, ...] | None = Field(
        default=None, description="strategies that may be used, beside off; none given: all"
    )
    strategy: StrategyName | None = Field(default=None, description="the strategy of requests that name none")
    max_samples: Number | None = Field(default=None, description="most samples a request")
    max_rounds: Number | None = Field(default=None, description="most rounds a request")
    max_cost_usd: Usd | None = Field(default=None, description="most US dollars a request")
    scale_until: ScaleUntil = Field(
        default="hard", description="soft: from soft_budget on nothing is scaled; hard: the budgets alone say when"
    )
    on_exhausted: OnExhausted = Field(
        default="single", description="a budget that holds no vote: single gives one sample, refuse refuses"
    )
    blocked: bool = Field(default=False, description="true: nothing may be spent")

    def changes(self) -> dict[str, Any]:
        """What is said here, by the names of `Limits`; what is not said is not there."""
        return {FIELDS[name]: self._value(name) for name in FIELDS if name in self.model_fields_set}

    def limits(self) -> Limits:
        """The same as a value for the other rooms."""
        # a tenant has more to say of itself than its limits
        return Limits(**LimitsConfig.changes(self))

    def _value(self, name: str) -> object:
        value = getattr(self, name)
        if name == "budgets":
            return tuple(each.budget() for each in value)
        return _nano(value) if FIELDS[name] in _MONEY else value


def mistakes(limits: Limits) -> Iterator[tuple[str, str]]:
    """What makes no sense in limits, wherever they come from: what operators call the field, and why."""
    for name, (least, most) in RANGES.items():
        value = getattr(limits, FIELDS[name])
        if value is not None and not least <= value <= most:
            yield (
                name,
                f"must be a whole number from {least} to {most}" + (" nano-USD" if FIELDS[name] in _MONEY else ""),
            )
    if len(limits.budgets) > _MOST_BUDGETS:
        yield "budgets", f"are at most {_MOST_BUDGETS}"
    for name, budget in (("budget_duration", limits.windows[0]), *(("budgets", each) for each in limits.budgets)):
        yield from _odd_budget(name, budget)
    yield from _twice(limits)
    yield from _at_odds(limits)


def _odd_budget(name: str, budget: Budget) -> Iterator[tuple[str, str]]:
    for value, most in (
        (budget.max_nano, _MAX_NANO),
        (budget.max_tokens, _MAX_COUNT),
        (budget.max_samples, _MAX_COUNT),
    ):
        if name == "budgets" and value is not None and not 0 <= value <= most:
            yield name, f"must have amounts from 0 to {most}"
    if budget.duration is not None:
        try:
            seconds(budget.duration)
        except ValueError as error:
            yield name, f"is wrong: {error}"


def _twice(limits: Limits) -> Iterator[tuple[str, str]]:
    """Windows of one length that do not say the same."""
    seen: dict[tuple[str | None, str], int] = {}
    for budget in limits.windows:
        for kind in ("max_nano", "max_tokens", "max_samples"):
            amount = getattr(budget, kind)
            if amount is not None and seen.setdefault((budget.duration, kind), amount) != amount:
                yield "budgets", f"say two different amounts for one window: {budget.duration or 'for ever'}"


def _at_odds(limits: Limits) -> Iterator[tuple[str, str]]:
    """Limits that each make sense, and do not go together."""
    if limits.soft_nano is not None and limits.max_nano is not None and limits.soft_nano > limits.max_nano:
        yield "soft_budget", "is above max_budget"
    if limits.scale_until == "soft" and limits.soft_nano is None:
        yield "scale_until", "soft needs a soft_budget"
    for name in (*(limits.strategies or ()), *([limits.strategy] if limits.strategy is not None else [])):
        if name not in STRATEGIES:
            yield "strategy", f"must be one of {', '.join(STRATEGIES)}"
    if limits.strategies is not None and limits.strategy is not None and limits.strategy not in limits.strategies:
        yield "strategy", f"{limits.strategy} is not among its strategies"


def shown(limits: Limits) -> JSON:
    """Limits by the names that operators have for them; money in US dollars."""
    found: JSON = {}
    for name, field in FIELDS.items():
        value = getattr(limits, field)
        if name == "budgets":
            value = [shown_budget(each) for each in value]
        elif field in _MONEY:
            value = dollars(value)
        found[name] = list(value) if isinstance(value, tuple) else value
    return found


def shown_budget(budget: Budget) -> JSON:
    """One window's limits, in the same way."""
    return {
        "budget_duration": budget.duration,
        "max_budget": dollars(budget.max_nano),
        "token_budget": budget.max_tokens,
        "sample_budget": budget.max_samples,
    }


def dollars(nano: int | None) -> float | None:
    """US dollars as a number of JSON, exact up to nine million."""
    return None if nano is None else nano / 1e9


def read_budget(text: str) -> Budget:
    """A window as it is written at the command line: `5/1d`, `20/1mo`, `1000000tokens/1d`, `5+900samples/weekly`.

    Raises ValueError that says what is wrong.
    """
    amounts, slash, length = text.rpartition("/")
    if not slash:
        amounts, length = text, ""
    found: dict[str, int] = {}
    for part in amounts.split("+"):
        name = next((each for each in _UNITS if each and part.endswith(each)), "")
        field, read = _UNITS[name]
        if field in found:
            raise ValueError(f"{text!r} has the same limit twice")
        found[field] = read(part.removesuffix(name))
    if slash:
        seconds(length)
    return Budget(length or None, found.get("nano"), found.get("tokens"), found.get("samples"))


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text[:32]) > _MAX_COUNT:
        raise ValueError(f"{text!r} is not a whole number up to {_MAX_COUNT}")
    return int(text)


def cash(text: str) -> int:
    """Nano-USD in a text of dollars. Raises ValueError that says what is wrong."""
    try:
        nano = nano_usd(text)
    except ArithmeticError:
        nano = _MAX_NANO + 1
    if not nano and Decimal(text):
        raise ValueError(f"{text!r} {_TOO_SMALL}")
    if nano > _MAX_NANO:
        raise ValueError(f"{text!r} is more than a billion dollars")
    return nano


_UNITS: Mapping[str, tuple[str, Callable[[str], int]]] = {
    "tokens": ("tokens", _whole),
    "samples": ("samples", _whole),
    "": ("nano", cash),
}


def written_budget(budget: Budget) -> str:
    """A window as `read_budget` reads it."""
    amounts = [
        *([] if budget.max_nano is None else [usd(budget.max_nano)]),
        *([] if budget.max_tokens is None else [f"{budget.max_tokens}tokens"]),
        *([] if budget.max_samples is None else [f"{budget.max_samples}samples"]),
    ]
    return "+".join(amounts) + (f"/{budget.duration}" if budget.duration else "")


def _nano(amount: Decimal | None) -> int | None:
    return None if amount is None else nano_usd(amount)
