"""`tally tenant`: who may spend, and how much."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proxy.cli.books import clear_errors, config_option, moment, open_books, read_books
from proxy.config import AnswerConfig
from proxy.errors import NotFound
from proxy.ledger.reports import Sheet, sheets
from proxy.ledger.store import MAX_INTEGER
from proxy.ledger.tenants import TenantChanges
from proxy.money import nano_usd, usd
from proxy.types import STRATEGIES, AnswerSpec, StrategyName, Tenant
from proxy.windows import parse_duration

F = TypeVar("F", bound=Callable[..., Any])

NO_LIMIT = "none"


def _dollars(text: str) -> int:
    try:
        nano = nano_usd(text)
    except ArithmeticError:
        nano = MAX_INTEGER + 1
    if nano > MAX_INTEGER:
        raise ValueError(f"{text!r} is more than {usd(MAX_INTEGER)} dollars")
    return nano


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # isdecimal alone takes digits of any script, and int() no more than some thousand digits
        if not (text.isascii() and text.isdecimal()) or not least <= int(text[:32]) <= MAX_INTEGER:
            raise ValueError(f"{text!r} is not a whole number from {least} to {MAX_INTEGER}")
        return int(text)

    return parse


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{text!r} is not a number from 0 to 1")
    return share


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _strategy(text: str) -> StrategyName:
    for name in STRATEGIES:
        if text == name:
            return name
    raise ValueError(f"{text!r} is none of {', '.join(STRATEGIES)}")


def _answer(text: str) -> AnswerSpec:
    """A kind by its name, or options of `answer` as JSON."""
    try:
        options = json.loads(text) if text.startswith("{") else {"kind": text}
        return AnswerConfig.model_validate(options).spec()
    except json.JSONDecodeError as error:
        raise ValueError(f"{text!r} is not JSON: {error.msg}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'answer'}: {reason}") from None


def _limit(
    flag: str, field: str, metavar: str, parse: Callable[[str], float | str | AnswerSpec], what: str
) -> Callable[[F], F]:
    """An option for `field` of a tenant, which takes what `parse` (ValueError) reads, or `none` for no limit."""

    def read(_context: click.Context, _option: click.Parameter, value: str | None) -> float | str | AnswerSpec | None:
        if value in (None, NO_LIMIT):
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return click.option(flag, field, metavar=metavar, callback=read, help=what)


_OPTIONS: tuple[Callable[[F], F], ...] = (
    _limit("--max-budget", "max_nano", "USD", _dollars, "US dollars a window."),
    _limit("--token-budget", "max_tokens", "N", _whole(0), "Tokens a window."),
    _limit("--budget-duration", "duration", "D", _duration, "30s, 24h, 1d, 7d, 1mo, weekly ..."),
    _limit("--rpm", "rpm_limit", "N", _whole(1), "Requests a minute."),
    click.option("--model", "models", multiple=True, metavar="M", help="A model it may use; again for more."),
    _limit("--strategy", "strategy", "S", _strategy, f"Default strategy: {', '.join(STRATEGIES)}."),
    _limit("--max-samples", "max_samples", "N", _whole(1), "Most samples a request."),
    _limit("--max-request-cost", "max_request_nano", "USD", _dollars, "Most dollars a request."),
    _limit("--answer", "answer", "KIND", _answer, 'How answers are found: a kind, or JSON: {"kind": "number", ...}.'),
    _limit("--scale-fraction", "scale_fraction", "SHARE", _share, "Share of its requests that is scaled, 0 to 1."),
    click.option("--shadow/--no-shadow", default=False, help="Answer with one sample; vote in the background."),
)


def _limits(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _given(options: dict[str, Any]) -> TenantChanges:
    """The options that stand on the command line, by the names that `Tenant` has for them."""
    context = click.get_current_context()
    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    if "models" in given:
        models = given["models"]
        given["models"] = None if models == (NO_LIMIT,) else models
    return cast(TenantChanges, given)


@click.group()
def tenant() -> None:
    """Tenants: who may spend, and how much."""


@tenant.command()
@click.argument("name")
@_limits
@config_option
@clear_errors
def add(name: str, config_path: Path | None, **options: Any) -> None:  # noqa: ANN401 - one for each limit
    """Add tenant NAME. A limit that is not given is none."""
    with open_books(config_path) as books:
        books.add_tenant(Tenant(name, **_given(options)))
    click.echo(f"tenant {name} added")


@tenant.command()
@click.argument("name")
@_limits
@config_option
@clear_errors
def update(name: str, config_path: Path | None, **options: Any) -> None:  # noqa: ANN401 - one for each limit
    """Change limits of tenant NAME; `none` takes a limit away."""
    changes = _given(options)
    if not changes:
        raise click.UsageError("nothing to change: give an option such as --max-budget")
    with open_books(config_path) as books:
        books.update_tenant(name, **changes)
    click.echo(f"tenant {name} updated")


@tenant.command()
@click.argument("name")
@config_option
@clear_errors
def block(name: str, config_path: Path | None) -> None:
    """Let tenant NAME spend nothing more."""
    with open_books(config_path) as books:
        books.block(name)
    click.echo(f"tenant {name} blocked")


@tenant.command()
@click.argument("name")
@config_option
@clear_errors
def unblock(name: str, config_path: Path | None) -> None:
    """Let tenant NAME spend again."""
    with open_books(config_path) as books:
        books.unblock(name)
    click.echo(f"tenant {name} unblocked")


@tenant.command("list")
@config_option
@clear_errors
def list_tenants(config_path: Path | None) -> None:
    """List all tenants."""
    with read_books(config_path) as books:
        found = sheets(books)
    table = Table("tenant", "budget USD", "spent USD", "tokens", "spent", "window", "state")
    for sheet in found:
        table.add_row(
            escape(sheet.limits.name),
            _money(sheet.limits.max_nano),
            usd(sheet.window_spent.nano),
            _number(sheet.limits.max_tokens),
            str(sheet.window_spent.tokens),
            sheet.limits.duration or "for ever",
            _state(sheet.limits),
        )
    Console().print(table)


@tenant.command()
@click.argument("name")
@config_option
@clear_errors
def show(name: str, config_path: Path | None) -> None:
    """Show all of tenant NAME."""
    with read_books(config_path) as books:
        found = [sheet for sheet in sheets(books) if sheet.limits.name == name]
    if not found:
        raise NotFound(f"there is no tenant {name!r}")
    table = Table(show_header=False)
    for label, value in _facts(found[0]):
        table.add_row(label, escape(value))
    Console().print(table)


def _facts(sheet: Sheet[Tenant]) -> list[tuple[str, str]]:
    tenant = sheet.limits
    return [
        ("tenant", tenant.name),
        ("state", _state(tenant)),
        ("comes from", "the configuration file" if tenant.managed else "the command line or the admin API"),
        ("budget, USD", _money(tenant.max_nano)),
        ("budget, tokens", _number(tenant.max_tokens)),
        ("window", tenant.duration or "for ever"),
        ("window ends, UTC", moment(sheet.window_end)),
        ("spent in window, USD", usd(sheet.window_spent.nano)),
        ("spent in window, tokens", str(sheet.window_spent.tokens)),
        ("reserved, USD", usd(sheet.reserved.nano)),
        ("spent ever, USD", usd(sheet.spent.nano)),
        ("requests a minute", _number(tenant.rpm_limit)),
        ("models", "all" if tenant.models is None else ", ".join(tenant.models)),
        ("strategy", tenant.strategy or "the server's default"),
        ("samples a request", _number(tenant.max_samples)),
        ("USD a request", _money(tenant.max_request_nano)),
        ("scaled", _trial(tenant)),
        ("answers", "as the model or the server has them" if tenant.answer is None else _options(tenant.answer)),
    ]


def _trial(tenant: Tenant) -> str:
    share = "all requests" if tenant.scale_fraction is None else f"{tenant.scale_fraction:.4g} of its requests"
    return f"{share}, in the background" if tenant.shadow else share


def _options(answer: AnswerSpec) -> str:
    default = AnswerSpec()
    values = {field.name: getattr(answer, field.name) for field in fields(answer)}
    return ", ".join(
        f"{name} {value}" for name, value in values.items() if name == "kind" or value != getattr(default, name)
    )


def _state(tenant: Tenant) -> str:
    return "blocked" if tenant.blocked else "open"


def _money(nano: int | None) -> str:
    return "no limit" if nano is None else usd(nano)


def _number(value: int | None) -> str:
    return "no limit" if value is None else str(value)
