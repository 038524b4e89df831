"""`tally ledger`: what was spent, line by line, and whether it adds up."""

import csv
import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from math import inf
from pathlib import Path
from typing import TextIO

import click
from rich.console import Console

from proxy.cli.books import clear_errors, config_option, moment, when
from proxy.cli.books import open_books as open_configured
from proxy.cli.books import read_books as configured_books
from proxy.cli.console import console
from proxy.cli.limits import budgets_said, narrowest
from proxy.cli.tables import show_table
from proxy.evaluation.stats import wilson
from proxy.ledger.checking import TenantCheck, check
from proxy.ledger.comparing import Comparison, comparisons
from proxy.ledger.migrating import copy, unserved
from proxy.ledger.opening import open_books, read_books
from proxy.ledger.reports import RequestLine, Sheet, draw_columns, draws, sheets, verdicts
from proxy.ledger.samples import stored
from proxy.ledger.store import wall_clock
from proxy.money import usd
from proxy.types import JSON, Tenant


@click.group()
def ledger() -> None:
    """The ledger: what was spent, and whether it adds up."""


@ledger.command()
@click.option("--tenant", default=None, help="Only this tenant.")
@click.option(
    "--last", type=click.IntRange(0, 10_000), default=10, show_default=True, help="How many requests to show."
)
@click.option("--compare", is_flag=True, help="How often votes differed from the first sample, and what they cost.")
@click.option("--json", "as_json", is_flag=True, help="With --compare: JSON, amounts in nano-USD.")
@config_option
@clear_errors
def show(tenant: str | None, last: int, compare: bool, as_json: bool, config_path: Path | None) -> None:
    """Show where the tenants stand, and the last requests."""
    if as_json and not compare:
        raise click.UsageError("--json goes with --compare")
    with configured_books(config_path) as books, books.reading():
        if tenant is not None:
            books.find_tenant(tenant)
        if compare:
            _show_compared(comparisons(books, tenant), as_json=as_json)
            return
        standing = [sheet for sheet in sheets(books) if tenant in (None, sheet.limits.name)]
        latest = verdicts(books, tenant, last)
    out = console()
    if standing or tenant is None:
        _standing(out, standing)
    if latest:
        _latest(out, latest)


@ledger.command()
@click.option("--csv", "form", flag_value="csv", default=None, help="Comma-separated values; the default.")
@click.option("--jsonl", "form", flag_value="jsonl", help="An object a line.")
@click.option("--samples", is_flag=True, help="What was asked and said, of tenants that store it; an object a line.")
@click.option("--tenant", default=None, help="Only this tenant.")
@click.option("--output", type=click.File("w", encoding="utf-8", lazy=True), default="-", help="A file; else stdout.")
@config_option
@clear_errors
def export(form: str | None, samples: bool, tenant: str | None, output: TextIO, config_path: Path | None) -> None:
    """Write every draw beside its request's verdict."""
    if samples and form == "csv":
        raise click.UsageError("--samples goes with --jsonl")
    with configured_books(config_path) as books:
        if tenant is not None:
            books.find_tenant(tenant)
        # a reader that goes away leaves the query half read, and it must end before the books are closed
        with closing(stored(books, tenant) if samples else draws(books, tenant)) as lines:
            if samples or form == "jsonl":
                # what was said may hold half a surrogate pair, which has no place in UTF-8
                output.writelines(json.dumps(line, ensure_ascii=samples) + "\n" for line in lines)
            else:
                _write_csv(output, draw_columns(books), lines)
            output.flush()


@ledger.command()
@click.option("--tenant", required=True, help="Whose texts; also those of a deleted tenant.")
@click.option(
    "--before", callback=when, default=None, metavar="WHEN", help="Only from before a date (UTC), or 30d ago."
)
@config_option
@clear_errors
def forget(tenant: str, before: float | None, config_path: Path | None) -> None:
    """Delete at once what a tenant's requests have asked and said. What they took and cost stays."""
    with open_configured(config_path) as books:
        books.find_tenant(tenant)
        count = books.forget(tenant, before)
    click.echo(f"{count} requests of {tenant} have no texts any more")


@ledger.command("check")
@click.option("--json", "as_json", is_flag=True, help="JSON, amounts in nano-USD.")
@click.option("--keys", is_flag=True, help="Show every key, not only those where something is wrong.")
@config_option
@clear_errors
def check_ledger(as_json: bool, keys: bool, config_path: Path | None) -> None:
    """Add everything up again; exit status 1 if anything disagrees, 2 if there is no ledger to read."""
    with configured_books(config_path) as books:
        results = check(books)
    if as_json:
        click.echo(json.dumps({"tenants": [result.as_json() for result in results]}))
    else:
        _checked(console(), [result for result in results if result.key is None or keys or not result.ok])
        _say_whole(results)
    if not all(result.ok for result in results):
        raise click.exceptions.Exit(1)


