"""The formulas in answers: what algebra may be asked about."""

import re

from proxy.answers.canonical import Label
from proxy.answers.letters import several

_LONGEST = 200
_DEEPEST = 20
_SIGN = re.compile(r"[-+*/^=<>()\[\]{},_|!°π∞√±≤≥≠∈\u222a]|\d[a-z]\b")
_COMMAND = re.compile(r"\\(?!text|mathrm|mathbf|mbox|boxed)[a-zA-Z]+")
_KNOWN = re.compile(
    r"\\[a-zA-Z]+|sqrt|arc(?=sin|cos|tan)|sin|cos|tan|cot|sec|csc|log|ln|exp|pmatrix|bmatrix|matrix|\b(?:and|or)\b"
)
_WORD = re.compile(r"[^\W\d_]{3}")
_DELIMITERS = ((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$"))


def formula(text: str, label: Label) -> str | None:
    """The answer `text` as the reply writes it, without delimiters, where algebra may read it; else None.

    Numbers have their value, for another answer may be a formula that comes to it. Words, choices, percentages and
    dates have none, nor has what is over 200 characters or has brackets nested over 20 deep.
    """
    if label[0] == "number":
        return str(label[1])
    bare = _undelimited(text)
    if not bare or len(bare) > _LONGEST or _depth(bare) > _DEEPEST:
        return None
    if label[0] == "tuple":
        return bare
    return bare if label[0] == "text" and _is_formula(bare, str(label[1])) else None


def _is_formula(text: str, said: str) -> bool:
    """Whether an answer, as it is written and as its label says it, has signs of a formula and no words."""
    # the order of letters says something, and algebra takes a list for a set
    if several(said):
        return False
    if not (_SIGN.search(said) or _COMMAND.search(text)):
        return False
    return not _WORD.search(_KNOWN.sub(" ", said))


def _undelimited(text: str) -> str:
    bare = text.strip().strip("*`").strip().rstrip(".,;").strip()
    for opening, closing in _DELIMITERS:
        inside = bare[len(opening) : -len(closing)]
        if bare.startswith(opening) and bare.endswith(closing) and opening not in inside:
            return inside.strip()
    return bare


def _depth(text: str) -> int:
    depth = deepest = 0
    for mark in text:
        depth += (mark in "([{") - (mark in ")]}")
        deepest = max(deepest, depth)
    return deepest
