"""What is believed of scores: by history, by a trained model; what a model learns from, and how it is kept."""

import asyncio
import gzip
import json
import math
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from proxy.cli import main
from proxy.errors import ConfigError, TallyError
from proxy.ledger import Amount, Ballot, DrawRow, RequestRow, Reservation, Settlement, Texts
from proxy.ledger.books import Books
from proxy.ledger.scores import recent_scores
from proxy.ledger.store import wall_clock
from proxy.predictor.examples import Example, read_examples
from proxy.predictor.features import WIDTH, features
from proxy.predictor.history import FEWEST, LAST, HistoryPredictor, pooled
from proxy.predictor.model import FORMAT, Model, identity
from proxy.predictor.trained import TrainedPredictor
from proxy.predictor.training import evaluate, train
from proxy.types import Account, Tenant

JSON = dict[str, Any]

EASY, HARD = "What is 2 + 2? Add the digits.", "Prove the theorem about every manifold."


def examples(count: int, *, noise: bool = False) -> list[Example]:
    """Questions whose words tell their scores, or (`noise`) do not."""
    rng = np.random.default_rng(3)
    made = []
    for number in range(count):
        easy = bool(rng.integers(2)) if noise else number % 2 == 0
        text = f"{EASY if number % 2 == 0 else HARD} Variant {number}."
        level = (0.9, 0.05) if easy else (0.5, 0.2)
        mean, deviation = (value + 0.02 * rng.standard_normal() for value in level)
        made.append(Example(text, mean, abs(deviation)))
    return made


def request(text: str) -> JSON:
    return {"messages": [{"role": "user", "content": text}]}


@pytest.fixture(scope="module")
def model() -> Model:
    return train(examples(80), 0)[0]


# history


def test_a_history_is_the_mean_of_requests_and_their_spread_over_requests() -> None:
    past = [[mu - 0.1, mu + 0.1] for mu in (0.5, 0.7) for _ in range(4)]
    prior = pooled(past)
    assert prior is not None
    deviation = 0.1 * math.sqrt(2)
    assert prior.mu == pytest.approx(0.6)
    assert prior.sigma == pytest.approx(deviation)
    # means are 0.1 from their mean, of which sampling two scores of that deviation explains all: the floor
    assert (prior.mu_sd, prior.sigma_sd) == (0.02, 0.02)
    wide = pooled([[mu - 0.01, mu + 0.01] for mu in (0.3, 0.9) for _ in range(4)])
    assert wide is not None
    assert wide.mu_sd == pytest.approx(math.sqrt(0.3**2 - 0.01**2))


@given(st.lists(st.lists(st.floats(-1, 2), max_size=5), max_size=20))
def test_a_prior_comes_of_every_history_that_is_long_enough(past: list[list[float]]) -> None:
    prior = pooled(past)
    assert (prior is not None) == (sum(len(each) > 1 for each in past) >= FEWEST)
    if prior is not None:
        assert 0 <= prior.mu <= 1
        assert min(prior.sigma, prior.mu_sd, prior.sigma_sd) >= 0.02


@pytest.mark.anyio
async def test_a_tenants_and_models_history_is_read_once_a_minute() -> None:
    reads: list[tuple[str, str, int]] = []
    now = [0.0]

    async def read(tenant: str, model: str, limit: int) -> list[list[float]]:
        reads.append((tenant, model, limit))
        return [[0.5, 0.6]] * 8 if tenant == "acme" else []

    predictor = HistoryPredictor(read, clock=lambda: now[0])
    first = await predictor.prior("acme", "small", request("?"))
    now[0] = 59.0
    assert await predictor.prior("acme", "small", request("!")) is first is not None
    assert reads == [("acme", "small", LAST)]
    assert await predictor.prior("other", "small", request("?")) is None
    assert await predictor.prior("acme", "large", request("?")) == first
    now[0] = 61.0
    assert await predictor.prior("acme", "small", request("?")) == first
    assert reads[1:] == [("other", "small", LAST), ("acme", "large", LAST), ("acme", "small", LAST)]


