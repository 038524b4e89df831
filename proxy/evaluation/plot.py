"""The chart as a PNG. matplotlib is wanted for it, and for nothing else."""

from importlib.util import find_spec
from pathlib import Path

from proxy.evaluation.chart import Chart
from proxy.evaluation.files import whole

_SIZE = (7.6, 4.4)
_DPI = 160
_INK, _GRID = "#374151", "#e5e7eb"


def can_plot() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def write_png(path: Path, chart: Chart, title: str) -> None:
    """Draw the chart. Raises ImportError without matplotlib, ConfigError where the file cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for point in chart.points:
        reach = [[point.y - point.low], [point.high - point.y]]
        axes.errorbar([point.x], [point.y], yerr=reach, fmt="none", ecolor=point.colour, capsize=4)
        axes.plot([point.x], [point.y], "o", color=point.colour, markersize=8, clip_on=False, label=point.name)
    axes.set_title(title, loc="left", fontsize=11, color=_INK, parse_math=False)
    for axis, has in ((axes.xaxis, chart.x), (axes.yaxis, chart.y)):
        axis.set_label_text(has.title, color=_INK)
        axis.set_ticks([value for value, _ in has.ticks], [text for _, text in has.ticks], parse_math=False)
    axes.set_xlim(chart.x.start, chart.x.end)
    axes.set_ylim(chart.y.start, chart.y.end)
    axes.tick_params(colors=_INK, length=0)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), labelcolor=_INK)
    with whole(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
