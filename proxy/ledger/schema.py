"""The tables, as numbered migrations that only go forward.

A migration that has been released is never edited: a change of the tables is a new function at the end. Money is in
nano-USD, tokens in tokens, times in seconds since 1970. Tables are strict, so that money is an integer or an error.
"""

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

_WINDOW = {"window_start": float, "window_nano": int, "window_tokens": int}


def _m001_tenants(db: "Database") -> None:
    limits = {"max_nano": int, "max_tokens": int, "duration": str, "rpm_limit": int, "models": str, "strategy": str}
    caps = {"max_samples": int, "max_request_nano": int, "blocked": int, "managed": int, "created_at": float}
    counters = {"spent_nano": int, "spent_tokens": int, "reserved_nano": int, "reserved_tokens": int} | _WINDOW
    zero = dict.fromkeys([name for name in counters if name != "window_start"], 0)
    db.table("tenants").create(
        {"name": str} | limits | caps | counters,
        pk="name",
        not_null={"name", "blocked", "managed", "created_at", *zero},
        defaults=zero,
        strict=True,
    )


def _m002_keys(db: "Database") -> None:
    db.table("keys").create(
        {
            "id": str,
            "digest": bytes,
            "tenant": str,
            "hint": str,
            "created_at": float,
            "expires_at": float,
            "revoked_at": float,
            "managed": int,
        },
        pk="id",
        foreign_keys=[("tenant", "tenants", "name")],
        not_null={"id", "digest", "tenant", "hint", "created_at", "managed"},
        strict=True,
    )
    db.table("keys").create_index(["digest"], unique=True)
    db.table("meta").create({"name": str, "value": bytes}, pk="name", not_null={"name", "value"}, strict=True)


def _m003_reservations(db: "Database") -> None:
    columns = {
        "attempt": str,
        "tenant": str,
        "key": str,
        "request": str,
        "nano": int,
        "tokens": int,
        "prompt_tokens": int,
        "lifetime": float,
        "expires_at": float,
    }
    db.table("reservations").create(
        columns,
        pk="attempt",
        foreign_keys=[("tenant", "tenants", "name")],
        not_null=set(columns) - {"key"},
        strict=True,
    )
    db.table("reservations").create_index(["tenant", "expires_at"])


def _m004_draws(db: "Database") -> None:
    """A row's `id` is its attempt and its place in it: a draw that was billed, lost and made again has two rows."""
    account = {"tenant": str, "key": str, "request": str, "attempt": str, "settled_at": float, "window_start": float}
    draw = {"id": str, "purpose": str, "round": int, "index": int, "status": str, "model": str, "deployment": str}
    tokens = {"prompt_tokens": int, "cached_tokens": int, "completion_tokens": int, "reasoning_tokens": int}
    rest = {"cost_nano": int, "estimated": int, "finish_reason": str, "latency_ms": int}
    ballot = {"label": str, "score": float, "mean_logprob": float}
    columns = {"number": int} | account | draw | tokens | rest | ballot
    db.table("draws").create(
        columns,
        pk="number",
        foreign_keys=[("tenant", "tenants", "name")],
        not_null=set(columns) - set(ballot) - {"number", "key", "finish_reason"},
        strict=True,
    )
    db.table("draws").create_index(["tenant", "window_start"])
    db.table("draws").create_index(["request"])


def _m005_requests(db: "Database") -> None:
    account = {"tenant": str, "id": str, "key": str, "recorded_at": float, "model": str, "strategy": str, "status": int}
    vote = {"samples": int, "abstained": int, "rounds": int}
    verdict = {"winner": int, "answer": str, "first_answer": str, "confidence": float, "reason": str}
    columns = account | vote | verdict | {"cost_nano": int, "latency_ms": int}
    db.table("requests").create(
        columns,
        pk=("tenant", "id"),
        foreign_keys=[("tenant", "tenants", "name")],
        not_null=set(columns) - set(verdict) - {"key"},
        strict=True,
    )
    db.table("requests").create_index(["recorded_at"])


def _m006_questions(db: "Database") -> None:
    """What was asked, where it may be stored; and a tenant's and model's last requests with scores by an index."""
    db.table("requests").add_column("question", str)
    # the condition must stand in a query as it stands here
    db.execute(
        "CREATE INDEX idx_requests_scored ON requests (tenant, model, recorded_at) "
        "WHERE strategy IN ('best_of_n', 'optscale')"
    )


