"""The books: the whole ledger on one SQLite connection, without a thread or an event loop."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from secrets import token_bytes
from typing import Any, Self

from proxy.ledger.keys import Keys, NewKey
from proxy.ledger.reserving import PART
from proxy.ledger.store import Synchronous, connect, connect_read_only
from proxy.ledger.together import Together
from proxy.types import Key, Limits, Tenant


class Books(Together, Keys):
    """Tenants, keys, reservations and rows; many processes may each have the file open.

    Errors are those of `proxy.errors`, and sqlite3's own where the file is locked, full or broken.
    """

    @classmethod
    def open(
        cls,
        path: Path | None,
        *,
        clock: Callable[[], float],
        token: Callable[[int], bytes] = token_bytes,
        pepper: bytes | None = None,
        synchronous: Synchronous = "FULL",
        busy_s: float = 5.0,
    ) -> Self:
        """Open the file to write, made and migrated where needed. None: in memory. Raises ConfigError."""
        return cls(connect(path, synchronous=synchronous, busy_s=busy_s), clock, token, pepper)

    @classmethod
    def open_read_only(cls, path: Path | None, *, clock: Callable[[], float]) -> Self:
        """Open an existing file to read, also beside a running server. Raises ConfigError."""
        return cls(connect_read_only(path), clock, token_bytes)

    def lock(self, tenants: Collection[str], attempts: Collection[str] = (), *, others: bool = False) -> None:
        """Say whose counters the transaction will change: of tenants, and of those whose reservations these are.

        `others`: maybe also of those that are not named. SQLite locks the whole file anyway.
        """

    def probe(self) -> None:
        """Write a row, the time of this call, to see that the file takes one, and `tend`. Raises sqlite3.Error."""
        with self.transaction():
            self._set_meta("probed_at", f"{self.now():.3f}".encode())
            self.tend()

    def tend(self) -> None:
        """Do a part of what time has made due: reservations that have expired are charged, texts deleted."""
        with self.transaction():
            self.sweep(most=PART)
            self.expire()

    def adopt(self, tenants: Sequence[Tenant], keys: Mapping[str, Sequence[str | NewKey]]) -> None:
        """Take over the configured tenants and their keys, by tenant; the file wins, counters stay.

        A tenant that the file no longer names is blocked and free to edit, and its configured keys are revoked. What is
        as the file has it is left alone: whoever serves meanwhile waits for what changes alone.
        """
        with self.transaction():
            changed = self._changed_tenants(tenants)
            before = {key.id: key for key in self.keys()}
            wanted = self._wanted_keys(tenants, keys, before)
            new = [(secret, key) for secret, key in wanted if before.get(key.id) != key]
            left = before.keys() - {key.id for _, key in wanted}
            moved = {each.tenant for _, key in new for each in (key, before.get(key.id, key))}
            self.lock(moved.union(tenant.name for tenant in changed))
            for tenant in changed:
                self._adopt_tenant(tenant)
            self._revoke_managed(before[key_id] for key_id in left)
            for secret, key in new:
                self._insert_key(secret, key, key)

    def _changed_tenants(self, tenants: Sequence[Tenant]) -> list[Tenant]:
        """What is to be written of tenants, for the file to be right."""
        wanted = {tenant.name: replace(tenant, managed=True) for tenant in tenants}
        known = {tenant.name: tenant for tenant in self.tenants()}
        gone = [tenant for tenant in known.values() if tenant.managed and tenant.name not in wanted]
        return [
            *(replace(tenant, blocked=True, managed=False) for tenant in gone),
            *(tenant for tenant in wanted.values() if known.get(tenant.name) != tenant),
        ]

    def _wanted_keys(
        self, tenants: Sequence[Tenant], keys: Mapping[str, Sequence[str | NewKey]], before: Mapping[str, Key]
    ) -> list[tuple[str, Key]]:
        """The configured secrets, and their keys as they are to be."""
        configured = {
            new.secret: (new, tenant.name) for tenant in tenants for new in map(_new, keys.get(tenant.name, ()))
        }
        wanted = []
        for new, tenant in configured.values():
            row = self._renew_secret(new.secret)
            key = self._key(new.secret, tenant) if row is None else before.get(row["id"]) or self.key(row["id"])
            told: dict[str, Any] = {field.name: getattr(new.limits, field.name) for field in fields(Limits)}
            told |= {"tenant": tenant, "managed": True, "alias": new.alias, "expires_at": new.expires_at}
            wanted.append((new.secret, replace(key, revoked_at=None, **told)))
        return wanted

    def _adopt_tenant(self, tenant: Tenant) -> None:
        if self.row("SELECT 1 FROM tenants WHERE name = ?", tenant.name) is None:
            self._insert(tenant)
        else:
            self._db.execute("UPDATE tenants SET deleted_at = NULL WHERE name = ?", (tenant.name,))
            self._write(tenant)

    def _revoke_managed(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if key.managed and key.revoked_at is None:
                self._db.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (self.now(), key.id))


def _new(key: str | NewKey) -> NewKey:
    return key if isinstance(key, NewKey) else NewKey(key)
