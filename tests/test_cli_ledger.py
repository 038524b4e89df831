"""`tally tenant`, `tally key` and `tally ledger` as an operator runs them."""

import csv
import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import anyio
import anyio.to_thread
import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from proxy.cli.keys import key
from proxy.cli.ledger import ledger
from proxy.cli.tables import show_table
from proxy.cli.tenants import tenant
from proxy.config.limits import read_budget, written_budget
from proxy.ledger import Ballot, Settlement
from proxy.ledger.books import Books
from proxy.ledger.checking import check
from proxy.ledger.lock import ServerLock
from proxy.ledger.opening import open_books, open_ledger, read_books
from proxy.ledger.reports import draws
from proxy.ledger.store import wall_clock
from proxy.types import Account, Budget, Key, Limits, Tenant
from tests.postgres import NewDatabase
from tests.process import environment
from tests.test_ledger import end, row, verdict, wish

Run = Callable[..., Result]

GROUPS = {"tenant": tenant, "key": key, "ledger": ledger}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = tmp_path / "tally.json"
    config.write_text(json.dumps({"general_settings": {"database_url": f"sqlite:///{tmp_path / 'tally.db'}"}}))

    def invoke(line: str, *more: str, config: Path = config, **env: str) -> Result:
        name, *words = line.split()
        group: click.Group = GROUPS[name]
        return CliRunner(env={"COLUMNS": "200"} | env).invoke(group, [*words, *more, "--config", str(config)])

    return invoke


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    opened = Books.open(tmp_path / "tally.db", clock=wall_clock, synchronous="OFF")
    yield opened
    opened.close()


@pytest.fixture
def used(books: Books) -> Books:
    """A ledger with a settled draw of 5 nano-USD, and a reservation of 10."""
    books.add_tenant(Tenant("acme", max_nano=10**9))
    books.reserve(wish("a", 100))
    books.settle(end("a", row("d0")))
    books.record(verdict("req_1", Ballot("d0", "[bold]42", None, None)))
    books.reserve(wish("b", 10))
    return books


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert not result.stdout
    return result.stderr


def test_a_tenant_is_added_with_its_limits(run: Run, books: Books) -> None:
    ok(
        run(
            "tenant add acme --max-budget 0.5 --token-budget 1000 --budget-duration 1d --rpm 60"
            " --model small --model big --strategy dynscaling --max-samples 16 --max-request-cost 0.01"
        )
    )
    assert books.tenants() == [
        Tenant(
            "acme",
            max_nano=500_000_000,
            max_tokens=1000,
            duration="1d",
            rpm_limit=60,
            models=("small", "big"),
            strategy="dynscaling",
            max_samples=16,
            max_request_nano=10_000_000,
        )
    ]


def test_the_first_command_makes_the_ledger(run: Run, tmp_path: Path) -> None:
    ok(run("tenant add acme"))
    assert (tmp_path / "tally.db").exists()
    assert "acme" in ok(run("tenant list"))


EVERY_LIMIT = (
    "--max-budget 1.5 --soft-budget 1 --token-budget 1000 --sample-budget 50 --budget-duration 30d"
    " --budget 0.5+9samples/1d --budget 2000tokens --rpm 60 --tpm 900 --max-parallel 3 --model small"
    " --allow-strategy adaptive --allow-strategy off --strategy off --max-samples 8 --max-rounds 2"
    " --max-request-cost 0.05 --scale-until soft --on-exhausted refuse"
)
LIMITS = Limits(
    max_nano=1_500_000_000,
    soft_nano=10**9,
    max_tokens=1000,
    max_drawn=50,
    duration="30d",
    budgets=(Budget("1d", 500_000_000, None, 9), Budget(None, None, 2000)),
    rpm_limit=60,
    tpm_limit=900,
    max_parallel=3,
    models=("small",),
    strategies=("adaptive", "off"),
    strategy="off",
    max_samples=8,
    max_rounds=2,
    max_request_nano=50_000_000,
    scale_until="soft",
    on_exhausted="refuse",
)


def limits_of(owner: Limits) -> Limits:
    return Limits(**{field.name: getattr(owner, field.name) for field in fields(Limits)})


def made_key(run: Run, books: Books, line: str) -> Key:
    """The key that a command has printed."""
    return books.key(books.key_id(ok(run(line)).strip()))


