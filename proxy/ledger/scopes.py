"""The limits of tenants and keys: kept in one table, checked by one set of rules."""

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, TypedDict

from proxy.errors import RequestInvalid
from proxy.ledger.counters import Counters, budget_of, unknown
from proxy.ledger.database import Row
from proxy.ledger.store import MAX_INTEGER
from proxy.types import STRATEGIES, Budget, Limits, OnExhausted, ScaleUntil, StrategyName
from proxy.windows import parse_duration

_IN_BUDGETS = frozenset({"max_nano", "max_tokens", "max_drawn", "duration", "budgets"})
_COLUMNS = [field.name for field in fields(Limits) if field.name not in _IN_BUDGETS]
_LISTS = ("models", "strategies")
_INSERT = f"INSERT INTO scopes (id, {', '.join(_COLUMNS)}) VALUES (?, {', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - our own names
_UPDATE = f"UPDATE scopes SET {', '.join(f'{name} = ?' for name in _COLUMNS)} WHERE id = ?"  # noqa: S608 - our own names

_LEAST = {
    "max_nano": 0,
    "max_tokens": 0,
    "max_drawn": 0,
    "soft_nano": 0,
    "rpm_limit": 1,
    "tpm_limit": 1,
    "max_parallel": 1,
    "max_samples": 1,
    "max_rounds": 1,
    "max_request_nano": 0,
}
_MOST_BUDGETS = 16


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
        windows: dict[str, list[Row]] = {}
        for row in self.rows("SELECT * FROM budgets WHERE scope LIKE ? ORDER BY scope, place", f"{kind}:%"):
            windows.setdefault(row["scope"], []).append(row)
        found = self.rows("SELECT * FROM scopes WHERE id LIKE ?", f"{kind}:%")
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


def mistakes(limits: Limits) -> Iterator[tuple[str, str]]:
    """What makes no sense in limits: the field's name, and why."""
    for param, least in _LEAST.items():
        value = getattr(limits, param)
        if value is not None and not least <= value <= MAX_INTEGER:
            yield param, f"must be a whole number from {least} to {MAX_INTEGER}"
    if len(limits.budgets) > _MOST_BUDGETS:
        yield "budgets", f"are at most {_MOST_BUDGETS}"
    for budget in limits.windows:
        yield from _odd_budget(budget)
    for name in (*(limits.strategies or ()), *([limits.strategy] if limits.strategy is not None else [])):
        if name not in STRATEGIES:
            yield "strategy", f"must be one of {', '.join(STRATEGIES)}"
    if limits.strategies is not None and limits.strategy is not None and limits.strategy not in limits.strategies:
        yield "strategy", f"{limits.strategy} is not among the strategies that are allowed"


def check_limits(limits: Limits) -> None:
    """Raises RequestInvalid that names the first mistake."""
    for param, reason in mistakes(limits):
        raise RequestInvalid(f"{param} {reason}", param=param)


def _odd_budget(budget: Budget) -> Iterator[tuple[str, str]]:
    for value in (budget.max_nano, budget.max_tokens, budget.max_samples):
        if value is not None and not 0 <= value <= MAX_INTEGER:
            yield "budgets", f"must have whole numbers from 0 to {MAX_INTEGER}"
    if budget.duration is not None:
        try:
            parse_duration(budget.duration)
        except ValueError as error:
            yield "duration", f"is wrong: {error}"


def _values(limits: Limits) -> list[object]:
    values = {name: getattr(limits, name) for name in _COLUMNS}
    for name in _LISTS:
        values[name] = None if values[name] is None else json.dumps(values[name])
    values["blocked"] = int(limits.blocked)
    return list(values.values())
