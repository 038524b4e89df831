"""What a predictor learns from: questions, with the mean and standard deviation of their samples' scores."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

from proxy.errors import ConfigError, Problem
from proxy.ledger.samples import RecordedRequest
from proxy.types import JSON


@dataclass(frozen=True, slots=True)
class Example:
    """One question. `mean` and `deviation` of its scores, each in [0, 1]."""

    question: str
    mean: float
    deviation: float


def read_examples(path: Path) -> list[Example]:
    """The examples in a JSONL file, or one that is gzipped (`.gz`), a line each.

    A line is `{"question", "mean_score", "std_score"}`, or a pool's: `{"question", "samples": [{"score"}, ...]}`, which
    is left out when it has fewer than two scores. Raises ConfigError that names the file and the line.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error}")]) from error
    examples: list[Example] = []
    # not splitlines(), which breaks lines at characters that JSON may hold as they are
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                examples += _example(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError([Problem(str(path), f"line {number}", _reason(error))]) from error
    return examples


def from_requests(requests: Iterable[RecordedRequest]) -> list[Example]:
    """The examples in a ledger's requests: the scores of a question that was asked again are put together."""
    asked: dict[str, list[float]] = {}
    for request in requests:
        scores = [sample.score for sample in request.samples if sample.score is not None]
        if request.question and request.question.strip():
            asked.setdefault(request.question, []).extend(scores)
    return [example for question, scores in asked.items() for example in _scored(question, scores)]


def _example(line: JSON) -> Iterator[Example]:
    if not isinstance(line, dict):
        raise TypeError("is not a JSON object")
    question = line["question"]
    if not isinstance(question, str):
        raise TypeError("question is not a text")
    if "samples" in line:
        samples = line["samples"]
        if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
            raise TypeError("samples is not a list of JSON objects")
        scores = [sample.get("score") for sample in samples]
        yield from _scored(question, [_share(score, "score") for score in scores if score is not None])
    else:
        mean, deviation = _share(line["mean_score"], "mean_score"), _share(line["std_score"], "std_score")
        yield Example(question, mean, deviation)


def _scored(question: str, scores: list[float]) -> Iterator[Example]:
    if len(scores) > 1:
        clipped = [min(max(score, 0.0), 1.0) for score in scores]
        yield Example(question, fmean(clipped), pstdev(clipped))


def _share(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is not a number")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} {value} is not between 0 and 1")
    return float(value)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg}"
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
