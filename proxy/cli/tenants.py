"""`tally tenant`: who may spend, and how much."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table

from proxy.cli.books import clear_errors, config_option, open_books, read_books
from proxy.cli.console import console
from proxy.cli.limits import (
    budget_facts,
    budgets_said,
    changed,
    given,
    limit_facts,
    limit_options,
    narrowest,
    option,
    warn_models,
)
from proxy.cli.tables import show_table
from proxy.config import AnswerConfig
from proxy.errors import NotFound
from proxy.ledger.reports import Sheet, sheets
from proxy.ledger.tenants import MOST_DAYS, TenantChanges, refuse_own
from proxy.money import usd
from proxy.types import AnswerSpec, Tenant

F = TypeVar("F", bound=Callable[..., Any])


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{text!r} is not a number from 0 to 1")
    return share


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


_OPTIONS: tuple[Callable[[F], F], ...] = (
    option("--alias", "alias", "TEXT", str, "What people call it."),
    option("--answer", "answer", "KIND", _answer, 'How answers are found: a kind, or JSON: {"kind": "number", ...}.'),
    option("--scale-fraction", "scale_fraction", "SHARE", _share, "Share of its requests that is scaled, 0 to 1."),
    click.option("--shadow/--no-shadow", default=False, help="Answer with one sample; vote in the background."),
    click.option("--store-samples/--no-store-samples", default=False, help="Keep what is asked and said."),
    click.option(
        "--store-samples-days", type=click.IntRange(1, MOST_DAYS), default=30, help="Days that each text is kept."
    ),
)


def _options(command: F) -> F:
    for each in reversed(_OPTIONS):
        command = each(command)
    return limit_options(command)


@click.group()
def tenant() -> None:
    """Tenants: who may spend, and how much."""


@tenant.command()
@click.argument("name")
@_options
@config_option
@clear_errors
def add(name: str, config_path: Path | None, **options: Any) -> None:  # noqa: ANN401 - one for each limit
    """Add tenant NAME. A limit that is not given is none."""
    refuse_own(name, "name")
    told = given(options)
    warn_models(config_path, told)
    made = Tenant(name=name, **told)
    with open_books(config_path) as books:
        books.add_tenant(made)
    _note_days(made, told)
    click.echo(f"tenant {name} added")


@tenant.command()
@click.argument("name")
@_options
@config_option
@clear_errors
def update(name: str, config_path: Path | None, **options: Any) -> None:  # noqa: ANN401 - one for each limit
    """Change limits of tenant NAME; `none` takes a limit away."""
    changes = changed(options)
    warn_models(config_path, changes)
    with open_books(config_path) as books:
        made = books.update_tenant(name, **cast(TenantChanges, changes))
    _note_days(made, changes)
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


@tenant.command()
@click.argument("name")
@config_option
@clear_errors
def delete(name: str, config_path: Path | None) -> None:
    """End tenant NAME and its keys for ever; its rows stay in the ledger, and the name stays taken."""
    with open_books(config_path) as books:
        books.delete_tenant(name)
    click.echo(f"tenant {name} deleted")


@tenant.command("list")
@config_option
@clear_errors
def list_tenants(config_path: Path | None) -> None:
    """List all tenants, each with its shortest window and how many more it has."""
    with read_books(config_path) as books:
        found = sheets(books)
    columns = ("tenant", ">budget", ">spent USD", ">spent tokens", ">spent samples", ">state")
    show_table(
        console(),
        columns,
        (
            (
                sheet.limits.name,
                budgets_said(sheet),
                usd(spent.nano),
                str(spent.tokens),
                str(spent.samples),
                _state(sheet.limits),
            )
            for sheet, spent in ((sheet, narrowest(sheet).spent) for sheet in found)
        ),
    )


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
    console().print(table)


def _note_days(made: Tenant, told: dict[str, Any]) -> None:
    if "store_samples_days" in told and not made.store_samples:
        click.echo("note: --store-samples-days has no effect without --store-samples", err=True)


def _facts(sheet: Sheet[Tenant]) -> list[tuple[str, str]]:
    tenant = sheet.limits
    return [
        ("tenant", tenant.name),
        ("alias", tenant.alias or "-"),
        ("state", _state(tenant)),
        ("comes from", "the configuration file" if tenant.managed else "the command line or the admin API"),
        *budget_facts(sheet),
        *limit_facts(tenant),
        ("scaled", _trial(tenant)),
        ("answers", "as the model or the server has them" if tenant.answer is None else _said(tenant.answer)),
        ("what is said", f"kept for {tenant.store_samples_days} days" if tenant.store_samples else "not kept"),
    ]


def _trial(tenant: Tenant) -> str:
    share = "all requests" if tenant.scale_fraction is None else f"{tenant.scale_fraction:.4g} of its requests"
    return f"{share}, in the background" if tenant.shadow else share


def _said(answer: AnswerSpec) -> str:
    default = AnswerSpec()
    values = {field.name: getattr(answer, field.name) for field in fields(answer)}
    return ", ".join(
        f"{name} {value}" for name, value in values.items() if name == "kind" or value != getattr(default, name)
    )


def _state(tenant: Tenant) -> str:
    return "blocked" if tenant.blocked else "open"
