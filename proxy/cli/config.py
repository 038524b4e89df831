"""`tally config`: check a configuration, or print what one may say."""

import json
import os
from functools import cache
from pathlib import Path

import click

from proxy.cli.books import clear_errors


@click.group()
def config() -> None:
    """Check configurations."""


@config.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@clear_errors
def check(file: Path) -> None:
    """Name every mistake in FILE, with its key and the reason; exit status 2 if there is one."""
    from proxy.calibration import read_calibrations
    from proxy.config import load_config
    from proxy.ledger.store import wall_clock
    from proxy.upstream.checking import check_models
    from proxy.upstream.prices import PriceMap

    found = load_config(file)
    if found.scaling.predictor is not None:
        from proxy.predictor.model import Model

        Model.load(found.scaling.predictor)
    if found.scaling.calibration is not None:
        read_calibrations(found.scaling.calibration)
    for note in check_models(found, str(file), environ=os.environ, prices=cache(PriceMap), now=wall_clock()):
        click.echo(f"note: {note}")
    click.echo(f"{file}: good: {len(found.model_list)} deployments, {len(found.tenants)} tenants")


@config.command()
def schema() -> None:
    """Print the JSON schema of a configuration."""
    from proxy.config import Config

    click.echo(json.dumps(Config.model_json_schema(), indent=2))
