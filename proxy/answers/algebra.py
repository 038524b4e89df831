"""The worker's side of algebra: a program that compares formulas by math-verify, one pair a line.

It runs as a process of its own (see `proxy.answers.workers`), imports nothing of the server, and may be killed at any
time: no formula can be trusted to end, for sympy works out `9^{9^{9^9}}` where no signal interrupts it. Each line of
its input is a JSON list of two formulas; each line of its output `1` (equal), `0` (not) or `?` (could not be told).
"""

import json
import logging
import os
import re
import resource
import signal
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sympy import Expr  # type: ignore[import-untyped]  # it publishes no types

LONGEST = 200
"""Characters of a formula that is looked at."""

READY, EQUAL, UNEQUAL, UNTOLD = b"ready\n", b"1\n", b"0\n", b"?\n"

_DEEPEST = 12
_CPU_S = 1.0
_TRIAL_CPU_S = 0.5
_KILL_CPU_S = 4
_MEMORY = 1 << 30
_NICE = 10
_HARMLESS = r"\sqrt{2}+q"
_DIGITS = 50
_APART = 1e-30

_SYMBOLS = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "\u00d7": r"\cdot ",
        "\u00b7": r"\cdot ",
        "\u22c5": r"\cdot ",
        "\u00f7": "/",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2260": r"\ne ",
        "\u00b1": r"\pm ",
        "\u221e": r"\infty ",
        "\u222a": r"\cup ",
        "\u2208": r"\in ",
        "\u03c0": r"\pi ",
        "\u03b8": r"\theta ",
        "\u00b0": r"^\circ ",
        "\u00b2": "^{2}",
        "\u00b3": "^{3}",
        "\u00bd": r"\frac{1}{2}",
    }
)
_DELIMITERS = re.compile(r"\$|\\[()\[\]]|\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![a-zA-Z])|[.,;:]\s*$")
_THIN = re.compile(r"(?<=\d)(?:\\[,!;: ]|\{,\})(?=\d)")
_GROUPED = re.compile(r"(?<![\d.(\[])(?<!\\\{)\d{1,3}(?:([ ,])\d{3})(?:\1\d{3})*(?![\d])")
_MIXED = re.compile(r"(?<![\d.])(\d+) +(\d+)/(\d+)(?!\d)")
_DECIMAL = re.compile(r"(\d*)\.(\d+)")
_ROOT = re.compile(r"\\sqrt ?\(([^()]*)\)|(?:(?<!\\)sqrt|\u221a) ?(?:\(([^()]*)\)|(\d+|\w))")
_FUNCTION = re.compile(
    r"(?<![\\a-zA-Z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp)(?![a-zA-Z])"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORDS = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox|operatorname)\s*\{([^{}]*)\}")
_JOINING = frozenset({"", "or", "and"})
_UNREADABLE = re.compile(r"[a-zA-Z]{3,}|'|\d\s+\d|\d[eE][-+]?\d|\d[xX]\d|\d\.(?!\d)|\.{2}")
_BASED = re.compile(r"\d_\{?(\w+)")
_LED = re.compile(r"\s*[a-zA-Z](?:_\{?\w+\}?|\([a-zA-Z, ]*\))?\s*(?:=|\\in(?![a-zA-Z]))")


class OutOfTime(BaseException):
    """The comparison has had its second of the processor. No Exception: math-verify swallows those."""


class Formula(NamedTuple):
    """A formula made ready. `words` (units), `bases`, `marks` and `shape` are what math-verify does not look at."""

    latex: str
    words: tuple[str, ...]
    bases: tuple[str, ...]
    marks: frozenset[str]
    shape: str | None


def fits(text: str) -> bool:
    """Whether a formula is short and shallow enough to be looked at."""
    if len(text) > LONGEST:
        return False
    depth = deepest = 0
    for mark in text:
        depth += (mark in "([{") - (mark in ")]}")
        deepest = max(deepest, depth)
    return deepest <= _DEEPEST


def same(one: str, other: str) -> bool | None:
    """Whether two formulas are equal; None where one cannot be read. Symmetric; takes any time.

    math-verify compares them both ways. It takes 0.333333 for 1/3, `2516_8` for `2516_7`, `(1,2)` for `1,2`, 50% for
    0.5, centimetres for metres, and powers near zero for each other: those are two answers here.
    """
    from math_verify import verify

    first, second = prepared(one), prepared(other)
    if first is None or second is None:
        return None
    if not _comparable(first, second):
        return False
    left, right = _parsed(first.latex), _parsed(second.latex)
    if not left or not right:
        return None
    equal = verify(left, right, timeout_seconds=None) or verify(right, left, timeout_seconds=None)
    return equal and not _apart(left[0], right[0])