@pytest.mark.anyio
async def test_requests_that_come_together_share_one_reading_of_the_history() -> None:
    reads: list[str] = []

    async def read(tenant: str, _model: str, _limit: int) -> list[list[float]]:
        reads.append(tenant)
        await asyncio.sleep(0)
        return [[0.5, 0.6]] * 8

    predictor = HistoryPredictor(read, clock=lambda: 0.0)
    found = await asyncio.gather(*[predictor.prior("acme", "small", request("?")) for _ in range(5)])
    assert reads == ["acme"]
    assert found[0] is not None
    assert len(set(found)) == 1


def recorded(books: Books, request: str, scores: list[float | None], tenant: str = "acme", **more: Any) -> None:
    """A request with a draw for each score."""
    account = Account(tenant, None, request)
    books.reserve(Reservation(request, account, Amount(), Amount(1), len(scores), 60.0))
    ids = [f"{request}-{place}" for place in range(len(scores))]
    kept = {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1, "reasoning_tokens": 0, "cost_nano": 1}
    rows = tuple(
        DrawRow(
            id=name, purpose="draw", round=1, index=place, status="ok", model="small", deployment="small",
            estimated=False, finish_reason="stop", latency_ms=1, **kept,
        )
        for place, name in enumerate(ids)
    )  # fmt: skip
    books.settle(Settlement(request, account, rows))
    ballots = tuple(Ballot(name, "42", score, None) for name, score in zip(ids, scores, strict=True))
    values = {"status": 200, "samples": len(scores), "abstained": 0, "rounds": 1, "winner": 0, "answer": "42"}
    values |= {"first_answer": "42", "confidence": 0.9, "cost_nano": 1, "reason": None, "latency_ms": 1}
    row = {"account": account, "model": "small", "strategy": "optscale", **values, "ballots": ballots, **more}
    books.record(RequestRow(**row, texts=Texts(30, ())))


def test_the_last_scores_are_those_of_one_tenant_and_model_by_request_latest_first() -> None:
    now = [1e9]
    books = Books.open(None, clock=lambda: now[0])
    for name in ("acme", "other"):
        books.add_tenant(Tenant(name))
    recorded(books, "one", [0.1, None, 0.3])
    now[0] += 1
    recorded(books, "two", [0.5])
    recorded(books, "large", [0.7], model="large")
    recorded(books, "mute", [None, None])
    recorded(books, "two", [0.9], tenant="other")
    assert recent_scores(books, "acme", "small", 10) == [[0.5], [0.1, 0.3]]
    assert recent_scores(books, "other", "small", 10) == [[0.9]]
    assert recent_scores(books, "acme", "small", 1) in ([], [[0.5]])
    books.close()


def test_requests_that_no_verifier_scored_neither_hide_the_history_nor_belong_to_it() -> None:
    now = [1e9]
    books = Books.open(None, clock=lambda: now[0])
    books.add_tenant(Tenant("acme"))
    recorded(books, "scored", [0.1, 0.3])
    for number in range(3):
        now[0] += 1
        recorded(books, f"voted-{number}", [None, None], strategy="adaptive")
        recorded(books, f"graded-{number}", [0.9, 1.0], strategy="sp3")
    assert recent_scores(books, "acme", "small", 2) == [[0.1, 0.3]]
    books.close()


# features and models


def test_features_are_the_same_in_every_process() -> None:
    """A stored model is of no use where they change: that is a new format."""
    places, counts = features("What is $2+2$? What?")
    assert FORMAT == 1
    assert (len(places), int(places[0]), int(places[-1]), int(places.sum())) == (64, 524, 32754, 1337959)
    assert float(counts.sum()) == pytest.approx(68.852, abs=1e-3)


@given(st.text())
def test_every_text_has_features(text: str) -> None:
    places, counts = features(text)
    assert len(places) == len(counts) == len(set(places.tolist())) > 0
    assert 0 <= places.min() <= places.max() < WIDTH
    assert counts.min() >= 1


