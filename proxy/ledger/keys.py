"""Bearer keys. A key is shown once, when it is made; what is kept is a digest that is worth nothing without the pepper.

A key has 256 random bits, so a keyed hash (HMAC-SHA256, RFC 2104) is enough: there is nothing to guess.
"""

import hmac
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass

from proxy.errors import NotFound, RequestInvalid
from proxy.ledger.tenants import Tenants
from proxy.types import Tenant

PREFIX = "sk-tally-"
_KEY_BYTES = 32
_ID_DIGITS = 12
_HINT = 4
_SHORT = 16


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key. Times are in seconds since 1970; `hint` is its last four characters."""

    id: str
    tenant: str
    hint: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    managed: bool

    def valid(self, now: float) -> bool:
        """Whether the key is good at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Keys(Tenants):
    """The keys' table. `token` returns so many random bytes; `pepper` overrides the ledger's own."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        clock: Callable[[], float],
        token: Callable[[int], bytes],
        pepper: bytes | None = None,
    ) -> None:
        super().__init__(connection, clock)
        self._token = token
        self._pepper = pepper

    def create_key(self, tenant: str, expires_at: float | None = None) -> str:
        """Make a key and return it; it cannot be shown again. Raises NotFound, or RequestInvalid for a past expiry."""
        if expires_at is not None and expires_at <= self.now():
            raise RequestInvalid("the key would have expired already", param="expires_at")
        key = PREFIX + urlsafe_b64encode(self._token(_KEY_BYTES)).rstrip(b"=").decode()
        with self.transaction():
            self.tenant(tenant)
            self._insert_key(key, tenant, expires_at=expires_at, managed=False)
        return key

    def revoke_key(self, key_id: str) -> None:
        """Make a key worthless, by its public id. Raises NotFound, and RequestInvalid for a managed one."""
        with self.transaction():
            row = self.row("SELECT * FROM keys WHERE id = ?", key_id)
            if row is None:
                raise NotFound(f"there is no key {key_id!r}")
            if row["managed"]:
                raise RequestInvalid(f"key {key_id!r} comes from the configuration file: remove it there", param="key")
            self._revoke(key_id)

    def keys(self, tenant: str | None = None) -> list[Key]:
        """The keys of one tenant or of all, oldest first. Raises NotFound for an unknown tenant."""
        if tenant is not None:
            self.tenant(tenant)
        rows = self.rows("SELECT * FROM keys WHERE tenant = coalesce(?, tenant) ORDER BY created_at, id", tenant)
        return [_key_of(row) for row in rows]

    def authenticate(self, key: str) -> tuple[Tenant, str] | None:
        """The tenant (blocked or not) and the key's public id; None for an unknown, revoked or expired key."""
        found = self.row("SELECT * FROM keys WHERE digest = ?", self._digest(key))
        if found is None or not _key_of(found).valid(self.now()):
            return None
        return self.tenant(found["tenant"]), found["id"]

    def _insert_key(self, key: str, tenant: str, *, expires_at: float | None, managed: bool) -> None:
        digest = self._digest(key)
        # four characters of a short key would be too much of it
        hint = key[-_HINT:] if len(key) >= _SHORT else ""
        self._db.execute(
            """INSERT INTO keys (id, digest, tenant, hint, created_at, expires_at, managed)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (digest) DO UPDATE SET tenant = excluded.tenant, managed = excluded.managed,
            expires_at = excluded.expires_at, revoked_at = NULL""",
            (_public_id(digest), digest, tenant, hint, self.now(), expires_at, managed),
        )

    def _revoke(self, key_id: str) -> None:
        self._db.execute("UPDATE keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?", (self.now(), key_id))

    def _digest(self, key: str) -> bytes:
        if self._pepper is None:
            self._pepper = self._kept_pepper()
        return hmac.digest(self._pepper, key.encode("utf-8", "surrogatepass"), "sha256")

    def _kept_pepper(self) -> bytes:
        with self.transaction():
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('pepper', ?)", (self._token(_KEY_BYTES),))
            row = self.row("SELECT value FROM meta WHERE name = 'pepper'")
        return bytes(row["value"]) if row is not None else b""


def _public_id(digest: bytes) -> str:
    return "key_" + digest.hex()[:_ID_DIGITS]


def _key_of(row: sqlite3.Row) -> Key:
    return Key(
        id=row["id"],
        tenant=row["tenant"],
        hint=row["hint"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        managed=bool(row["managed"]),
    )
