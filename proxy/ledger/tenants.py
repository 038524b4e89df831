"""Tenants: their limits, and who may edit them."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from typing import Any, TypedDict, Unpack

from proxy.errors import NotFound, RequestInvalid
from proxy.ledger.counters import Counters
from proxy.ledger.store import MAX_INTEGER
from proxy.types import STRATEGIES, AnswerSpec, StrategyName, Tenant
from proxy.windows import parse_duration

_FIELDS = [field.name for field in fields(Tenant)]
_OPTIONS = frozenset(field.name for field in fields(AnswerSpec))
_SET = ", ".join(f"{name} = ?" for name in _FIELDS)
_NAME_LENGTH = 256


class TenantChanges(TypedDict, total=False):
    """What may change of a tenant; the fields of `Tenant`."""

    max_nano: int | None
    max_tokens: int | None
    duration: str | None
    rpm_limit: int | None
    models: tuple[str, ...] | None
    strategy: StrategyName | None
    max_samples: int | None
    max_request_nano: int | None
    answer: AnswerSpec | None
    scale_fraction: float | None
    shadow: bool


class Tenants(Counters):
    """The tenants' table."""

    def tenant(self, name: str) -> Tenant:
        """One tenant. Raises NotFound."""
        row = self.row("SELECT * FROM tenants WHERE name = ?", name)
        if row is None:
            raise NotFound(f"there is no tenant {name!r}")
        return tenant_of(row)

    def tenants(self) -> list[Tenant]:
        """All of them, by name."""
        return [tenant_of(row) for row in self.rows("SELECT * FROM tenants ORDER BY name")]

    def add_tenant(self, tenant: Tenant) -> None:
        """Add a tenant. Raises RequestInvalid when its name is taken or a limit makes no sense."""
        _validate(tenant)
        with self.transaction():
            if self.row("SELECT 1 FROM tenants WHERE name = ?", tenant.name) is not None:
                raise RequestInvalid(f"there is a tenant {tenant.name!r} already", param="name")
            self._insert(tenant)

    def update_tenant(self, name: str, **changes: Unpack[TenantChanges]) -> Tenant:
        """Change limits and return the tenant. Raises NotFound, and RequestInvalid for a managed one."""
        with self.transaction():
            tenant = replace(self._editable(name), **changes)
            _validate(tenant)
            self._write(tenant)
        return tenant

    def block(self, name: str) -> None:
        """Let the tenant spend nothing more. Raises NotFound, and RequestInvalid for a managed one."""
        self._set_blocked(name, blocked=True)

    def unblock(self, name: str) -> None:
        """Let the tenant spend again. Raises NotFound, and RequestInvalid for a managed one."""
        self._set_blocked(name, blocked=False)

    def _set_blocked(self, name: str, *, blocked: bool) -> None:
        with self.transaction():
            self._write(replace(self._editable(name), blocked=blocked))

    def _editable(self, name: str) -> Tenant:
        tenant = self.tenant(name)
        if tenant.managed:
            raise RequestInvalid(f"tenant {name!r} comes from the configuration file: edit it there", param="name")
        return tenant

    def _insert(self, tenant: Tenant) -> None:
        self._db.execute(
            f"INSERT INTO tenants (created_at, {', '.join(_FIELDS)}) VALUES (?, {', '.join('?' * len(_FIELDS))})",  # noqa: S608 - our own names
            (self.now(), *_values(tenant)),
        )

    def _write(self, tenant: Tenant) -> None:
        before = self.row("SELECT duration, window_start FROM tenants WHERE name = ?", tenant.name)
        self._db.execute(f"UPDATE tenants SET {_SET} WHERE name = ?", (*_values(tenant), tenant.name))  # noqa: S608 - our own names
        if before is not None and before["duration"] != tenant.duration:
            self._change_window(tenant.name, tenant.duration, before["window_start"])


def tenant_of(row: sqlite3.Row) -> Tenant:
    """The tenant in a row that holds all of its columns."""
    return Tenant(
        name=row["name"],
        max_nano=row["max_nano"],
        max_tokens=row["max_tokens"],
        duration=row["duration"],
        rpm_limit=row["rpm_limit"],
        models=None if row["models"] is None else tuple(json.loads(row["models"])),
        strategy=row["strategy"],
        max_samples=row["max_samples"],
        max_request_nano=row["max_request_nano"],
        answer=None if row["answer"] is None else _answer(row["answer"]),
        blocked=bool(row["blocked"]),
        managed=bool(row["managed"]),
        scale_fraction=row["scale_fraction"],
        shadow=bool(row["shadow"]),
    )


def _answer(text: str) -> AnswerSpec:
    """The options in a row; those that a newer version may have written are left out."""
    stored: dict[str, Any] = {name: value for name, value in json.loads(text).items() if name in _OPTIONS}
    lists: dict[str, Any] = {name: tuple(value) for name, value in stored.items() if isinstance(value, list)}
    return replace(AnswerSpec(**stored), **lists)


def _values(tenant: Tenant) -> list[object]:
    values = {name: getattr(tenant, name) for name in _FIELDS}
    values["models"] = None if tenant.models is None else json.dumps(tenant.models)
    values["answer"] = None if tenant.answer is None else json.dumps(asdict(tenant.answer))
    return list(values.values())


def _validate(tenant: Tenant) -> None:
    for param, reason in _mistakes(tenant):
        raise RequestInvalid(f"{param} {reason}", param=param)


def _mistakes(tenant: Tenant) -> Iterator[tuple[str, str]]:
    if not 0 < len(tenant.name) <= _NAME_LENGTH or not tenant.name.isprintable():
        yield "name", f"must be 1 to {_NAME_LENGTH} printable characters"
    limits = {"max_nano": 0, "max_tokens": 0, "rpm_limit": 1, "max_samples": 1, "max_request_nano": 0}
    for param, least in limits.items():
        value = getattr(tenant, param)
        if value is not None and not least <= value <= MAX_INTEGER:
            yield param, f"must be a whole number from {least} to {MAX_INTEGER}"
    if tenant.scale_fraction is not None and not 0 <= tenant.scale_fraction <= 1:
        yield "scale_fraction", "must be from 0 to 1"
    if tenant.strategy is not None and tenant.strategy not in STRATEGIES:
        yield "strategy", f"must be one of {', '.join(STRATEGIES)}"
    if tenant.duration is not None:
        try:
            parse_duration(tenant.duration)
        except ValueError as error:
            yield "duration", f"is wrong: {error}"