def _m007_answers(db: "Database") -> None:
    """How a tenant's answers are found, as JSON; and whether a request's answer was right (1, 0), where one told."""
    db.table("tenants").add_column("answer", str)
    db.table("requests").add_column("feedback", int)
    # the condition must stand in a query as it stands here
    db.execute("CREATE INDEX idx_requests_feedback ON requests (tenant, model, recorded_at) WHERE feedback IS NOT NULL")


def _m008_trials(db: "Database") -> None:
    """How much of a tenant's traffic is scaled (NULL: all), and whether that is done in the background alone."""
    db.table("tenants").add_column("scale_fraction", float)
    db.table("tenants").add_column("shadow", int, not_null_default=0)


def _m009_scopes(db: "Database") -> None:
    """Limits and counters of tenants and keys alike, with any number of windows, and samples as a third kind."""
    limits = {"soft_nano": int, "rpm_limit": int, "tpm_limit": int, "max_parallel": int, "models": str}
    limits |= {"strategies": str, "strategy": str, "max_samples": int, "max_rounds": int, "max_request_nano": int}
    ways = {"scale_until": str, "on_exhausted": str, "blocked": int}
    counters = {f"{state}_{kind}": int for state in ("spent", "reserved") for kind in ("nano", "tokens", "samples")}
    db.table("scopes").create(
        {"id": str} | limits | ways | counters,
        pk="id",
        not_null={"id", *ways, *counters},
        defaults={"scale_until": "hard", "on_exhausted": "single"} | dict.fromkeys(["blocked", *counters], 0),
        strict=True,
    )
    budget = {"duration": str, "max_nano": int, "max_tokens": int, "max_samples": int, "window_start": float}
    budget |= {"window_end": float}
    spent = {"nano": int, "tokens": int, "samples": int}
    db.table("budgets").create(
        {"scope": str, "place": int} | budget | spent,
        pk=("scope", "place"),
        foreign_keys=[("scope", "scopes", "id")],
        not_null={"scope", "place", *spent},
        defaults=dict.fromkeys(spent, 0),
        strict=True,
    )
    db.table("draws").add_column("samples", int, not_null_default=0)
    db.table("reservations").add_column("samples", int, not_null_default=0)
    db.table("reservations").add_column("owner", str, not_null_default="")
    db.table("keys").add_column("alias", str)
    db.table("tenants").add_column("alias", str)
    db.table("tenants").add_column("deleted_at", float)
    for statement in _SCOPES.split(";"):
        db.execute(statement)


def _m010_metadata(db: "Database") -> None:
    """What operators keep beside tenants and keys: a JSON object as text."""
    db.table("tenants").add_column("metadata", str)
    db.table("keys").add_column("metadata", str)


def _m011_samples(db: "Database") -> None:
    """What was asked and said, for tenants that want it, and until when it is kept.

    Earlier versions kept answers for ever: those run out 30 days after their request, though none within a day of the
    last one.
    """
    db.table("tenants").add_column("store_samples", int, not_null_default=0)
    db.table("tenants").add_column("store_samples_days", int, not_null_default=30)
    db.table("requests").add_column("expires_at", float)
    columns = {"tenant": str, "request": str, "draw": str, "text": str, "cut": int}
    db.table("samples").create(
        columns,
        pk=("tenant", "request", "draw"),
        foreign_keys=[("tenant", "tenants", "name")],
        not_null=set(columns),
        strict=True,
    )
    # the condition must follow from a query's own
    db.execute("CREATE INDEX idx_requests_expires_at ON requests (expires_at) WHERE expires_at IS NOT NULL")
    db.execute(
        "UPDATE requests SET expires_at = max(recorded_at + 30 * 86400.0, "
        "(SELECT max(recorded_at) FROM requests) + 86400.0) WHERE samples > 0 OR question IS NOT NULL"
    )


