"""What the ledger says: do its counters agree with its rows, where does each tenant stand, what was drawn.

Every report is one view of the ledger, taken while writers go on.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from math import inf
from operator import itemgetter
from typing import Generic, TypeVar

from proxy.ledger import Amount
from proxy.ledger.counters import KEY, TENANT, Standing, key_scope, tenant_scope
from proxy.ledger.keys import Keys
from proxy.ledger.scopes import Scopes
from proxy.ledger.store import Store
from proxy.types import JSON, Key, Tenant
from proxy.windows import window

L = TypeVar("L", Tenant, Key)

_ROWS = """SELECT coalesce(sum(cost_nano), 0) AS nano, coalesce(sum(prompt_tokens + completion_tokens), 0) AS tokens,
coalesce(sum(samples), 0) AS samples FROM draws WHERE {kind} = ?"""
_HELD = """SELECT coalesce(sum(nano), 0) AS nano, coalesce(sum(tokens), 0) AS tokens,
coalesce(sum(samples), 0) AS samples FROM reservations WHERE {kind} = ?"""
_COUNT = "SELECT count(*) AS number FROM {table} WHERE {kind} = ?"
_VERDICT = """requests.recorded_at, requests.strategy, requests.status AS request_status, requests.winner,
requests.answer, requests.first_answer, requests.confidence, requests.reason"""
_DRAWS = f"""SELECT draws.*, {_VERDICT} FROM draws
LEFT JOIN requests ON requests.tenant = draws.tenant AND requests.id = draws.request
WHERE draws.tenant = coalesce(?, draws.tenant) ORDER BY draws.number"""  # noqa: S608 - columns of our own


@dataclass(frozen=True, slots=True)
class TenantCheck:
    """A tenant's counters, or those of one of its keys, beside what its rows and reservations add up to.

    `windows` are the counters of each budget window in use, `window_rows` what was settled in them.
    """

    tenant: str
    key: str | None
    spent: Amount
    ledger: Amount
    windows: tuple[Amount, ...]
    window_rows: tuple[Amount, ...]
    reserved: Amount
    reservations: Amount

    @property
    def window_spent(self) -> Amount:
        """The counters of the first window."""
        return self.windows[0]

    @property
    def disagreements(self) -> tuple[str, ...]:
        """The names of what does not agree."""
        pairs: dict[str, tuple[object, object]] = {
            "spent": (self.spent, self.ledger),
            "window": (self.windows, self.window_rows),
            "reserved": (self.reserved, self.reservations),
        }
        return tuple(name for name, (counter, total) in pairs.items() if counter != total)

    @property
    def ok(self) -> bool:
        """Whether everything agrees."""
        return not self.disagreements

    def as_json(self) -> JSON:
        """The check as JSON: totals since the tenant was made, and those of the windows in use."""
        found: JSON = {"tenant": self.tenant, "key": self.key, "ok": self.ok}
        totals = {"spent": self.spent, "reserved": self.reserved, "ledger": self.ledger}
        totals |= {"reservations": self.reservations}
        for name, amount in totals.items():
            found |= {f"{name}_{unit}": value for unit, value in _units(amount).items()}
        found["windows"] = [
            {"spent": _units(spent), "ledger": _units(rows)}
            for spent, rows in zip(self.windows, self.window_rows, strict=True)
        ]
        return found


@dataclass(frozen=True, slots=True)
class Sheet(Generic[L]):
    """Where a tenant, or one of its keys, stands.

    A window that is over counts as empty before a new one begins; a fixed one that is not in use ends as if it began
    now.
    """

    limits: L
    standing: Standing
    requests: int
    draws: int

    @property
    def window_end(self) -> float | None:
        """When the first window ends, in seconds since 1970; None when its budget is for ever."""
        end = self.standing.windows[0].end
        return None if end == inf else end

    @property
    def window_spent(self) -> Amount:
        """What was spent in the first window."""
        return self.standing.windows[0].spent

    @property
    def reserved(self) -> Amount:
        """What is reserved."""
        return self.standing.reserved

    @property
    def spent(self) -> Amount:
        """What was ever spent."""
        return self.standing.spent


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


def check(scopes: Scopes) -> list[TenantCheck]:
    """Add everything up again, tenant by tenant, each followed by its keys."""
    with scopes.reading():
        names = scopes.rows("SELECT name FROM tenants ORDER BY name").fetchall()
        owned = scopes.rows("SELECT tenant, id FROM keys ORDER BY tenant, created_at, id").fetchall()
        keys = {tenant: [row["id"] for row in rows] for tenant, rows in groupby(owned, itemgetter("tenant"))}
        return [_check(scopes, row["name"], key) for row in names for key in (None, *keys.get(row["name"], ()))]


def sheets(books: Keys) -> list[Sheet[Tenant]]:
    """Where every tenant stands now, by name."""
    with books.reading():
        return [_sheet(books, tenant_scope(tenant.name), tenant) for tenant in books.tenants()]


def key_sheets(books: Keys, tenant: str | None = None) -> list[Sheet[Key]]:
    """Where every key stands now, of one tenant or of all. Raises NotFound."""
    with books.reading():
        return [_sheet(books, key_scope(key.id), key) for key in books.keys(tenant)]


def verdicts(store: Store, tenant: str | None = None, limit: int = 20) -> list[RequestLine]:
    """The last requests of one tenant or of all, latest first."""
    columns = [name if name != "request" else "id AS request" for name in RequestLine.__dataclass_fields__]
    rows = store.rows(
        f"SELECT {', '.join(columns)} FROM requests WHERE tenant = coalesce(?, tenant) "  # noqa: S608 - columns of our own
        "ORDER BY recorded_at DESC, id DESC LIMIT ?",
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


def _check(scopes: Scopes, tenant: str, key: str | None) -> TenantCheck:
    kind, name = (TENANT, tenant) if key is None else (KEY, key)
    scope = f"{kind}:{name}"
    counters = scopes.row("SELECT * FROM scopes WHERE id = ?", scope)
    windows = scopes.rows("SELECT * FROM budgets WHERE scope = ? ORDER BY place", scope).fetchall()
    return TenantCheck(
        tenant=tenant,
        key=key,
        spent=_amount(counters, "spent_"),
        ledger=_amount(scopes.row(_ROWS.format(kind=kind), name)),
        windows=tuple(_amount(row) for row in windows),
        window_rows=tuple(_in_use(scopes, scope, row) for row in windows),
        reserved=_amount(counters, "reserved_"),
        reservations=_amount(scopes.row(_HELD.format(kind=kind), name)),
    )


def _in_use(scopes: Scopes, scope: str, row: sqlite3.Row) -> Amount:
    """What the rows say of the window that a row of `budgets` counts, over or not."""
    opened = row["window_start"]
    if opened is None:
        return Amount()
    start, end = window(row["duration"], opened, opened)
    return scopes.window_sum(scope, start, end)


def _amount(row: sqlite3.Row | None, prefix: str = "") -> Amount:
    return Amount() if row is None else Amount(*(row[prefix + kind] for kind in Amount.__dataclass_fields__))


def _units(amount: Amount) -> JSON:
    return {"nano_usd": amount.nano, "tokens": amount.tokens, "samples": amount.samples}


def _sheet(books: Keys, scope: str, limits: L) -> Sheet[L]:
    kind, _, name = scope.partition(":")
    counts = [
        books.rows(_COUNT.format(table=table, kind=kind), name).fetchone()["number"] for table in ("requests", "draws")
    ]
    return Sheet(limits, books.glance(scope), *counts)
