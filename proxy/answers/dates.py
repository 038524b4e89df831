"""Dates, so that no one takes `July 20, 1969` for the number 1969."""

import re

_MONTHS = [
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
]
_NAME = "|".join(f"{month}|{month[:3]}" for month in _MONTHS)
_DATE = re.compile(
    r"\b(?:(?P<iso_year>\d{4})-(?P<iso_month>\d{1,2})-(?P<iso_day>\d{1,2})"
    rf"|(?P<month>{_NAME})\.? (?P<day>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<year>\d{{4}})"
    rf"|(?P<day2>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<month2>{_NAME})\.?,? (?P<year2>\d{{4}}))\b",
    re.ASCII | re.IGNORECASE,
)
_TITLES = _NAME.title()
_PARTIAL = re.compile(
    rf"\b(?:(?P<month>{_TITLES})\.?,? (?:of )?(?:(?P<year>\d{{4}})|(?P<day>\d{{1,2}})(?:st|nd|rd|th)?)"
    rf"|(?P<day2>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<month2>{_TITLES}))\b(?![:./-]?\d)",
    re.ASCII,
)

DateLabel = tuple[str, str]
"""`("date", "1969-07-20")`; without a day `1969-07`, without a year `--07-20`."""


def date(text: str) -> DateLabel | None:
    """The label of `text` if the whole of it is one date, of which day or year may be missing."""
    match = _DATE.fullmatch(text)
    if match is not None:
        return _label(match)
    match = _PARTIAL.fullmatch(text)
    return None if match is None else _partial(match)


def last_date(text: str) -> tuple[str, DateLabel] | None:
    """The last date in `text`, as it is written and as a label, or None."""
    match = None
    for match in _DATE.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    if match is not None:
        return match[0], _label(match)
    for match in _PARTIAL.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    return None if match is None else (match[0], _partial(match))


def _partial(match: re.Match[str]) -> DateLabel:
    month = _month(match["month"] or match["month2"])
    day = match["day"] or match["day2"]
    return "date", f"{match['year']}-{month:02}" if day is None else f"--{month:02}-{int(day):02}"


def _label(match: re.Match[str]) -> DateLabel:
    year = match["iso_year"] or match["year"] or match["year2"]
    day = match["iso_day"] or match["day"] or match["day2"]
    name = match["month"] or match["month2"]
    month = int(match["iso_month"]) if name is None else _month(name)
    return "date", f"{year}-{month:02}-{int(day):02}"


def _month(name: str) -> int:
    return next(i for i, month in enumerate(_MONTHS, 1) if month.startswith(name.lower()))
