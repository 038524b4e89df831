"""What was found, for people: tables on the terminal, JSON, and a part of the README."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.findings import Fact, Found, Grid

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
_MARKED = re.compile(r"(<!-- bench -->\n).*?(<!-- /bench -->)", re.DOTALL)
_WIDTH = 160
_COLUMNS = ("figure", "measured", "aim", "")
_JSON = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS


def console(*, stderr: bool = False) -> Console:
    """A console that is wide enough for the tables where it is no terminal."""
    return Console(width=None if Console(stderr=stderr).is_terminal else _WIDTH, stderr=stderr, highlight=False)


def show(found: Found) -> None:
    """A section's tables, its figures against their aims, and what went wrong."""
    out = console()
    out.print(f"[bold]{found.name}")
    for grid in found.grids:
        out.print(_table(grid))
    if found.facts:
        out.print(_table(Grid("", _COLUMNS, [_line(fact) for fact in found.facts])))
    for note in found.notes:
        out.print(note, style="red", markup=False, soft_wrap=True)


def save(found: Sequence[Found], told: str, file: Path) -> None:
    """Everything, with every single run."""
    file.write_bytes(orjson.dumps({"told": told, "sections": [asdict(each) for each in found]}, option=_JSON))


def markdown(found: Sequence[Found], told: str) -> str:
    """The first section's first table, then every figure with its aim, and what went wrong."""
    grid = found[0].grids[0]
    facts = [_line(fact) for section in found for fact in section.facts]
    notes = "".join(f"\n{note}\n" for section in found for note in section.notes)
    return f"{told}; {grid.title}:\n\n{_pipes(grid)}\n{_pipes(Grid('', _COLUMNS, facts))}{notes}"


def write(found: Sequence[Found], told: str, document: Path = README) -> None:
    """Put that between the markers of the document."""
    text = document.read_text(encoding="utf-8")
    made = markdown(found, told)
    document.write_text(_MARKED.sub(lambda marked: marked[1] + made + marked[2], text), encoding="utf-8")


def _line(fact: Fact) -> list[str]:
    kept = {None: "", True: "kept", False: "MISSED"}[fact.kept]
    return [fact.what, fact.told(), fact.aimed(), kept]


def _table(grid: Grid) -> Table:
    table = Table(title=grid.title, title_justify="left", box=box.SIMPLE_HEAD)
    for place, name in enumerate(grid.columns):
        table.add_column(name, justify="right" if place else "left")
    for row in grid.rows:
        table.add_row(*row)
    return table


def _pipes(grid: Grid) -> str:
    rows = [list(grid.columns), ["---", *["---:"] * (len(grid.columns) - 1)], *map(list, grid.rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
