"""The options that an answer is one of: the configured ones, or those that a prompt lists."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from proxy.answers.canonical import Label, canonical
from proxy.answers.plain import plain

_MARK = re.compile(
    r"(?P<line>^[ \t]*(?:[-*][ \t]+)?)?(?<![^\s,;*_])[*_]{0,2}"
    r"(?:\((?P<round>[A-Ja-j])\)|\[(?P<square>[A-Ja-j])\]|(?P<letter>[A-Ja-j])(?P<sign>\)|[.:](?=[\s*_])))[*_]{0,2}",
    re.MULTILINE,
)
_LONGEST = 1_000
_MOST_MARKS = 1_000
_TAIL = 4_000
_MOST_SAID = 8_000
_TOKEN = re.compile(r"(?<!\w)-?\d(?:[\d.,]*\d)?|\w+|[^\w\s]")
_LETTERS = frozenset((letter,) for letter in "abcdefghij")
_SENTENCE_END = re.compile(r"(?<=\w)[.?!](?=\s+[A-Z]|$)")
_NOT = frozenset({"not", "never", "neither", "nor"})
_ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True, slots=True)
class _Mark:
    """A letter that may begin an option. `style` is the same for all options of a list; `lined`: it begins a line."""

    letter: str
    style: tuple[str, bool]
    lined: bool
    start: int
    end: int


class Options:
    """The texts to choose from, each with the label that choosing it has."""

    def __init__(self, labelled: Sequence[tuple[str, Label]]) -> None:
        self._labels: dict[Label, Label] = {}
        self._spelled: dict[str, list[tuple[tuple[str, ...], Label]]] = {}
        for text, label in labelled:
            said = canonical(text)
            if said is not None and said not in self._labels:
                self._labels[said] = label
                words = tuple(_TOKEN.findall(plain(text).casefold()))
                # an article is no mention of the option "A"
                if words and words not in _LETTERS:
                    self._spelled.setdefault(words[0], []).append((words, label))
        for same in self._spelled.values():
            same.sort(key=lambda option: -len(option[0]))

    def __bool__(self) -> bool:
        return bool(self._labels)

    def named(self, said: Label | None) -> Label | None:
        """The label of the option whose text was said, all of it and nothing else, or None."""
        return None if said is None else self._labels.get(said)

    def only(self, text: str) -> Label | None:
        """The label of the only option that `text` names as whole words; None where it names none, or several.

        The longest option counts where one is inside another (`not spam`), and one that is denied does not.
        """
        found = set(self._mentioned(text))
        return found.pop() if len(found) == 1 else None

    def _mentioned(self, text: str) -> Iterator[Label]:
        tokens = _TOKEN.findall(plain(text[-_TAIL:])[-_MOST_SAID:].casefold())
        place = 0
        while place < len(tokens):
            option = next(
                (
                    option
                    for option in self._spelled.get(tokens[place], ())
                    if tuple(tokens[place : place + len(option[0])]) == option[0]
                ),
                None,
            )
            if option is None:
                place += 1
                continue
            if not _denied(tokens[max(0, place - 4) : place]):
                yield option[1]
            place += len(option[0])


def lettered(texts: Sequence[str]) -> Options:
    """The options of a choice, in order: the first has the letter a, whether its text says so (`A) Paris`) or not."""
    letters = [chr(ord("a") + place) for place in range(len(texts))]
    return Options([(_unlettered(text, letter), ("text", letter)) for text, letter in zip(texts, letters, strict=True)])


def themselves(texts: Sequence[str]) -> Options:
    """The options of a label: each stands for itself, normalised."""
    labels = [(text, canonical(text)) for text in texts]
    return Options([(text, label) for text, label in labels if label is not None])


def listed(prompt: str) -> tuple[str, ...]:
    """The texts of the options that a prompt lists from A on, without a gap, at most ten; empty if it lists none.

    A list whose options begin lines goes before one that runs on in a line, and the last before others.
    """
    every = (_read(match) for match in islice(_MARK.finditer(prompt), _MOST_MARKS))
    # in a line "(x - a)(x - b)" has no options
    marks = [mark for mark in every if mark.lined or mark.style[1] or mark.style[0] in "(["]
    return _last_list(prompt, [mark for mark in marks if mark.lined]) or _last_list(prompt, marks)


def _last_list(prompt: str, marks: Sequence[_Mark]) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    for run in _runs(marks):
        texts = _texts(prompt, run)
        if len(run) > 1 and all(texts) and len(set(texts)) == len(texts):
            found = texts
    return found


def _read(match: re.Match[str]) -> _Mark:
    letter = match["round"] or match["square"] or match["letter"]
    sign = match["sign"] or ("(" if match["round"] else "[")
    return _Mark(letter.lower(), (sign, letter.isupper()), match["line"] is not None, match.start(), match.end())


def _runs(marks: Sequence[_Mark]) -> Iterator[list[_Mark]]:
    """Marks that follow each other from A on in one style; what is in between belongs to an option's text."""
    open_runs: dict[tuple[str, bool], list[_Mark]] = {}
    for mark in marks:
        run = open_runs.get(mark.style)
        if mark.letter == "a":
            if run is not None:
                yield run
            open_runs[mark.style] = [mark]
        elif run is not None and ord(mark.letter) == ord(run[-1].letter) + 1:
            run.append(mark)
    yield from sorted(open_runs.values(), key=lambda run: run[0].start)


def _texts(prompt: str, run: Sequence[_Mark]) -> tuple[str, ...]:
    ends = [mark.start for mark in run[1:]] + [run[-1].end + _LONGEST]
    texts = []
    for mark, end in zip(run, ends, strict=True):
        text = prompt[mark.end : min(end, mark.end + _LONGEST)].strip().partition("\n")[0].rstrip(" ,;")
        if not mark.lined:
            # in a line the sentence ends with the options
            text = _SENTENCE_END.split(text, maxsplit=1)[0]
        texts.append(text.removesuffix(" or").removesuffix(" and").rstrip(" ,;") if any(map(str.isalnum, text)) else "")
    return tuple(texts)


def _unlettered(text: str, letter: str) -> str:
    match = _MARK.match(text)
    bare = text[match.end() :].strip() if match is not None and _read(match).letter == letter else ""
    return bare or text


def _denied(before: Sequence[str]) -> bool:
    words = [word for word in before if word not in _ARTICLES]
    return bool(words) and (words[-1] in _NOT or words[-2:] == ["'", "t"])
