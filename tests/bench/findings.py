"""What a section found: figures against their aims, tables and curves."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.types import JSON


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure of what is to be shown. `aim` is the most that it may be, or with `least` the least.

    `value` None: it could not be measured.
    """

    what: str
    value: float | None
    aim: float | None = None
    unit: str = ""
    least: bool = False

    @property
    def kept(self) -> bool | None:
        """Whether the aim is kept; None where there is none, or no value."""
        if self.value is None or self.aim is None:
            return None
        return self.value >= self.aim if self.least else self.value <= self.aim

    def told(self) -> str:
        """The value with its unit."""
        return "n/a" if self.value is None else f"{number(self.value)}{self.unit}"

    def aimed(self) -> str:
        """The aim with its unit."""
        if self.aim is None:
            return ""
        return f"{'at least' if self.least else 'at most'} {number(self.aim)}{self.unit}"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: titles and rows of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Curve:
    """Cost (milliseconds of CPU a request) against something that grows."""

    axis: str
    name: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True, slots=True)
class Bar:
    """A contender's cost: CPU milliseconds a request, and the median and 99th percentile of its latency in ms."""

    name: str
    cpu_ms: float
    p50: float
    p99: float


@dataclass(slots=True)
class Found:
    """All of one section."""

    name: str
    facts: list[Fact] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: JSON = field(default_factory=dict)


def number(value: float) -> str:
    """Three digits or so, for people."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
