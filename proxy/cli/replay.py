"""`tally replay`: recorded samples through the very batches that serve live requests."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proxy.cli.books import clear_errors
from proxy.cli.replay_tables import show_points, show_reached
from proxy.types import Strategy, Uncertainty, VerdictRule

if TYPE_CHECKING:
    from proxy.replay.making import Setting
    from proxy.replay.pool import Pool

F = TypeVar("F", bound=Callable[..., None])

_STANDARD = Strategy("off")
_PARALLEL = (
    "note: dynscaling is replayed with independent draws alone: a pool has no draws that saw others, "
    "so its second halves are missing"
)


class Tuning(TypedDict):
    """The parameters of strategies that the command line sets."""

    exploration: float
    unit: int
    subset: int | None
    uncertainty: Uncertainty
    s_min: float
    confidence: float
    refit: Literal["always", "once"]
    verdict: VerdictRule
    threshold: float
    window: int
    target: float


@dataclass(frozen=True, slots=True)
class _Run:
    """What is played: `trials` deals of each pool, from `seed`."""

    pools: "list[Pool]"
    strategies: list[Strategy]
    setting: "Setting"
    trials: int
    seed: int


def _budgets(ctx: click.Context, param: click.Parameter, value: str | None) -> list[float]:
    """`1,2,4` as numbers."""
    if value is None:
        return []
    try:
        found = [float(part) for part in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no list of numbers", ctx, param) from error
    if not all(budget > 0 and math.isfinite(budget) for budget in found):
        raise click.BadParameter("a budget is above 0", ctx, param)
    return found


def _names(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:  # noqa: ARG001 - click's signature
    """`a,b` as names, each once."""
    return list(dict.fromkeys(part.strip() for part in value.split(",")))


_FRACTION = click.FloatRange(0, 1, min_open=True)
_OPEN_FRACTION = click.FloatRange(0, 1, min_open=True, max_open=True)

_OPTIONS: tuple[tuple[str, str, click.ParamType[Any], str], ...] = (
    ("--exploration", "exploration", click.FloatRange(0), "dynscaling: c."),
    ("--unit-size", "unit", click.IntRange(1), "dynscaling: B_unit."),
    ("--subset", "subset", click.IntRange(1), "dynscaling, pets: |S|.  [default: 1, more with --rounds]"),
    ("--uncertainty", "uncertainty", click.Choice(get_args(Uncertainty)), "dynscaling: u_i."),
    ("--s-min", "s_min", _FRACTION, "optscale: the score good enough."),
    ("--confidence", "confidence", _OPEN_FRACTION, "optscale: to reach it."),
    ("--refit", "refit", click.Choice(["always", "once"]), "optscale."),
    ("--verdict", "verdict", click.Choice(get_args(VerdictRule)), "the vote, but for best_of_n."),
    ("--threshold", "threshold", _OPEN_FRACTION, "adaptive_consistency."),
    ("--window", "window", click.IntRange(1), "early_stopping."),
)
"""Options of single strategies: flag, the strategy's parameter, type and help; defaults are those of live use."""


