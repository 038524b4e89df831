"""`tally pool`: recorded samples, for `tally replay`."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from proxy.cli.books import clear_errors, config_option, read_books
from proxy.errors import TallyError
from proxy.evaluation.exporting import pool_lines
from proxy.evaluation.files import write_pool
from proxy.ledger.samples import recorded
from proxy.ledger.store import wall_clock
from proxy.types import STRATEGIES
from proxy.windows import parse_duration

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 30 * 86_400}


def _since(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """A date or moment (UTC), or how long ago (`7d`, `24h`), as seconds since 1970."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return wall_clock() - _seconds(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _seconds(text: str) -> int:
    try:
        count, unit = parse_duration(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a date (2026-11-22) nor a duration (7d, 24h)") from None
    return count * _SECONDS[unit]


@click.group()
def pool() -> None:
    """Pools: recorded samples to try strategies on."""


@pool.command()
@click.option("--tenant", default=None, help="Only this tenant.")
@click.option("--model", default=None, help="Only this model.")
@click.option("--strategy", type=click.Choice(STRATEGIES), default=None, help="Only what this strategy drew.")
@click.option(
    "--since", callback=_since, default=None, metavar="WHEN", help="Only from a date (UTC) on, or the last 7d."
)
@click.option(
    "--min-samples", type=click.IntRange(min=1), default=2, show_default=True, help="Leave out what has fewer."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE",
    help="A file, gzipped where its name ends in .gz; else stdout.",
)
@config_option
@clear_errors
def export(
    *,
    tenant: str | None,
    model: str | None,
    strategy: str | None,
    since: float | None,
    min_samples: int,
    out: Path | None,
    config_path: Path | None,
) -> None:
    """Write the samples of past requests as a pool, a line a request, for `tally replay`.

    Samples are written in draw order. Of strategies that show earlier samples to later ones (dynscaling, sp1, sp2,
    sp3, multi_round) only the first round is taken: the others cannot be drawn again.
    """
    with read_books(config_path) as books:
        if tenant is not None:
            books.tenant(tenant)
        found = recorded(books, tenant=tenant, model=model, strategy=strategy, since=since)
        lines = list(pool_lines(found, min_samples))
    if not lines:
        raise TallyError(f"The ledger holds no such request with {min_samples} or more finished samples.")
    if out is None:
        for line in lines:
            click.echo(json.dumps(line, ensure_ascii=False))
        return
    write_pool(out, lines)
    samples = sum(len(line["samples"]) for line in lines)
    click.echo(f"{out}: {len(lines)} questions, {samples} samples", err=True)
