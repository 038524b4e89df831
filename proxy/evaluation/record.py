"""The folder of an evaluation: its set-up, and every answer, kept as it comes."""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

from pydantic import ValidationError

from proxy.errors import ConfigError, Problem
from proxy.evaluation.asking import Draw, Result
from proxy.evaluation.files import whole, write_pool
from proxy.evaluation.questions import Question, labels
from proxy.evaluation.setup import Setup
from proxy.types import JSON

_SETUP = "setup.json"
_RESULTS = "results.jsonl"


class Record:
    """The answers in a folder, by strategy and question. Only one run at a time has it open."""

    def __init__(self, file: IO[bytes], results: Iterable[Result]) -> None:
        self._file = file
        self.results = {(result.strategy, result.id): result for result in results}

    @classmethod
    @contextmanager
    def open(cls, folder: Path, setup: Setup) -> Iterator[Self]:
        """Go on with what the folder holds, or begin it. Raises ConfigError where it holds another set-up."""
        path = folder / _RESULTS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b")
        except OSError as error:
            raise _wrong(path, f"cannot be opened: {error.strerror}") from error
        with file:
            _lock(file, folder)
            _check_setup(folder / _SETUP, setup)
            yield cls(file, _read(file, path))

    def add(self, result: Result) -> None:
        """Keep an answer, before anything else happens."""
        self._file.write(result.model_dump_json().encode() + b"\n")
        self._file.flush()
        self.results[result.strategy, result.id] = result

    def missing(self, strategies: Sequence[str], questions: Sequence[Question]) -> list[tuple[str, Question]]:
        """What is still to be asked, strategy by strategy: questions of one strategy share micro-batches."""
        asked = [(strategy, question) for strategy in strategies for question in questions]
        return [(strategy, question) for strategy, question in asked if (strategy, question.id) not in self.results]

    def of(self, strategy: str, questions: Sequence[Question]) -> list[Result]:
        """The answers that a strategy gave, in the questions' order."""
        found = (self.results.get((strategy, question.id)) for question in questions)
        return [result for result in found if result is not None]

    def write_pool(self, path: Path, strategy: str, questions: Sequence[Question], setup: Setup) -> None:
        """Write every independent sample of a strategy as a pool, a line a question, in draw order.

        Samples that saw others are left out: they cannot be drawn again alone.
        """
        known = {question.id: question for question in questions}
        results = self.of(strategy, questions)
        write_pool(path, (_pool_line(known[result.id], result, setup) for result in results))


def _pool_line(question: Question, result: Result, setup: Setup) -> JSON:
    gold = labels(question.gold, setup.answer)
    samples: list[JSON] = []
    for draw in result.draws:
        if draw.conditioned:
            continue
        # replays compare texts: what is right is written as the gold answer is
        right = draw.right
        if right is None:
            right = draw.answer is not None and not gold.isdisjoint(labels(draw.answer, setup.answer))
        samples.append(_sample(draw, question.gold if right else draw.answer))
    return {
        "id": question.id,
        "gold": question.gold,
        "model": setup.model,
        "question": question.question,
        "samples": samples,
    }


def _sample(draw: Draw, answer: str | None) -> JSON:
    return {"answer": answer, "tokens": draw.tokens, **({} if draw.score is None else {"score": draw.score})}


def _lock(file: IO[bytes], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _wrong(folder, "another evaluation is running here") from error


def _check_setup(path: Path, setup: Setup) -> None:
    if not path.exists():
        with whole(path) as file:
            file.write(setup.model_dump_json(indent=2).encode() + b"\n")
        return
    try:
        known = Setup.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise _wrong(path, "is not the set-up of an evaluation") from error
    differences = known.differences(setup)
    if differences:
        reason = f"belongs to another evaluation ({'; '.join(differences)}): choose another folder with --out"
        raise _wrong(path.parent, reason)


def _read(file: IO[bytes], path: Path) -> list[Result]:
    file.seek(0)
    raw = file.read()
    if not raw.endswith(b"\n"):
        # the run before was killed while it wrote its last line
        raw = raw[: raw.rfind(b"\n") + 1]
        os.truncate(file.fileno(), len(raw))
    found = []
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            found.append(Result.model_validate_json(line))
        except ValidationError:
            raise ConfigError([Problem(str(path), f"line {number}", "is not a result")]) from None
    return found


def _wrong(path: Path, reason: str) -> ConfigError:
    return ConfigError([Problem(str(path), "", reason)])