def test_a_model_learns_what_words_tell_and_a_file_keeps_it(model: Model, tmp_path: Path) -> None:
    easy, hard = model.prior(EASY), model.prior(HARD)
    assert easy.mu == pytest.approx(0.9, abs=0.08)
    assert hard.mu == pytest.approx(0.5, abs=0.08)
    assert easy.sigma < hard.sigma
    model.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model")
    for text in (EASY, HARD, "Something else?", ""):
        assert loaded.predict(text) == pytest.approx(model.predict(text), abs=1e-5)
    assert loaded.saw(f"{EASY} Variant 0.")
    assert not loaded.saw(EASY)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_belief_is_as_sure_as_the_model_was_right_on_held_out_questions(model: Model) -> None:
    made, report = train(examples(80), 0)
    assert made.spreads == pytest.approx(np.sqrt((report.errors**2).mean(axis=0)), abs=1e-9)
    assert model.prior(EASY).mu_sd == max(made.spreads[0], 0.02)


def test_what_is_predicted_is_a_possible_mean_and_deviation(model: Model) -> None:
    wild = Model(model.rarity, model.weights * 1e6, model.intercepts, model.means, model.spreads, model.seen)
    for text in (EASY, HARD, "x"):
        mean, deviation = wild.predict(text)
        assert 0 <= mean <= 1
        assert 0.01 <= deviation <= 0.5


@pytest.mark.anyio
async def test_a_trained_predictor_reads_the_last_user_turn(model: Model) -> None:
    turns = [{"role": "user", "content": HARD}, {"role": "assistant", "content": "?"}]
    predictor = TrainedPredictor(model)
    last = {"role": "user", "content": [{"type": "text", "text": EASY}, {"type": "image_url", "image_url": {}}]}
    asked = {"messages": [*turns, last, {"role": "tool", "content": HARD}]}
    assert await predictor.prior("acme", "small", asked) == model.prior(EASY)
    assert await predictor.prior("acme", "small", {"messages": [{"role": "system", "content": HARD}]}) is None