def test_tenants_and_keys_take_the_same_limits_and_show_them(run: Run, books: Books) -> None:
    ok(run(f"tenant add acme --alias Acme {EVERY_LIMIT}"))
    one = made_key(run, books, f"key create acme --alias ci {EVERY_LIMIT}")
    assert limits_of(books.tenant("acme")) == limits_of(one) == LIMITS
    assert (books.tenant("acme").alias, one.alias) == ("Acme", "ci")
    for shown in (ok(run("tenant show acme")), ok(run(f"key show {one.id}"))):
        for fact in (
            "1.5",
            "30d",
            "also 0.5+9samples/1d",
            "also 2000tokens",
            "adaptive, off",
            "the soft budget",
            "900",
        ):
            assert fact in shown


def test_a_key_is_changed_blocked_and_given_back(run: Run, books: Books) -> None:
    ok(run("tenant add acme"))
    one = made_key(run, books, f"key create acme {EVERY_LIMIT}").id
    ok(run(f"key update {one} --budget none --max-budget none --allow-strategy none --expires 2999-01-01 --alias none"))
    found = books.key(one)
    assert (found.budgets, found.max_nano, found.strategies, found.rpm_limit) == ((), None, None, 60)
    assert found.expires_at is not None
    ok(run(f"key update {one} --expires 30d"))
    assert books.key(one).expires_at == pytest.approx(wall_clock() + 30 * 86_400, abs=60)
    ok(run(f"key block {one}"))
    assert books.key(one).blocked
    assert "blocked" in ok(run("key list"))
    ok(run(f"key unblock {one}"))
    assert not books.key(one).blocked
    assert "nothing to change" in refused(run(f"key update {one}"))
    assert "neither a date" in refused(run(f"key update {one} --expires soon"))
    assert "expired already" in refused(run(f"key update {one} --expires 2001-01-01"))


def test_a_key_is_rotated_with_a_grace_for_the_old_one(run: Run, books: Books) -> None:
    ok(run("tenant add acme"))
    first = ok(run("key create acme --rpm 7")).strip()
    one = books.key_id(first)
    assert "an old secret" not in ok(run(f"key show {one}"))
    rotated = run(f"key rotate {one} --grace 1h")
    second = ok(rotated).strip()
    assert rotated.stderr.strip().endswith(one)
    assert books.authenticate(first) == books.authenticate(second) is not None
    assert books.key(one).rpm_limit == 7
    assert "an old secret is good until" in ok(run(f"key show {one}"))
    third = ok(run(f"key rotate {one}")).strip()
    assert [books.authenticate(secret) is None for secret in (first, second, third)] == [True, True, False]
    ok(run(f"key revoke {one}"))
    assert "revoked" in refused(run(f"key rotate {one}"))


def test_a_new_pepper_keeps_keys_good_also_for_a_ledger_that_is_open(run: Run, books: Books) -> None:
    ok(run("tenant add acme"))
    before = ok(run("key create acme")).strip()
    assert books.authenticate(before) is not None
    ok(run("key rotate-pepper"))
    after = ok(run("key create acme")).strip()
    for key_ in (after, before):
        assert books.authenticate(key_) is not None


def test_the_keys_of_the_file_are_kept_under_each_new_pepper(run: Run, books: Books, tmp_path: Path) -> None:
    secret = "sk-filed-0123456789"
    books.adopt([Tenant("acme")], {"acme": [secret]})
    one = books.key_id(secret)
    config = json.loads((tmp_path / "tally.json").read_text())
    named = tmp_path / "named.json"
    named.write_text(json.dumps(config | {"tenants": [{"name": "acme", "keys": ["os.environ/ACME_KEY"]}]}))
    for _ in range(3):
        ok(run("key rotate-pepper", config=named, ACME_KEY=secret))
    assert books.key_id(secret) == one


def test_a_deleted_tenant_ends_with_its_keys(run: Run, books: Books) -> None:
    ok(run("tenant add acme"))
    secret = ok(run("key create acme")).strip()
    ok(run("tenant delete acme"))
    assert books.authenticate(secret) is None
    assert "there is no tenant" in refused(run("tenant show acme"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("x/1d", "'x' is not a number"),
        ("5/1y", "'1y' is not a duration"),
        ("5+6/1d", "the same limit twice"),
        ("1.5tokens", "is not a whole number"),
        ("/1d", "is not a number"),
    ],
)
def test_a_wrong_window_is_named(run: Run, value: str, reason: str) -> None:
    assert reason in refused(run("tenant add acme --budget", value))


