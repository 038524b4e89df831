"""Tables that lose nothing: what is too wide for the terminal is printed as one block a row."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_LEAST_TEXT, _LEAST_LONG = 10, 6
_MOST_LINES = 3
_FIXED, _LONG = ">", "~"


def show_table(out: Console, columns: Sequence[str], rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows below the names of their columns.

    Before a name, `>` marks numbers, times and ids, which stay whole; `~` marks texts that may take many lines. Other
    texts take three at most.
    """
    lines = list(rows)
    names = [name.lstrip(_FIXED + _LONG) for name in columns]
    least = [_least(name, [line[place] for line in lines]) for place, name in enumerate(columns)]
    gaps = len(least) - 1
    if sum(least) + gaps > out.width:
        _blocks(out, names, lines)
        return
    # the box has a space between columns as it is
    more = 1 if sum(least) + 2 * gaps <= out.width else 0
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, more, 0, 0), collapse_padding=True)
    for name, bare, width in zip(columns, names, least, strict=True):
        fixed = name.startswith(_FIXED)
        table.add_column(bare, justify="right" if fixed else "left", no_wrap=fixed, overflow="fold", min_width=width)
    for line in lines:
        table.add_row(*map(escape, line))
    out.print(table)


def _least(name: str, texts: Sequence[str]) -> int:
    """The characters that a column must have."""
    bare = name.lstrip(_FIXED + _LONG)
    widest = max(len(bare), *map(len, texts)) if texts else len(bare)
    if name.startswith(_FIXED):
        return widest
    needed = _LEAST_LONG if name.startswith(_LONG) else max(_LEAST_TEXT, -(-widest // _MOST_LINES))
    # a name that is one word is not broken
    return max(min(widest, needed), len(max(bare.split(), key=len)))


def _blocks(out: Console, names: Sequence[str], lines: Sequence[tuple[str, ...]]) -> None:
    label = max(map(len, names))
    if not lines:
        out.print("none")
    for place, line in enumerate(lines):
        if place:
            out.print()
        for name, text in zip(names, line, strict=True):
            out.print(f"{name:{label}}  {text}", markup=False, highlight=False, emoji=False, soft_wrap=True)
