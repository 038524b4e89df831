"""Reading a choice: its answer, or nothing, which abstains."""

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from proxy.answers.canonical import Label, canonical, expression
from proxy.answers.canonical import choice as choice_letter
from proxy.answers.dates import last_date
from proxy.answers.extract import Found, last_choice, last_number, lists_choices, marked, only_choice
from proxy.answers.messages import refused, sounds_refusing, visible_text
from proxy.answers.plain import plain
from proxy.answers.structured import MAX_JSON, has_tool_calls, json_label, tool_label
from proxy.types import JSON, AnswerKind, AnswerSpec, Choice

REFUSAL: Label = ("refusal",)
"""The one ballot of all refusals: seven of them must not lose to one that complies."""

_SHORT_WORDS = 40
_LABEL_WORDS = 8
_LINE_WORDS = 20
_SHOWN = 200
_YES_NO = re.compile(r"\W*(yes|no)\b(?=[\s*_]*(?:[.,;:!]|$))", re.IGNORECASE)

_BLANKS = " .:;?!_-*()[]\"'"
_NO_ANSWERS = frozenset(
    {"i don't know", "i do not know", "don't know", "i'm not sure", "i am not sure", "not sure", "unsure", "no idea"}
    | {"n/a", "null", "no answer", "no answer found", "not found", "answer", "answer is", "the answer is"}
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one choice says. `label` is equal for equal answers; `text` is for people, at most 200 characters.

    `marked`: the reply pointed its answer out (boxed, `####`, "answer is", JSON or tools as asked, a choice alone).
    """

    label: Hashable
    text: str
    marked: bool


def read(choice: Choice, spec: AnswerSpec, request: JSON) -> Answer | None:
    """The answer of `choice` to `request` as `spec` wants it found, or None, which abstains. Never raises.

    Whether the choice was truncated is not looked at.
    """
    if spec.kind == "text":
        return None
    if refused(choice):
        refusal = choice.message.get("refusal")
        return Answer(REFUSAL, _shown(refusal) if isinstance(refusal, str) and refusal else "(filtered)", marked=False)
    if has_tool_calls(choice.message):
        label = tool_label(choice.message)
        return None if label is None else Answer(label, _shown(_tool_text(label)), marked=True)
    if spec.kind == "json" or (spec.kind == "auto" and response_format(request) is not None):
        return _read_json(choice, request)
    return _read_text(visible_text(choice), spec.kind)


def says_nothing(label: Label) -> bool:
    """Whether a label is no answer but the lack of one: "I don't know", "N/A", an empty "The answer is ___"."""
    if label[0] != "text":
        return False
    said = str(label[1]).strip(_BLANKS)
    return said in _NO_ANSWERS or not any(character.isalnum() for character in said)


def is_short(text: str) -> bool:
    """Whether a reply is short enough for all of it to be the answer and its sentence: 40 words."""
    return len(text) <= 2_000 and len(text.split(maxsplit=_SHORT_WORDS)) <= _SHORT_WORDS


def response_format(request: JSON) -> JSON | None:
    """The request's `response_format` if it asks for JSON."""
    wanted = request.get("response_format")
    return wanted if isinstance(wanted, dict) and wanted.get("type") in ("json_object", "json_schema") else None


def _read_json(choice: Choice, request: JSON) -> Answer | None:
    whole = choice.content
    # JSON without its beginning is none
    text = whole.strip() if len(whole) > MAX_JSON else visible_text(choice, MAX_JSON)
    label = json_label(text, response_format(request))
    if label is None:
        return _refusal(text)
    return Answer(label, _shown(text), marked=True)


def _read_text(text: str, kind: AnswerKind) -> Answer | None:
    if kind == "tool_calls":
        return _refusal(text)
    found = _pointed_out(text, kind)
    if found is not None:
        return None if says_nothing(found[1]) else Answer(found[1], _shown(found[0]), marked=True)
    # only now: "I cannot give a closed form, but the answer is 2" is no refusal
    refusal = _refusal(text)
    if refusal is not None:
        return refusal
    found, pointed = _FALLBACKS[kind](text)
    return None if found is None or says_nothing(found[1]) else Answer(found[1], _shown(found[0]), marked=pointed)


def _refusal(text: str) -> Answer | None:
    return Answer(REFUSAL, _shown(text), marked=False) if sounds_refusing(text) else None


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
    if len(text) > _SHOWN or len(text.split()) > _LABEL_WORDS:
        return None
    label = canonical(text)
    return None if label is None else (text, label)


def _tool_text(label: Label) -> str:
    calls = label[1]
    return ", ".join(f"{name}({arguments})" for name, arguments in calls) if isinstance(calls, tuple) else ""


def _shown(text: str) -> str:
    clean = " ".join(text[: 5 * _SHOWN].replace("\x00", "").encode(errors="replace").decode().split())
    return clean if len(clean) <= _SHOWN else clean[: _SHOWN - 1] + "…"
