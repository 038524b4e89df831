"""What the checks told, for people: a table on the terminal, and one for the documents."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tests.clients.checking import Told
from tests.clients.serving import STRATEGIES

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "clients.md")
_MARKED = re.compile(r"(<!-- clients -->\n).*?(<!-- /clients -->)", re.DOTALL)
_WIDTH = 120


def show(told: Sequence[Told], console: Console | None = None) -> None:
    """A row a client with its checks passed and asked on every strategy; then what failed, and why."""
    console = console or Console(width=None if Console().is_terminal else _WIDTH)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for name in ("client", "version", *STRATEGIES):
        table.add_column(name, justify="left" if name in {"client", "version"} else "right")
    for client, version, checks in _by_client(told):
        table.add_row(client, version, *(_score(checks, strategy) for strategy in STRATEGIES))
    console.print(table)
    for line in told:
        if not line.ok:
            console.print(
                f"{line.client}, {line.strategy}, {line.feature}: {line.told}",
                style="red",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    console.print(f"{sum(line.ok for line in told)} of {len(told)} checks passed", highlight=False)


def markdown(told: Sequence[Told]) -> str:
    """A row a client: its version, and the features that were checked, on all strategies."""
    rows = ["| client | version | features checked |", "|---|---|---|"]
    for client, version, checks in _by_client(told):
        features = list(dict.fromkeys(_short(line.feature) for line in checks if line.ok))
        rows.append(f"| {client} | {version} | {', '.join(features)} |")
    return "\n".join(rows) + "\n"


def write(told: Sequence[Told], documents: Iterable[Path] = DOCUMENTS) -> None:
    """Put that table between the markers of the documents."""
    made = markdown(told)
    for path in documents:
        text = path.read_text(encoding="utf-8")
        path.write_text(_MARKED.sub(lambda found: found[1] + made + found[2], text), encoding="utf-8")


def _by_client(told: Sequence[Told]) -> list[tuple[str, str, list[Told]]]:
    names = sorted({line.client for line in told})
    groups = [(name, [line for line in told if line.client == name]) for name in names]
    return [(name, next((c.version for c in checks if c.version != "?"), "?"), checks) for name, checks in groups]


def _score(checks: Sequence[Told], strategy: str) -> str:
    asked = [line for line in checks if line.strategy == strategy]
    return f"{sum(line.ok for line in asked)}/{len(asked)}" if asked else "-"


def _short(feature: str) -> str:
    """The tests of a client's own suite are one feature in the documents."""
    return "its own integration tests" if ": " in feature else feature