_SCOPES = """
UPDATE draws SET samples = (purpose = 'draw'), settled_at = max(settled_at, window_start);
DROP INDEX idx_draws_tenant_window_start;
CREATE INDEX idx_draws_tenant_settled_at ON draws (tenant, settled_at);
CREATE INDEX idx_draws_key_settled_at ON draws (key, settled_at);
INSERT INTO scopes (id, rpm_limit, models, strategy, max_samples, max_request_nano, blocked, spent_nano, spent_tokens,
    spent_samples, reserved_nano, reserved_tokens)
SELECT 'tenant:' || name, rpm_limit, models, strategy, max_samples, max_request_nano, blocked, spent_nano, spent_tokens,
    (SELECT coalesce(sum(samples), 0) FROM draws WHERE tenant = name), reserved_nano, reserved_tokens FROM tenants;
INSERT INTO budgets (scope, place, duration, max_nano, max_tokens, window_start, nano, tokens, samples)
SELECT 'tenant:' || name, 0, duration, max_nano, max_tokens, window_start, window_nano, window_tokens,
    (SELECT coalesce(sum(samples), 0) FROM draws WHERE tenant = name AND draws.window_start = tenants.window_start)
    FROM tenants;
INSERT INTO scopes (id, spent_nano, spent_tokens, spent_samples, reserved_nano, reserved_tokens)
SELECT 'key:' || id, (SELECT coalesce(sum(cost_nano), 0) FROM draws WHERE key = keys.id),
    (SELECT coalesce(sum(prompt_tokens + completion_tokens), 0) FROM draws WHERE key = keys.id),
    (SELECT coalesce(sum(samples), 0) FROM draws WHERE key = keys.id),
    (SELECT coalesce(sum(nano), 0) FROM reservations WHERE key = keys.id),
    (SELECT coalesce(sum(tokens), 0) FROM reservations WHERE key = keys.id) FROM keys;
INSERT INTO budgets (scope, place, window_start, nano, tokens, samples)
SELECT id, 0, 0.0, spent_nano, spent_tokens, spent_samples FROM scopes WHERE id LIKE 'key:%';
ALTER TABLE draws DROP COLUMN window_start;
ALTER TABLE tenants DROP COLUMN max_nano;
ALTER TABLE tenants DROP COLUMN max_tokens;
ALTER TABLE tenants DROP COLUMN duration;
ALTER TABLE tenants DROP COLUMN rpm_limit;
ALTER TABLE tenants DROP COLUMN models;
ALTER TABLE tenants DROP COLUMN strategy;
ALTER TABLE tenants DROP COLUMN max_samples;
ALTER TABLE tenants DROP COLUMN max_request_nano;
ALTER TABLE tenants DROP COLUMN blocked;
ALTER TABLE tenants DROP COLUMN spent_nano;
ALTER TABLE tenants DROP COLUMN spent_tokens;
ALTER TABLE tenants DROP COLUMN reserved_nano;
ALTER TABLE tenants DROP COLUMN reserved_tokens;
ALTER TABLE tenants DROP COLUMN window_start;
ALTER TABLE tenants DROP COLUMN window_nano;
ALTER TABLE tenants DROP COLUMN window_tokens
"""


MIGRATIONS: tuple[Callable[["Database"], None], ...] = (
    _m001_tenants,
    _m002_keys,
    _m003_reservations,
    _m004_draws,
    _m005_requests,
    _m006_questions,
    _m007_answers,
    _m008_trials,
    _m009_scopes,
    _m010_metadata,
    _m011_samples,
)


def version(connection: sqlite3.Connection) -> int:
    """The number of the last migration that the database has seen; 0 for an empty one."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone() is None:
        return 0
    number: int = connection.execute("SELECT coalesce(max(number), 0) FROM migrations").fetchone()[0]
    return number


def migrate(connection: sqlite3.Connection, target: int = len(MIGRATIONS)) -> None:
    """Bring the tables to version `target`, unless they are there, in one transaction.

    The connection is in autocommit (`isolation_level=None`).
    """
    if version(connection) >= target:
        return
    # it takes a fifth of a second to import, which a server on an existing ledger need not pay
    from sqlite_utils import Database

    db = Database(connection, execute_plugins=False)
    connection.execute("BEGIN IMMEDIATE")
    try:
        table = db.table("migrations")
        table.create({"number": int, "name": str}, pk="number", if_not_exists=True)
        for number, change in enumerate(MIGRATIONS[version(connection) : target], version(connection) + 1):
            change(db)
            table.insert({"number": number, "name": change.__name__.lstrip("_")})
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