def archive(path: Path, model: Model, **changed: Any) -> Path:
    names = ("rarity", "weights", "intercepts", "means", "spreads", "seen")
    arrays = {"format": np.int64(FORMAT), **{name: getattr(model, name) for name in names}, **changed}
    with path.open("wb") as file:
        np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"format": np.int64(2)}, "format 2"),
        ({"weights": None}, "a damaged one"),
        ({"weights": np.zeros((2, 3))}, "weights is damaged"),
        ({"means": np.array([0.5, math.nan])}, "means is damaged"),
        ({"rarity": np.array([print], dtype=object)}, "a damaged one"),
        ({"format": np.array("one")}, "format one"),
        ({"format": np.array(math.nan)}, "format nan"),
        ({"intercepts": np.array(["a", "b"])}, "intercepts is damaged"),
        ({"seen": np.array(["a"])}, "seen is damaged"),
    ],
)
def test_a_file_that_is_no_model_is_refused_and_runs_nothing(
    model: Model, tmp_path: Path, changed: JSON, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        Model.load(archive(tmp_path / "model.npz", model, **changed))


def test_a_check_of_the_configuration_opens_the_predictor(tmp_path: Path) -> None:
    (tmp_path / "tally.json").write_text(
        json.dumps({"scaling": {"prior": "trained", "predictor": str(tmp_path / "none.npz")}}), encoding="utf-8"
    )
    result = CliRunner().invoke(main, ["config", "check", str(tmp_path / "tally.json")])
    assert result.exit_code == 2
    assert "none.npz: cannot be read: No such file" in result.output


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.npz").write_bytes(data)
    for name, reason in (
        ("model.npz", "is no predictor, or a damaged one"),
        ("none.npz", "cannot be read: No such file"),
    ):
        with pytest.raises(ConfigError, match=f"{name}: {reason}"):
            Model.load(tmp_path / name)


@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_damaged_file_is_a_model_or_an_error_of_the_configuration(place: int, byte: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.npz"
        zeros = np.zeros(WIDTH)
        Model(zeros, np.zeros((2, WIDTH)), zeros[:2], zeros[:2], zeros[:2], np.zeros(1, np.uint32)).save(path)
        data = bytearray(path.read_bytes())
        data[place % len(data)] = byte
        path.write_bytes(data)
        with suppress(ConfigError):
            Model.load(path)


def test_a_model_that_cannot_be_written_is_a_clear_error(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.npz: cannot be written: No such file or directory"):
        model.save(tmp_path / "none" / "model.npz")


# examples and training


def write(path: Path, lines: list[JSON | str]) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["examples.jsonl", "examples.jsonl.gz"])
def test_examples_are_statistics_or_a_pools_scores(tmp_path: Path, name: str) -> None:
    samples = [{"score": 0.2, "answer": "1"}, {"score": 0.4}, {"score": None}, {}]
    lines: list[JSON | str] = [
        {"question": "a", "mean_score": 1, "std_score": 0.0, "level": 3},
        "",
        {"question": "b", "samples": samples},
        {"question": "c", "samples": samples[1:]},
    ]
    first, second = read_examples(write(tmp_path / name, lines))
    assert first == Example("a", 1.0, 0.0)
    assert second.question == "b"
    assert (second.mean, second.deviation) == pytest.approx((0.3, 0.1))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ({"mean_score": 0.5, "std_score": 0.1}, "question is missing"),
        ({"question": 7, "mean_score": 0.5, "std_score": 0.1}, "question is not a text"),
        ({"question": "a", "mean_score": 0.5}, "std_score is missing"),
        ({"question": "a", "mean_score": 1.5, "std_score": 0.1}, "mean_score 1.5 is not between 0 and 1"),
        ({"question": "a", "mean_score": math.nan, "std_score": 0.1}, "mean_score nan is not between 0 and 1"),
        ({"question": "a", "mean_score": 10**400, "std_score": 0.1}, "mean_score 10+ is not between 0 and 1"),
        ({"question": "a", "samples": [{"score": "x"}, {"score": 1}]}, "score is not a number"),
        ({"question": "a", "samples": [0.5, 0.6]}, "samples is not a list of JSON objects"),
        ({"question": "a", "samples": None}, "samples is not a list of JSON objects"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path: Path, line: JSON | str, reason: str) -> None:
    good: JSON = {"question": "a", "mean_score": 0.5, "std_score": 0.1}
    path = write(tmp_path / "bad.jsonl", [good, line])
    with pytest.raises(ConfigError, match=f"bad.jsonl: line 2: {reason}"):
        read_examples(path)


def test_a_question_may_hold_any_character_that_json_may(tmp_path: Path) -> None:
    line = json.dumps({"question": "a\u2028b\x85c", "mean_score": 0.5, "std_score": 0.1}, ensure_ascii=False)
    assert read_examples(write(tmp_path / "one.jsonl", [line])) == [Example("a\u2028b\x85c", 0.5, 0.1)]


def test_an_archive_that_is_torn_inside_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "torn.jsonl.gz", [{"question": "a", "mean_score": 0.5, "std_score": 0.1}] * 99)
    data = bytearray(path.read_bytes())
    data[15] ^= 255
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"torn\.jsonl\.gz: cannot be read"):
        read_examples(path)


def test_words_that_tell_something_beat_a_constant_and_noise_does_not() -> None:
    assert train(examples(80), 0)[1].better
    assert not train(examples(80, noise=True), 0)[1].better


def test_a_question_asked_twice_is_never_on_both_sides() -> None:
    """The same noise three times over would be known by heart."""
    assert not train(examples(80, noise=True) * 3, 0)[1].better


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(TallyError, match="39 questions with scores are too few"):
        train(examples(39), 0)


def test_a_model_is_measured_beside_the_mean_it_was_trained_on(model: Model) -> None:
    report = evaluate(model, [Example(EASY, 0.9, 0.05), Example(HARD, 0.5, 0.2)])
    assert report.constant[0] == pytest.approx([0.9 - model.means[0], model.means[1] - 0.05])
    assert (report.errors < report.constant).all()


# the commands


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predictor", *map(str, arguments)])


