"""The limits of tenants and keys: kept in one table, checked by one set of rules."""

import json
from dataclasses import fields
from typing import Any, TypedDict

from proxy.config.limits import mistakes
from proxy.errors import RequestInvalid
from proxy.ledger.counters import Counters, budget_of, unknown
from proxy.ledger.database import Row
from proxy.types import Budget, Limits, OnExhausted, ScaleUntil, StrategyName

_IN_BUDGETS = frozenset({"max_nano", "max_tokens", "max_drawn", "duration", "budgets"})
_COLUMNS = [field.name for field in fields(Limits) if field.name not in _IN_BUDGETS]
_LISTS = ("models", "strategies")
_INSERT = f"INSERT INTO scopes (id, {', '.join(_COLUMNS)}) VALUES (?, {', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - our own names
_UPDATE = f"UPDATE scopes SET {', '.join(f'{name} = ?' for name in _COLUMNS)} WHERE id = ?"  # noqa: S608 - our own names


class LimitChanges(TypedDict, total=False):
    """What may change of a scope; the fields of `Limits`, but for `blocked`."""

    max_nano: int | None
    max_tokens: int | None
    max_drawn: int | None
    duration: str | None
    soft_nano: int | None
    budgets: tuple[Budget, ...]
    rpm_limit: int | None
    tpm_limit: int | None
    max_parallel: int | None
    models: tuple[str, ...] | None
    strategies: tuple[StrategyName, ...] | None
    strategy: StrategyName | None
    max_samples: int | None
    max_rounds: int | None
    max_request_nano: int | None
    scale_until: ScaleUntil
    on_exhausted: OnExhausted


class Scopes(Counters):
    """The tables of limits."""

    def limits(self, scope: str) -> dict[str, Any]:
        """The limits of a scope by the names of `Limits`. Raises NotFound."""
        row = self.row("SELECT * FROM scopes WHERE id = ?", scope)
        if row is None:
            raise unknown(scope)
        return limits_of(row, self.rows("SELECT * FROM budgets WHERE scope = ? ORDER BY place", scope).fetchall())

    def all_limits(self, kind: str) -> dict[str, dict[str, Any]]:
        """The same of all scopes of a kind, by scope."""
        # before their windows: another process may add scopes meanwhile, and takes none away
        found = self.rows("SELECT * FROM scopes WHERE id LIKE ?", f"{kind}:%").fetchall()
        windows: dict[str, list[Row]] = {}
        for row in self.rows("SELECT * FROM budgets WHERE scope LIKE ? ORDER BY scope, place", f"{kind}:%"):
            windows.setdefault(row["scope"], []).append(row)
        return {row["id"]: limits_of(row, windows[row["id"]]) for row in found}

    def _insert_limits(self, scope: str, limits: Limits) -> None:
        self._db.execute(_INSERT, (scope, *_values(limits)))
        self._set_budgets(scope, limits.windows)

    def _write_limits(self, scope: str, limits: Limits) -> None:
        self._db.execute(_UPDATE, (*_values(limits), scope))
        self._set_budgets(scope, limits.windows)


def limits_of(row: Row, budgets: list[Row]) -> dict[str, Any]:
    """The limits in a row of `scopes` and its rows of `budgets`, by the names of `Limits`."""
    found: dict[str, Any] = {name: row[name] for name in _COLUMNS}
    for name in _LISTS:
        found[name] = None if found[name] is None else tuple(json.loads(found[name]))
    found["blocked"] = bool(found["blocked"])
    first, *more = (budget_of(each) for each in budgets)
    return found | {
        "duration": first.duration,
        "max_nano": first.max_nano,
        "max_tokens": first.max_tokens,
        "max_drawn": first.max_samples,
        "budgets": tuple(more),
    }


def check_limits(limits: Limits) -> None:
    """Raises RequestInvalid that names the first mistake."""
    for param, reason in mistakes(limits):
        raise RequestInvalid(f"{param} {reason}", param=param)


def _values(limits: Limits) -> list[object]:
    values = {name: getattr(limits, name) for name in _COLUMNS}
    for name in _LISTS:
        values[name] = None if values[name] is None else json.dumps(values[name])
    values["blocked"] = int(limits.blocked)
    return list(values.values())
