"""`tally ledger`: what was spent, line by line, and whether it adds up."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proxy.cli.books import clear_errors, config_option, moment, read_books
from proxy.ledger.reports import TenantCheck, TenantSheet, Verdict, check, draw_columns, draws, sheets, verdicts
from proxy.money import usd
from proxy.types import JSON


@click.group()
def ledger() -> None:
    """The ledger: what was spent, and whether it adds up."""


@ledger.command()
@click.option("--tenant", default=None, help="Only this tenant.")
@click.option(
    "--last", type=click.IntRange(0, 10_000), default=10, show_default=True, help="How many requests to show."
)
@config_option
@clear_errors
def show(tenant: str | None, last: int, config_path: Path | None) -> None:
    """Show where the tenants stand, and the last requests."""
    with read_books(config_path) as books, books.reading():
        if tenant is not None:
            books.tenant(tenant)
        standing = [sheet for sheet in sheets(books) if tenant in (None, sheet.tenant.name)]
        latest = verdicts(books, tenant, last)
    console = Console()
    console.print(_standing(standing))
    if latest:
        console.print(_latest(latest))


@ledger.command()
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option("--tenant", default=None, help="Only this tenant.")
@click.option("--output", type=click.File("w", encoding="utf-8", lazy=True), default="-", help="A file; else stdout.")
@config_option
@clear_errors
def export(form: str, tenant: str | None, output: TextIO, config_path: Path | None) -> None:
    """Write every draw beside its request's verdict."""
    with read_books(config_path) as books:
        if tenant is not None:
            books.tenant(tenant)
        if form == "csv":
            _write_csv(output, draw_columns(books), draws(books, tenant))
        else:
            output.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in draws(books, tenant))


@ledger.command("check")
@click.option("--json", "as_json", is_flag=True, help="JSON, amounts in nano-USD.")
@config_option
@clear_errors
def check_ledger(as_json: bool, config_path: Path | None) -> None:
    """Add everything up again; exit status 1 if anything disagrees, 2 if there is no ledger to read."""
    with read_books(config_path) as books:
        results = check(books)
    if as_json:
        click.echo(json.dumps({"tenants": [result.as_json() for result in results]}))
    else:
        Console().print(_checked(results))
    if not all(result.ok for result in results):
        raise click.exceptions.Exit(1)


def _standing(rows: Iterable[TenantSheet]) -> Table:
    table = Table(
        "tenant", "budget USD", "window ends, UTC", "spent USD", "reserved USD", "tokens", "requests", "draws"
    )
    for sheet in rows:
        table.add_row(
            escape(sheet.tenant.name),
            "no limit" if sheet.tenant.max_nano is None else usd(sheet.tenant.max_nano),
            moment(sheet.window_end),
            usd(sheet.window_spent.nano),
            usd(sheet.reserved.nano),
            str(sheet.window_spent.tokens),
            str(sheet.requests),
            str(sheet.draws),
        )
    return table


def _latest(rows: Iterable[Verdict]) -> Table:
    table = Table("when, UTC", "tenant", "model", "strategy", "status", "samples", "answer", "first", "cost USD")
    for verdict in rows:
        table.add_row(
            moment(verdict.recorded_at),
            escape(verdict.tenant),
            escape(verdict.model),
            verdict.strategy,
            str(verdict.status),
            str(verdict.samples),
            escape(verdict.answer or "-"),
            escape(verdict.first_answer or "-"),
            usd(verdict.cost_nano),
        )
    return table


def _checked(results: Iterable[TenantCheck]) -> Table:
    table = Table("tenant", "spent USD", "ledger USD", "window USD", "reserved USD", "result")
    for result in results:
        table.add_row(
            escape(result.tenant),
            usd(result.spent.nano),
            usd(result.ledger.nano),
            usd(result.window_spent.nano),
            usd(result.reserved.nano),
            "ok" if result.ok else f"wrong: {', '.join(result.disagreements)}",
        )
    return table


def _write_csv(output: TextIO, columns: Sequence[str], lines: Iterable[JSON]) -> None:
    writer = csv.DictWriter(output, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
