"""Whether the ledger's counters agree with its rows: everything is added up again."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from proxy.ledger import Amount
from proxy.ledger.counters import KEY, SUMS, TENANT
from proxy.ledger.database import Row
from proxy.ledger.store import Store
from proxy.types import JSON

_HELD_SUMS = ", ".join(f"CAST(sum({kind}) AS BIGINT) AS {kind}" for kind in Amount.__dataclass_fields__)
# a row is in every window of its tenant and of its key that holds its time
_WINDOWS = f"""SELECT budgets.scope, budgets.place, {SUMS.replace("sum(samples)", "sum(draws.samples)")}
FROM budgets JOIN draws ON budgets.scope = '{{kind}}:' || draws.{{kind}}
AND draws.settled_at >= budgets.window_start
AND (budgets.window_end IS NULL OR draws.settled_at < budgets.window_end)
GROUP BY budgets.scope, budgets.place"""  # noqa: S608 - columns of our own


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


def check(store: Store) -> list[TenantCheck]:
    """Add everything up again, tenant by tenant, each followed by its keys."""
    with store.reading():
        return list(_Sums(store).checks(store))


class _Sums:
    """What rows and reservations add up to, by scope, and rows by scope and place of a window, too."""

    def __init__(self, store: Store) -> None:
        self._rows: dict[str, Amount] = {}
        self._held: dict[str, Amount] = {}
        self._windows: dict[tuple[str, int], Amount] = {}
        for kind in (TENANT, KEY):
            for row in store.rows(f"SELECT {kind} AS name, {SUMS} FROM draws GROUP BY {kind}"):  # noqa: S608 - our own
                self._rows[f"{kind}:{row['name']}"] = _amount(row)
            for row in store.rows(f"SELECT {kind} AS name, {_HELD_SUMS} FROM reservations GROUP BY {kind}"):  # noqa: S608
                self._held[f"{kind}:{row['name']}"] = _amount(row)
            for row in store.rows(_WINDOWS.format(kind=kind)):
                self._windows[row["scope"], row["place"]] = _amount(row)

    def checks(self, store: Store) -> Iterator[TenantCheck]:
        """One tenant after the other, with its keys."""
        counters = {row["id"]: row for row in store.rows("SELECT * FROM scopes")}
        found = store.rows("SELECT * FROM budgets ORDER BY scope, place").fetchall()
        budgets = {scope: list(rows) for scope, rows in groupby(found, itemgetter("scope"))}
        owned = store.rows("SELECT tenant, id FROM keys ORDER BY tenant, created_at, id").fetchall()
        keys = {tenant: [row["id"] for row in rows] for tenant, rows in groupby(owned, itemgetter("tenant"))}
        for tenant in [row["name"] for row in store.rows("SELECT name FROM tenants ORDER BY name").fetchall()]:
            for key in (None, *keys.get(tenant, ())):
                scope = f"{TENANT}:{tenant}" if key is None else f"{KEY}:{key}"
                yield self._check(counters[scope], budgets[scope], tenant=tenant, key=key)

    def _check(self, counters: Row, windows: list[Row], *, tenant: str, key: str | None) -> TenantCheck:
        scope = counters["id"]
        return TenantCheck(
            tenant=tenant,
            key=key,
            spent=_amount(counters, "spent_"),
            ledger=self._rows.get(scope, Amount()),
            windows=tuple(_amount(row) for row in windows),
            window_rows=tuple(self._windows.get((scope, row["place"]), Amount()) for row in windows),
            reserved=_amount(counters, "reserved_"),
            reservations=self._held.get(scope, Amount()),
        )


def _amount(row: Row, prefix: str = "") -> Amount:
    return Amount(*(row[prefix + kind] for kind in Amount.__dataclass_fields__))


def _units(amount: Amount) -> JSON:
    return {"nano_usd": amount.nano, "tokens": amount.tokens, "samples": amount.samples}
