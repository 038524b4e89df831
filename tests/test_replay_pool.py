import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answers import canonical
from proxy.core.vote import Ballot
from proxy.errors import ConfigError
from proxy.replay.pool import Question, parse_question, pool_names, read_pool

GOOD: dict[str, Any] = {"id": "q", "gold": "A", "samples": [{"answer": "A", "tokens": 3}]}

answers = st.none() | st.text(max_size=5) | st.integers(-5, 5)
samples_ = st.builds(
    lambda answer, tokens, score, other: {"answer": answer, "tokens": tokens, **score, "other": other},
    answers,
    st.integers(0, 10**6),
    st.just({}) | st.fixed_dictionaries({"score": st.none() | st.floats(0, 1)}),
    st.booleans(),
)
json_ = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["answer", "tokens", "score", "x"]), inner)
    ),
    max_leaves=8,
)


def line(**changes: object) -> str:
    return json.dumps({**GOOD, **changes})


@given(st.text(max_size=5), answers, st.lists(samples_, max_size=5))
def test_a_question_is_read_as_it_was_written(name: str, gold: str | int | None, samples: list[dict[str, Any]]) -> None:
    found = parse_question(json.dumps({"id": name, "gold": gold, "samples": samples, "model": "m"}).encode())
    assert (found.id, found.gold) == (name, None if gold is None else str(gold))
    assert [(sample.label, sample.tokens, sample.score) for sample in found.samples] == [
        (None if sample["answer"] is None else str(sample["answer"]), sample["tokens"], sample.get("score"))
        for sample in samples
    ]


@given(st.binary(max_size=40) | st.dictionaries(st.sampled_from(["id", "gold", "samples"]), json_).map(json.dumps))
def test_a_line_is_a_question_or_an_error_that_says_why(found: bytes | str) -> None:
    text = found.encode() if isinstance(found, str) else found
    try:
        assert isinstance(parse_question(text), Question)
    except ValueError as error:
        assert str(error).startswith(("is no", "id ", "gold ", "samples"))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("{", "is no JSON: "),
        ("[]", "is no JSON object"),
        (line(samples=None), "samples is no list"),
        (line(id=None), "id is no string"),
        (line(id=True), "id is no string"),
        (line(gold=[]), "gold is no string, number or null"),
        (line(samples=[3]), "samples[0] is no JSON object"),
        (line(samples=[{"tokens": 3}]), "samples[0].answer is missing (null is an abstention)"),
        (line(samples=[{"answer": {}, "tokens": 3}]), "samples[0].answer is no string, number or null"),
        (line(samples=[{"answer": True, "tokens": 3}]), "samples[0].answer is no string, number or null"),
        (line(samples=[*GOOD["samples"], {"answer": "A"}]), "samples[1].tokens is no whole number from 0"),
        (line(samples=[{"answer": "A", "tokens": -1}]), "samples[0].tokens is no whole number from 0"),
        (line(samples=[{"answer": "A", "tokens": 1.5}]), "samples[0].tokens is no whole number from 0"),
        (line(samples=[{"answer": "A", "tokens": True}]), "samples[0].tokens is no whole number from 0"),
        (line(samples=[{"answer": "A", "tokens": 1, "score": "9"}]), "samples[0].score is no number or null"),
        (line(id="first"), "id 'first' was there before"),
    ],
)
def test_a_mistake_is_named_by_file_line_and_reason(tmp_path: Path, wrong: str, reason: str) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_text(f"{line(id='first')}\n\n{wrong}\n")
    with pytest.raises(ConfigError) as caught:
        read_pool(file)
    assert str(caught.value).startswith(f"{file}: line 3: {reason}")


def test_every_wrong_line_is_named_up_to_ten(tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_text("[]\n" * 12)
    with pytest.raises(ConfigError) as caught:
        read_pool(file)
    assert [problem.key for problem in caught.value.problems] == [f"line {number}" for number in range(1, 11)]


@pytest.mark.parametrize("content", [b"", b"\n\n", line(samples=[]).encode()])
def test_a_pool_without_samples_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="holds no samples"):
        read_pool(file)


def test_a_gzipped_pool_is_known_by_its_content_and_named_without_its_endings(tmp_path: Path) -> None:
    packed, plain = tmp_path / "a.jsonl.gz", tmp_path / "a.jsonl"
    packed.write_bytes(gzip.compress(line().encode()))
    plain.write_bytes(packed.read_bytes())
    assert read_pool(packed) == read_pool(plain)
    assert read_pool(packed).name == "a"


@pytest.mark.parametrize("content", [b"\x1f\x8bnot gzip", gzip.compress(line().encode(), mtime=0)[:-9], None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "pool.jsonl.gz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"pool\.jsonl\.gz: cannot be read: ."):
        read_pool(file)


def test_files_that_share_a_name_are_called_by_their_paths(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "a.jsonl", tmp_path / "y" / "a.jsonl.gz", tmp_path / "b.jsonl"]
    assert pool_names(paths) == [str(paths[0]), str(paths[1]), "b"]


@pytest.mark.parametrize(
    ("labels", "own"), [(["b", "a", "a", "b"], "b"), ([None, None, "c"], "c"), ([None, None], None), ([], None)]
)
def test_a_questions_own_plurality_leaves_abstentions_out_and_breaks_ties_by_the_earliest(
    labels: list[str | None], own: str | None
) -> None:
    assert Question("q", None, tuple(Ballot(label) for label in labels)).plurality == own


def test_the_cost_of_one_sample_is_the_mean_over_all_samples(tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    more = [{"answer": None, "tokens": 0}, {"answer": "A", "tokens": 9, "score": 0.5}]
    file.write_text(f"{line()}\n{line(id='r', samples=more)}\n")
    pool = read_pool(file)
    assert pool.mean_tokens == 4
    assert pool.scored


HALF_PI = [r"\frac{\pi}{2}", "1", r"\pi/2", "1", r"\frac\pi2"]


def test_answers_that_mean_the_same_are_one_only_where_that_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_text(line(gold=r"$\dfrac{\pi}{2}$", samples=[{"answer": text, "tokens": 1} for text in HALF_PI]))
    (split,) = read_pool(file).questions
    assert len({sample.label for sample in split.samples}) == 4
    assert (split.plurality, split.plurality == split.gold) == ("1", False)
    (whole,) = read_pool(file, labelling=canonical).questions
    assert len({sample.label for sample in whole.samples}) == 2
    assert whole.plurality == whole.gold == canonical(HALF_PI[0])


def test_a_number_and_its_text_are_one_answer(tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_text(line(gold=2, samples=[{"answer": answer, "tokens": 1} for answer in (2, "2", 2.0, "4/2")]))
    (question,) = read_pool(file, labelling=canonical).questions
    assert {sample.label for sample in question.samples} == {question.gold}


def test_a_text_that_says_nothing_abstains_and_is_no_gold_answer(tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_text(line(gold=" ", samples=[{"answer": "...", "tokens": 1}, {"answer": "", "tokens": 1}]))
    (question,) = read_pool(file, labelling=canonical).questions
    assert [question.gold, *(sample.label for sample in question.samples)] == [None, None, None]
    (question,) = read_pool(file).questions
    assert [question.gold, *(sample.label for sample in question.samples)] == [" ", "...", ""]
