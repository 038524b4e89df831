"""What the ledger says: do its counters agree with its rows, where does each tenant stand, what was drawn.

Every report is one view of the ledger, taken while writers go on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

from proxy.ledger import Amount
from proxy.ledger.counters import Standing, key_scope, tenant_scope
from proxy.ledger.keys import Keys
from proxy.ledger.store import Store
from proxy.types import JSON, Key, Tenant

L = TypeVar("L", Tenant, Key)

_COUNT = "SELECT count(*) AS number FROM {table} WHERE {kind} = ?"
_VERDICT = """requests.recorded_at, requests.strategy, requests.status AS request_status, requests.winner,
requests.answer, requests.first_answer, requests.confidence, requests.reason"""
_DRAWS = f"""SELECT draws.*, {_VERDICT} FROM draws
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
        for row in store.stream(_DRAWS, tenant):
            yield {name: row[name] for name in row.keys()}  # noqa: SIM118 - a row is no dict


def draw_columns(store: Store) -> list[str]:
    """The names in each of `draws`, in order."""
    return store.columns(_DRAWS, None)


def _sheet(books: Keys, scope: str, limits: L) -> Sheet[L]:
    kind, _, name = scope.partition(":")
    counts = [
        books.rows(_COUNT.format(table=table, kind=kind), name).fetchone()["number"] for table in ("requests", "draws")
    ]
    return Sheet(limits, books.glance(scope), *counts)
