"""Where in a reply its answer stands: marked answers, the last number, a choice."""

import re
from collections import deque
from collections.abc import Iterator

from proxy.answers.canonical import Label, canonical
from proxy.answers.letters import choice
from proxy.answers.numbers import number
from proxy.answers.plain import plain, without_notes

Found = tuple[str, Label]
"""An answer as the reply says it, and its label."""

_TRIES = 5
_MARKER_TAIL = 10_000
_MOST_LETTERS = 100
_PHRASE = 1_000
_MAX_WORDS = 12
_CONNECTIVE = (
    r"[*_ \t]{0,6}(?:(?:is|are|was|would be|will be|must be|should be|equals)\b|[:=])(?:\*\*(?=\s)|__(?=\s))?[ \t]{0,3}"
    r"(?:(?:therefore|thus|then|simply|just|indeed|clearly|approximately|about)\b,?)?[ \t]{0,3}[:=]?"
)
_MARKER = re.compile(
    rf"\b(?:final[ \t]answer\b(?:{_CONNECTIVE})?"
    rf"|(?:answers?|correct[ \t](?:option|choice))\b(?:[ \t](?:to|for)\b[^.:\n]{{1,60}}?)?{_CONNECTIVE})",
    re.IGNORECASE,
)
_EMPHASISED = re.compile(r"[ \t]*\*\*([^*\n]{1,200})\*\*")
_END = re.compile(
    r"(?<!\b[A-Z])(?<!\b[A-Z][a-z])(?<!\\)[.!?](?=[\s*_\"'\u201d)\]]|$)|[\n;]"
    r"|,[ \t]+(?:as|so|which|where|but|and)\b|,?[ \t]+(?:because|since|altogether|overall|in (?:total|all))\b"
)
_WORDY = re.compile(r"[^\W\d_]{2}")
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]{1,1000})")
_BARE_BOX = re.compile(r"[ \t]*([-+]?[\w.]{1,50})")
_DIGIT_WINDOW = 4_000
_PIECE = re.compile(r"[^\s()\[\]{}=<>|*\"'`~≈:;]+")
_CLOCK = re.compile(r"\d:\d")
_SPACED = re.compile(r"(?<=\d) (?=[/*] ?\d)|(?<=[/*]) (?=\d)")
_TIMES = re.compile(r"(?<=\d) ?[*x] ?(?=10\^)")
_SUFFIXED = re.compile(r"(.*\d)(?:°[CF]?|[a-zµ][A-Za-z]{0,2})(?:\^[23])?")
_NO_UNIT = re.compile(r"(?:st|nd|rd|th)$|^\d{4}s$")
_DENIED = re.compile(
    r"(?:\b(?:not|neither|nor|than|unlike|except|instead of)|n't(?: be)?)[\s*_(]*(?:[Oo]ption |[Cc]hoice )?[\s*_(]*$"
)
_WRONG = re.compile(r"[\s*_)]*(?:(?:and|or|,) *\(?[A-J]\)? )?(?:is|are) (?:also )?(?:incorrect|wrong|false|not)\b")
_BESIDE = re.compile(
    r"(?<![\w'])\(?[A-J][*_)]*(?:,? (?:and|or|nor)|,| ?[&/]) ?[\s*_(]*(?:[Oo]ption |[Cc]hoice )?[\s*_(]*$"
)
_BEFORE = 40
_STANDALONE = re.compile(
    r"\(([A-Ja-j])\)|\*\*([A-J])\b|\b(?:[Oo]ption|[Cc]hoice) ([A-J])\b|(?<![\w'\\-])([B-HJ])(?![\w'-])"
)


def marked(text: str) -> Iterator[str]:
    """The answers that `text` points out itself: boxed, after `####`, after "answer is"; of each the last first."""
    yield from _boxed(text)
    yield from _hashed(text)
    tail = text[-_MARKER_TAIL:]
    for match in reversed(deque(_MARKER.finditer(tail), maxlen=_TRIES)):
        phrase = _phrase(tail[match.end() : match.end() + _PHRASE])
        if phrase:
            yield phrase