@ledger.command()
@click.option("--from", "source_url", required=True, metavar="URL", help="The ledger as it is: a database_url.")
@click.option("--to", "target_url", required=True, metavar="URL", help="A new one: its file or its tables are made.")
@clear_errors
def migrate(source_url: str, target_url: str) -> None:
    """Copy a whole ledger to another store, as from SQLite to Postgres, and check both; servers must be stopped.

    Keys stay good. Exit status 1 if the two do not agree.
    """
    with closing(read_books(source_url, clock=wall_clock)) as source, unserved(source_url, source):
        with closing(open_books(target_url, clock=wall_clock)) as target:
            copied = copy(source, target)
        with closing(read_books(target_url, clock=wall_clock)) as target:
            before, after = check(source), check(target)
    for table, rows in copied.items():
        click.echo(f"{table}: {rows}")
    if before != after:
        click.echo("the two ledgers do not agree: keep to the old one", err=True)
        raise click.exceptions.Exit(1)
    wrong = sum(not result.ok for result in after)
    click.echo(f"both ledgers agree{f', {wrong} of their checks were wrong before, too' if wrong else ''}")


def _show_compared(rows: Sequence[Comparison], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"compared": [_compared_json(row) for row in rows]}))
    else:
        _compared(console(), rows)


def _standing(out: Console, rows: Iterable[Sheet[Tenant]]) -> None:
    columns = ("tenant", ">budget", ">window ends", ">spent USD", ">held USD", ">tokens", ">requests", ">draws")
    show_table(
        out,
        columns,
        (
            (
                sheet.limits.name,
                budgets_said(sheet),
                moment(None if window.end == inf else window.end)[5:16] or "-",
                usd(window.spent.nano),
                usd(sheet.reserved.nano),
                str(window.spent.tokens),
                str(sheet.requests),
                str(sheet.draws),
            )
            for sheet, window in ((sheet, narrowest(sheet)) for sheet in rows)
        ),
    )


def _latest(out: Console, rows: Iterable[RequestLine]) -> None:
    columns = (">UTC", "tenant", "model", "strategy", ">status", ">n", "~answer", "~first said", ">USD")
    show_table(
        out,
        columns,
        (
            (
                moment(verdict.recorded_at)[5:],
                verdict.tenant,
                verdict.model,
                verdict.strategy,
                str(verdict.status),
                str(verdict.samples),
                verdict.answer or "-",
                verdict.first_answer or "-",
                usd(verdict.cost_nano),
            )
            for verdict in rows
        ),
    )


def _compared(out: Console, rows: Iterable[Comparison]) -> None:
    columns = (
        "tenant",
        "model",
        "strategy",
        ">requests",
        ">differed",
        ">differed %",
        ">95 % interval",
        ">USD",
        ">first sample USD",
        ">times",
    )
    show_table(
        out,
        columns,
        (
            (
                row.tenant,
                row.model,
                row.strategy,
                str(row.requests),
                str(row.differing),
                f"{100 * row.differing / row.requests:.1f}",
                "{:.1f} - {:.1f}".format(*(100 * end for end in wilson(row.differing, row.requests))),
                usd(row.cost_nano),
                usd(row.first_nano),
                "-" if row.multiple is None else f"{row.multiple:.2f}",
            )
            for row in rows
        ),
    )


def _compared_json(row: Comparison) -> JSON:
    low, high = wilson(row.differing, row.requests)
    return {
        "tenant": row.tenant,
        "model": row.model,
        "strategy": row.strategy,
        "requests": row.requests,
        "differing": row.differing,
        "share": row.differing / row.requests,
        "low": low,
        "high": high,
        "cost_nano_usd": row.cost_nano,
        "first_nano_usd": row.first_nano,
        "times": row.multiple,
    }


def _say_whole(results: Sequence[TenantCheck]) -> None:
    wrong = sum(not result.ok for result in results)
    count = sum(result.key is None for result in results)
    both = f"{count} tenants and {len(results) - count} keys"
    click.echo(f"all agree: {both}" if not wrong else f"{wrong} of {both} disagree")


def _checked(out: Console, results: Iterable[TenantCheck]) -> None:
    columns = ("tenant", ">key", ">spent USD", ">ledger USD", ">window USD", ">held USD", ">result")
    show_table(
        out,
        columns,
        (
            (
                result.tenant,
                result.key or "-",
                usd(result.spent.nano),
                usd(result.ledger.nano),
                usd(result.window_spent.nano),
                usd(result.reserved.nano),
                "ok" if result.ok else f"wrong: {', '.join(result.disagreements)}",
            )
            for result in results
        ),
    )


def _write_csv(output: TextIO, columns: Sequence[str], lines: Iterable[JSON]) -> None:
    writer = csv.DictWriter(output, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
