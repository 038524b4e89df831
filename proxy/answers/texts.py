"""Answers that are texts: pointed out by the reply, or found where its kind would stand."""

import re
from collections.abc import Callable

from proxy.answers.answer import LONGEST_SHOWN, REFUSAL, Answer, shown
from proxy.answers.canonical import Label, canonical, expression
from proxy.answers.canonical import choice as choice_letter
from proxy.answers.dates import last_date
from proxy.answers.extract import Found, last_choice, last_number, lists_choices, marked, only_choice
from proxy.answers.messages import sounds_refusing
from proxy.answers.plain import plain
from proxy.types import JSON, AnswerKind, AnswerSpec

_SHORT_WORDS = 40
_LABEL_WORDS = 8
_LINE_WORDS = 20
_YES_NO = re.compile(r"\W*(yes|no)\b(?=[\s*_]*(?:[.,;:!]|$))", re.IGNORECASE)

_BLANKS = " .:;?!_-*()[]\"'"
_NO_ANSWERS = frozenset(
    {"i don't know", "i do not know", "don't know", "i'm not sure", "i am not sure", "not sure", "unsure", "no idea"}
    | {"n/a", "null", "no answer", "no answer found", "not found", "answer", "answer is", "the answer is"}
)


class Texts:
    """Reads the replies to one request as texts of one kind."""

    def __init__(self, spec: AnswerSpec, request: JSON) -> None:
        self._spec = spec
        self._request = request

    def read(self, text: str) -> Answer | None:
        """The answer in a reply's visible text, or None, which abstains. Never raises."""
        return _read_text(text, self._spec.kind)


def says_nothing(label: Label) -> bool:
    """Whether a label is no answer but the lack of one: "I don't know", "N/A", an empty "The answer is ___"."""
    if label[0] != "text":
        return False
    said = str(label[1]).strip(_BLANKS)
    return said in _NO_ANSWERS or not any(character.isalnum() for character in said)


def is_short(text: str) -> bool:
    """Whether a reply is short enough for all of it to be the answer and its sentence: 40 words."""
    return len(text) <= 2_000 and len(text.split(maxsplit=_SHORT_WORDS)) <= _SHORT_WORDS


def _read_text(text: str, kind: AnswerKind) -> Answer | None:
    found = _pointed_out(text, kind)
    if found is not None:
        return None if says_nothing(found[1]) else Answer(found[1], shown(found[0]), marked=True)
    # only now: "I cannot give a closed form, but the answer is 2" is no refusal
    refusal = refusal_in(text)
    if refusal is not None:
        return refusal
    found, pointed = _FALLBACKS[kind](text)
    return None if found is None or says_nothing(found[1]) else Answer(found[1], shown(found[0]), marked=pointed)


def refusal_in(text: str) -> Answer | None:
    """The refusal that a short reply begins with, or None."""
    return Answer(REFUSAL, shown(text), marked=False) if sounds_refusing(text) else None


def _pointed_out(text: str, kind: AnswerKind) -> Found | None:
    for phrase in marked(text):
        found = _narrowed(phrase, kind)
        if found is not None:
            return found
    return None


def _narrowed(phrase: str, kind: AnswerKind) -> Found | None:
    if kind == "choice":
        letter = choice_letter(plain(phrase).strip("*_ ."))
        return last_choice(phrase) if letter is None else (phrase, ("text", letter))
    label = canonical(phrase)
    if kind == "number" and (label is None or label[0] not in {"number", "percent"}):
        return last_number(phrase, strict=False)
    return None if label is None else (phrase, label)


Fallback = Callable[[str], tuple[Found | None, bool]]
"""Reads a text without a marker: what was found, and whether it counts as pointed out."""


def _auto(text: str) -> tuple[Found | None, bool]:
    if not is_short(text) or lists_choices(text):
        return None, False
    letter = only_choice(text)
    if letter is not None:
        return letter, True
    return _yes_no(text) or last_date(plain(text)) or _formula(text) or last_number(text, strict=True) or _whole(
        text
    ), False


def _choice(text: str) -> tuple[Found | None, bool]:
    letter = only_choice(text) if is_short(text) and not lists_choices(text) else None
    return (last_choice(text), False) if letter is None else (letter, True)


def _number(text: str) -> tuple[Found | None, bool]:
    return last_number(text, strict=False), False


def _math(text: str) -> tuple[Found | None, bool]:
    return _formula(text) or last_number(text, strict=False) or _whole(text), False


def _label(text: str) -> tuple[Found | None, bool]:
    whole = _whole(text)
    if whole is not None:
        return whole, False
    line = text.rpartition("\n")[2]
    label = canonical(line) if len(line.split(maxsplit=_LINE_WORDS)) <= _LINE_WORDS else None
    return (None if label is None else (line, label)), False


_FALLBACKS: dict[AnswerKind, Fallback] = {
    "auto": _auto,
    "choice": _choice,
    "number": _number,
    "math": _math,
    "label": _label,
}


def _yes_no(text: str) -> Found | None:
    match = _YES_NO.match(text)
    return None if match is None else (match[1], ("text", match[1].lower()))


def _formula(text: str) -> Found | None:
    label = expression(text)
    return None if label is None else (text, label)


def _whole(text: str) -> Found | None:
    if len(text) > LONGEST_SHOWN or len(text.split()) > _LABEL_WORDS:
        return None
    label = canonical(text)
    return None if label is None else (text, label)
