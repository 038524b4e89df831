"""The books: the whole ledger on one SQLite connection, without a thread or an event loop."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from secrets import token_bytes
from typing import Self

from proxy.ledger.keys import Keys, NewKey
from proxy.ledger.recording import Recording
from proxy.ledger.reserving import PART
from proxy.ledger.store import Synchronous, connect, connect_read_only
from proxy.ledger.together import Together
from proxy.types import Tenant


class Books(Together, Recording, Keys):
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

    def lock(self, tenants: Collection[str], attempts: Collection[str] = ()) -> None:
        """Say whose counters the transaction will change: of tenants, and of those whose reservations these are.

        SQLite locks the whole file anyway.
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

        A tenant that the file no longer names is blocked and free to edit, and its configured keys are revoked.
        """
        named = {tenant.name for tenant in tenants}
        with self.transaction():
            for known in self.tenants():
                if known.managed and known.name not in named:
                    self._write(replace(known, blocked=True, managed=False))
            for tenant in tenants:
                self._adopt_tenant(replace(tenant, managed=True))
            self._adopt_keys([(_new(key), name) for name in named for key in keys.get(name, ())])

    def _adopt_tenant(self, tenant: Tenant) -> None:
        if self.row("SELECT 1 FROM tenants WHERE name = ?", tenant.name) is None:
            self._insert(tenant)
        else:
            self._db.execute("UPDATE tenants SET deleted_at = NULL WHERE name = ?", (tenant.name,))
            self._write(tenant)

    def _adopt_keys(self, configured: Iterable[tuple[NewKey, str]]) -> None:
        self._db.execute("UPDATE keys SET revoked_at = coalesce(revoked_at, ?) WHERE managed = 1", (self.now(),))
        for new, tenant in configured:
            key = replace(self._key(new.secret, tenant), managed=True, alias=new.alias, expires_at=new.expires_at)
            self._insert_key(new.secret, key, new.limits)


def _new(key: str | NewKey) -> NewKey:
    return key if isinstance(key, NewKey) else NewKey(key)
