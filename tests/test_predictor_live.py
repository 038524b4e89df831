"""What a prior changes for a request that is served, and what the ledger keeps to learn from."""

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxy.app import Tally
from proxy.config import parse_config
from proxy.errors import ConfigError
from proxy.predictor.examples import Example
from proxy.predictor.history import FEWEST
from proxy.predictor.training import train
from tests.fake_upstream import Call, Reply
from tests.served import KEY, configuration
from tests.staged import Stage, staged, told

FRESH = "sk-fresh-0123456789"
TENANTS = [{"name": "acme", "keys": [KEY]}, {"name": "fresh", "keys": [FRESH]}]
OPTSCALE = {"s_min": 0.9, "refit": "once", "max_samples": 16, "batch_window_ms": 0}

FIVE = (0.8, 0.85, 0.88, 0.9, 0.92)
"""First scores from which N* is 9 by likelihood alone."""


def scored(stage: Stage, scores: tuple[float, ...]) -> None:
    """From now on every draw says 42, with these scores in turn."""
    turn = count()

    def says(_: Call) -> Reply:
        return Reply(["42"], logprobs=[math.log(scores[next(turn) % len(scores)])])

    stage.says(says)


def drawn(stage: Stage, key: str = KEY, **more: Any) -> int:
    scored(stage, FIVE)
    return int(told(stage.ask("optscale", key=key, **more))["samples"])


def one_by_one(folder: Path, **scaling: Any) -> Any:
    """A stage whose upstream takes one draw a call, so that each has a score of its own."""
    return staged(folder, tenants=TENANTS, scaling={**OPTSCALE, **scaling}, model={"model_info": {"max_n": 1}})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with one_by_one(tmp_path_factory.mktemp("history"), prior="history") as made:
        yield made


def test_a_history_of_poor_scores_makes_a_request_draw_more_and_is_its_tenants_own(stage: Stage) -> None:
    scored(stage, (0.5, 0.52, 0.54, 0.56))
    for _ in range(FEWEST):
        # scored like optscale's, and not asking for a prior, which would be remembered for a minute
        assert told(stage.ask("best_of_n", extra_body={"tally": {"samples": 4}}))["samples"] == 4
    assert drawn(stage, FRESH) == 9
    assert drawn(stage) == 16


def test_without_a_prior_a_history_changes_nothing(tmp_path: Path) -> None:
    with one_by_one(tmp_path) as stage:
        scored(stage, (0.5, 0.52, 0.54, 0.56))
        for _ in range(FEWEST):
            stage.ask("best_of_n", extra_body={"tally": {"samples": 4}})
        assert drawn(stage) == 9


def test_a_trained_predictor_tells_questions_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    easy, hard = "What is two and two?", "Prove this about manifolds."
    examples = [
        Example(f"{text} Variant {number}.", mean + 0.01 * rng.standard_normal(), 0.05)
        for number in range(30)
        for text, mean in ((easy, 0.97), (hard, 0.4))
    ]
    train(examples, 0)[0].save(tmp_path / "model.npz")
    with one_by_one(tmp_path, prior="trained", predictor=str(tmp_path / "model.npz")) as stage:
        few, many = (drawn(stage, messages=[{"role": "user", "content": text}]) for text in (easy, hard))
    assert few < 9 < many


def test_a_predictor_that_cannot_be_read_is_an_error_at_start(tmp_path: Path) -> None:
    scaling = {"prior": "trained", "predictor": str(tmp_path / "none.npz")}
    config = parse_config(configuration("http://127.0.0.1:9", tmp_path, scaling=scaling), "test", {})
    with pytest.raises(ConfigError, match=r"none\.npz: cannot be read: No such file"):
        Tally(config, environ={})
    assert not (tmp_path / "tally.db").exists()


def test_a_trained_prior_without_its_file_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scaling: prior: trained needs predictor"):
        parse_config(configuration("http://127.0.0.1:9", tmp_path, scaling={"prior": "trained"}), "test", {})


@pytest.mark.parametrize("strategy", ["self_consistency", "off"])
@pytest.mark.parametrize("kept", [True, False])
def test_the_ledger_keeps_what_was_asked_only_where_it_is_told_to(tmp_path: Path, kept: bool, strategy: str) -> None:
    with staged(tmp_path, tenant={"store_samples": kept}) as stage:
        stage.says("42")
        messages = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "What is 6 x 7?"}]
        stage.ask(strategy, messages=messages)
        stage.ask(strategy, messages=[{"role": "user", "content": "x" * 9_000}])
    with stage.tally.books() as books:
        rows = [row["question"] for row in books.rows("SELECT question FROM requests ORDER BY recorded_at")]
    assert rows == (["What is 6 x 7?", "x" * 8_000] if kept else [None, None])
