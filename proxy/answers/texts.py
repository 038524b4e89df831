"""Answers that are texts: pointed out by the reply, or found where its kind would stand."""

import re
from functools import cached_property

from proxy.answers.answer import LONGEST_SHOWN, REFUSAL, Answer, shown
from proxy.answers.canonical import Label, canonical, expression
from proxy.answers.choosing import fallen_choice, fallen_label, pointed_choice, pointed_label
from proxy.answers.code import code_label, last_block
from proxy.answers.dates import last_date
from proxy.answers.extract import Found, last_number, lists_choices, marked, only_choice
from proxy.answers.formulas import formula
from proxy.answers.messages import sounds_refusing
from proxy.answers.options import Options, lettered, listed, themselves
from proxy.answers.plain import plain
from proxy.answers.quantities import last_quantity, quantity, without_unit
from proxy.answers.question import asked
from proxy.patterns import Match, Pattern, last_match, pattern
from proxy.types import JSON, AnswerSpec

_SHORT_WORDS = 40
_LABEL_WORDS = 8
_LINE_WORDS = 20
_YES_NO = re.compile(r"\W*(yes|no|true|false)\b(?=[\s*_]*(?:[.,;:!(\u2013\u2014]|-\s|$))", re.IGNORECASE)
# a number in brackets after words: "positive (0.95)"
_ASIDE = re.compile(r"[^\d()=]*[^\W_]\W{0,3}\([^()]*\)\W*")
# an item's own number: the last line of "1. Paris, 2. Rome" in two lines
_ITEM = re.compile(r"\n\s{0,8}\d{1,3}[.)] [^\d\n]+$")
_JOINED = re.compile(
    r"\d\S{0,3}(?: [^\W\d]+){0,2}(?:, | and | or | to )(?:and |or )?[$\u20ac\u00a3]?-?[\d.,]+%?(?: \S+)?\W*$"
)
_ASSIGNED = re.compile(r"(?<![\w\\])([^\W\d]\w{0,20})[*_]* ?[=:][*_]* ?([-+$]?\d[\d.,/]*)")

_SAYING = frozenset("<>=\u221e\u2205\u2264\u2265\u2260")
"""Signs that are an answer alone."""
_BLANKS = " .:;?!_-*()[]\"'"
_NO_ANSWERS = frozenset(
    {"i don't know", "i do not know", "don't know", "i'm not sure", "i am not sure", "not sure", "unsure", "no idea"}
    | {"n/a", "null", "no answer", "no answer found", "not found", "answer", "answer is", "the answer is"}
)


class Texts:
    """Reads the replies to one request as texts of one kind. What that takes is prepared on first use."""

    def __init__(self, spec: AnswerSpec, request: JSON) -> None:
        self._spec = spec
        self._request = request
        self._known: dict[str, Answer | None] = {}

    def read(self, text: str) -> Answer | None:
        """The answer in a reply's visible text, or None, which abstains. Never raises."""
        if text not in self._known:
            # short replies to one request are often the same
            self._known[text] = self._read(text)
        return self._known[text]

    def _read(self, text: str) -> Answer | None:
        if self._spec.kind == "regex":
            return self._matched(text)
        if self._spec.kind == "code":
            return _code(text)
        found = self._pointed_out(text)
        if found is not None:
            return self._answer(found, text, pointed=True)
        # only now: "I cannot give a closed form, but the answer is 2" is no refusal
        refusal = refusal_in(text)
        if refusal is not None:
            return refusal
        found, pointed = self._fallback(text)
        return None if found is None else self._answer(found, text, pointed=pointed)

    def _pointed_out(self, text: str) -> Found | None:
        for phrase in marked(text):
            found = self._narrowed(phrase)
            if found is not None:
                return found
        return None

    def _narrowed(self, phrase: str) -> Found | None:
        kind = self._spec.kind
        if kind == "choice":
            return pointed_choice(phrase, self._options)
        if kind == "number":
            return quantity(phrase)
        if kind == "label" and self._options:
            return pointed_label(phrase, self._options)
        if kind == "auto" and not self._options:
            answer = _yes_no(phrase)
            if answer is not None:
                return answer
        label = canonical(phrase)
        if kind == "math" and label is not None and label[0] == "text":
            return _unitless(phrase) or (phrase, label)
        return None if label is None else (phrase, label)

    def _fallback(self, text: str) -> tuple[Found | None, bool]:
        """What a text without a marker says, and whether it counts as pointed out all the same."""
        kind = self._spec.kind
        if kind == "choice":
            return fallen_choice(text, self._options, short=is_short(text))
        if kind == "number":
            return last_quantity(text), False
        if kind == "math":
            whole = _unitless(text) if is_short(text) else None
            number = None if is_short(text) and _several(text) else last_number(text, strict=False)
            return whole or _formula(text) or number or _whole(text), False
        if kind == "label":
            return (fallen_label(text, self._options) if self._options else _label(text)), False
        return _auto(text)

    def _answer(self, found: Found, text: str, *, pointed: bool) -> Answer | None:
        said, label = found
        kind = self._spec.kind
        # a configured option is an answer even where it says that there is none
        if says_nothing(label) and not (kind == "label" and self._options):
            return None
        if kind == "label" and self._options:
            # the option is the answer, and not the sentence that names it
            said = next((option for option in self._spec.options if canonical(option) == label), said)
        if kind != "auto":
            return Answer(label, shown(said), pointed, formula(said, label) if kind == "math" else None)
        if self._options:
            option = self._options.named(label) or self._options.named(canonical(text if is_short(text) else said))
            if option is not None:
                return Answer(option, shown(said), pointed)
        return Answer(label, shown(said), pointed, formula(said, label))

    def _matched(self, text: str) -> Answer | None:
        match = None if self._pattern is None else last_match(self._pattern, text)
        if match is None or self._pattern is None:
            return refusal_in(text)
        said = _group(match, self._pattern).strip()
        label = canonical(said)
        return None if label is None or says_nothing(label) else Answer(label, shown(said), marked=True)

    @cached_property
    def _pattern(self) -> Pattern | None:
        return None if self._spec.pattern is None else pattern(self._spec.pattern)

    @cached_property
    def _options(self) -> Options:
        if self._spec.kind == "label":
            return themselves(self._spec.options)
        return lettered(self._spec.options or listed(asked(self._request)))


