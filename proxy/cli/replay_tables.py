"""What `tally replay` shows to people."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from proxy.replay.comparing import Average, Reached
    from proxy.replay.curves import Point

_PLAIN_WIDTH = 140


def show_points(points: "Sequence[Point]") -> None:
    """Print a line for each strategy and budget; shares in per cent, with half the width of their intervals."""
    timed = any(point.latency_x is not None for point in points)
    table = _table("pool", "strategy", ">budget", ">tokens x", ">samples", ">rounds", ">agreement %", ">accuracy %")
    if timed:
        table.add_column("latency x", justify="right")
    for point in points:
        cells = [
            point.pool,
            point.strategy,
            f"{point.budget:g}",
            _number(point.tokens_x),
            _number(point.samples),
            _number(point.rounds),
            _share(point.agreement, point.agreement_ci),
            _share(point.accuracy, point.accuracy_ci),
        ]
        table.add_row(*map(escape, cells), *([_number(point.latency_x)] if timed else []))
    _console().print(table)


def show_reached(found: "Sequence[Reached]", means: "Sequence[Average]") -> None:
    """Print what the agreement costs each strategy on each pool, and in the mean."""
    table = _table("pool", "strategy", ">budget", ">tokens x", ">ratio")
    for line in found:
        note = "" if line.reach.reached else " (never)"
        cells = [line.pool, line.strategy, _number(line.reach.budget), _number(line.reach.tokens_x) + note]
        table.add_row(*map(escape, cells), _number(line.ratio))
    table.add_section()
    for mean in means:
        table.add_row("mean of tokens x", mean.strategy, "", _number(mean.tokens_x), _number(mean.ratio))
    for mean in means:
        table.add_row("mean of ratios", mean.strategy, "", "", _number(mean.mean_ratio))
    _console().print(table)


def _table(*columns: str) -> Table:
    """A table; `>` before a column's name marks numbers."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        bare = name.removeprefix(">")
        table.add_column(bare, justify="left" if bare == name else "right", no_wrap=bare != name, overflow="fold")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None, interval: tuple[float, float] | None) -> str:
    """A share in per cent, and half the width of its interval."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if interval is None else f"{100 * value:.1f} ± {50 * (interval[1] - interval[0]):.1f}"


def _console() -> Console:
    # a file or a pipe has no width of its own
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
