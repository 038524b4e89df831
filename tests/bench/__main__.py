"""`python -m tests.bench`: measure tally beside the provider itself and other proxies."""

import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from tests.bench.environments import machine
from tests.bench.findings import Found
from tests.bench.picture import draw
from tests.bench.report import console, save, show, write
from tests.bench.sections import cache, growth, idle, lane, overhead, scaled, stream, thousand
from tests.bench.stage import Effort, Stage
from tests.bench.upstream import raise_files

SECTIONS: dict[str, Callable[[Stage], Found]] = {
    "overhead": overhead.measure,
    "stream": stream.measure,
    "scaled": scaled.measure,
    "thousand": thousand.measure,
    "idle": idle.measure,
    "lane": lane.measure,
    "growth": growth.measure,
    "cache": cache.measure,
}
_ROWS, _QUICK_ROWS = 10_000_000, 100_000
_TERMINATED = 143


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(SECTIONS)), metavar="[SECTION]...")
@click.option("--quick", is_flag=True, help="Few and short runs, to see that it all works.")
@click.option("--seconds", type=float, help="How long a timed run takes.")
@click.option("--rounds", type=click.IntRange(1), help="How often each is made, in alternation.")
@click.option(
    "--rows",
    type=click.IntRange(1_000),
    help="Up to how many rows the ledger grows; ten million take 3 GB for a while.",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/bench"),
    show_default=True,
    help="Where results go, and the environments of other proxies, which are found again.",
)
@click.option("--write", "writing", is_flag=True, help="Write the tables into README.md.")
def main(
    names: tuple[str, ...],
    *,
    quick: bool,
    seconds: float | None,
    rounds: int | None,
    rows: int | None,
    folder: Path,
    writing: bool,
) -> None:
    """Measure each SECTION (all unless named): tables here, bench.json and bench.png in the folder.

    overhead, stream: what passing through costs. scaled, thousand: what a vote costs. idle: start-up and memory.
    lane: calls by way of LiteLLM. growth: what cost grows with. cache: what a provider's prompt cache saves.
    """
    if writing and (names or quick):
        raise click.UsageError("--write goes with every section, and not with --quick.")
    # the servers that it has started end with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    raise_files()
    folder.mkdir(parents=True, exist_ok=True)
    effort = Effort(
        seconds or (0.3 if quick else 1.2),
        rounds or (1 if quick else 5),
        rows or (_QUICK_ROWS if quick else _ROWS),
        quick,
    )
    told = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, {platform.system()}"
    found = []
    for each in _measured(names or tuple(SECTIONS), effort, folder.resolve()):
        found.append(each)
        save(found, told, folder / "bench.json")
    if draw(found, told, folder / "bench.png"):
        click.echo(f"{folder / 'bench.png'} shows it")
    if writing:
        write(found, told)


def _measured(names: tuple[str, ...], effort: Effort, folder: Path) -> Iterator[Found]:
    aside = console(stderr=True)
    with Stage(effort, folder) as stage:
        for name in names:
            began = time.perf_counter()
            own = SECTIONS[name](stage)
            own.notes += stage.notes
            stage.notes.clear()
            show(own)
            aside.print(f"{name}: {time.perf_counter() - began:.0f} s")
            yield own


if __name__ == "__main__":
    main()
