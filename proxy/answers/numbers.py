"""Numbers as people and LaTeX write them, exact, and bounded so that no text can make them costly."""

import re
from fractions import Fraction

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
CONTINENTAL = r"(?:\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?: \d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,})"
"""Numbers with a decimal comma, or points between thousands, where they can be nothing else: `1.234,56`."""
_DECIMAL = rf"(?:{CONTINENTAL}|{_DIGITS}(?:\.\d*)?|\.\d+)(?:e[+-]?\d{{1,3}})?"
_NUMBER = re.compile(
    r"(?P<sign>[+-]?) ?[$€£¥₹]? ?(?P<inner>-?)(?:(?P<whole>\d{1,9}) (?=\d{1,9}/\d))?"
    rf"(?:(?P<top>{_DECIMAL})(?: ?/ ?(?P<bottom>{_DECIMAL}))?(?: ?[*x\u00d7] ?10\^(?P<times>[+-]?\d{{1,3}}))?"
    r"|10\^(?P<power>[+-]?\d{1,3}))(?P<percent> ?%)?",
    re.ASCII | re.IGNORECASE,
)
_CONTINENTAL = re.compile(CONTINENTAL)
_POWER_BRACES = re.compile(r"\^[{(]([+-]?\d{1,9})[})]")
_MAX_LENGTH = 100
_MAX_EXPONENT = 150

NumberLabel = tuple[str, str]
"""`("number", value)` or `("percent", value)`, the value as `p` or `p/q` in lowest terms."""


def number(text: str) -> NumberLabel | None:
    """The label of `text` if the whole of it is one number: `-1,000.5`, `1.234,56`, `$3`, `6e23`, `2*10^3`, `50%`.

    None for anything else, and for more than 100 characters or exponents beyond 150.
    """
    if len(text) > _MAX_LENGTH:
        return None
    match = _NUMBER.fullmatch(_POWER_BRACES.sub(r"^\1", text))
    if match is None:
        return None
    value = _value(match)
    if value is None:
        return None
    if (match["sign"] == "-") != (match["inner"] == "-"):
        value = -value
    return "percent" if match["percent"] else "number", str(value)


def _value(match: re.Match[str]) -> Fraction | int | None:
    if (
        match["top"] is not None
        and match["top"].isdigit()
        and match.end("top") == match.end()
        and match["whole"] is None
    ):
        # no fraction of anything
        return int(match["top"])
    if match["power"] is not None:
        return _power_of_ten(match["power"])
    top, bottom = _decimal(match["top"]), _decimal(match["bottom"] or "1")
    times = _power_of_ten(match["times"] or "0")
    if top is None or times is None or not bottom:
        return None
    return int(match["whole"] or 0) + top / bottom * times


def _decimal(text: str) -> Fraction | None:
    if _CONTINENTAL.fullmatch(text):
        text = text.replace(".", "").replace(",", ".")
    plain = text.replace(",", "").replace(" ", "").lower()
    exponent = plain.partition("e")[2]
    return None if abs(int(exponent or 0)) > _MAX_EXPONENT else Fraction(plain)


def _power_of_ten(exponent: str) -> Fraction | None:
    return None if abs(int(exponent)) > _MAX_EXPONENT else Fraction(10) ** int(exponent)
