"""What the ledger says: do its counters agree with its rows, where does each tenant stand, what was drawn.

Every report is one view of the ledger, taken while writers go on.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from proxy.ledger import Amount
from proxy.ledger.store import Store
from proxy.ledger.tenants import tenant_of
from proxy.types import JSON, Tenant
from proxy.windows import window

_ROWS = """SELECT coalesce(sum(cost_nano), 0) AS nano,
coalesce(sum(prompt_tokens + completion_tokens), 0) AS tokens,
coalesce(sum(CASE WHEN window_start = ?2 THEN cost_nano END), 0) AS window_nano,
coalesce(sum(CASE WHEN window_start = ?2 THEN prompt_tokens + completion_tokens END), 0) AS window_tokens,
count(*) AS draws FROM draws WHERE tenant = ?1"""
_HELD = "SELECT coalesce(sum(nano), 0) AS nano, coalesce(sum(tokens), 0) AS tokens FROM reservations WHERE tenant = ?"
_COUNTS = "SELECT (SELECT count(*) FROM requests WHERE tenant = ?1), (SELECT count(*) FROM draws WHERE tenant = ?1)"
_VERDICT = """requests.recorded_at, requests.strategy, requests.status AS request_status, requests.winner,
requests.answer, requests.first_answer, requests.confidence, requests.reason"""
_DRAWS = f"""SELECT draws.*, {_VERDICT} FROM draws
LEFT JOIN requests ON requests.tenant = draws.tenant AND requests.id = draws.request
WHERE draws.tenant = coalesce(?, draws.tenant) ORDER BY draws.number"""  # noqa: S608 - columns of our own


@dataclass(frozen=True, slots=True)
class TenantCheck:
    """One tenant's counters beside what its rows and reservations add up to."""

    tenant: str
    spent: Amount
    ledger: Amount
    window_spent: Amount
    window_ledger: Amount
    reserved: Amount
    reservations: Amount

    @property
    def disagreements(self) -> tuple[str, ...]:
        """The names of what does not agree."""
        pairs = {
            "spent": (self.spent, self.ledger),
            "window": (self.window_spent, self.window_ledger),
            "reserved": (self.reserved, self.reservations),
        }
        return tuple(name for name, (counter, total) in pairs.items() if counter != total)

    @property
    def ok(self) -> bool:
        """Whether everything agrees."""
        return not self.disagreements

    def as_json(self) -> JSON:
        """The check as JSON: totals since the tenant was made, and those of the window in use."""
        return {
            "tenant": self.tenant,
            "spent_nano_usd": self.spent.nano,
            "reserved_nano_usd": self.reserved.nano,
            "ledger_nano_usd": self.ledger.nano,
            "reservations_nano_usd": self.reservations.nano,
            "window_spent_nano_usd": self.window_spent.nano,
            "window_ledger_nano_usd": self.window_ledger.nano,
            "spent_tokens": self.spent.tokens,
            "reserved_tokens": self.reserved.tokens,
            "ledger_tokens": self.ledger.tokens,
            "reservations_tokens": self.reservations.tokens,
            "window_spent_tokens": self.window_spent.tokens,
            "window_ledger_tokens": self.window_ledger.tokens,
            "ok": self.ok,
        }


@dataclass(frozen=True, slots=True)
class TenantSheet:
    """Where a tenant stands. `window_end` is in seconds since 1970; None when the budget is for ever.

    A fixed window that is not in use ends as if it began now.
    """

    tenant: Tenant
    window_end: float | None
    window_spent: Amount
    reserved: Amount
    spent: Amount
    requests: int
    draws: int


@dataclass(frozen=True, slots=True)
class RequestLine:
    """One request as the ledger keeps it. `recorded_at` is in seconds since 1970."""

    tenant: str
    request: str
    recorded_at: float
    model: str
    strategy: str
    status: int
    samples: int
    abstained: int
    rounds: int
    winner: int | None
    answer: str | None
    first_answer: str | None
    confidence: float | None
    cost_nano: int
    reason: str | None
    latency_ms: int


def check(store: Store) -> list[TenantCheck]:
    """Add everything up again, tenant by tenant."""
    with store.reading():
        return [_check(store, row) for row in store.rows("SELECT * FROM tenants ORDER BY name").fetchall()]


def sheets(store: Store) -> list[TenantSheet]:
    """Where every tenant stands now, by name. A window that is over counts as empty before a new one begins."""
    with store.reading():
        return [_sheet(store, row) for row in store.rows("SELECT * FROM tenants ORDER BY name").fetchall()]


def verdicts(store: Store, tenant: str | None = None, limit: int = 20) -> list[RequestLine]:
    """The last requests of one tenant or of all, latest first."""
    columns = [name if name != "request" else "id AS request" for name in RequestLine.__dataclass_fields__]
    rows = store.rows(
        f"SELECT {', '.join(columns)} FROM requests WHERE tenant = coalesce(?, tenant) "  # noqa: S608 - columns of our own
        "ORDER BY recorded_at DESC, rowid DESC LIMIT ?",
        tenant,
        limit,
    )
    return [RequestLine(*row) for row in rows]


def draws(store: Store, tenant: str | None = None) -> Iterator[JSON]:
    """Every line of the ledger, of one tenant or of all, in order, beside its request's verdict; as it is read."""
    with store.reading():
        for row in store.rows(_DRAWS, tenant):
            yield dict(row)


def draw_columns(store: Store) -> list[str]:
    """The names in each of `draws`, in order."""
    return [column[0] for column in store.rows(_DRAWS + " LIMIT 0", None).description]


def _check(store: Store, row: sqlite3.Row) -> TenantCheck:
    total = store.rows(_ROWS, row["name"], row["window_start"]).fetchone()
    held = store.rows(_HELD, row["name"]).fetchone()
    return TenantCheck(
        tenant=row["name"],
        spent=Amount(row["spent_nano"], row["spent_tokens"]),
        ledger=Amount(total["nano"], total["tokens"]),
        window_spent=Amount(row["window_nano"], row["window_tokens"]),
        window_ledger=Amount(total["window_nano"], total["window_tokens"]),
        reserved=Amount(row["reserved_nano"], row["reserved_tokens"]),
        reservations=Amount(held["nano"], held["tokens"]),
    )


def _sheet(store: Store, row: sqlite3.Row) -> TenantSheet:
    opened = row["window_start"]
    start, end = window(row["duration"], store.now(), opened)
    current = start == opened
    counts = store.rows(_COUNTS, row["name"]).fetchone()
    return TenantSheet(
        tenant=tenant_of(row),
        window_end=None if end == inf else end,
        window_spent=Amount(row["window_nano"], row["window_tokens"]) if current else Amount(),
        reserved=Amount(row["reserved_nano"], row["reserved_tokens"]),
        spent=Amount(row["spent_nano"], row["spent_tokens"]),
        requests=counts[0],
        draws=counts[1],
    )
