"""`python -m tests.clients`: check the clients that people use against tally; exit status 1 on any failure."""

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import structlog
from rich.console import Console

from proxy.cli.model_server import ModelServer, cache_folder, fetch_model
from tests.clients.checking import Told, check
from tests.clients.environments import Client, Environments, clients
from tests.clients.report import show, write
from tests.clients.serving import STRATEGIES

_AT_ONCE = 3


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([client.name for client in clients()]), metavar="[CLIENT]...")
@click.option("--real", is_flag=True, help="Ask the real small model, too.")
@click.option("--write", "writing", is_flag=True, help="Write the table into README.md and docs/clients.md.")
@click.option("--keep", is_flag=True, help="Leave the environments where they are, and say where.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where environments are made, and found again; a temporary folder unless given.",
)
@click.option("--strategy", "strategies", multiple=True, type=click.Choice(STRATEGIES), help="Only this one.")
def main(
    names: tuple[str, ...],
    *,
    real: bool,
    writing: bool,
    keep: bool,
    folder: Path | None,
    strategies: tuple[str, ...],
) -> None:
    """Check each CLIENT (all unless named) in an environment of its own, on every strategy."""
    if writing and (names or strategies):
        raise click.UsageError("--write goes with every client and every strategy.")
    # what it logs of its requests is nobody's concern here
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    chosen = [client for client in clients() if not names or client.name in names]
    with ExitStack() as stack:
        place = _place(folder, keep=keep, stack=stack)
        real_url = stack.enter_context(ModelServer(fetch_model(cache_folder()))).base_url if real else None
        told = _checked(chosen, Environments(place), real_url, strategies or STRATEGIES)
    show(told)
    failed = not all(line.ok for line in told)
    if writing and not failed:
        write(told)
    sys.exit(failed)


def _place(folder: Path | None, *, keep: bool, stack: ExitStack) -> Path:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        return folder.resolve()
    if keep:
        made = Path(tempfile.mkdtemp())
        click.echo(f"environments are in {made}", err=True)
        return made
    return Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))


def _checked(
    chosen: list[Client], environments: Environments, real_url: str | None, strategies: tuple[str, ...]
) -> list[Told]:
    environments.prepare(node=any(client.node for client in chosen))
    told: list[Told] = []
    run = partial(check, environments=environments, real_url=real_url, strategies=strategies)
    console = Console(stderr=True)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for client, lines in zip(chosen, pool.map(run, chosen), strict=True):
            passed = sum(line.ok for line in lines)
            console.print(f"{client.name}: {passed} of {len(lines)}", highlight=False)
            told += lines
    return told


if __name__ == "__main__":
    main()