@given(st.builds(
    Budget,
    st.sampled_from([None, "30s", "1d", "weekly", "1mo"]),
    st.integers(0, 10**18),
    st.none() | st.integers(0, 10**15),
    st.none() | st.integers(0, 10**15),
))  # fmt: skip
def test_a_window_is_read_as_it_is_written(budget: Budget) -> None:
    assert read_budget(written_budget(budget)) == budget


def test_only_what_is_given_changes_and_none_takes_a_limit_away(run: Run, books: Books) -> None:
    ok(run("tenant add acme --max-budget 1 --rpm 5 --model small"))
    ok(run("tenant update acme --max-budget none --max-samples 4"))
    assert books.tenants() == [Tenant("acme", rpm_limit=5, models=("small",), max_samples=4)]
    ok(run("tenant update acme --model none"))
    assert books.tenant("acme").models is None


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--max-budget", "lots", "'lots' is not a number"),
        ("--max-budget", "-1", "not a finite amount"),
        ("--max-budget", "nan", "not a finite amount"),
        ("--max-budget", "1e10", "is more than"),
        ("--max-budget", "1e999999", "is more than"),
        ("--max-request-cost", "x", "is not a number"),
        ("--token-budget", "1.5", "is not a whole number"),
        ("--token-budget", "9" * 5000, "is not a whole number"),
        ("--budget-duration", "1y", "'1y' is not a duration"),
        ("--rpm", "0", "is not a whole number from 1"),
        ("--max-samples", "-3", "is not a whole number"),
        ("--strategy", "best", "'best' is none of off,"),
    ],
)
def test_a_wrong_value_is_named_with_its_option(run: Run, tmp_path: Path, option: str, value: str, reason: str) -> None:
    for command in ("add", "update"):
        said = refused(run(f"tenant {command} acme", option, value))
        assert f"'{option}'" in said
        assert reason in said
    assert not (tmp_path / "tally.db").exists()


def test_an_update_of_nothing_is_an_error(run: Run) -> None:
    assert "nothing to change" in refused(run("tenant update acme"))


def test_an_error_is_one_clear_line(run: Run, books: Books) -> None:
    ok(run("tenant add acme"))
    assert refused(run("tenant add acme")) == "Error: there is a tenant 'acme' already\n"
    assert refused(run("tenant block nobody")) == "Error: there is no tenant 'nobody'\n"
    assert refused(run("tenant show nobody")) == "Error: there is no tenant 'nobody'\n"
    assert refused(run("key create nobody")) == "Error: there is no tenant 'nobody'\n"
    assert refused(run("key revoke key_0")) == "Error: there is no key 'key_0'\n"
    books.adopt([Tenant("filed")], {})
    assert "comes from the configuration file" in refused(run("tenant update filed --rpm 1"))


def test_a_tenant_is_blocked_and_unblocked(run: Run, books: Books) -> None:
    ok(run("tenant add acme"))
    ok(run("tenant block acme"))
    assert books.tenant("acme").blocked
    assert "blocked" in ok(run("tenant list"))
    ok(run("tenant unblock acme"))
    assert not books.tenant("acme").blocked


def test_a_tenant_is_shown_with_what_it_spent(run: Run, used: Books) -> None:
    shown = ok(run("tenant show acme"))
    for fact in ("acme", "no limit", "0.000000005", "0.00000001", "for ever"):
        assert fact in shown


def test_a_key_is_printed_alone_once_and_listed_by_its_id(run: Run, books: Books) -> None:
    ok(run("tenant add acme"))
    made = run("key create acme")
    secret = ok(made).strip()
    assert "cannot be shown again" in made.stderr
    found = books.authenticate(secret)
    assert found is not None
    listed = ok(run("key list --tenant acme"))
    assert found[1].id in listed
    assert secret[-4:] in listed
    assert secret not in listed
    assert "good" in listed
    ok(run(f"key revoke {found[1].id}"))
    assert books.authenticate(secret) is None
    assert "revoked" in ok(run("key list"))


def test_the_ids_of_keys_are_whole_in_a_narrow_terminal_and_told_when_they_are_made(run: Run, books: Books) -> None:
    ok(run("tenant add acme"))
    made = run("key create acme")
    found = books.authenticate(ok(made).strip())
    assert found is not None
    assert made.stderr.rstrip().endswith(found[1].id)
    rotated = run(f"key rotate {found[1].id}")
    new = books.authenticate(ok(rotated).strip())
    assert new is not None
    assert rotated.stderr.rstrip().endswith(new[1].id)
    narrow = run("key list", COLUMNS="80", FORCE_COLOR="1")
    assert found[1].id in ok(narrow)
    assert new[1].id in ok(narrow)


