"""One picture of it all: cost and latency of the contenders, and how cost grows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.findings import Bar, Curve, Found, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by every eye
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MARKERS = ("o", "s", "^", "D")
_INK = "#444444"
_WIDE, _HIGH, _COLUMNS = 4.6, 3.3, 2


def draw(found: Sequence[Found], told: str, file: Path) -> bool:
    """Write the picture; false where there is nothing to draw."""
    from matplotlib.figure import Figure

    bars = [bar for section in found for bar in section.bars]
    curves = [curve for section in found for curve in section.curves]
    axes = list(dict.fromkeys(curve.axis for curve in curves))
    panels = (2 if bars else 0) + len(axes)
    if not panels:
        return False
    rows = -(-panels // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _WIDE, 0.5 + rows * _HIGH), dpi=130, layout="constrained")
    grid = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for spare in grid[panels:]:
        spare.axis("off")
    places = iter(grid)
    if bars:
        _costs(next(places), bars)
        _latencies(next(places), bars)
    for axis in axes:
        _grown(next(places), [curve for curve in curves if curve.axis == axis])
    figure.suptitle(told, fontsize=8, color=_INK)
    figure.savefig(file)
    return True


def _costs(panel: "Axes", bars: Sequence[Bar]) -> None:
    shown = [bar for bar in bars if bar.cpu_ms > 0]
    drawn = panel.barh([bar.name for bar in shown], [bar.cpu_ms for bar in shown], color=_COLOURS[0], height=0.6)
    panel.bar_label(drawn, [number(bar.cpu_ms) for bar in shown], padding=3, fontsize=7, color=_INK)
    panel.set_xscale("log")
    panel.set_xlim(right=4 * max(bar.cpu_ms for bar in shown))
    panel.invert_yaxis()
    _dress(panel, "CPU a request, 16 clients", "ms")


def _latencies(panel: "Axes", bars: Sequence[Bar]) -> None:
    names = [bar.name for bar in bars]
    for place, (bar, name) in enumerate(zip(bars, names, strict=True)):
        panel.plot([bar.p50, bar.p99], [name, name], color=_INK, linewidth=1, zorder=1)
        panel.scatter([bar.p50], [name], color=_COLOURS[0], label="median" if place == 0 else None, s=22)
        panel.scatter([bar.p99], [name], color=_COLOURS[1], marker="s", label="p99" if place == 0 else None, s=22)
    panel.set_xscale("log")
    panel.invert_yaxis()
    panel.legend(frameon=False, fontsize=7, loc="upper right")
    _dress(panel, "latency, 16 clients in a closed loop", "ms")


def _grown(panel: "Axes", curves: Sequence[Curve]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for place, curve in enumerate(curves):
        panel.plot(
            curve.xs,
            curve.ys,
            color=_COLOURS[place],
            marker=_MARKERS[place],
            markersize=4,
            linewidth=1.4,
            label=curve.name,
        )
    top = max(max(curve.ys) for curve in curves)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_ylim(min(min(curve.ys) for curve in curves) / 2, top * 3)
    panel.legend(frameon=False, fontsize=7, loc="upper left", ncols=2)
    _dress(panel, f"cost by {curves[0].axis}", curves[0].axis, "CPU ms a request")


def _dress(panel: "Axes", title: str, across: str, up: str = "") -> None:
    panel.set_title(title, loc="left", fontsize=9, fontweight="bold", color=_INK)
    panel.set_xlabel(across, fontsize=8, color=_INK)
    panel.set_ylabel(up, fontsize=8, color=_INK)
    panel.tick_params(labelsize=7, colors=_INK)
    panel.grid(visible=True, axis="x", color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
