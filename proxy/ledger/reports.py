"""What the ledger says: do its counters agree with its rows, where does each tenant stand, what was drawn.

Every report is one view of the ledger, taken while writers go on.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Generic, TypeVar

from proxy.ledger import Amount
from proxy.ledger.conditions import Conditions
from proxy.ledger.counters import TENANT, Standing, Window, key_scope, tenant_scope
from proxy.ledger.database import Row
from proxy.ledger.keys import Keys
from proxy.ledger.opaque import Names
from proxy.ledger.store import Store
from proxy.types import JSON, Key, Tenant

L = TypeVar("L", Tenant, Key)

_COUNT = "SELECT count(*) AS number FROM {table} WHERE {kind} = ?"
_VERDICT = """requests.recorded_at, requests.strategy, requests.status AS request_status, requests.winner,
requests.answer, requests.first_answer, requests.confidence, requests.reason"""
_END = "expires_at"
_SAID = ("label", "answer", "first_answer")
_DRAWS = f"""SELECT draws.*, {_VERDICT}, requests.{_END} FROM draws
LEFT JOIN requests ON requests.tenant = draws.tenant AND requests.id = draws.request
WHERE draws.tenant = coalesce(?, draws.tenant) ORDER BY draws.number"""  # noqa: S608 - columns of our own


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
    def money(self) -> Window:
        """The window that limits money: the first, or where that has no such limit the narrowest of the others."""
        first, *more = self.standing.windows
        limited = [(window.budget.max_nano, window) for window in more if window.budget.max_nano is not None]
        if first.budget.max_nano is not None or not limited:
            return first
        return min(limited, key=lambda each: each[0])[1]

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


def sheets(books: Keys) -> list[Sheet[Tenant]]:
    """Where every tenant stands now, by name."""
    with books.reading():
        return [_sheet(books, tenant_scope(tenant.name), tenant) for tenant in books.tenants()]


def key_sheets(books: Keys, tenant: str | None = None) -> list[Sheet[Key]]:
    """Where every key stands now, of one tenant or of all. Raises NotFound."""
    with books.reading():
        return [_sheet(books, key_scope(key.id), key) for key in books.keys(tenant)]


def sheet_of(books: Keys, key_id: str) -> Sheet[Key]:
    """Where one key stands now. Raises NotFound."""
    with books.reading():
        return _sheet(books, key_scope(key_id), books.key(key_id))


def verdicts(store: Store, tenant: str | None = None, limit: int = 20) -> list[RequestLine]:
    """The last requests of one tenant or of all, latest first; answers whose time is up are names, as in `opaque`."""
    columns = [name if name != "request" else "id AS request" for name in RequestLine.__dataclass_fields__]
    found = store.rows(
        f"SELECT {', '.join(columns)}, {_END} FROM requests WHERE tenant = coalesce(?, tenant) "  # noqa: S608 - columns of our own
        "ORDER BY recorded_at DESC, id DESC LIMIT ?",
        tenant,
        limit,
    )
    now = store.now()
    return [_verdict(row, now) for row in found]


def draws(store: Store, tenant: str | None = None) -> Generator[JSON, None, None]:
    """Every line of the ledger, of one tenant or of all, in order, beside its request's verdict; as it is read.

    Answers whose time is up are None.
    """
    with store.reading():
        now = store.now()
        for row in store.stream(_DRAWS, tenant):
            line = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a row is no dict
            end = line.pop(_END)
            yield line if end is None or now < end else line | dict.fromkeys(_SAID)


@dataclass(frozen=True, slots=True)
class Wanted(Conditions):
    """Which lines of the ledger are wanted; None: all. `since` and `until` are in seconds since 1970."""

    tenant: str | None = None
    key: str | None = None
    request: str | None = None
    since: float | None = None
    until: float | None = None

    @property
    def said(self) -> Mapping[str, object]:
        """Each condition's value, where the draws are `draws`."""
        told = {f"draws.{name} = ?": getattr(self, name) for name in ("tenant", "key", "request")}
        return told | {"draws.settled_at >= ?": self.since, "draws.settled_at < ?": self.until}


@dataclass(frozen=True, slots=True)
class DaySpend:
    """What one key's draws of one model took on one day (UTC, counted since 1970)."""

    day: int
    tenant: str
    key: str | None
    model: str
    nano: int


def last_draws(store: Store, wanted: Wanted, limit: int) -> list[JSON]:
    """The latest lines of the ledger that are wanted, with the model that was asked for and the strategy."""
    found = store.rows(
        f"""SELECT draws.*, requests.model AS asked, requests.strategy FROM draws
        LEFT JOIN requests ON requests.tenant = draws.tenant AND requests.id = draws.request
        WHERE {wanted.condition} ORDER BY draws.number DESC LIMIT ?""",  # noqa: S608 - conditions of our own
        *wanted.values,
        limit,
    )
    return [{name: row[name] for name in row.keys()} for row in found]  # noqa: SIM118 - a row is no dict


def daily_spend(store: Store, wanted: Wanted) -> list[DaySpend]:
    """What was spent a day, by key and model, in order."""
    found = store.rows(
        f"""SELECT CAST(settled_at * 1000000 AS BIGINT) / 86400000000 AS day, tenant, key, model,
        CAST(sum(cost_nano) AS BIGINT) AS nano FROM draws WHERE {wanted.condition}
        GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4""",  # noqa: S608 - conditions of our own
        *wanted.values,
    )
    return [DaySpend(row["day"], row["tenant"], row["key"], row["model"], row["nano"]) for row in found]


def total_spend(store: Store) -> int:
    """What all tenants have ever spent, in nano-USD."""
    row = store.row(
        "SELECT CAST(coalesce(sum(spent_nano), 0) AS BIGINT) AS nano FROM scopes WHERE id LIKE ?", f"{TENANT}:%"
    )
    return 0 if row is None else int(row["nano"])


def draw_columns(store: Store) -> list[str]:
    """The names in each of `draws`, in order."""
    with store.reading():
        return [name for name in store.columns(_DRAWS, None) if name != _END]


def _verdict(row: Row, now: float) -> RequestLine:
    line, end = RequestLine(**{name: row[name] for name in RequestLine.__dataclass_fields__}), row[_END]
    if end is None or now < end:
        return line
    names = Names()
    first = names.of(line.first_answer)
    return replace(line, first_answer=first, answer=names.of(line.answer))


def _sheet(books: Keys, scope: str, limits: L) -> Sheet[L]:
    kind, _, name = scope.partition(":")
    counts = [
        books.rows(_COUNT.format(table=table, kind=kind), name).fetchone()["number"] for table in ("requests", "draws")
    ]
    return Sheet(limits, books.glance(scope), *counts)
