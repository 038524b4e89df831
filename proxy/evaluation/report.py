"""The evaluation as one HTML page that needs nothing else."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from proxy.evaluation.asking import Failed
from proxy.evaluation.chart import Chart
from proxy.evaluation.files import whole
from proxy.evaluation.reliability import Reliability
from proxy.evaluation.setup import Setup
from proxy.evaluation.summary import Summary

LEFT, TOP, WIDE, HIGH = 62, 12, 500, 320
"""The plot's place and size in the page's drawing, which leaves room for the texts around it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the page tells. `lost` is how often which failure came; `chart` is None where nothing was answered.

    `reliabilities` are of the strategies whose answers were voted on.
    """

    setup: Setup
    questions: int
    summaries: Sequence[Summary]
    lost: Sequence[tuple[str, int]]
    chart: Chart | None
    reliabilities: Sequence[Reliability] = ()


def lost(failures: Sequence[Failed]) -> list[tuple[str, int]]:
    """How often which failure came, the most frequent first."""
    return Counter(f"{failure.strategy}: {failure.why}" for failure in failures).most_common()


def page(report: Report) -> str:
    """The page as HTML; all texts are escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("proxy.evaluation").joinpath("report.html").read_text(encoding="utf-8"))
    chart = report.chart
    return template.render(
        report=report,
        setup={name: value for name, value in report.setup.model_dump().items() if value is not None},
        colours={point.name: point.colour for point in chart.points} if chart else {},
        drawing=_drawing(chart) if chart else None,
        versus=next((row.paired.versus for row in report.summaries if row.paired), None),
    )


def write_page(path: Path, report: Report) -> None:
    """Write the page. Raises ConfigError where that fails."""
    with whole(path) as file:
        file.write(page(report).encode())


def _drawing(chart: Chart) -> dict[str, object]:
    """The chart in the drawing's own coordinates."""

    def across(value: float) -> float:
        return round(LEFT + WIDE * chart.x.place(value), 1)

    def down(value: float) -> float:
        return round(TOP + HIGH * (1 - chart.y.place(value)), 1)

    return {
        "x": [(across(value), text) for value, text in chart.x.ticks],
        "y": [(down(value), text) for value, text in chart.y.ticks],
        "points": [
            (point, across(point.x), down(point.y), down(point.low), down(point.high)) for point in chart.points
        ],
        "box": (LEFT, TOP, WIDE, HIGH),
    }