def says_nothing(label: Label) -> bool:
    """Whether a label is no answer but the lack of one: "I don't know", "N/A", an empty "The answer is ___"."""
    if label[0] != "text":
        return False
    said = str(label[1]).strip(_BLANKS)
    return said in _NO_ANSWERS or not any(mark.isalnum() or mark in _SAYING for mark in said)


def is_short(text: str) -> bool:
    """Whether a reply is short enough for all of it to be the answer and its sentence: 40 words."""
    return len(text) <= 2_000 and len(text.split(maxsplit=_SHORT_WORDS)) <= _SHORT_WORDS


def refusal_in(text: str) -> Answer | None:
    """The refusal that a short reply begins with, or None."""
    return Answer(REFUSAL, shown(text), marked=False) if sounds_refusing(text) else None


def _code(text: str) -> Answer | None:
    block = last_block(text)
    if block is None:
        refusal = refusal_in(text)
        said = canonical(text)
        if refusal is not None or said is None or says_nothing(said):
            return refusal
    code = text if block is None else block
    label = code_label(code)
    return None if label is None else Answer(label, shown(code), marked=block is not None)


def _group(match: Match, of: Pattern) -> str:
    """What a pattern's match is read as: its group `answer`, else its first group, else all of it."""
    if "answer" in of.groupindex:
        return match.group("answer") or ""
    return (match.group(1) if of.groups else match.group()) or ""


def _auto(text: str) -> tuple[Found | None, bool]:
    if not is_short(text) or lists_choices(text):
        return None, False
    letter = only_choice(text)
    if letter is not None:
        return letter, True
    number = None if _several(text) else last_number(text, strict=True)
    return _yes_no(text) or last_date(plain(text)) or _formula(text) or number or _whole(text), False


def _several(text: str) -> bool:
    """Whether the last number of a short text is one of several that it says, or stands beside what it says."""
    bare = plain(text)
    if _ASIDE.fullmatch(bare) or _JOINED.search(bare) or _ITEM.search(text):
        return True
    assigned = _ASSIGNED.findall(bare)
    return len({name for name, _ in assigned}) > 1 and len({value for _, value in assigned}) > 1


def _label(text: str) -> Found | None:
    whole = _whole(text)
    if whole is not None:
        return whole
    line = text.rpartition("\n")[2]
    label = canonical(line) if len(line.split(maxsplit=_LINE_WORDS)) <= _LINE_WORDS else None
    return None if label is None else (line, label)


def _yes_no(text: str) -> Found | None:
    match = _YES_NO.match(text)
    return None if match is None else (match[1], ("text", match[1].lower()))


def _unitless(text: str) -> Found | None:
    value = without_unit(text)
    return None if value is None else (text, ("number", value))


def _formula(text: str) -> Found | None:
    label = expression(text)
    return None if label is None else (text, label)


def _whole(text: str) -> Found | None:
    if len(text) > LONGEST_SHOWN or len(text.split()) > _LABEL_WORDS:
        return None
    label = canonical(text)
    return None if label is None else (text, label)
