"""From an answer's text to its label: equal answers, however they are written, have equal labels."""

import re
from collections.abc import Hashable
from hashlib import sha256
from unicodedata import category

from proxy.answers.dates import date
from proxy.answers.letters import choice, several
from proxy.answers.numbers import number
from proxy.answers.plain import plain

Label = tuple[Hashable, ...]

_MAX_LENGTH = 1_000
_MAX_FORMULA = 200
_MOST_DIGITS = 6
_NAMED = re.compile(r"(?:[A-Za-z]{1,20}(?:_\w{1,3})?|[A-Za-z]\([A-Za-z0-9, ]{1,12}\)) ?= ?(?=[^=\s])")
_PERCENT = re.compile(r" ?per ?cent$", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:the|an?) (?!(?:and|or) )(?=\S)")
_WORDY = re.compile(r"[^\W\d_]{2}")
_FUNCTION = re.compile(r"sqrt|\\[a-zA-Z]+|sin|cos|tan|log|ln|exp|π")
_OPERATOR = re.compile(r"[-+*/^=<>()\[\]{},\d]")
_WITH_UNIT = re.compile(r"[-+]?[\d.,]+ [^\W\d]")
# a bar around a value is no border of a table, `>5` no quotation, `~p` not about p
_LEFT = re.compile(r"(?:[\s*_`\"':,;?…#]|~(?=[^\W_a-zA-Z]|[\s~$.-])|>(?=\s)|\|(?=\s|[^|]*$))+")
_RIGHT = " \t\n\r*_`~.,;:?…"
_PRIMED = re.compile(r"(?:\d|(?<![^\W\d_])[^\W\d_])[\"']+$")
_FACTORIAL = re.compile(r"(?:[\d)]|(?<![^\W\d_])[a-z])!+$")
_JOINED = re.compile(r"(?<!\d) | (?!\d)")
_CAPITAL = re.compile(r"\\[A-Z]")
_NAMES = re.compile(r"\\[a-zA-Z]+|[^\W\d_]{2,}")
# AaBb is not AABB
_GENES = re.compile(r"(?:([A-HJ-Za-hj-z])(?i:\1))+")
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_STRIPS = 8


def canonical(text: str) -> Label | None:
    """The label of an answer that was found in a reply, or None if there is nothing in it.

    Numbers are exact fractions (percentages and dates have spaces of their own), a choice is its letter, other text is
    case-folded without markdown, outer punctuation and leading article. Texts over 1,000 characters are taken as they
    are. Costs at most a few milliseconds for any text and never raises.
    """
    if len(text) > _MAX_LENGTH:
        digest = sha256(" ".join(text.split()).encode(errors="replace")).hexdigest()
        return "long", digest
    if len(text) <= _MOST_DIGITS and text.isascii() and text.isdigit():
        # most answers are this, and what follows takes fifty times as long
        return "number", str(int(text))
    bare = strip(plain(text))
    if not any(mark.isalnum() or category(mark).startswith("S") for mark in bare):
        return None
    letter = choice(bare) or several(bare)
    if letter is not None:
        return "text", letter
    bare = strip(_NAMED.sub("", bare, count=1)) if _NAMED.match(bare) else bare
    return date(bare) or _sequence(bare) or _atom(bare)


def expression(text: str) -> Label | None:
    """The label of a short text that is one formula and no sentence: `x^2 + 1`, `2, 3, 5`, `y = 3x`; else None.

    `6 x 7 = 42` and `5 m` are not: their answer is a number in them.
    """
    if len(text) > _MAX_FORMULA:
        return None
    bare = plain(text).rstrip("!")
    right = _NAMED.sub("", bare, count=1)
    if "=" in right or _WITH_UNIT.match(right) or not _formal(right):
        return None
    return canonical(bare)


def strip(text: str) -> str:
    """`text` without outer punctuation, quotes, emphasis, and brackets around a single thing.

    What means something stays: `n!`, `f'`, `5"`, `|x|`, `>5`.
    """
    quoted = False
    for _ in range(_STRIPS):
        before = text
        left = _LEFT.match(text)
        if left is not None:
            quoted = quoted or '"' in left[0] or "'" in left[0]
            text = text[left.end() :]
        text = text.rstrip(_RIGHT)
        if text.endswith(('"', "'")) and (quoted or not _PRIMED.search(text)):
            text = text.rstrip("\"'")
        if text.endswith("!") and not _FACTORIAL.search(text):
            text = text.rstrip("!")
        if text.endswith("|") and (text[-2:-1].isspace() or text.count("|") == 1):
            text = text[:-1]
        if text.startswith(".") and not text[1:2].isdigit():
            text = text.lstrip(".")
        if text and _PAIRS.get(text[0]) == text[-1] and not any(mark in text[1:-1] for mark in "()[]{},"):
            text = text[1:-1]
        if text == before:
            break
    return text


def _atom(text: str) -> Label | None:
    value = number(_PERCENT.sub("%", text))
    if value is not None:
        return value
    folded = text.casefold()
    if _formal(folded):
        # the space in "1 12" is all that tells it from "11 2"
        return "text", _JOINED.sub("", text if _cased(text) else folded)
    if _GENES.fullmatch(text) or _CAPITAL.search(text):
        return "text", text
    folded = strip(_ARTICLE.sub("", " ".join(folded.split()), count=1) if _ARTICLE.match(folded) else folded)
    return ("text", folded) if folded else None


def _formal(text: str) -> bool:
    """Whether spaces in `text` mean nothing: it has digits or operators, and no words."""
    return bool(_OPERATOR.search(text)) and not _WORDY.search(_FUNCTION.sub("", text))


def _cased(text: str) -> bool:
    """Whether a formula tells upper from lower case, as `R - r` and `\\Delta` do."""
    single = set(_NAMES.sub(" ", text))
    return bool(_CAPITAL.search(text)) or any(mark != mark.lower() and mark.lower() in single for mark in single)


def _sequence(text: str) -> Label | None:
    """`(1, 2)`, `[0, 1)`, `{1, 2}`: its brackets and its items, none of which is opened further."""
    if text[0] not in _PAIRS or text[-1] not in ")]}" or number(text[1:-1]) is not None:
        return None
    items, depth, start = [], 0, 1
    for position, mark in enumerate(text[1:-1], 1):
        depth += (mark in "([{") - (mark in ")]}")
        if depth < 0:
            return None
        if mark == "," and not depth:
            items.append(text[start:position])
            start = position + 1
    if not items or depth:
        return None
    items.append(text[start:-1])
    return "tuple", text[0] + text[-1], *(_atom(strip(item)) if strip(item) else None for item in items)
