"""Agreement and accuracy against cost, as a figure."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.errors import TallyError
from proxy.replay.curves import Interval, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = frozenset({".png", ".svg", ".pdf"})

# Okabe and Ito's colours, told apart by every eye; yellow is left out, being faint on white
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_INK = "#444444"
_WIDE = 4


def check_plot(file: Path) -> None:
    """TallyError when a figure could not be written to this file: the format, the folder, or no matplotlib."""
    if file.suffix.lower() not in FORMATS:
        raise TallyError(f"{file}: a plot ends in {', '.join(sorted(FORMATS))}")
    if not file.parent.is_dir():
        raise TallyError(f"{file}: there is no such folder")
    if find_spec("matplotlib") is None:
        raise TallyError("A plot is drawn by matplotlib: pip install 'tally-proxy[plot]'")


def draw_plot(points: Sequence[Point], file: Path) -> None:
    """Write a figure of all points: a row a pool, a line a strategy, the interval as a band.

    The axis of cost is `tokens_x`, or samples a question where a pool counts no tokens.
    """
    from matplotlib.figure import Figure

    pools = list(dict.fromkeys(point.pool for point in points))
    strategies = list(dict.fromkeys(point.strategy for point in points))
    figure = Figure(figsize=(9.6, 0.6 + 3.1 * len(pools)), dpi=150, layout="constrained")
    grid = figure.subplots(len(pools), 2, squeeze=False)
    for pool, (left, right) in zip(pools, grid, strict=True):
        own = [point for point in points if point.pool == pool]
        for place, strategy in enumerate(strategies):
            line = sorted((point for point in own if point.strategy == strategy), key=_cost)
            _line(left, [(_cost(point), point.agreement, point.agreement_ci) for point in line], strategy, place)
            _line(right, [(_cost(point), point.accuracy, point.accuracy_ci) for point in line], strategy, place)
        _dress(left, own, "agreement")
        _dress(right, own, "accuracy")
        left.set_title(pool, loc="left", fontsize=10, fontweight="bold", color=_INK)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5), frameon=False, fontsize=9)
    figure.savefig(file)


def _cost(point: Point) -> float:
    return point.samples if point.tokens_x is None else point.tokens_x


def _line(axes: "Axes", line: Sequence[tuple[float, float | None, Interval | None]], label: str, place: int) -> None:
    known = [(cost, share, band or (share, share)) for cost, share, band in line if share is not None]
    if not known:
        return
    colour = _COLOURS[place % len(_COLOURS)]
    costs = [cost for cost, _, _ in known]
    axes.plot(
        costs,
        [100 * share for _, share, _ in known],
        color=colour,
        marker=_MARKERS[place % len(_MARKERS)],
        markersize=4.5,
        linewidth=1.6,
        label=label,
    )
    lows, highs = ([100 * band[end] for _, _, band in known] for end in (0, 1))
    axes.fill_between(costs, lows, highs, color=colour, alpha=0.12, linewidth=0)


def _dress(axes: "Axes", points: Sequence[Point], measure: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not axes.lines:
        axes.set_axis_off()
        axes.text(0.5, 0.5, f"no gold answers, so no {measure}", ha="center", transform=axes.transAxes, color=_INK)
        return
    tokens = all(point.tokens_x is not None for point in points)
    axes.set_xlabel(
        "tokens a question, in multiples of one sample" if tokens else "samples a question", fontsize=9, color=_INK
    )
    axes.set_ylabel(f"{measure}, %", fontsize=9, color=_INK)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK)
    costs = [_cost(point) for point in points]
    # budgets mostly double; a straight axis would press the cheap ones together
    if min(costs) > 0 and max(costs) >= _WIDE * min(costs):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
