"""What the commands on tenants and keys say of limits: one table of options for both, and how limits are shown."""

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

from proxy.cli.books import moment
from proxy.config import load_config
from proxy.config.limits import RANGES, cash, duration, read_budget, seconds, written_budget
from proxy.ledger.counters import Window
from proxy.ledger.reports import Sheet
from proxy.money import usd
from proxy.types import STRATEGIES, Budget, Key, Limits, OnExhausted, ScaleUntil, StrategyName, Tenant

F = TypeVar("F", bound=Callable[..., Any])
L = TypeVar("L", Tenant, Key)

NO_LIMIT = "none"
NOTHING = "no limit"


def option(flag: str, field: str, metavar: str, parse: Callable[[str], object], what: str) -> Callable[[F], F]:
    """An option for a field of limits, which takes what `parse` (ValueError) reads, or `none` for no limit."""

    def read(_context: click.Context, _option: click.Parameter, value: str | None) -> object:
        return None if value in (None, NO_LIMIT) else _read(parse, str(value))

    return click.option(flag, field, metavar=metavar, callback=read, help=what)


def several(
    flag: str, field: str, metavar: str, parse: Callable[[str], object], what: str, *, nothing: object = None
) -> Callable[[F], F]:
    """An option that may be given again for more; `none` alone means `nothing`."""

    def read(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> object:
        return nothing if values in ((), (NO_LIMIT,)) else tuple(_read(parse, value) for value in values)

    return click.option(flag, field, metavar=metavar, multiple=True, callback=read, help=f"{what}; again for more.")


def _read(parse: Callable[[str], object], value: str) -> object:
    try:
        return parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def whole(name: str) -> Callable[[str], int]:
    """Reads whole numbers, as many as the limit of this name may be."""
    least, most = RANGES[name]

    def parse(text: str) -> int:
        # isdecimal alone takes digits of any script, and int() no more than some thousand digits
        if not (text.isascii() and text.isdecimal()) or not least <= int(text[:32]) <= most:
            raise ValueError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return parse


def _strategy(text: str) -> StrategyName:
    for name in STRATEGIES:
        if text == name:
            return name
    raise ValueError(f"{text!r} is none of {', '.join(STRATEGIES)}")


_OPTIONS: tuple[Callable[[F], F], ...] = (
    option("--max-budget", "max_nano", "USD", cash, "US dollars a window."),
    option("--soft-budget", "soft_nano", "USD", cash, "US dollars of the first window; see --scale-until."),
    option("--token-budget", "max_tokens", "N", whole("token_budget"), "Tokens a window."),
    option("--sample-budget", "max_drawn", "N", whole("sample_budget"), "Samples a window."),
    option("--budget-duration", "duration", "D", duration, "30s, 24h, 1d, 7d, 1mo, weekly ..."),
    several("--budget", "budgets", "B", read_budget, "A further window: 5/1d, 20/1mo, 1000000tokens/1d", nothing=()),
    option("--rpm", "rpm_limit", "N", whole("rpm_limit"), "Requests a minute."),
    option("--tpm", "tpm_limit", "N", whole("tpm_limit"), "Tokens a minute."),
    option("--max-parallel", "max_parallel", "N", whole("max_parallel_requests"), "Requests at once."),
    several("--model", "models", "M", str, "A model it may use"),
    several("--allow-strategy", "strategies", "S", _strategy, "A strategy it may use, beside off"),
    option("--strategy", "strategy", "S", _strategy, f"Default strategy: {', '.join(STRATEGIES)}."),
    option("--max-samples", "max_samples", "N", whole("max_samples"), "Most samples a request."),
    option("--max-rounds", "max_rounds", "N", whole("max_rounds"), "Most rounds a request."),
    option("--max-request-cost", "max_request_nano", "USD", cash, "Most dollars a request."),
    click.option(
        "--scale-until",
        type=click.Choice(get_args(ScaleUntil)),
        default="hard",
        help="soft: from the soft budget on nothing is scaled.",
    ),
    click.option(
        "--on-exhausted",
        type=click.Choice(get_args(OnExhausted)),
        default="single",
        help="Where the budget holds no vote: single gives one sample, refuse refuses.",
    ),
)


def limit_options(command: F) -> F:
    """Give a command an option for every limit."""
    for each in reversed(_OPTIONS):
        command = each(command)
    return command


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that stand on the command line, by the names that limits have for them."""
    context = click.get_current_context()
    return {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


def changed(options: dict[str, Any]) -> dict[str, Any]:
    """The same. Raises UsageError where there are none."""
    changes = given(options)
    if not changes:
        raise click.UsageError("nothing to change: give an option such as --max-budget")
    return changes


def budget_facts(sheet: Sheet[L]) -> list[tuple[str, str]]:
    """What may be spent, and what is: labels and values."""
    limits, first, *more = sheet.limits, *sheet.standing.windows
    return [
        ("budgets", ", ".join(map(written_budget, _limiting(sheet))) or NOTHING),
        ("soft budget, USD", "none" if limits.soft_nano is None else usd(limits.soft_nano)),
        ("first window", limits.duration or "for ever"),
        ("window ends, UTC", moment(sheet.window_end)),
        ("spent in window, USD", usd(first.spent.nano)),
        ("spent in window, tokens", str(first.spent.tokens)),
        ("spent in window, samples", str(first.spent.samples)),
        *(
            (f"also {written_budget(window.budget)}", f"{usd(window.spent.nano)} USD, {window.spent.tokens} tokens,"
             f" {window.spent.samples} samples spent") for window in more
        ),
        ("reserved, USD", usd(sheet.reserved.nano)),
        ("spent ever, USD", usd(sheet.spent.nano)),
    ]  # fmt: skip


def _limiting(sheet: Sheet[L]) -> list[Budget]:
    """Its windows that limit anything, the shortest first; money before the rest."""
    limited = {budget: None for budget in sheet.limits.windows if _kinds(budget)}
    return sorted(limited, key=lambda each: (_length(each), each.max_nano is None))


def _kinds(budget: Budget) -> list[int]:
    return [each for each in (budget.max_nano, budget.max_tokens, budget.max_samples) if each is not None]


def _length(budget: Budget) -> float:
    return inf if budget.duration is None else seconds(budget.duration)


def narrowest(sheet: Sheet[L]) -> Window:
    """The window that a line has room for: the shortest that limits money, else the shortest."""
    limited = _limiting(sheet)
    paid = [budget for budget in limited if budget.max_nano is not None] or limited
    return next((each for each in sheet.standing.windows if each.budget in paid[:1]), sheet.standing.windows[0])


def budgets_said(sheet: Sheet[L]) -> str:
    """The narrowest window, and how many more there are, as in `0.01/30s +2`."""
    more = len(_limiting(sheet)) - 1
    if more < 0:
        return NOTHING
    return written_budget(narrowest(sheet).budget) + (f" +{more}" if more else "")


def warn_models(config_path: Path | None, told: dict[str, Any]) -> None:
    """Tell of models among the options that the configuration does not have. Raises ConfigError."""
    served = set() if config_path is None else {entry.model_name for entry in load_config(config_path).model_list}
    for name in told.get("models") or () if served else ():
        if name not in served:
            click.echo(f"warning: {name!r} is not in the model_list of {config_path}", err=True)


def day(at: float | None) -> str:
    """A date in UTC; a dash for None."""
    return moment(at)[:10]


def limit_facts(limits: Limits) -> list[tuple[str, str]]:
    """All other limits: labels and values."""
    return [
        ("requests a minute", number(limits.rpm_limit)),
        ("tokens a minute", number(limits.tpm_limit)),
        ("requests at once", number(limits.max_parallel)),
        ("models", "all" if limits.models is None else ", ".join(limits.models)),
        ("strategies", "all" if limits.strategies is None else ", ".join(limits.strategies)),
        ("strategy", limits.strategy or "the server's default"),
        ("samples a request", number(limits.max_samples)),
        ("rounds a request", number(limits.max_rounds)),
        ("USD a request", money(limits.max_request_nano)),
        ("scaled until", f"the {limits.scale_until} budget"),
        ("exhausted", "one sample" if limits.on_exhausted == "single" else "refused"),
    ]


def money(nano: int | None) -> str:
    """A limit in US dollars."""
    return "no limit" if nano is None else usd(nano)


def number(value: int | None) -> str:
    """A limit in numbers."""
    return "no limit" if value is None else str(value)
