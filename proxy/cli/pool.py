"""`tally pool`: recorded samples, for `tally replay`."""

import json
from pathlib import Path

import click

from proxy.cli.books import clear_errors, config_option, read_books, when
from proxy.errors import TallyError
from proxy.evaluation.exporting import pool_lines
from proxy.evaluation.files import write_pool
from proxy.ledger.samples import recorded
from proxy.types import STRATEGIES


@click.group()
def pool() -> None:
    """Pools: recorded samples to try strategies on."""


@pool.command()
@click.option("--tenant", default=None, help="Only this tenant.")
@click.option("--model", default=None, help="Only this model.")
@click.option("--strategy", type=click.Choice(STRATEGIES), default=None, help="Only what this strategy drew.")
@click.option("--since", callback=when, default=None, metavar="WHEN", help="Only from a date (UTC) on, or the last 7d.")
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
