"""Tenants: their limits, and who may edit them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from typing import Any, Unpack

from proxy.config.limits import mistakes
from proxy.errors import NotFound, RequestInvalid
from proxy.ledger.counters import TENANT, tenant_scope, unknown
from proxy.ledger.database import Row
from proxy.ledger.scopes import LimitChanges, Scopes
from proxy.types import AnswerSpec, Limits, Tenant

_LIMITS = {field.name for field in fields(Limits)}
_FIELDS = [field.name for field in fields(Tenant) if field.name not in _LIMITS]
_OPTIONS = frozenset(field.name for field in fields(AnswerSpec))
_INSERT = f"INSERT INTO tenants (created_at, {', '.join(_FIELDS)}) VALUES (?, {', '.join('?' * len(_FIELDS))})"  # noqa: S608 - our own names
_UPDATE = f"UPDATE tenants SET {', '.join(f'{name} = ?' for name in _FIELDS)} WHERE name = ?"  # noqa: S608 - our own names
_NAME_LENGTH = 256
MOST_DAYS = 3650
_OWN = frozenset({"master", "local"})
DEFAULT_TENANT = "default"
"""The tenant of keys that are made without one; it has no limits unless it is given some."""


class TenantChanges(LimitChanges, total=False):
    """What may change of a tenant; the fields of `Tenant`."""

    alias: str | None
    answer: AnswerSpec | None
    scale_fraction: float | None
    shadow: bool
    metadata: str | None
    store_samples: bool
    store_samples_days: int


class Tenants(Scopes):
    """The tenants' table. A tenant that was deleted is not found, and its rows stay in the ledger."""

    def tenant(self, name: str) -> Tenant:
        """One tenant. Raises NotFound."""
        row = self.row("SELECT * FROM tenants WHERE name = ? AND deleted_at IS NULL", name)
        if row is None:
            raise NotFound(f"there is no tenant {name!r}")
        return tenant_of(row, self.limits(tenant_scope(name)))

    def tenants(self) -> list[Tenant]:
        """All of them, by name."""
        # before their limits: another process may add some meanwhile
        found = self.rows("SELECT * FROM tenants WHERE deleted_at IS NULL ORDER BY name").fetchall()
        limits = self.all_limits(TENANT)
        return [tenant_of(row, limits[tenant_scope(row["name"])]) for row in found]

    def add_tenant(self, tenant: Tenant) -> None:
        """Add a tenant. Raises RequestInvalid when its name is or was taken, or a limit makes no sense."""
        _validate(tenant)
        with self.transaction():
            taken = self.row("SELECT deleted_at FROM tenants WHERE name = ?", tenant.name)
            if taken is not None:
                state = "already" if taken["deleted_at"] is None else "that was deleted, and its rows are kept"
                raise RequestInvalid(f"there is a tenant {tenant.name!r} {state}", param="name")
            self._insert(tenant)

    def find_tenant(self, name: str) -> None:
        """See that there is or was such a tenant: the rows of a deleted one stay. Raises NotFound."""
        if self.row("SELECT 1 FROM tenants WHERE name = ?", name) is None:
            raise unknown(tenant_scope(name))

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

    def delete_tenant(self, name: str) -> None:
        """End a tenant and its keys for ever; what is in flight settles.

        Raises as `block` does, and RequestInvalid for the default one.
        """
        if name == DEFAULT_TENANT:
            raise RequestInvalid(f"tenant {name!r} has the keys that are made without one: block it", param="name")
        with self.transaction():
            self._write(replace(self._editable(name), blocked=True))
            self._db.execute("UPDATE tenants SET deleted_at = ? WHERE name = ?", (self.now(), name))
            self._db.execute(
                "UPDATE keys SET revoked_at = ? WHERE tenant = ? AND (revoked_at IS NULL OR revoked_at > ?)",
                (self.now(), name, self.now()),
            )

    def _set_blocked(self, name: str, *, blocked: bool) -> None:
        with self.transaction():
            self._write(replace(self._editable(name), blocked=blocked))

    def _editable(self, name: str) -> Tenant:
        # what another process changes meanwhile is read as it then is
        self.rows(f"SELECT 1 FROM scopes WHERE id = ?{self._db.locking}", tenant_scope(name))  # noqa: S608 - our own words
        tenant = self.tenant(name)
        if tenant.managed:
            raise RequestInvalid(f"tenant {name!r} comes from the configuration file: edit it there", param="name")
        return tenant

    def _insert(self, tenant: Tenant) -> None:
        self._db.execute(_INSERT, (self.now(), *_values(tenant)))
        self._insert_limits(tenant_scope(tenant.name), tenant)

    def _write(self, tenant: Tenant) -> None:
        self._db.execute(_UPDATE, (*_values(tenant), tenant.name))
        self._write_limits(tenant_scope(tenant.name), tenant)


def refuse_own(name: str | None, param: str) -> None:
    """Raises RequestInvalid, which names `param`, for tenants that only the server itself may have."""
    if name in _OWN:
        raise RequestInvalid(f"{param} {name!r} is tally's own", param=param)


def tenant_of(row: Row, limits: Mapping[str, Any]) -> Tenant:
    """The tenant in a row that holds all of its columns, with its limits."""
    return Tenant(
        name=row["name"],
        alias=row["alias"],
        answer=None if row["answer"] is None else _answer(row["answer"]),
        managed=bool(row["managed"]),
        scale_fraction=row["scale_fraction"],
        shadow=bool(row["shadow"]),
        metadata=row["metadata"],
        store_samples=bool(row["store_samples"]),
        store_samples_days=row["store_samples_days"],
        **limits,
    )


def _answer(text: str) -> AnswerSpec:
    """The options in a row; those that a newer version may have written are left out."""
    stored: dict[str, Any] = {name: value for name, value in json.loads(text).items() if name in _OPTIONS}
    lists: dict[str, Any] = {name: tuple(value) for name, value in stored.items() if isinstance(value, list)}
    return replace(AnswerSpec(**stored), **lists)


def _values(tenant: Tenant) -> list[object]:
    values = {name: getattr(tenant, name) for name in _FIELDS}
    values["answer"] = None if tenant.answer is None else json.dumps(asdict(tenant.answer))
    values |= {name: int(values[name]) for name in ("managed", "shadow", "store_samples")}
    return list(values.values())


def _validate(tenant: Tenant) -> None:
    for param, reason in _mistakes(tenant):
        raise RequestInvalid(f"{param} {reason}", param=param)


def _mistakes(tenant: Tenant) -> Iterator[tuple[str, str]]:
    for param, text in (("name", tenant.name), ("alias", tenant.alias)):
        if text is not None and not (0 < len(text) <= _NAME_LENGTH and text.isprintable()):
            yield param, f"must be 1 to {_NAME_LENGTH} printable characters"
    if tenant.scale_fraction is not None and not 0 <= tenant.scale_fraction <= 1:
        yield "scale_fraction", "must be from 0 to 1"
    if not 1 <= tenant.store_samples_days <= MOST_DAYS:
        yield "store_samples_days", f"must be from 1 to {MOST_DAYS}"
    yield from mistakes(tenant)