def prepared(text: str) -> Formula | None:
    """A formula with its decimals made exact fractions, and what is beside it; None if it is no formula to be read."""
    if not fits(text):
        return None
    latex = _THIN.sub("", _DELIMITERS.sub("", text)).translate(_SYMBOLS).replace("**", "^").strip()
    latex = _GROUPED.sub(lambda match: match[0].replace(match[1], ""), latex)
    latex = _MIXED.sub(r"\1\\frac{\2}{\3}", latex)
    latex = _FUNCTION.sub(r"\\\1 ", _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2] or match[3]}}}", latex))
    words = [word.strip().casefold() for word in _WORDS.findall(latex)]
    bare = _COMMAND.sub("@", _WORDS.sub("@", latex.replace(r"\prime", "'")))
    letters = {letter for letter in bare if letter.isalpha()}
    # math-verify reads letters in lower case: R^2 - r^2 would be 0
    if _UNREADABLE.search(bare) or any(letter != letter.lower() and letter.lower() in letters for letter in letters):
        return None
    return Formula(
        _DECIMAL.sub(_fraction, latex),
        tuple(sorted(word for word in words if word not in _JOINING)),
        tuple(_BASED.findall(latex)),
        frozenset(mark for mark in "%:" if mark in latex),
        _shape(latex),
    )


def _comparable(one: Formula, other: Formula) -> bool:
    """Whether two formulas have alike what math-verify leaves aside. A unit, or a base, may be left out by one."""
    if one.words and other.words and one.words != other.words:
        return False
    if one.bases and other.bases and one.bases != other.bases:
        return False
    if one.shape and other.shape and one.shape != other.shape:
        return False
    return one.marks == other.marks


def _shape(latex: str) -> str | None:
    """The brackets of a sequence, an interval or a point, `{}` where it has none; None for a single thing."""
    bare = _LED.sub("", latex, count=1).replace("\\", "").replace(" ", "")
    depth, end, commas = 0, -1, set()
    for position, mark in enumerate(bare):
        depth += (mark in "([{") - (mark in ")]}")
        if mark == ",":
            commas.add(depth)
        if depth == 0 and end < 0:
            end = position
    if 0 in commas:
        return "{}"
    return bare[0] + bare[-1] if 1 in commas and bare[0] in "([{" and end == len(bare) - 1 else None


def _fraction(match: re.Match[str]) -> str:
    return rf"\frac{{{match[1]}{match[2]}}}{{1{'0' * len(match[2])}}}"


@lru_cache(maxsize=256)
def _parsed(latex: str) -> "list[Expr]":
    """What math-verify reads in a formula: one value, or none. Only as LaTeX: else it would take a part for all."""
    from math_verify import LatexExtractionConfig, parse

    found: list[Expr] = parse(
        f"${latex}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None
    )
    return found


def _apart(one: "Expr", other: "Expr") -> bool:
    """Whether two constants differ after all, by more than the 15 digits that math-verify works with would show."""
    try:
        if not (one.is_number and other.is_number):
            return False
        left, right = one.evalf(_DIGITS), other.evalf(_DIGITS)
        return bool(abs(left - right) > _APART * max(abs(left), abs(right)))
    except (ArithmeticError, AttributeError, TypeError, ValueError):
        # sets, relations and infinities have no distance
        return False


class Comparer:
    """Compares formulas with a limit of the processor's time. Main thread only: it is interrupted by a signal.

    Of a pair that ran out of time, each is tried beside a harmless one, and what runs out again is never looked at
    again: one hostile formula among many others costs its limit once, not once with each of them.
    """

    def __init__(self) -> None:
        self._wild: set[str] = set()
        signal.signal(signal.SIGPROF, _out_of_time)

    def same(self, one: str, other: str) -> bool | None:
        """`same`, or None where that takes more than a second. What no signal interrupts ends with the process."""
        if not self._wild.isdisjoint((one, other)):
            return None
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime)
        resource.setrlimit(resource.RLIMIT_CPU, (spent + _KILL_CPU_S, resource.RLIM_INFINITY))
        try:
            return _within(_CPU_S, one, other)
        except OutOfTime:
            for formula in (one, other):
                try:
                    _within(_TRIAL_CPU_S, formula, _HARMLESS)
                except OutOfTime:
                    self._wild.add(formula)
            return None


def _within(seconds: float, one: str, other: str) -> bool | None:
    try:
        # again and again: libraries swallow what is raised in the wrong place
        signal.setitimer(signal.ITIMER_PROF, seconds, 0.1)
        return same(one, other)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Compare what comes on standard input until it ends."""
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    comparer = Comparer()
    logging.disable(logging.CRITICAL)
    # the first comparison builds tables for a quarter of a second
    same(r"\frac{x+1}{2}", r"\frac12(1+x)")
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        told = comparer.same(*json.loads(line))
        answers.write(UNTOLD if told is None else EQUAL if told else UNEQUAL)
        answers.flush()


def _out_of_time(*_: object) -> None:
    raise OutOfTime


if __name__ == "__main__":
    main()