@pytest.mark.parametrize("name", ["master", "local"])
def test_tallys_own_tenants_get_neither_keys_nor_limits(run: Run, books: Books, name: str) -> None:
    books.add_tenant(Tenant(name))
    assert "tally's own" in refused(run(f"key create {name}"))
    assert "tally's own" in refused(run(f"tenant add {name}"))


def test_the_default_tenant_is_not_deleted(run: Run) -> None:
    ok(run("tenant add default"))
    assert "block it" in refused(run("tenant delete default"))
    ok(run("tenant block default"))


def test_the_rows_of_a_deleted_tenant_are_shown_and_exported(run: Run, used: Books) -> None:
    ok(run("tenant delete acme"))
    assert "0.00000001" in ok(run("ledger show --tenant acme"))
    assert '"d0"' in ok(run("ledger export --jsonl --tenant acme"))
    assert "no tenant" in refused(run("ledger show --tenant nobody"))


def test_a_limit_on_money_that_stands_only_in_further_windows_is_listed(run: Run) -> None:
    ok(run("tenant add acme --token-budget 7 --budget 20/1mo --budget 5/1d --budget 9tokens/1d"))
    listed = ok(run("tenant list"))
    assert "5/1d +3" in listed
    assert "no limit" not in listed
    shown = ok(run("ledger show")).splitlines()[-1].split()
    assert shown[:3] == ["acme", "5/1d", "+3"]
    (budgets,) = (line for line in ok(run("tenant show acme")).splitlines() if "budgets" in line)
    assert "5/1d, 9tokens/1d, 20/1mo, 7tokens" in budgets


def test_one_window_has_one_amount(run: Run) -> None:
    assert "two different amounts for one window: 1d" in refused(run("tenant add acme --budget 5/1d --budget 6/1d"))
    ok(run("tenant add acme --budget 5/1d --budget 5/1d"))


def test_an_amount_below_a_nano_dollar_is_refused(run: Run) -> None:
    assert "smaller than a nano-dollar" in refused(run("tenant add acme --max-budget 1e-12"))
    assert "smaller than a nano-dollar" in refused(run("tenant add acme --budget 1e-12/1d"))
    ok(run("tenant add acme --max-budget 0"))


def test_what_has_no_effect_is_told_beside(run: Run, tmp_path: Path) -> None:
    added = run("tenant add acme --store-samples-days 3")
    ok(added)
    assert "no effect without --store-samples" in added.stderr
    assert not run("tenant update acme --store-samples --store-samples-days 3").stderr
    config = tmp_path / "models.json"
    entry = {"model_name": "small", "litellm_params": {"model": "openai/small"}}
    settings = {"database_url": f"sqlite:///{tmp_path / 'tally.db'}"}
    config.write_text(json.dumps({"model_list": [entry], "general_settings": settings}))
    for command in ("tenant update acme", "key create acme"):
        told = run(f"{command} --model small --model nosuch", config=config)
        ok(told)
        assert "warning: 'nosuch' is not in the model_list" in told.stderr
        assert "'small'" not in told.stderr


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_no_table_loses_an_id_a_date_or_a_name(run: Run, used: Books, width: int) -> None:
    used.record(verdict("req_2", Ballot("d0", "42", None, None)))
    used.add_tenant(Tenant("a" * 250))
    one = used.key_id(used.create_key("a" * 250, expires_at=32_503_680_000))
    for command in ("key list", "ledger check --keys", "ledger show", "tenant list"):
        told = ok(run(command, COLUMNS=str(width), FORCE_COLOR="1", NO_COLOR="1"))
        if command.startswith(("key", "ledger check")):
            assert one in told
        if command == "key list":
            assert "3000-01-01" in told
        assert told.count("a") >= 250
        assert len(told.splitlines()) < 60


