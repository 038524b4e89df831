"""What the ledger keeps of what was asked and said, and when it lets go of it; on both stores."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.errors import RequestInvalid
from proxy.ledger import Ballot, RequestRow, Text, Texts
from proxy.ledger.books import Books
from proxy.ledger.checking import check
from proxy.ledger.comparing import comparisons
from proxy.ledger.opening import open_books
from proxy.ledger.pg import PostgresDatabase
from proxy.ledger.pg_schema import migrate as migrate_postgres
from proxy.ledger.postgres import PostgresBooks
from proxy.ledger.recording import _CHUNK
from proxy.ledger.reports import draw_columns, draws, verdicts
from proxy.ledger.samples import recorded, stored
from proxy.ledger.schema import migrate
from proxy.ledger.sqlite import SqliteLedger
from proxy.types import Account, Tenant
from tests.postgres import NewDatabase
from tests.test_ledger import NOON, end, row, wish

DAY = 86_400.0
PROMPT, FIRST, SECOND = '[{"role":"user","content":"Six times seven?"}]', '{"content":"41"}', '{"content":"42"}'
TEXTS = Texts(30, (Text("", PROMPT), Text("d0", FIRST), Text("d1", SECOND)))


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=NOON)


@pytest.fixture
def books(url: str, clock: SimpleNamespace) -> Iterator[Books]:
    """Books on each of the stores, with two tenants."""
    with closing(open_books(url, clock=lambda: float(clock.now))) as opened:
        for name in ("acme", "other"):
            opened.add_tenant(Tenant(name))
        yield opened


def asked(
    books: Books, request: str = "req_1", *, tenant: str = "acme", texts: Texts | None = TEXTS, **more: Any
) -> None:
    """One request with two draws, of which the second won."""
    account = Account(tenant, None, request)
    books.reserve(replace(wish(request, 100, tenant=tenant), account=account))
    drawn = [replace(row(f"d{place}"), purpose="draw", index=place) for place in range(2)]
    books.settle(replace(end(request, *drawn), account=account))
    ballots = tuple(Ballot(f"d{place}", label, None, None) for place, label in enumerate("12"))
    verdict: dict[str, Any] = {"answer": "2", "first_answer": "1", "ballots": ballots}
    verdict |= {"model": "small", "strategy": "adaptive", "status": 200, "samples": 2, "abstained": 0, "rounds": 1}
    verdict |= {"winner": 1, "confidence": 0.5, "cost_nano": 10, "reason": None, "latency_ms": 1}
    verdict["question"] = "Seven?"
    books.record(RequestRow(account=account, texts=texts, **(verdict | more)))


def left(books: Books, request: str = "req_1", tenant: str = "acme") -> tuple[Any, ...]:
    """What can be read of a request: its labels, answers and question, and how many texts."""
    labels = books.rows("SELECT label FROM draws WHERE tenant = ? AND request = ? ORDER BY number", tenant, request)
    found = books.row(
        "SELECT answer, first_answer, question FROM requests WHERE tenant = ? AND id = ?", tenant, request
    )
    texts = books.row("SELECT count(*) AS number FROM samples WHERE tenant = ? AND request = ?", tenant, request)
    assert found is not None
    assert texts is not None
    return (*(each["label"] for each in labels), found["answer"], found["first_answer"], found["question"], texts[0])


WHOLE = ("1", "2", "2", "1", "Seven?", 3)
NAMES = ("#1", "#2", "#2", "#1", None, 0)


def test_without_texts_a_request_is_written_without_a_word(books: Books) -> None:
    asked(books, texts=None)
    assert left(books) == NAMES
    assert list(stored(books)) == []


def test_with_texts_all_that_was_said_is_written_and_told(books: Books) -> None:
    asked(books)
    assert left(books) == WHOLE
    common = {"tenant": "acme", "request": "req_1", "model": "small", "strategy": "adaptive", "cut": False}
    common |= {"recorded_at": NOON, "expires_at": NOON + 30 * DAY}
    assert list(stored(books, "acme")) == [
        common | {"draw": None, "messages": json.loads(PROMPT)},
        common | {"draw": "d0", "message": json.loads(FIRST)},
        common | {"draw": "d1", "message": json.loads(SECOND)},
    ]
    assert list(stored(books, "other")) == []


def test_a_text_that_was_cut_is_told_as_it_is(books: Books) -> None:
    asked(books, texts=Texts(1, (Text("", '[{"role', cut=True),)))
    (line,) = stored(books)
    assert (line["cut"], line["text"], line["draw"]) == (True, '[{"role', None)


def test_a_request_that_is_written_twice_has_its_texts_once(books: Books) -> None:
    asked(books)
    asked(books, texts=replace(TEXTS, said=(*TEXTS.said, Text("d2", FIRST))))
    assert left(books)[-1] == 4


def test_a_request_that_is_written_again_without_texts_loses_the_first_ones_at_their_time(
    books: Books, clock: SimpleNamespace
) -> None:
    asked(books)
    asked(books, texts=None)
    assert left(books)[-4:] == ("#2", "#1", None, 3)
    clock.now += 30 * DAY
    assert books.expire() == 1
    assert left(books)[-1] == 0


def test_texts_are_gone_when_their_time_is_up_and_not_before(books: Books, clock: SimpleNamespace) -> None:
    asked(books)
    asked(books, "req_2", texts=replace(TEXTS, days=31))
    clock.now += 30 * DAY - 1
    assert books.expire() == 0
    clock.now += 1
    assert {line["request"] for line in stored(books)} == {"req_2"}
    assert books.expire() == 1
    assert (left(books), left(books, "req_2")) == (NAMES, WHOLE)
    assert books.expire() == 0


def test_what_is_left_of_a_request_still_adds_up_and_compares(books: Books, clock: SimpleNamespace) -> None:
    asked(books)
    asked(books, "req_2", answer="1")
    before, drawn = comparisons(books), list(recorded(books))
    assert [(each.requests, each.differing) for each in before] == [(2, 1)]
    clock.now += 30 * DAY
    assert books.expire() == 2
    assert comparisons(books) == before
    assert [[sample.answer for sample in each.samples] for each in drawn] == [["1", "2"]] * 2
    assert [[sample.answer for sample in each.samples] for each in recorded(books)] == [["#1", "#2"]] * 2
    assert all(result.ok for result in check(books))


def test_answers_of_draws_that_abstained_stay_none(books: Books, clock: SimpleNamespace) -> None:
    asked(books, answer=None, first_answer=None, ballots=(Ballot("d1", "2", None, None),))
    clock.now += 30 * DAY
    books.expire()
    assert left(books) == (None, "#1", None, None, None, 0)


def test_whoever_looks_after_the_store_deletes_what_has_run_out(books: Books, clock: SimpleNamespace) -> None:
    asked(books)
    clock.now += 30 * DAY
    books.tend()
    assert left(books) == NAMES


def test_what_has_run_out_is_deleted_some_at_a_time_and_by_nobody_who_writes(
    books: Books, clock: SimpleNamespace
) -> None:
    for number in range(_CHUNK + 1):
        asked(books, f"old_{number:03}")
    clock.now += 30 * DAY
    asked(books, "new", texts=None)
    assert _with_texts(books) == _CHUNK + 1
    books.tend()
    assert _with_texts(books) == 1
    books.tend()
    assert _with_texts(books) == 0


def backlog(path: Path) -> Path:
    """A file with more texts that have run out at noon than are deleted at once."""
    now = [NOON - DAY]
    with closing(Books.open(path, clock=lambda: now[0], synchronous="OFF")) as books:
        books.add_tenant(Tenant("acme"))
        for number in range(_CHUNK + 1):
            asked(books, f"old_{number:03}", texts=replace(TEXTS, days=1))
    return path


@pytest.mark.anyio
async def test_a_server_on_sqlite_deletes_one_part_at_a_time_however_much_has_run_out(tmp_path: Path) -> None:
    now = [NOON]
    path = backlog(tmp_path / "it.db")
    ledger = SqliteLedger.open(f"sqlite:///{path}", clock=lambda: now[0])
    # the next transaction comes after what the first has made due
    assert [await ledger.run(_with_texts) for _ in range(4)] == [_CHUNK + 1, 1, 1, 1]
    now[0] -= 10
    assert [await ledger.run(_with_texts) for _ in range(2)] == [1, 1]
    await ledger.close()


@pytest.mark.anyio
async def test_a_server_on_sqlite_that_nobody_asks_anything_deletes_all_the_same(tmp_path: Path) -> None:
    path = backlog(tmp_path / "it.db")
    begun = NOON - time.monotonic()
    ledger = SqliteLedger.open(f"sqlite:///{path}", clock=lambda: begun + time.monotonic())
    with closing(Books.open_read_only(path, clock=lambda: NOON)) as reader:
        for _ in range(400):
            if _with_texts(reader):
                await anyio.sleep(0.05)
        assert left(reader, "old_000") == NAMES
    await ledger.close()


def test_what_has_run_out_is_told_no_more_though_nobody_has_deleted_it(books: Books, clock: SimpleNamespace) -> None:
    asked(books)
    asked(books, "req_2", texts=replace(TEXTS, days=31))
    clock.now += 30 * DAY
    assert left(books) == WHOLE
    shown = {line.request: (line.first_answer, line.answer) for line in verdicts(books)}
    assert shown == {"req_1": ("#1", "#2"), "req_2": ("1", "2")}
    exported = [(line["request"], line["label"], line["first_answer"], line["answer"]) for line in draws(books)]
    assert exported[:2] == [("req_1", None, None, None)] * 2
    assert exported[2:] == [("req_2", "1", "1", "2"), ("req_2", "2", "1", "2")]
    assert [draw_columns(books)] * 4 == [list(line) for line in draws(books)]
    pool = {each.request: (each.question, *(sample.answer for sample in each.samples)) for each in recorded(books)}
    assert pool == {"req_1": (None, "#1", "#2"), "req_2": ("Seven?", "1", "2")}


def test_what_was_forgotten_is_in_no_file_of_sqlite(tmp_path: Path) -> None:
    said = Texts(30, (Text("", '["SECRET PROMPT"]'), Text("d1", json.dumps("SECRET REPLY" * 1000))))
    words: dict[str, Any] = {"question": "SECRET QUESTION", "answer": "SECRET ANSWER", "first_answer": "SECRET FIRST"}
    with closing(Books.open(tmp_path / "it.db", clock=lambda: NOON)) as books:
        books.add_tenant(Tenant("acme"))
        asked(books, texts=said, ballots=(Ballot("d1", "SECRET LABEL", None, None),), **words)
        assert b"SECRET" in _files(tmp_path)
        assert books.forget("acme") == 1
        assert b"SECRET" not in _files(tmp_path)


def test_a_tenants_texts_can_be_deleted_at_once_or_those_before_a_day(books: Books, clock: SimpleNamespace) -> None:
    for number in range(_CHUNK + 2):
        asked(books, f"old_{number:03}")
    clock.now += DAY
    asked(books, "young")
    asked(books, "young", tenant="other")
    assert books.forget("acme", before=NOON + DAY) == _CHUNK + 2
    assert (left(books, "old_000"), left(books, "young")) == (NAMES, WHOLE)
    assert books.forget("acme") == 1
    assert (left(books, "young"), left(books, "young", tenant="other")) == (NAMES, WHOLE)
    assert books.forget("acme") == 0


def test_a_number_of_days_that_makes_no_sense_is_refused(books: Books) -> None:
    for days in (0, 3651):
        with pytest.raises(RequestInvalid, match="store_samples_days must be from 1 to 3650"):
            books.update_tenant("acme", store_samples_days=days)
    assert books.update_tenant("acme", store_samples=True, store_samples_days=3650) == books.tenant("acme")


def test_two_replicas_never_wait_for_each_other_to_delete(postgres: NewDatabase) -> None:
    url, now = postgres(), [NOON]
    with (
        closing(open_books(url, clock=lambda: now[0])) as first,
        closing(open_books(url, clock=lambda: now[0])) as second,
    ):
        first.add_tenant(Tenant("acme"))
        asked(first)
        now[0] += 30 * DAY
        with first.transaction():
            assert first.expire() == 1
            assert second.expire() == 0
        assert left(second) == NAMES


_EARLIER = (
    "INSERT INTO tenants (name, managed, created_at) VALUES ('acme', 0, 1)",
    "INSERT INTO scopes (id) VALUES ('tenant:acme')",
    "INSERT INTO budgets (scope, place) VALUES ('tenant:acme', 0)",
    *(
        "INSERT INTO requests (tenant, id, recorded_at, model, strategy, status, samples, abstained, rounds, cost_nano,"
        f" latency_ms, answer, question) VALUES ('acme', '{name}', {at}, 'm', 'off', 200, {samples}, 0, 1, 1, 1,"
        f" {said})"
        for name, at, samples, said in [
            ("old", 5, 1, "'42', 'Seven?'"),
            ("young", 29.5 * DAY, 1, "'42', 'Seven?'"),
            ("last", 30 * DAY, 0, "NULL, NULL"),
        ]
    ),
)


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_what_an_earlier_version_kept_runs_out_after_thirty_days_but_not_within_one_of_its_last_request(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    now = [31 * DAY - 1]
    if store == "sqlite":
        with closing(sqlite3.connect(tmp_path / "tally.db", isolation_level=None)) as earlier:
            migrate(earlier, 10)
            for statement in _EARLIER:
                earlier.execute(statement)
        books: Books = Books.open(tmp_path / "tally.db", clock=lambda: now[0])
    else:
        url = request.getfixturevalue("postgres")()
        with closing(PostgresDatabase(url, timeout=10)) as database:
            migrate_postgres(database, 10)
            for statement in _EARLIER:
                database.execute(statement)
        books = PostgresBooks.open_url(url, clock=lambda: now[0])
    with closing(books):
        assert books.tenant("acme") == Tenant("acme")
        assert books.expire() == 0
        now[0] += 1
        assert books.expire() == 1
        assert left(books, "old") == ("#1", None, None, 0)
        now[0] = 59.5 * DAY - 1
        assert books.expire() == 0
        now[0] += 1
        assert books.expire() == 1
        assert _with_texts(books) == 0


def _with_texts(books: Books) -> int:
    found = books.row("SELECT count(*) AS number FROM requests WHERE expires_at IS NOT NULL")
    return 0 if found is None else int(found["number"])


def _files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def _run(folder: Path, url: str, *command: str) -> Result:
    config = folder / "tally.json"
    config.write_text(json.dumps({"general_settings": {"database_url": url}}))
    return CliRunner().invoke(main, [*command, "--config", str(config)])


def test_the_command_line_tells_and_deletes_what_is_stored(
    url: str, books: Books, clock: SimpleNamespace, tmp_path: Path
) -> None:
    # the program goes by the real clock, at which these have not run out
    asked(books, texts=replace(TEXTS, days=3650))
    shown = _run(tmp_path, url, "ledger", "export", "--samples", "--tenant", "acme")
    assert [json.loads(line)["draw"] for line in shown.output.splitlines()] == [None, "d0", "d1"]
    refused = _run(tmp_path, url, "ledger", "export", "--samples", "--csv")
    assert (refused.exit_code, "--samples goes with --jsonl" in refused.output) == (2, True)
    early = _run(tmp_path, url, "ledger", "forget", "--tenant", "acme", "--before", "2020-01-31")
    assert early.output == "0 requests of acme have no texts any more\n"
    assert left(books) == WHOLE
    books.delete_tenant("acme")
    gone = _run(tmp_path, url, "ledger", "forget", "--tenant", "acme")
    assert gone.output == "1 requests of acme have no texts any more\n"
    assert left(books) == NAMES
    assert _run(tmp_path, url, "ledger", "forget", "--tenant", "nobody").exit_code == 2


def test_texts_with_half_a_surrogate_pair_can_be_exported(books: Books, url: str, tmp_path: Path) -> None:
    asked(books, texts=Texts(3650, (Text("", '[{"content":"\\ud83d"}]'),)))
    target = tmp_path / "out.jsonl"
    assert _run(tmp_path, url, "ledger", "export", "--samples", "--output", str(target)).exit_code == 0
    assert json.loads(target.read_text())["messages"] == [{"content": "\ud83d"}]


def test_a_ledger_moves_with_all_that_is_stored(books: Books, url: str, tmp_path: Path) -> None:
    asked(books)
    told = list(stored(books))
    target = f"sqlite:///{tmp_path / 'new.db'}"
    moved = CliRunner().invoke(main, ["ledger", "migrate", "--from", url, "--to", target])
    assert "samples: 3" in moved.output
    with closing(open_books(target, clock=lambda: NOON)) as new:
        assert (left(new), list(stored(new))) == (WHOLE, told)


def test_a_tenant_is_told_to_store_at_the_command_line(books: Books, url: str, tmp_path: Path) -> None:
    assert "not kept" in _run(tmp_path, url, "tenant", "show", "acme").output
    assert (
        _run(tmp_path, url, "tenant", "update", "acme", "--store-samples", "--store-samples-days", "7").exit_code == 0
    )
    assert books.tenant("acme") == Tenant("acme", store_samples=True, store_samples_days=7)
    assert "kept for 7 days" in _run(tmp_path, url, "tenant", "show", "acme").output
    assert _run(tmp_path, url, "tenant", "update", "acme", "--no-store-samples").exit_code == 0
    assert books.tenant("acme") == Tenant("acme", store_samples_days=7)
    assert _run(tmp_path, url, "tenant", "update", "acme", "--store-samples-days", "0").exit_code == 2
