"""Many keys, or all tenants, with their limits and counters: a few statements, however many there are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from proxy.ledger.conditions import Conditions
from proxy.ledger.counters import Standing, key_scope, tenant_scope
from proxy.ledger.database import Row
from proxy.ledger.keys import Keys, key_of
from proxy.ledger.scopes import limits_of
from proxy.ledger.store import MAX_INTEGER, Store
from proxy.ledger.tenants import tenant_of
from proxy.types import Key, Tenant

_CHUNK = 100
_PLACES = ", ".join("?" * _CHUNK)
_SCOPES = f"SELECT * FROM scopes WHERE id IN ({_PLACES})"  # noqa: S608 - places alone
_BUDGETS = f"SELECT * FROM budgets WHERE scope IN ({_PLACES}) ORDER BY scope, place"  # noqa: S608 - places alone


@dataclass(frozen=True, slots=True)
class KeysWanted(Conditions):
    """Which keys are wanted; None: all. `living_at`: those that are not revoked then, in seconds since 1970."""

    tenant: str | None = None
    alias: str | None = None
    living_at: float | None = None

    @property
    def said(self) -> Mapping[str, object]:
        """Each condition's value."""
        told: dict[str, object] = {"tenant = ?": self.tenant, "alias = ?": self.alias}
        return told | {"(revoked_at IS NULL OR revoked_at > ?)": self.living_at}


def count_keys(store: Store, wanted: KeysWanted) -> int:
    """How many there are."""
    row = store.row(f"SELECT count(*) AS number FROM keys WHERE {wanted.condition}", *wanted.values)  # noqa: S608 - our own
    return 0 if row is None else int(row["number"])


def key_rows(store: Store, wanted: KeysWanted, limit: int = MAX_INTEGER, offset: int = 0) -> list[Row]:
    """Their rows of `keys`, oldest first."""
    return store.rows(
        f"SELECT * FROM keys WHERE {wanted.condition} ORDER BY created_at, id LIMIT ? OFFSET ?",  # noqa: S608 - our own
        *wanted.values,
        limit,
        offset,
    ).fetchall()


def key_standings(books: Keys, rows: Sequence[Row]) -> list[tuple[Key, Standing]]:
    """The keys of these rows, with their counters, in the same order."""
    found = _scopes(books, [key_scope(row["id"]) for row in rows])
    return [
        (key_of(row, limits_of(counters, budgets)), books.glance_of(counters, budgets))
        for row, (counters, budgets) in zip(rows, found, strict=True)
    ]


def tenant_standings(books: Keys) -> list[tuple[Tenant, Standing]]:
    """All tenants with their counters, by name."""
    rows = books.rows("SELECT * FROM tenants WHERE deleted_at IS NULL ORDER BY name").fetchall()
    found = _scopes(books, [tenant_scope(row["name"]) for row in rows])
    return [
        (tenant_of(row, limits_of(counters, budgets)), books.glance_of(counters, budgets))
        for row, (counters, budgets) in zip(rows, found, strict=True)
    ]


def _scopes(store: Store, names: Sequence[str]) -> Iterator[tuple[Row, list[Row]]]:
    """The row of `scopes`, and those of `budgets`, of each name."""
    for start in range(0, len(names), _CHUNK):
        some = names[start : start + _CHUNK]
        # always as many places, so that a database prepares one statement
        asked = (*some, *[""] * (_CHUNK - len(some)))
        counters = {row["id"]: row for row in store.rows(_SCOPES, *asked)}
        budgets: dict[str, list[Row]] = {name: [] for name in some}
        for row in store.rows(_BUDGETS, *asked):
            budgets[row["scope"]].append(row)
        for name in some:
            yield counters[name], budgets[name]
