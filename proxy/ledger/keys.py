"""Bearer keys. A key is shown once, when it is made; what is kept is a digest that is worth nothing without the pepper.

A key has 256 random bits, so a keyed hash (HMAC-SHA256, RFC 2104) is enough: there is nothing to guess.
"""

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from proxy.errors import NotFound, RequestInvalid
from proxy.ledger import Credentials
from proxy.ledger.counters import KEY, key_scope, tenant_scope
from proxy.ledger.database import Database, Row
from proxy.ledger.scopes import LimitChanges, check_limits
from proxy.ledger.tenants import Tenants
from proxy.types import Key, Limits, Tenant

PREFIX = "sk-tally-"
NO_KEY = "key_not_found"
"""The code of the error that there is no such key."""
_KEY_BYTES = 32
_ID_DIGITS = 12
_HINT = 4
_SHORT = 16
_PEPPERS = "SELECT name, value FROM meta WHERE name IN ('pepper', 'pepper_before')"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that the operator has chosen, with all that is said of it. `expires_at` is in seconds since 1970."""

    secret: str = field(repr=False)
    alias: str | None = None
    expires_at: float | None = None
    limits: Limits = field(default_factory=Limits)


class KeyChanges(LimitChanges, total=False):
    """What may change of a key; the fields of `Key`."""

    alias: str | None
    expires_at: float | None
    metadata: str | None


class Keys(Tenants):
    """The keys' table. `token` returns so many random bytes; `pepper` overrides the ledger's own."""

    def __init__(
        self,
        connection: Database,
        clock: Callable[[], float],
        token: Callable[[int], bytes],
        pepper: bytes | None = None,
    ) -> None:
        super().__init__(connection, clock)
        self._token = token
        self._given = pepper

    def create_key(
        self,
        tenant: str,
        expires_at: float | None = None,
        *,
        limits: Limits | None = None,
        alias: str | None = None,
        metadata: str | None = None,
    ) -> str:
        """Make a key and return it; it cannot be shown again. Raises NotFound, or RequestInvalid for a past expiry."""
        key = PREFIX + urlsafe_b64encode(self._token(_KEY_BYTES)).rstrip(b"=").decode()
        made = self._key(key, tenant)
        self._check_expiry(expires_at)
        with self.transaction():
            self.tenant(tenant)
            self._insert_key(
                key, replace(made, expires_at=expires_at, alias=alias, metadata=metadata), limits or Limits()
            )
        return key

    def rotate_key(self, key_id: str, grace_s: float = 0.0) -> str:
        """A new key with all that the old one has, which stays good for `grace_s` seconds more. Raises as `update_key`.

        What the old one has spent is its own: the new one begins with nothing spent.
        """
        with self.transaction():
            old = self._editable_key(key_id)
            made = self.create_key(
                old.tenant, old.expires_at, limits=_limits_of(old), alias=old.alias, metadata=old.metadata
            )
            self._revoke(key_id, self.now() + grace_s)
        return made

    def update_key(self, key_id: str, **changes: Unpack[KeyChanges]) -> Key:
        """Change limits and return the key. Raises NotFound, and RequestInvalid for a managed one."""
        if "expires_at" in changes:
            self._check_expiry(changes["expires_at"])
        with self.transaction():
            key = replace(self._editable_key(key_id), **changes)
            check_limits(key)
            self._write_key(key)
        return key

    def block_key(self, key_id: str, *, blocked: bool = True) -> None:
        """Let the key spend nothing more, or again. Raises NotFound, and RequestInvalid for a managed one."""
        with self.transaction():
            self._write_key(replace(self._editable_key(key_id), blocked=blocked))

    def revoke_key(self, key_id: str) -> None:
        """Make a key worthless, by its public id. Raises NotFound, and RequestInvalid for a managed one."""
        with self.transaction():
            self._editable_key(key_id)
            self._revoke(key_id, self.now())

    def key(self, key_id: str) -> Key:
        """One key, by its public id. Raises NotFound."""
        row = self.row("SELECT * FROM keys WHERE id = ?", key_id)
        if row is None:
            raise NotFound(f"there is no key {key_id!r}", code=NO_KEY)
        return _key_of(row, self.limits(key_scope(key_id)))

    def keys(self, tenant: str | None = None) -> list[Key]:
        """The keys of one tenant or of all, oldest first. Raises NotFound for an unknown tenant."""
        if tenant is not None:
            self.tenant(tenant)
        limits = self.all_limits(KEY)
        rows = self.rows("SELECT * FROM keys WHERE tenant = coalesce(?, tenant) ORDER BY created_at, id", tenant)
        return [_key_of(row, limits[key_scope(row["id"])]) for row in rows]

    def key_id(self, key: str) -> str:
        """The public id of a key. Raises NotFound."""
        found = self._find(key)
        if found is None:
            raise NotFound("there is no such key", code=NO_KEY)
        return str(found["id"])

    def authenticate(self, key: str) -> tuple[Tenant, Key] | None:
        """The tenant and the key (blocked or not); None for an unknown, revoked or expired key."""
        found = self._find(key)
        if found is None:
            return None
        known = _key_of(found, self.limits(key_scope(found["id"])))
        return (self.tenant(known.tenant), known) if known.valid(self.now()) else None

    def credentials(self, key: str) -> Credentials | None:
        """The same with how the budgets of both stand."""
        found = self.authenticate(key)
        if found is None:
            return None
        tenant, own = found
        left, soft = 1.0, False
        for scope, limits in ((tenant_scope(tenant.name), tenant), (key_scope(own.id), own)):
            if limits.limits_anything or limits.soft_nano is not None:
                standing = self.glance(scope)
                left = min(left, standing.left)
                soft = soft or (limits.soft_nano is not None and standing.used.nano >= limits.soft_nano)
        return Credentials(tenant, own, left, soft)

    def new_name(self, prefix: str) -> str:
        """A name that nothing has, such as for a tenant that was given none."""
        return prefix + self._token(_ID_DIGITS // 2).hex()

    def rotate_pepper(self) -> None:
        """Take a new pepper. A key is kept under it from its next use on; until then the pepper before it stays good.

        Keys that are not used until the next rotation are worthless after it. Raises RequestInvalid where the pepper is
        given from outside.
        """
        if self._given is not None:
            raise RequestInvalid("the pepper of this ledger is given from outside: change it there")
        with self.transaction():
            self._set_meta("pepper_before", self._kept_pepper())
            self._set_meta("pepper", self._token(_KEY_BYTES))

    def _check_expiry(self, expires_at: float | None) -> None:
        if expires_at is not None and expires_at <= self.now():
            raise RequestInvalid("the key would have expired already", param="expires_at")

    def _editable_key(self, key_id: str) -> Key:
        key = self.key(key_id)
        if key.managed:
            raise RequestInvalid(f"key {key_id!r} comes from the configuration file: edit it there", param="key")
        return key

    def _key(self, key: str, tenant: str) -> Key:
        # four characters of a short key would be too much of it
        hint = key[-_HINT:] if len(key) >= _SHORT else ""
        return Key(_public_id(self._digest(key)), tenant, hint, created_at=self.now())

    def _insert_key(self, secret: str, key: Key, limits: Limits) -> None:
        check_limits(limits)
        known = self._find(secret)
        if known is not None:
            self._db.execute(
                "UPDATE keys SET tenant = ?, managed = ?, alias = ?, expires_at = ?, revoked_at = NULL WHERE id = ?",
                (key.tenant, int(key.managed), key.alias, key.expires_at, known["id"]),
            )
            self._write_limits(key_scope(known["id"]), limits)
            return
        self._db.execute(
            """INSERT INTO keys (id, digest, tenant, hint, alias, created_at, expires_at, managed, metadata)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (
                key.id,
                self._digest(secret),
                key.tenant,
                key.hint,
                key.alias,
                key.created_at,
                key.expires_at,
                int(key.managed),
                key.metadata,
            ),
        )
        self._insert_limits(key_scope(key.id), limits)

    def _write_key(self, key: Key) -> None:
        self._db.execute(
            "UPDATE keys SET alias = ?, expires_at = ?, metadata = ? WHERE id = ?",
            (key.alias, key.expires_at, key.metadata, key.id),
        )
        self._write_limits(key_scope(key.id), key)

    def _revoke(self, key_id: str, moment: float) -> None:
        self._db.execute(
            "UPDATE keys SET revoked_at = ? WHERE id = ? AND (revoked_at IS NULL OR revoked_at > ?)",
            (moment, key_id, moment),
        )

    def _find(self, key: str) -> Row | None:
        """The row of a key, which is from now on kept under the newest pepper."""
        newest, *before = self._digests(key)
        found = self.row("SELECT * FROM keys WHERE digest = ?", newest)
        for digest in before if found is None else ():
            found = self.row("SELECT * FROM keys WHERE digest = ?", digest)
            if found is not None:
                with self.transaction():
                    self._db.execute("UPDATE keys SET digest = ? WHERE id = ?", (newest, found["id"]))
        return found

    def _digest(self, key: str) -> bytes:
        return self._digests(key)[0]

    def _digests(self, key: str) -> list[bytes]:
        """The key under the pepper in use and, after a rotation, under the one before it."""
        return [hmac.digest(pepper, key.encode("utf-8", "surrogatepass"), "sha256") for pepper in self._peppers()]

    def _peppers(self) -> list[bytes]:
        """Read anew each time: another process may have taken a new one."""
        if self._given is not None:
            return [self._given]
        kept = {row["name"]: bytes(row["value"]) for row in self.rows(_PEPPERS)}
        return [
            kept.get("pepper") or self._kept_pepper(),
            *([kept["pepper_before"]] if "pepper_before" in kept else []),
        ]

    def _kept_pepper(self) -> bytes:
        with self.transaction():
            self._db.execute(
                "INSERT INTO meta (name, value) VALUES ('pepper', ?) ON CONFLICT (name) DO NOTHING",
                (self._token(_KEY_BYTES),),
            )
            row = self.row("SELECT value FROM meta WHERE name = 'pepper'")
        return bytes(row["value"]) if row is not None else b""


def _public_id(digest: bytes) -> str:
    return "key_" + digest.hex()[:_ID_DIGITS]


def _limits_of(key: Key) -> Limits:
    return Limits(**{name: getattr(key, name) for name in Limits.__dataclass_fields__})


def _key_of(row: Row, limits: Mapping[str, Any]) -> Key:
    return Key(
        id=row["id"],
        tenant=row["tenant"],
        hint=row["hint"],
        alias=row["alias"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        managed=bool(row["managed"]),
        metadata=row["metadata"],
        **limits,
    )
