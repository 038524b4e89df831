"""A recorded pool: many samples of each question, with their answers and lengths, kept to be drawn again."""

import gzip
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import orjson

from proxy.core.batch import Label
from proxy.core.vote import Ballot, plurality
from proxy.errors import ConfigError, Problem

Labelling = Callable[[str], Label | None]
"""From an answer's text to what it votes for; None: it says nothing, and abstains."""

_GZIP = b"\x1f\x8b"
_MOST_PROBLEMS = 10


@dataclass(frozen=True)
class Question:
    """One question: its right answer (None: not known) and its recorded samples, in the order of the file."""

    id: str
    gold: Label | None
    samples: tuple[Ballot, ...]

    @cached_property
    def plurality(self) -> Label | None:
        """What most of all its samples say, ties to the earliest; None when every one of them abstains."""
        return plurality(sample.label for sample in self.samples).leader


@dataclass(frozen=True)
class Pool:
    """The questions of one file. A pool has at least one sample."""

    name: str
    questions: tuple[Question, ...]

    @cached_property
    def mean_tokens(self) -> float:
        """Mean tokens of one sample: the unit in which costs are told."""
        samples = sum(len(question.samples) for question in self.questions)
        return sum(sample.tokens for question in self.questions for sample in question.samples) / samples

    @cached_property
    def scored(self) -> bool:
        """Whether any sample has a verifier's score."""
        return any(sample.score is not None for question in self.questions for sample in question.samples)


def pool_name(path: Path) -> str:
    """The file's name without `.jsonl`, `.json` and `.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")


def as_written(answer: str) -> Label | None:
    """Answers are the same when their texts are."""
    return answer


def read_pool(path: Path, name: str | None = None, *, labelling: Labelling = as_written) -> Pool:
    """Read JSON lines, gzipped or not, of `{"id", "gold", "samples": [{"answer", "tokens", "score"?}]}`.

    Other keys are ignored. `answer` and `gold` are strings or numbers, or null: an abstention, and a gold answer that
    is not known. `tokens` is a whole number from 0. `labelling` says which texts are one answer, of samples and gold
    answers alike; a gold answer without a label counts as not known. ConfigError names the file, the line and what is
    wrong, for the first ten lines that are wrong.
    """
    # the same few texts come again and again
    labelling = cache(labelling)
    questions: dict[str, Question] = {}
    problems: list[Problem] = []
    for number, line in enumerate(_content(path).split(b"\n"), 1):
        if not line.strip() or len(problems) == _MOST_PROBLEMS:
            continue
        try:
            question = parse_question(line, labelling)
        except ValueError as error:
            problems.append(Problem(str(path), f"line {number}", str(error)))
            continue
        if question.id in questions:
            problems.append(Problem(str(path), f"line {number}", f"id {question.id!r} was there before"))
        questions[question.id] = question
    if not problems and not any(question.samples for question in questions.values()):
        problems.append(Problem(str(path), "", "holds no samples"))
    if problems:
        raise ConfigError(problems)
    return Pool(pool_name(path) if name is None else name, tuple(questions.values()))


def parse_question(line: bytes, labelling: Labelling = as_written) -> Question:
    """One line of a pool. ValueError says what is wrong with it."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error}") from error
    match found:
        case {"id": str() | int() as name, "samples": list() as samples} if not isinstance(name, bool):
            ballots = tuple([_sample(sample, f"samples[{place}]", labelling) for place, sample in enumerate(samples)])
            return Question(str(name), _label(found.get("gold"), "gold", labelling), ballots)
        case {"samples": list()}:
            raise ValueError("id is no string")
        case dict():
            raise ValueError("samples is no list")
        case _:
            raise ValueError("is no JSON object")


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError([Problem(str(path), "", f"cannot be read: {reason}")]) from error


def _sample(sample: object, where: str, labelling: Labelling) -> Ballot:
    match sample:
        case {"answer": answer, "tokens": int() as tokens, **others} if tokens >= 0 and not isinstance(tokens, bool):
            score = _score(others.get("score"), f"{where}.score")
            return Ballot(_label(answer, f"{where}.answer", labelling), score, tokens)
        case {"answer": _}:
            raise ValueError(f"{where}.tokens is no whole number from 0")
        case dict():
            raise ValueError(f"{where}.answer is missing (null is an abstention)")
        case _:
            raise ValueError(f"{where} is no JSON object")


def _label(value: object, where: str, labelling: Labelling) -> Label | None:
    match value:
        case None:
            return None
        case str():
            return labelling(value)
        case int() | float() if not isinstance(value, bool):
            return labelling(str(value))
        case _:
            raise ValueError(f"{where} is no string, number or null")


def _score(value: object, where: str) -> float | None:
    match value:
        case None:
            return None
        case int() | float() if not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        case _:
            raise ValueError(f"{where} is no number or null")


def pool_names(paths: Sequence[Path]) -> list[str]:
    """A name for each path: the file's own, or the whole path where two files share a name."""
    names = [pool_name(path) for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
