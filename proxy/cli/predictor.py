"""`tally predictor`: train and measure what `scaling.prior: trained` believes of questions."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxy.cli.books import clear_errors, config_option, read_books

if TYPE_CHECKING:
    from proxy.predictor.examples import Example

_FILE = click.Path(dir_okay=False, path_type=Path)
_JSONL = "Lines of {question, mean_score, std_score}, or a pool's lines with questions and scores; may end in .gz."


@click.group()
def predictor() -> None:
    """Predictors: what a question's scores will be, from its text."""


@predictor.command()
@click.option("--jsonl", type=_FILE, default=None, metavar="FILE", help=_JSONL)
@config_option
@click.option("--tenant", default=None, help="Of a ledger: only this tenant's requests.")
@click.option("--model", default=None, help="Of a ledger: only requests to this model.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which questions are held out.")
@click.option("--out", type=_FILE, default="predictor.npz", show_default=True, metavar="FILE", help="Where to.")
@clear_errors
def train(
    *, jsonl: Path | None, config_path: Path | None, tenant: str | None, model: str | None, seed: int, out: Path
) -> None:
    """Train on a file, or on what the ledger holds (`store_samples`), and write the model.

    It is measured on questions held out. One that does not clearly beat a constant, the mean of what it was trained on,
    is not written: exit status 1.
    """
    if jsonl is not None and (config_path, tenant, model) != (None, None, None):
        raise click.UsageError(
            "--config, --tenant and --model say what to take of a ledger: leave them out with --jsonl."
        )
    from proxy.predictor.training import train as trained

    if not out.parent.is_dir():
        # training takes long: what it is for must have a place
        raise click.BadParameter(f"{out.parent}: there is no such folder", param_hint="--out")
    examples = _from_ledger(config_path, tenant, model) if jsonl is None else _from_file(jsonl)
    click.echo(f"Training on {len(examples)} questions with scores; thousands take about a minute.", err=True)
    made, report = trained(examples, seed)
    click.echo(f"{len(made.seen)} questions; on held-out ones:")
    for line in report.lines():
        click.echo(line)
    if not report.better:
        click.echo(f"not clearly better than a constant: {out} is not written", err=True)
        raise click.exceptions.Exit(1)
    made.save(out)
    click.echo(f"{out}: name it as scaling.predictor, with scaling.prior: trained")


@predictor.command("eval")
@click.argument("file", metavar="MODEL", type=_FILE)
@click.option("--jsonl", type=_FILE, required=True, metavar="FILE", help=_JSONL)
@clear_errors
def evaluate(file: Path, jsonl: Path) -> None:
    """Measure MODEL on the questions of a file that it was not trained on; exit status 1 if it does not
    clearly beat a constant."""
    from proxy.predictor.model import Model
    from proxy.predictor.training import evaluate as measured

    model = Model.load(file)
    examples = _from_file(jsonl)
    fresh = [example for example in examples if not model.saw(example.question)]
    if len(fresh) < len(examples):
        click.echo(f"{len(examples) - len(fresh)} questions that it was trained on are left out", err=True)
    if len(fresh) < 2:
        raise click.ClickException(f"{jsonl}: fewer than two questions that the model was not trained on")
    report = measured(model, fresh)
    click.echo(f"{len(fresh)} questions:")
    for line in report.lines():
        click.echo(line)
    if not report.better:
        click.echo("not clearly better than a constant", err=True)
        raise click.exceptions.Exit(1)


def _from_file(path: Path) -> "list[Example]":
    from proxy.predictor.examples import read_examples

    return read_examples(path)


def _from_ledger(config_path: Path | None, tenant: str | None, model: str | None) -> "list[Example]":
    from proxy.ledger.samples import recorded
    from proxy.predictor.examples import from_requests

    with read_books(config_path) as books:
        if tenant is not None:
            books.tenant(tenant)
        return from_requests(recorded(books, tenant=tenant, model=model))
