"""A grade in a model's words."""

import re

from proxy.answers import visible_text
from proxy.types import Choice

_GRADE = re.compile(r"(?<![\w.-])(100|\d{1,2})(?!\d|\.\d)\b")


def grade(reply: Choice) -> float | None:
    """The first whole number from 0 to 100 in a reply, as a share of 100, or None. Thinking is not looked at."""
    found = _GRADE.search(visible_text(reply))
    return int(found[1]) / 100 if found else None
