"""A grade in a model's words."""

import re
from collections.abc import Iterator

from proxy.answers import visible_text
from proxy.types import Choice

_LONGEST = 20_000
_HUNDRED = 100

_BEFORE = r"(?<![\w.,/-])"
_VALUE = r"(0|[1-9]\d{0,2}(?:\.\d{1,4})?)(?!\w|[.,]\d)"
_SCALE = re.compile(
    r"\b(?:on a )?(?:scale )?(?:(?:of|from|between) )?[01](?: ?\([^()\n]{0,40}\))? ?(?:to|-|\u2013|and|through) ?"
    r"(?:9|10|100)\b(?![/%.]\d)(?: ?\([^()\n]{0,40}\))?",
    re.IGNORECASE,
)
_OUT_OF = re.compile(r"(?<=\d)(?: ?/ ?| out of (?:a possible )?)(?=\d)", re.IGNORECASE)
_LIMIT = re.compile(r"(?:\bout of (?:a possible )?|(?<![\d/]) ?/ ?)\d+\b", re.IGNORECASE)

_NAMED = re.compile(
    r"\b(?:score|grade|rating|rate|mark|confidence|likelihood|probability)\W{0,8}"
    r"(?:(?:it|this|the answer|is|of|as|at|would be)\W{1,4}){0,3}"
    rf"{_BEFORE}{_VALUE}(?:/(?P<of>\d{{1,3}})\b|(?P<percent>%))?",
    re.IGNORECASE,
)
_SHARE = re.compile(rf"{_BEFORE}{_VALUE}(?:/(?P<of>9|10|100)\b| ?(?P<percent>%))")
_ALONE = re.compile(rf"^[^\w\n]*?{_BEFORE}{_VALUE}(?!/)[^\w\n]*$", re.MULTILINE)
_FIRST = re.compile(rf"{_BEFORE}{_VALUE}(?!/)")


def grade(reply: Choice, most: int = 100) -> float | None:
    """The grade from 0 to `most` that a reply gives, as a share of `most`, or None. Thinking is not looked at.

    What only names the scale ("out of 100", "0 to 100") is no grade. What is called a score, or a grade, comes before a
    share ("85/100", "85%"), that before a number on a line of its own, of each the last; else the first number counts.
    """
    text = _LIMIT.sub(" ", _OUT_OF.sub("/", _SCALE.sub(" ", visible_text(reply, _LONGEST))))
    for pattern in (_NAMED, _SHARE, _ALONE):
        shares = list(_shares(pattern, text, most))
        if shares:
            return shares[-1]
    return next(_shares(_FIRST, text, most), None)


def _shares(pattern: re.Pattern[str], text: str, most: int) -> Iterator[float]:
    for found in pattern.finditer(text):
        told = found.groupdict()
        scale = _HUNDRED if told.get("percent") else int(told.get("of") or most)
        if 0 < scale >= float(found[1]):
            yield float(found[1]) / scale
