"""Answers of real models, as they wrote them: what equivalence makes of them."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.answers import canonical
from proxy.replay.pool import Pool, read_pool

POOLS = Path(__file__).resolve().parents[2] / "shared" / "pools"
MODELS = ["EXAONE-Deep-32B", "Phi-4-reasoning"]
MATH = [POOLS / f"math500_{model}.jsonl.gz" for model in MODELS]

pytestmark = pytest.mark.skipif(
    not all(file.is_file() for file in MATH), reason="the recorded MATH-500 pools are not beside the repository"
)


def right(pool: Pool) -> float:
    """The share of questions whose plurality over all samples is the gold answer."""
    return sum(question.plurality == question.gold for question in pool.questions) / len(pool.questions)


def texts(file: Path) -> Iterator[set[str]]:
    """What the samples of each question say."""
    for line in gzip.decompress(file.read_bytes()).splitlines():
        yield {sample["answer"] for sample in json.loads(line)["samples"]} - {None}


@pytest.mark.parametrize(
    ("file", "as_written", "equivalent"), [(MATH[0], 0.962, 0.972), (MATH[1], 0.944, 0.966)], ids=MODELS
)
def test_the_plurality_is_right_more_often_when_equal_answers_are_one(
    file: Path, as_written: float, equivalent: float
) -> None:
    assert right(read_pool(file)) == pytest.approx(as_written)
    assert right(read_pool(file, labelling=canonical)) >= equivalent


def test_no_question_is_split_by_how_half_pi_is_written() -> None:
    pairs = [
        (text, text.replace(r"\frac{\pi}{2}", r"\pi/2"))
        for file in MATH
        for said in texts(file)
        for text in said
        if r"\frac{\pi}{2}" in text and text.replace(r"\frac{\pi}{2}", r"\pi/2") in said
    ]
    assert pairs
    assert [(one, other) for one, other in pairs if canonical(one) != canonical(other)] == []


@pytest.mark.parametrize("file", MATH, ids=MODELS)
def test_no_gold_answer_is_lost_in_the_labels(file: Path) -> None:
    assert all(question.gold is not None for question in read_pool(file, labelling=canonical).questions)
