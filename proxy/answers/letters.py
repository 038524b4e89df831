"""The letters of multiple-choice answers."""

import re

_LETTER = re.compile(r"(?:(?:option|choice|answer) )?[(\[]?([a-j])[)\]]?[.:,!]?", re.IGNORECASE)
_LED = re.compile(
    r"(?:[Oo]ption |[Cc]hoice )?(?:[(\[]([A-Ja-j])[)\]][.:]?|([A-J])(?:\. (?![A-Z]\.)|\))|([B-J]):) ?"
    r"(?=[^\s,.()\[\]+\-*/=^<>])"
    r"|(?:[Oo]ption|[Cc]hoice) ([A-J])\b"
    r"|([A-J]) (?=\([^()]*[^\W\d_]{2}[^()]*\)$)"
)
# what follows a letter that is not all that is said
_NOT_ONE = re.compile(r" ?(?:(?:and|or|&|nor) ?[(\[]?[A-Ja-j](?![\w'])|(?:is|are) (?:in|not|wrong)|isn't|cannot|can't)")
_SECOND_PART = re.compile(r"[\s,;][(\[]?b[)\]]", re.IGNORECASE)
_ONE = r"(?:\(([a-j])\)|\[([a-j])\]|([a-j])\)?)"
_AND = r"(?:, ?(?:and |& ?)?| and | ?& ?)"
_SEVERAL = re.compile(rf"(?:(?:both|options|choices) )?{_ONE}(?:{_AND}{_ONE})+", re.IGNORECASE)
_EACH = re.compile(r"\b[a-j]\b")


def choice(text: str) -> str | None:
    """The letter, in lower case, of a multiple-choice answer in plain text: `B`, `(b)`, `B. Paris`, `Option B`.

    None for several, `(A) and (C)`, for the parts of an answer, `(a) 3, (b) 4`, and for what is denied.
    """
    match = _LETTER.fullmatch(text)
    if match is not None:
        return match[1].lower()
    match = _LED.match(text)
    if match is None or _NOT_ONE.match(text, match.end()):
        return None
    letter = next(group for group in match.groups() if group).lower()
    return None if letter == "a" and _SECOND_PART.search(text, match.end()) else letter


def several(text: str) -> str | None:
    """The letters of an answer that takes several choices, in its order: `a,c` for `A and C`, `(a), (c)`; else None."""
    return ",".join(_EACH.findall(text.lower())) if _SEVERAL.fullmatch(text) else None
