"""Answers of real models, as they wrote them: what equivalence makes of them."""

import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.answers import canonical
from proxy.answers.workers import Workers
from proxy.evaluation.questions import grade, graded, read_questions, said
from proxy.replay.pool import Pool, read_pool
from proxy.types import AnswerKind, Choice

SHARED = Path(__file__).resolve().parents[2] / "shared"
POOLS = SHARED / "pools"
QUESTIONS = SHARED / "questions"
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


FORMS = [r"So the final answer is $\boxed{%s}$.", "Let us see. The answer is %s.", "#### %s"]


def reply(text: str) -> Choice:
    return Choice(0, {"content": text}, "stop")


@pytest.mark.parametrize(("file", "share"), [(MATH[0], 1.0), (MATH[1], 0.998)], ids=MODELS)
def test_a_recorded_answer_in_a_reply_is_found_in_its_own_cluster(file: Path, share: float) -> None:
    answers = [text for said_here in texts(file) for text in said_here if canonical(text) is not None]
    found = [grade(reply(f"The final answer is $\\boxed{{{text}}}$."), text, "math")[1] for text in answers]
    assert len(answers) > 700
    assert sum(found) >= share * len(found)


@pytest.mark.parametrize("name", ["amc23", "gsm8k_test", "svamp", "math500"])
@pytest.mark.parametrize("kind", ["auto", "math"])
def test_right_answers_are_found_in_replies_of_several_forms(name: str, kind: AnswerKind) -> None:
    questions = read_questions(QUESTIONS / f"{name}.jsonl").items
    for form in FORMS:
        found = [grade(reply(form % question.gold), question.gold, kind)[1] for question in questions]
        assert sum(found) >= (0.995 if name == "math500" else 1) * len(found)


@pytest.mark.anyio
@pytest.mark.parametrize(("file", "written", "told"), [(MATH[0], 0.970, 0.980), (MATH[1], 0.964, 0.974)], ids=MODELS)
async def test_algebra_recognises_right_answers_that_are_written_otherwise(
    file: Path, written: float, told: float
) -> None:
    pairs = [(reply(f"\\boxed{{{text}}}"), gold) for text, gold in pluralities(file)]
    assert len(pairs) == 500
    assert sum(grade(*pair, "math")[1] for pair in pairs) >= written * len(pairs)
    async with Workers(clock=time.monotonic) as algebra:
        found = [(await graded(*pair, "math", algebra))[1] for pair in pairs]
    assert sum(found) >= told * len(pairs)


def pluralities(file: Path) -> Iterator[tuple[str, str]]:
    """What most samples of each question say, as the first of them writes it, and the gold answer."""
    for line in gzip.decompress(file.read_bytes()).splitlines():
        question = json.loads(line)
        written = [sample["answer"] for sample in question["samples"] if sample["answer"] is not None]
        labels = {text: answer.label for text in set(written) if (answer := said(text, "math")) is not None}
        counts = Counter(labels[text] for text in written if text in labels)
        (most, _), *_ = counts.most_common(1)
        yield next(text for text in written if labels.get(text) == most), question["gold"]