@pytest.mark.parametrize("width", [30, 80, 120])
def test_a_table_keeps_every_column_at_any_width(width: int) -> None:
    columns = ("tenant", "model", "strategy", ">requests", ">95 % interval", ">USD", ">first sample USD", ">times")
    row = ("acme", "a-model", "adaptive", "1000", "12.3 - 45.6", "0.123456789", "0.012345678", "10.00")
    out = Console(file=io.StringIO(), width=width)
    show_table(out, columns, [row, row])
    assert isinstance(out.file, io.StringIO)
    told = out.file.getvalue()
    assert all(told.count(text) >= 2 for text in row)
    assert all(name.removeprefix(">") in told for name in columns)
    show_table(out, columns, [])
    assert len(out.file.getvalue()) > len(told)


def test_a_key_expires_on_its_day(run: Run, books: Books) -> None:
    ok(run("tenant add acme"))
    ok(run("key create acme --expires 2999-01-01"))
    assert "2999-01-01" in ok(run("key list"))
    assert "expired already" in refused(run("key create acme --expires 2001-01-01"))
    assert "'--expires'" in refused(run("key create acme --expires tomorrow"))


def test_the_check_is_content_when_everything_adds_up(run: Run, used: Books) -> None:
    """Also beside a server that has the file open."""
    assert ok(run("ledger check")).endswith("all agree: 1 tenants and 0 keys\n")
    (only,) = json.loads(ok(run("ledger check --json")))["tenants"]
    assert only["tenant"] == "acme"
    assert (only["spent_nano_usd"], only["ledger_nano_usd"], only["reserved_nano_usd"], only["ok"]) == (5, 5, 10, True)


def test_the_check_says_what_disagrees_and_ends_with_1(run: Run, used: Books, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "tally.db") as other:
        other.execute("UPDATE scopes SET spent_nano = 6 WHERE id LIKE 'tenant:%'")
    other.close()
    result = run("ledger check")
    assert result.exit_code == 1
    assert "wrong: spent" in result.stdout
    assert "all agree" not in result.stdout
    result = run("ledger check --json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["tenants"][0]["ok"] is False


@pytest.mark.parametrize("command", ["ledger check", "ledger show", "ledger export", "tenant list", "key list"])
def test_reading_a_ledger_that_is_not_there_is_an_error_and_makes_none(run: Run, tmp_path: Path, command: str) -> None:
    assert "there is no such ledger" in refused(run(command))
    assert not (tmp_path / "tally.db").exists()


def test_a_ledger_in_memory_is_for_its_server_alone(run: Run, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    memory.write_text('{"general_settings": {"database_url": "sqlite://"}}')
    for command in ("ledger check", "tenant add acme"):
        assert "in the memory of its server" in refused(run(command, config=memory))


def test_a_configuration_that_is_not_there_is_an_error(run: Run, tmp_path: Path) -> None:
    assert "none.yaml" in refused(run("tenant list", config=tmp_path / "none.yaml"))


def test_the_ledger_shows_tenants_and_their_last_requests(run: Run, used: Books) -> None:
    shown = ok(run("ledger show"))
    for fact in ("acme", "self_consistency", "42", "41", "0.000000005"):
        assert fact in shown
    assert "self_consistency" not in ok(run("ledger show --last 0"))
    assert "no tenant" in refused(run("ledger show --tenant nobody"))


def test_the_ledger_is_exported_as_csv(run: Run, used: Books) -> None:
    (line,) = csv.DictReader(io.StringIO(ok(run("ledger export --csv"))))
    assert (line["id"], line["cost_nano"], line["label"], line["first_answer"]) == ("d0", "5", "[bold]42", "41")


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_an_export_whose_reader_goes_away_ends_quietly(
    request: pytest.FixtureRequest, tmp_path: Path, store: str
) -> None:
    url = request.getfixturevalue("postgres")() if store == "postgres" else f"sqlite:///{tmp_path / 'many.db'}"
    many = open_books(url, clock=wall_clock)
    many.add_tenant(Tenant("acme"))
    many.reserve(wish("a", 10_000))
    many.settle(end("a", *(row(f"d{place}") for place in range(1000))))
    many.close()
    config = tmp_path / "many.json"
    config.write_text(json.dumps({"general_settings": {"database_url": url}}))
    command = [sys.executable, "-m", "proxy", "ledger", "export", "--jsonl", "--config", str(config)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    ) as export:
        assert export.stdout is not None
        assert export.stderr is not None
        assert json.loads(export.stdout.readline())["id"] == "d0"
        export.stdout.close()
        assert export.stderr.read() == ""
        assert export.wait(30) == 1


def test_an_export_of_nothing_is_a_header(run: Run) -> None:
    ok(run("tenant add acme"))
    assert ok(run("ledger export --csv")).startswith("number,tenant,key,")
    assert ok(run("ledger export --jsonl")) == ""


def test_the_ledger_is_exported_as_lines_of_json_to_a_file(run: Run, used: Books, tmp_path: Path) -> None:
    used.add_tenant(Tenant("other"))
    used.reserve(wish("c", 10, tenant="other"))
    used.settle(Settlement("c", Account("other", None, "req_2"), (row("d1"), row("d2"))))
    ok(run("ledger export --jsonl --tenant other --output", str(tmp_path / "out.jsonl")))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["id"], line["answer"]) for line in lines] == [("d1", None), ("d2", None)]


