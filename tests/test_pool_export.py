"""`tally pool export`: past requests as a pool that can be replayed."""

import gzip
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.evaluation.files import write_pool
from proxy.ledger import Amount, Ballot, DrawRow, RequestRow, Reservation, Settlement
from proxy.ledger.books import Books
from proxy.ledger.store import wall_clock
from proxy.replay.pool import read_pool
from proxy.types import Account, Tenant
from tests.fake_upstream import FakeUpstream
from tests.served import ServedTally, configuration
from tests.test_ledger import row, verdict

Run = Callable[..., Result]
Record = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = tmp_path / "tally.json"
    config.write_text(json.dumps({"general_settings": {"database_url": f"sqlite:///{tmp_path / 'tally.db'}"}}))
    return lambda *words: CliRunner().invoke(main, ["pool", "export", "--config", str(config), *words])


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=wall_clock())


@pytest.fixture
def books(tmp_path: Path, clock: SimpleNamespace) -> Iterator[Books]:
    opened = Books.open(tmp_path / "tally.db", clock=lambda: float(clock.now), synchronous="OFF")
    for name in ("acme", "beta"):
        opened.add_tenant(Tenant(name))
    yield opened
    opened.close()


@pytest.fixture
def record(books: Books) -> Record:
    """Records a request whose draws say `answers`; `draws` may change their rows."""

    def record(name: str, *answers: str | None, tenant: str = "acme", draws: Any = None, **more: Any) -> None:
        account = Account(tenant, None, name)
        books.reserve(Reservation(f"{name}.0", account, Amount(), Amount(), 1, 60.0))
        rows: list[DrawRow] = [
            replace(row(f"{name}.0:{place}"), purpose="draw", index=place) for place in range(len(answers))
        ]
        rows = [replace(each, **changes) for each, changes in zip(rows, draws or [{} for _ in rows], strict=True)]
        books.settle(Settlement(f"{name}.0", account, tuple(rows)))
        ballots = tuple(Ballot(f"{name}.0:{place}", said, None, None) for place, said in enumerate(answers))
        made: RequestRow = replace(verdict(name, tenant=tenant), ballots=ballots)
        books.record(replace(made, **more))

    return record


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def said(line: dict[str, Any]) -> list[str | None]:
    return [sample["answer"] for sample in line["samples"]]


@pytest.mark.parametrize(("stored", "answers"), [(True, ["42", "41", "42", None]), (False, ["#1", "#2", "#1", None])])
def test_requests_that_were_served_become_a_pool_that_replays(
    run: Run, tmp_path: Path, stored: bool, answers: list[str | None]
) -> None:
    contents = ["The answer is 42.", "The answer is 41.", "The answer is 42.0.", "I do not know."]
    with (
        FakeUpstream(contents) as upstream,
        ServedTally(configuration(upstream.base_url, tmp_path, tenant={"store_samples": stored})) as tally,
    ):
        for strategy, samples in (("self_consistency", 4), ("off", 1)):
            asked = {"strategy": strategy, "samples": samples}
            body = {"model": "small", "messages": [{"role": "user", "content": "?"}], "tally": asked}
            assert tally.post(body).status_code == 200
        billed = [call.completion_tokens for call in upstream.calls]
    result = run("--out", str(tmp_path / "pool.jsonl.gz"))
    assert result.exit_code == 0, result.output
    assert "1 questions, 4 samples" in result.stderr
    pool = read_pool(tmp_path / "pool.jsonl.gz")
    assert [sample.label for sample in pool.questions[0].samples] == answers
    assert sum(sample.tokens for sample in pool.questions[0].samples) == billed[0]
    only = json.loads(gzip.decompress((tmp_path / "pool.jsonl.gz").read_bytes()))
    assert (only["gold"], only["model"], only["tenant"]) == (None, "small", "acme")
    assert {name.name for name in tmp_path.glob("*.part")} == set()


def test_samples_stand_in_draw_order_with_their_scores(run: Run, books: Books, record: Record) -> None:
    record("r", "a", "b", "c", draws=[{"index": 2}, {"index": 0}, {"index": 1, "completion_tokens": 9}])
    books.record(
        replace(verdict("r"), ballots=(Ballot("r.0:0", "a", 0.5, -0.25),))  # a later word on the same draw
    )
    assert lines(run())[0]["samples"] == [
        {"answer": "b", "tokens": 4},
        {"answer": "c", "tokens": 9},
        {"answer": "a", "tokens": 4, "score": 0.5, "mean_logprob": -0.25},
    ]