def last_number(text: str, *, strict: bool) -> Found | None:
    """The last number in `text`; `strict`: none when a date, a version or a name with digits comes after it."""
    end = max(text.rfind(digit) for digit in "0123456789")
    if end < 0:
        return None
    window = _SPACED.sub("", _TIMES.sub("\u00d7", without_notes(plain(text[max(0, end - _DIGIT_WINDOW) : end + 40]))))
    if strict and _CLOCK.search(window):
        return None
    for piece in reversed(_PIECE.findall(window)):
        if any("0" <= mark <= "9" for mark in piece):
            bare = piece.strip(",.!?_#") if not piece.lstrip("-+$").startswith(".") else piece.rstrip(",.!?_")
            label = number(bare) or _with_unit(bare)
            if label is not None:
                return bare, label
            if strict:
                return None
    return None


def last_choice(text: str) -> Found | None:
    """The last letter in `text` that stands as a choice would, and is not denied: `(B)`, `**B`, `option B`, or alone.

    None where that one is one of several, as in "A and B".
    """
    tail = text[-_MARKER_TAIL:]
    for match in reversed(deque(_STANDALONE.finditer(tail), maxlen=_MOST_LETTERS)):
        before = tail[max(0, match.start() - _BEFORE) : match.start()]
        if _DENIED.search(before) or _WRONG.match(tail, match.end()):
            continue
        letter = next(group for group in match.groups() if group)
        return None if _BESIDE.search(before) else (letter.upper(), ("text", letter.lower()))
    return None


def only_choice(text: str) -> Found | None:
    """The choice that a reply is, or begins with on a line of its own."""
    first = plain(text[:_PHRASE].partition("\n")[0])
    letter = choice(first)
    return None if letter is None else (first, ("text", letter))


def lists_choices(text: str) -> bool:
    """Whether a short reply repeats the choices instead of taking one."""
    return sum(choice(plain(line)) is not None for line in text.splitlines()) > 1


def _boxed(text: str) -> Iterator[str]:
    end = len(text)
    for _ in range(_TRIES):
        start = max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))
        if start < 0:
            return
        inside = _braced(text, start + (6 if text.startswith("\\boxed", start) else 5))
        if inside:
            yield inside
        end = start


def _braced(text: str, start: int) -> str | None:
    """What stands in the braces that open at `start`, nested ones included; None when they never close."""
    while text[start : start + 1] == " ":
        start += 1
    if text[start : start + 1] != "{":
        match = _BARE_BOX.match(text, start)
        return None if match is None else match[1]
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text[start : start + 10 * _PHRASE]):
        depth += (match[0] == "{") - (match[0] == "}")
        if not depth and match[0] == "}":
            return text[start + 1 : start + match.start()].strip()
    return None


def _hashed(text: str) -> Iterator[str]:
    """After `####`: a number anywhere, other text on the last line only, for elsewhere it is a heading."""
    for match in reversed(deque(_HASHES.finditer(text), maxlen=_TRIES)):
        label = canonical(match[1])
        if label is not None and (label[0] == "number" or not text[match.end() :].strip()):
            yield match[1].strip()


def _phrase(rest: str) -> str | None:
    """The answer at the start of `rest`: what is emphasised, or up to the end of the sentence or line."""
    lines = [line for line in rest.split("\n")[:4] if any(mark.isalnum() or mark in "<>=" for mark in line)]
    if not lines:
        return None
    line = lines[0]
    match = _EMPHASISED.match(line)
    if match is not None:
        return match[1].strip()
    end = _END.search(line)
    phrase = (line if end is None else line[: end.start()]).strip()
    short = len(phrase.split()) <= _MAX_WORDS
    return phrase if short or "\\" in phrase or not _WORDY.search(phrase) else None


def _with_unit(piece: str) -> Label | None:
    match = _SUFFIXED.fullmatch(piece)
    return None if match is None or _NO_UNIT.search(piece) else number(match[1])
