"""Ledgers of any size, made in no time: rows and tenants that a server then works beside."""

import sqlite3
from contextlib import closing
from pathlib import Path

from proxy.ledger.books import Books
from proxy.ledger.store import wall_clock
from proxy.types import Tenant

_BATCH = 500_000
_SAMPLES = 8
_AGO_S = 90 * 86_400
_GAP_S = 0.5
_BUDGET_NANO = 10**15
_NANO, _PROMPT, _COMPLETION = 4_000, 20, 8

_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT ? UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?) "
_DRAWS = f"""{_NUMBERS}
INSERT INTO draws (tenant, key, request, attempt, settled_at, id, purpose, round, "index", status, model, deployment,
    prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, cost_nano, estimated, finish_reason, latency_ms,
    label, samples)
SELECT ?, ?, printf('chatcmpl-%08x', n / {_SAMPLES}), printf('%08x', n), ? + n * ?, printf('%08x:0', n), 'draw', 1,
    n % {_SAMPLES}, 'ok', 'openai/small', 'fast', {_PROMPT}, 0, {_COMPLETION}, 0, {_NANO}, 0, 'stop', 900, '#1', 1
FROM numbers"""
_REQUESTS = f"""{_NUMBERS}
INSERT INTO requests (tenant, id, key, recorded_at, model, strategy, status, samples, abstained, rounds, winner, answer,
    first_answer, confidence, cost_nano, latency_ms)
SELECT ?, printf('chatcmpl-%08x', n), ?, ? + n * ?, 'fast', 'self_consistency', 200, {_SAMPLES}, 0, 1, 0, '#1', '#1',
    0.99, {_NANO * _SAMPLES}, 900
FROM numbers"""
_SPENT = """UPDATE scopes SET spent_nano = spent_nano + ?, spent_tokens = spent_tokens + ?,
    spent_samples = spent_samples + ? WHERE id IN (?, ?)"""
# a window that never ends holds the rows of all times
_WINDOW = """UPDATE budgets SET nano = nano + ?, tokens = tokens + ?, samples = samples + ?
    WHERE duration IS NULL AND scope IN (?, ?)"""


def fill(path: Path, tenant: str, rows: int) -> None:
    """Bring the ledger, which no server has open, to so many draws of the past, all one tenant's and its one key's.

    An eighth as many requests go with them, and the counters, so that `tally ledger check` agrees.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (key,) = connection.execute("SELECT id FROM keys WHERE tenant = ?", (tenant,)).fetchone()
        (there,) = connection.execute("SELECT count(*) FROM draws WHERE attempt GLOB '????????'").fetchone()
        connection.execute("PRAGMA synchronous = OFF")
        start = wall_clock() - _AGO_S - rows * _GAP_S
        for low in range(there, rows, _BATCH):
            high = min(low + _BATCH, rows)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_DRAWS, (low, high, tenant, key, start, _GAP_S))
            few = (-(-low // _SAMPLES), -(-high // _SAMPLES))
            if few[0] < few[1]:
                connection.execute(_REQUESTS, (*few, tenant, key, start, _SAMPLES * _GAP_S))
            more = high - low
            scopes = (f"tenant:{tenant}", f"key:{key}")
            for statement in (_SPENT, _WINDOW):
                connection.execute(statement, (more * _NANO, more * (_PROMPT + _COMPLETION), more, *scopes))
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def populate(path: Path, tenants: range) -> list[str]:
    """Add tenants of such numbers, each with a budget and a key; returns the keys."""
    with closing(Books.open(path, clock=wall_clock, synchronous="OFF")) as books, books.transaction():
        for number in tenants:
            books.add_tenant(Tenant(f"t{number}", max_nano=_BUDGET_NANO, duration="1mo"))
        return [books.create_key(f"t{number}") for number in tenants]
