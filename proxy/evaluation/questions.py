"""The questions of an evaluation, and whether a reply is right."""

import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from proxy.answers import Algebra, Answer, Groups, canonical, read
from proxy.answers.alike import alike
from proxy.errors import ConfigError, Problem
from proxy.types import AnswerKind, AnswerSpec, Choice


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its right answer, as its file writes it."""

    id: str
    question: str
    gold: str


@dataclass(frozen=True, slots=True)
class Questions:
    """A file of questions. `digest` is the SHA-256 of the whole file, in hex."""

    digest: str
    items: tuple[Question, ...]


def read_questions(path: Path) -> Questions:
    """The questions in a JSONL file of `{"id", "question", "gold"}`; further keys are not looked at.

    Raises ConfigError that names the line and what is wrong with it.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode()
    except OSError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: it is not UTF-8 at byte {error.start}")]) from error
    found: dict[str, Question] = {}
    for number, line in _lines(text):
        question = _question(line, str(path), number)
        if question.id in found:
            raise _wrong(str(path), number, f"the id {question.id!r} stands twice")
        found[question.id] = question
    if not found:
        raise ConfigError([Problem(str(path), "", "holds no question")])
    return Questions(sha256(raw).hexdigest(), tuple(found.values()))


def grade(choice: Choice, gold: str, kind: AnswerKind) -> tuple[str | None, bool]:
    """What a reply says, and whether it is `gold`; a reply without an answer is wrong."""
    spec = AnswerSpec(kind)
    answer, right = read(choice, spec, {}), said(gold, kind)
    if answer is None:
        return None, False
    near = right is not None and bool(alike(right, answer, spec))
    return answer.text, near or answer.label in labels(gold, kind)


async def graded(choice: Choice, gold: str, kind: AnswerKind, algebra: Algebra) -> tuple[str | None, bool]:
    """The same, where formulas that are written otherwise than `gold` are compared with it by algebra."""
    text, right = grade(choice, gold, kind)
    if right or text is None:
        return text, right
    spec = AnswerSpec(kind)
    wanted, found = await Groups(spec, algebra).in_order([said(gold, kind), read(choice, spec, {})])
    return text, wanted is not None and wanted == found


async def matches(answer: str, gold: str, kind: AnswerKind, algebra: Algebra) -> bool:
    """Whether a reply is right that gives just this answer."""
    if not labels(answer, kind).isdisjoint(labels(gold, kind)):
        return True
    return (await graded(_giving(answer, kind), gold, kind, algebra))[1]


def said(answer: str, kind: AnswerKind) -> Answer | None:
    """What a reply says that gives just this answer; None where it says nothing."""
    found = read(_giving(answer, kind), AnswerSpec(kind), {})
    if found is not None or kind == "json":
        return found
    label = canonical(answer)
    return None if label is None else Answer(label, answer, marked=True)


def labels(answer: str, kind: AnswerKind) -> frozenset[Hashable]:
    """The labels of replies that give just this answer."""
    found = said(answer, kind)
    plain = None if kind == "json" else canonical(answer)
    return frozenset(label for label in (plain, found and found.label) if label is not None)


def _giving(answer: str, kind: AnswerKind) -> Choice:
    return Choice(0, {"content": answer if kind == "json" else f"\\boxed{{{answer}}}"}, "stop")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # not splitlines(), which breaks lines at characters that JSON may hold as they are
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _question(line: str, file: str, number: int) -> Question:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        # the error counts lines too, and each is its own first
        raise _wrong(file, number, f"is not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:
        # a number of thousands of digits
        raise _wrong(file, number, f"cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise _wrong(file, number, "is not a JSON object")
    for name in ("id", "question", "gold"):
        value = data.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise _wrong(file, number, f"{name} is missing, or is no text and no number")
    return Question(str(data["id"]), str(data["question"]), str(data["gold"]))


def _wrong(file: str, number: int, reason: str) -> ConfigError:
    return ConfigError([Problem(file, f"line {number}", reason)])