def _tuning(command: F) -> F:
    """Add the options of single strategies."""
    no_target = "adaptive: the confidence that ends a query early.  [default: none]"
    command = click.option("--target", type=_FRACTION, default=1.0, help=no_target)(command)
    for flag, name, kind, text in reversed(_OPTIONS):
        default = getattr(_STANDARD, name)
        shown = default is not None
        command = click.option(flag, name, type=kind, default=default, show_default=shown, help=text)(command)
    return command


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="POOL...")
@click.option("--strategy", "names", required=True, callback=_names, metavar="A,B", help="Strategies to compare.")
@click.option("--budget", "budgets", callback=_budgets, metavar="X[,Y...]", help="Budgets, in samples a question.")
@click.option(
    "--at-agreement",
    type=click.FloatRange(0, 1, min_open=True),
    help="Search what this mean agreement costs instead; the ratio is to the first strategy.",
)
@click.option("--unit", "unit_of_budget", type=click.Choice(["tokens", "samples"]), default="tokens", show_default=True)
@click.option("--batch-size", type=click.IntRange(0), default=0, show_default=True, help="0: the whole pool.")
@click.option("--arrivals", type=click.Choice(["batch", "stream"]), default="batch", show_default=True)
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Random orders of each pool; where curves are flat --at-agreement wants 30.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--rounds", type=click.IntRange(0), default=0, show_default=True, help="Waves a query; 0: no limit.")
@click.option("--cap", type=click.IntRange(1), default=64, show_default=True, help="Samples a query.")
@click.option("--durations", is_flag=True, help="Take tokens as time: draws end in that order.")
@click.option("--equivalent", is_flag=True, help="Take equal answers as one, however they are written.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="A png, svg or pdf.")
@_tuning
@clear_errors
def replay(
    *,
    files: tuple[Path, ...],
    names: list[str],
    budgets: list[float],
    at_agreement: float | None,
    unit_of_budget: Literal["tokens", "samples"],
    batch_size: int,
    arrivals: Literal["batch", "stream"],
    trials: int,
    seed: int,
    rounds: int,
    cap: int,
    durations: bool,
    equivalent: bool,
    as_json: bool,
    plot: Path | None,
    **tuning: Unpack[Tuning],
) -> None:
    """Play recorded samples through the batches that serve live requests.

    A POOL has a JSON object a line, gzipped or not: {"id", "gold", "samples": [{"answer", "tokens", "score"?}]};
    an answer of null abstains. Answers count as the same when they are written the same or, with --equivalent, when
    live replies with them would be, formulas by algebra. Each trial deals the samples of every question in a random
    order, without replacement, the same for all strategies.

    A budget X is X times the pool's mean cost of one sample, for each question; a batch has its own share, and the
    draw that finds it spent is denied. self_consistency and best_of_n take N from the budget (with --arrivals stream:
    in samples, whatever the unit); optscale, adaptive_consistency and early_stopping stop by themselves at --cap or
    before; dynscaling is Algorithm 1 with independent draws alone, and pets picks one draw at a time.

    agreement: the share of questions whose verdict is the plurality of all their recorded samples. tokens_x: tokens a
    question over the mean tokens of a sample. Intervals are 95 % ones over trials, by Student's t.
    """
    from proxy.replay.making import Setting
    from proxy.replay.plot import check_plot

    if bool(budgets) == (at_agreement is not None):
        raise click.UsageError("say either --budget or --at-agreement")
    if arrivals == "stream" and batch_size > 1:
        raise click.UsageError("--arrivals stream is one query at a time: leave --batch-size out")
    if plot is not None:
        if not budgets:
            raise click.UsageError("--plot draws budgets: say --budget")
        check_plot(plot)
    setting = Setting(unit_of_budget, batch_size, arrivals, cap, rounds, durations)
    pools = _pools(files, equivalent=equivalent, hidden=as_json)
    run = _Run(pools, _strategies(names, tuning), setting, trials, seed)
    _check(run)
    if at_agreement is None:
        _show_curves(run, budgets, as_json=as_json, plot=plot)
    else:
        _show_costs(run, at_agreement, as_json=as_json)


def _pools(files: Sequence[Path], *, equivalent: bool, hidden: bool) -> "list[Pool]":
    from proxy.replay.pool import pool_names, read_pool

    pools = [read_pool(file, name) for file, name in zip(files, pool_names(files), strict=True)]
    if not equivalent:
        return pools
    # algebra is not for those who compare texts
    from proxy.cli import equivalent as grouping

    with _progress(sum(len(pool.questions) for pool in pools), "questions", hidden=hidden) as tick:
        return grouping.equivalent(pools, tick)


def _strategies(names: Sequence[str], tuning: Tuning) -> list[Strategy]:
    from proxy.replay.making import replayable

    return [Strategy(replayable(name), **tuning) for name in names]


def _check(run: _Run) -> None:
    from proxy.replay.making import check_pool

    for strategy in run.strategies:
        if strategy.name == "dynscaling":
            click.echo(_PARALLEL, err=True)
        for pool in run.pools:
            check_pool(strategy.name, pool, run.setting.unit)


def _show_curves(run: _Run, budgets: Sequence[float], *, as_json: bool, plot: Path | None) -> None:
    from proxy.replay.comparing import curves
    from proxy.replay.plot import draw_plot

    total = len(run.pools) * len(run.strategies) * len(budgets) * run.trials
    with _progress(total, "trials", hidden=as_json) as tick:
        points = list(
            curves(run.pools, run.strategies, budgets, run.setting, trials=run.trials, seed=run.seed, tick=tick)
        )
    if as_json:
        click.echo(json.dumps([point.as_json() for point in points], indent=1))
    else:
        show_points(points)
    if plot is not None:
        draw_plot(points, plot)


def _show_costs(run: _Run, target: float, *, as_json: bool) -> None:
    from proxy.replay.comparing import averages, costs

    with _progress(None, "trials", hidden=as_json) as tick:
        found = list(costs(run.pools, run.strategies, target, run.setting, trials=run.trials, seed=run.seed, tick=tick))
    if as_json:
        lines = [line.as_json() for line in found] + [line.as_json() for line in averages(found)]
        click.echo(json.dumps(lines, indent=1))
    else:
        show_reached(found, averages(found))


@contextmanager
def _progress(total: int | None, what: str, *, hidden: bool) -> Iterator[Callable[[], None]]:
    """A bar on standard error, where somebody looks; yields what counts one of `what`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