def test_how_a_model_graded_itself_is_no_verifiers_score(run: Run, books: Books, record: Record) -> None:
    for name, strategy in (("own", "sp3"), ("verifier", "best_of_n")):
        record(name, "a", "b", strategy=strategy)
        books.record(replace(verdict(name), strategy=strategy, ballots=(Ballot(f"{name}.0:0", "a", 0.5, None),)))
    first, second = lines(run())
    assert [sample.get("score") for sample in first["samples"]] == [None, None]
    assert [sample.get("score") for sample in second["samples"]] == [0.5, None]


def test_what_was_no_finished_draw_is_left_out(run: Run, record: Record) -> None:
    lost = {"status": "lost", "finish_reason": None}
    record("r", "a", None, None, None, "b", draws=[{}, lost, {"purpose": "judge"}, {}, {"finish_reason": None}])
    assert said(lines(run())[0]) == ["a", None, "b"]


def test_of_draws_that_saw_others_none_is_taken(run: Run, record: Record) -> None:
    rounds = [{"round": 1}, {"round": 1}, {"round": 2}]
    record("shown", "a", "b", "c", draws=rounds, strategy="dynscaling")
    record("alone", "a", "b", "c", draws=rounds, strategy="adaptive")
    assert [said(line) for line in lines(run())] == [["a", "b", "c"], ["a", "b"]]


def test_requests_are_chosen_by_tenant_model_strategy_and_time(
    run: Run, record: Record, clock: SimpleNamespace
) -> None:
    now = clock.now
    clock.now = now - 3 * 86_400
    record("old", "a", "b")
    clock.now = now
    record("other", "a", "b", tenant="beta")
    record("big", "a", "b", model="big")
    record("dyn", "a", "b", strategy="dynscaling")

    def chosen(*words: str) -> list[str]:
        return [line["id"] for line in lines(run(*words))]

    assert chosen() == ["old", "big", "dyn", "other"]
    assert chosen("--tenant", "beta") == ["other"]
    assert chosen("--model", "big") == ["big"]
    assert chosen("--strategy", "dynscaling") == ["dyn"]
    assert chosen("--since", "2d") == ["big", "dyn", "other"]
    assert chosen("--since", "2000-01-01", "--tenant", "acme") == ["old", "big", "dyn"]


def test_requests_with_fewer_samples_than_wanted_are_left_out(run: Run, record: Record) -> None:
    record("one", "a")
    record("two", "a", "b")
    assert [line["id"] for line in lines(run())] == ["two"]
    assert [line["id"] for line in lines(run("--min-samples", "1"))] == ["one", "two"]


def test_requests_with_the_same_stored_question_stay_apart(run: Run, record: Record, books: Books) -> None:
    record("first", "42", None)
    record("second", "42.0", "41")
    record("third", "7", "7")
    with sqlite3.connect(books.rows("PRAGMA database_list").fetchone()["file"]) as db:
        db.execute("UPDATE requests SET question = 'And then?' WHERE id != 'third'")
    db.close()
    assert [(line["id"], line.get("question"), said(line)) for line in lines(run())] == [
        ("first", "And then?", ["42", None]),
        ("second", "And then?", ["42.0", "41"]),
        ("third", None, ["7", "7"]),
    ]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--tenant", "nobody"], "there is no tenant 'nobody'"),
        (["--since", "yesterday"], "neither a date (2026-11-22) nor a duration (7d, 24h)"),
        (["--min-samples", "3"], "holds no such request with 3 or more finished samples"),
        (["--out", "/nowhere/at/all.jsonl"], "cannot be written"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_words(run: Run, record: Record, words: list[str], reason: str) -> None:
    record("r", "a", "b")
    result = run(*words)
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())


def test_a_pool_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield {"id": "a"}
        raise KeyError("b")

    path = tmp_path / "pool.jsonl"
    path.write_text("old")
    with pytest.raises(KeyError):
        write_pool(path, failing())
    assert [file.name for file in tmp_path.iterdir()] == ["pool.jsonl"]
    assert path.read_text() == "old"