def moved(source: str, target: str) -> Result:
    return CliRunner().invoke(ledger, ["migrate", "--from", source, "--to", target])


def contents(url: str) -> dict[str, object]:
    """All that a ledger says, but for how its lines are numbered."""
    books = read_books(url, clock=wall_clock)
    try:
        lines = [{name: value for name, value in line.items() if name != "number"} for line in draws(books)]
        standings = [books.glance(row["id"]).spent for row in books.rows("SELECT id FROM scopes ORDER BY id")]
        return {
            "tenants": books.tenants(),
            "keys": books.keys(),
            "draws": lines,
            "spent": standings,
            "checks": check(books),
        }
    finally:
        books.close()


def test_a_ledger_moves_to_postgres_and_back_with_all_that_it_holds(
    used: Books, tmp_path: Path, postgres: NewDatabase
) -> None:
    secret = used.create_key("acme", limits=LIMITS, alias="ci", metadata='{"a":1}')
    account = Account("acme", used.key_id(secret), "req_9")
    for place in range(1100):
        used.reserve(replace(wish(f"x{place}", 20), account=account))
        used.settle(Settlement(f"x{place}", account, (row(f"x{place}", nano=3),)))
    used.close()
    first, there, back = f"sqlite:///{tmp_path / 'tally.db'}", postgres(), f"sqlite:///{tmp_path / 'back.db'}"
    said = ok(moved(first, there))
    assert "draws: 1101" in said
    assert "both ledgers agree" in said
    assert contents(there) == contents(first)
    ok(moved(there, back))
    assert contents(back) == contents(first)
    books = open_books(there, clock=wall_clock)
    try:
        assert books.authenticate(secret) is not None
        books.settle(end("b", row("d7")))
        books.reserve(wish("c", 1))
        assert [line["id"] for line in draws(books)][-1] == "d7"
        assert all(one.ok for one in check(books))
    finally:
        books.close()


def test_a_ledger_moves_only_to_a_new_place_and_only_while_no_server_uses_it(used: Books, tmp_path: Path) -> None:
    used.close()
    first, other = (f"sqlite:///{tmp_path / name}" for name in ("tally.db", "other.db"))
    assert "is not empty" in refused(moved(first, first))
    ok(moved(first, other))
    assert "is not empty" in refused(moved(first, other))
    assert "there is no such ledger" in refused(moved(f"sqlite:///{tmp_path / 'none.db'}", f"{other}.new"))
    lock = ServerLock(tmp_path / "tally.db")
    try:
        assert "another tally server" in refused(moved(first, f"{other}.new"))
    finally:
        lock.release()


@pytest.mark.anyio
async def test_a_ledger_on_postgres_moves_only_while_no_server_uses_it(tmp_path: Path, postgres: NewDatabase) -> None:
    url, target = await anyio.to_thread.run_sync(postgres), f"sqlite:///{tmp_path / 'target.db'}"

    def move() -> Result:
        return moved(url, target)

    serving = await anyio.to_thread.run_sync(lambda: open_ledger(url, clock=wall_clock, prepare=lambda _: None))
    await serving.run(lambda books: books.add_tenant(Tenant("acme")))
    assert "a tally server uses this ledger" in refused(await anyio.to_thread.run_sync(move))
    await serving.close()
    assert "tenants: 1" in ok(await anyio.to_thread.run_sync(move))


def test_a_check_names_the_key_whose_counters_are_wrong(run: Run, used: Books) -> None:
    one = used.key_id(used.create_key("acme"))
    assert one not in ok(run("ledger check"))
    assert one in ok(run("ledger check --keys"))
    with used.transaction():
        used.rows("UPDATE scopes SET spent_nano = 6 WHERE id = ?", f"key:{one}")
    result = run("ledger check")
    assert result.exit_code == 1
    assert one in result.stdout
