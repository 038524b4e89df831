"""What reading and comparing answers costs: `python -m tests.bench.answers`.

CPU milliseconds a read by kind, over replies made from a seed and over hostile ones; milliseconds by the clock a
comparison by algebra, the first, which starts its worker, and later ones; and the longest that an event loop stood
still while 10,000 made replies were read in it and hostile formulas were compared beside it.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import get_args

import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from proxy.answers import Reader
from proxy.answers.workers import Workers
from proxy.types import JSON, AnswerKind, AnswerSpec, Choice

REPLIES = 10_000
AIM_STALL_MS = 50.0
TICK_S = 0.001
REQUEST: JSON = {"messages": [{"role": "user", "content": "Which one?\nA) Paris\nB) Rome\nC) Oslo\nD) Bern"}]}
PIECES = [
    *("The answer is ", "So ", "**", "$", "\n", "#### ", r"\boxed{", "}", "{", "(", ")", ", ", "Let us see. "),
    *(r"\frac{1}{2}", r"\sqrt5", "42", "3.14", "1,000", "x^2+1", "B", "Paris", "km", "%", r"\pi", "no", "I cannot "),
    *('{"a": 1}', "```\ncode\n```", "\N{BULLET}", "\N{SQUARE ROOT}", "2024-01-02", "\\", "_", "User: ", "<think>"),
]
HOSTILE = {
    "a tower of powers": r"\boxed{9^{9^{9^9}}}",
    "400 brackets": r"\boxed{" + "(" * 400 + "1" + ")" * 400 + "}",
    "a megabyte of digits": r"\boxed{" + "9" * 1_000_000 + "}",
    "digits alone": "9" * 1_000_000,
    "boxes that never close": r"\boxed{" * 30_000,
    "spaces": "The answer is" + " " * 1_000_000,
    "nested fractions": r"\boxed{" + r"\frac{1}{" * 60 + "1" + "}" * 60 + "}",
    "deep JSON": "[" * 100_000,
    "fences": "```\n" * 100_000,
}
FORMULAS = [
    (r"11\sqrt5+11", r"11(1+\sqrt5)"),
    (r"\frac{9a+11}{20}", r"\frac{9}{20}a+\frac{11}{20}"),
    (r"1\pm\sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    ("(x-1)(x+1)", "x^2-1"),
    (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt2}"),
    ("2x+1", "2x-1"),
    (r"(3, \frac{\pi}{2})", r"(3, 0.5\pi)"),
    (r"x \le 2", r"(-\infty, 2]"),
]
HARM = [(r"9^{9^{9^9}}", "1"), ("(x+y+z+1)^{999}", "(x+y+z)^{999}+1"), ("(3^{10^9})!", "x+1"), ("9^{9^{99}}-1", "8")]


def specs() -> Iterator[tuple[str, AnswerSpec]]:
    """Every kind of answer, with what it needs."""
    for kind in get_args(AnswerKind):
        pattern = r"answer is (\w+)" if kind == "regex" else None
        yield kind, AnswerSpec(kind, pattern=pattern, path="$.a" if kind == "json_path" else None)


def made(count: int, seed: int = 0) -> list[str]:
    """Replies of up to forty pieces."""
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randint(1, 40))) for _ in range(count)]


def milliseconds(work: Callable[[], object]) -> float:
    """CPU time of this process."""
    began = time.process_time()
    work()
    return 1e3 * (time.process_time() - began)


def read_table() -> Table:
    """Milliseconds a read."""
    table = _table("CPU ms a read", "kind", "median", "slowest of 1,000", "slowest of hostile", "which")
    replies = made(1_000)
    for kind, spec in specs():
        reader = Reader(spec, REQUEST)
        _warm(reader)
        taken = [milliseconds(partial(_read, reader, text)) for text in replies]
        worst = {name: milliseconds(partial(_read, reader, text)) for name, text in HOSTILE.items()}
        slowest = max(worst, key=lambda name: worst[name])
        table.add_row(kind, f"{statistics.median(taken):.3f}", f"{max(taken):.2f}", f"{worst[slowest]:.1f}", slowest)
    return table


def _warm(reader: Reader) -> None:
    """What is imported and prepared on first use is no read's cost."""
    for text in ("The answer is 42.", '{"a": 1}'):
        _read(reader, text)


def _read(reader: Reader, text: str) -> None:
    reader.read(Choice(0, {"content": text}, "stop"))


async def algebra_table() -> Table:
    """Milliseconds a comparison."""
    table = _table("ms a comparison by algebra, by the clock", "what", "ms")
    async with Workers(clock=time.monotonic) as workers:
        table.add_row("the first, which starts its worker", f"{await _compared(workers, FORMULAS[:1]):.0f}")
        new = [await _compared(workers, [pair]) for pair in FORMULAS[1:]]
        table.add_row("a new pair, median", f"{statistics.median(new):.1f}")
        table.add_row("a new pair, slowest", f"{max(new):.1f}")
        again = [await _compared(workers, [pair]) for pair in FORMULAS]
        table.add_row("the same again, median", f"{statistics.median(again):.1f}")
        harm = [await _compared(workers, [pair]) for pair in HARM]
        table.add_row("a hostile pair, slowest", f"{max(harm):.0f}")
    return table


async def _compared(workers: Workers, pairs: Sequence[tuple[str, str]]) -> float:
    began = time.perf_counter()
    for pair in pairs:
        await workers.same(*pair)
    return 1e3 * (time.perf_counter() - began)


async def stall_table() -> Table:
    """The longest that the event loop stood still."""
    table = _table("event loop", "while", "longest stall ms", f"aim {AIM_STALL_MS:g} ms")
    for name, texts, pairs in (
        ("nothing is done", [], []),
        ("made replies are read", made(REPLIES), []),
        ("hostile ones are", list(HOSTILE.values()) * len(get_args(AnswerKind)), []),
        ("hostile formulas are compared", [], HARM * 2),
        ("all of it is done", [*made(REPLIES), *HOSTILE.values()], HARM * 2),
    ):
        stall = await _stall(texts, pairs)
        table.add_row(name, f"{stall:.1f}", "kept" if stall <= AIM_STALL_MS else f"{stall / AIM_STALL_MS:.1f} x")
    return table


async def _stall(texts: Sequence[str], pairs: Sequence[tuple[str, str]]) -> float:
    """The longest stall while replies are read, each in a turn of the loop of its own, as they come from upstreams."""
    readers = [Reader(spec, REQUEST) for _, spec in specs()]
    for reader in readers:
        _warm(reader)
    async with Workers(clock=time.monotonic) as workers, asyncio.TaskGroup() as tasks:
        done = asyncio.Event()
        watch = tasks.create_task(_watched(done))
        compared = [tasks.create_task(workers.same(*pair)) for pair in pairs]
        for place, text in enumerate(texts):
            _read(readers[place % len(readers)], text)
            await asyncio.sleep(0)
        await asyncio.gather(*compared)
        await asyncio.sleep(0.2)
        done.set()
    return 1e3 * watch.result()


async def _watched(done: asyncio.Event) -> float:
    longest = 0.0
    while not done.is_set():
        began = time.perf_counter()
        await asyncio.sleep(TICK_S)
        longest = max(longest, time.perf_counter() - began - TICK_S)
    return longest


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(first, title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in others:
        table.add_column(name, justify="right")
    return table


def main() -> None:
    """Print the three tables."""
    console = Console(highlight=False)
    console.print(read_table())
    console.print(uvloop.run(algebra_table()))
    console.print(uvloop.run(stall_table()))


if __name__ == "__main__":
    main()