def lines(made: list[Example]) -> list[JSON | str]:
    return [{"question": one.question, "mean_score": one.mean, "std_score": one.deviation} for one in made]


def test_train_writes_a_model_that_eval_measures_on_other_questions(tmp_path: Path) -> None:
    every = examples(140)
    path, out = write(tmp_path / "train.jsonl", lines(every[:100])), tmp_path / "model.npz"
    trained = run("train", "--jsonl", path, "--out", out)
    assert trained.exit_code == 0, trained.output
    assert "mean: mean absolute error 0.0" in trained.output
    measured = run("eval", out, "--jsonl", write(tmp_path / "more.jsonl", lines(every[90:])))
    assert measured.exit_code == 0, measured.output
    assert "10 questions that it was trained on are left out" in measured.stderr
    assert "40 questions" in measured.stdout
    assert "a constant's 0.2" in measured.stdout
    nothing = run("eval", out, "--jsonl", path)
    assert nothing.exit_code == 1
    assert "fewer than two questions" in nothing.output


def test_train_takes_a_file_or_a_ledger_and_not_both(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", lines(examples(100)))
    refused = run("train", "--jsonl", path, "--tenant", "acme", "--out", tmp_path / "model.npz")
    assert refused.exit_code == 2
    assert "leave them out with --jsonl" in refused.output
    assert not (tmp_path / "model.npz").exists()


def test_a_place_for_the_model_is_looked_for_before_the_training(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", lines(examples(100)))
    refused = run("train", "--jsonl", path, "--out", tmp_path / "nowhere" / "model.npz")
    assert refused.exit_code == 2
    assert "there is no such folder" in refused.stderr
    assert "Training" not in refused.output


def test_a_model_that_is_no_better_than_a_constant_is_not_written(tmp_path: Path) -> None:
    path, out = write(tmp_path / "noise.jsonl", lines(examples(80, noise=True))), tmp_path / "model.npz"
    refused = run("train", "--jsonl", path, "--out", out)
    assert refused.exit_code == 1
    assert "not clearly better than a constant" in refused.stderr
    assert not out.exists()


def test_eval_says_when_a_constant_does_as_well(tmp_path: Path, model: Model) -> None:
    model.save(tmp_path / "model.npz")
    noise = [Example(f"{one.question}!", one.mean, one.deviation) for one in examples(80, noise=True)]
    told = run("eval", tmp_path / "model.npz", "--jsonl", write(tmp_path / "noise.jsonl", lines(noise)))
    assert told.exit_code == 1
    assert "not clearly better than a constant" in told.stderr


def test_train_learns_from_a_ledger_that_keeps_questions(tmp_path: Path) -> None:
    # what is kept runs out by the wall clock
    books = Books.open(tmp_path / "tally.db", clock=wall_clock)
    books.add_tenant(Tenant("acme"))
    for number, one in enumerate(examples(60)):
        scores = [one.mean - one.deviation, one.mean + one.deviation]
        recorded(books, f"r{number}", scores, question=one.question)  # type: ignore[arg-type]  # floats are floats or None
    recorded(books, "unasked", [0.5, 0.6])
    books.close()
    config = tmp_path / "tally.json"
    config.write_text(json.dumps({"general_settings": {"database_url": f"sqlite:///{tmp_path / 'tally.db'}"}}))
    out = tmp_path / "model.npz"
    trained = run("train", "--config", config, "--out", out)
    assert trained.exit_code == 0, trained.output
    assert "there is no tenant 'acne'" in run("train", "--config", config, "--tenant", "acne", "--out", out).stderr
    assert trained.stdout.startswith("60 questions")
    assert Model.load(out).prior(EASY).mu > Model.load(out).prior(HARD).mu
    assert "too few to train on" in run("train", "--config", config, "--model", "none", "--out", out).output


def test_training_without_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(TallyError, match=r"pip install 'tally-proxy\[predictor\]'"):
        train(examples(80), 0)


def test_a_hash_of_a_question_does_not_see_blanks_around_it() -> None:
    assert identity(" a \n") == identity("a") != identity("b")
