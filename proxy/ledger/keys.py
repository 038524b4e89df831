"""Bearer keys: whose they are, and what they may do and spend."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from proxy.errors import NotFound, RequestInvalid
from proxy.ledger import Credentials
from proxy.ledger.counters import KEY, key_scope, tenant_scope
from proxy.ledger.database import Row
from proxy.ledger.scopes import LimitChanges, check_limits
from proxy.ledger.secrets import Secrets
from proxy.types import Key, Limits, Tenant

NO_KEY = "key_not_found"
"""The code of the error that there is no such key."""
_HINT = 4
_SHORT = 16


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


class Keys(Secrets):
    """The keys' table."""

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
        key = self._new_secret()
        made = self._key(key, tenant)
        self._check_expiry(expires_at)
        with self.transaction():
            self.tenant(tenant)
            self._insert_key(
                key, replace(made, expires_at=expires_at, alias=alias, metadata=metadata), limits or Limits()
            )
        return key

    def rotate_key(self, key_id: str, grace_s: float = 0.0) -> str:
        """A new secret for a key, whose old one stays good for `grace_s` seconds more, and older ones no longer.

        It is the same key: what is spent with either counts for both. Raises as `update_key`, and RequestInvalid for a
        key that is worthless.
        """
        secret = self._new_secret()
        with self.transaction():
            key = self._editable_key(key_id)
            if key.revoked_at is not None:
                raise RequestInvalid(f"key {key_id!r} is revoked: make a new one", param="key")
            self._check_expiry(key.expires_at)
            self._retire_secret(key_id, self.now() + grace_s)
            self._db.execute(
                "UPDATE keys SET digest = ?, hint = ? WHERE id = ?", (self._digest(secret), _hint(secret), key_id)
            )
        return secret

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
        return key_of(row, self.limits(key_scope(key_id)))

    def keys(self, tenant: str | None = None) -> list[Key]:
        """The keys of one tenant or of all, oldest first. Raises NotFound for an unknown tenant."""
        if tenant is not None:
            self.tenant(tenant)
        # before their limits: another process may add some meanwhile
        found = self.rows("SELECT * FROM keys WHERE tenant = coalesce(?, tenant) ORDER BY created_at, id", tenant)
        rows = found.fetchall()
        limits = self.all_limits(KEY)
        return [key_of(row, limits[key_scope(row["id"])]) for row in rows]

    def key_id(self, key: str) -> str:
        """The public id of a key; changes nothing. Raises NotFound."""
        found = self._seek_secret(key)
        if found is None:
            raise NotFound("there is no such key", code=NO_KEY)
        return str(found["id"])

    def authenticate(self, key: str) -> tuple[Tenant, Key] | None:
        """The tenant and the key (blocked or not); None for an unknown, revoked or expired key."""
        found = self._find_secret(key)
        if found is None:
            return None
        known = key_of(found, self.limits(key_scope(found["id"])))
        return (self.tenant(known.tenant), known) if known.valid(self.now()) else None

    def credentials(self, key: str) -> Credentials | None:
        """The same with how the budgets of both stand."""
        found = self.authenticate(key)
        if found is None:
            return None
        tenant, own = found
        left, free, soft = 1.0, 1.0, []
        for scope, limits in ((tenant_scope(tenant.name), tenant), (key_scope(own.id), own)):
            if limits.limits_anything or limits.soft_nano is not None:
                standing = self.glance(scope)
                left, free = min(left, standing.left), min(free, standing.left_free)
                soft += [scope] if standing.passes(limits.soft_nano) else []
        return Credentials(tenant, own, left, free, tuple(soft))

    def _check_expiry(self, expires_at: float | None) -> None:
        if expires_at is not None and expires_at <= self.now():
            raise RequestInvalid("the key would have expired already", param="expires_at")

    def _editable_key(self, key_id: str) -> Key:
        # what another process changes meanwhile is read as it then is
        self.rows(f"SELECT 1 FROM scopes WHERE id = ?{self._db.locking}", key_scope(key_id))  # noqa: S608 - our own words
        key = self.key(key_id)
        if key.managed:
            raise RequestInvalid(f"key {key_id!r} comes from the configuration file: edit it there", param="key")
        return key

    def _key(self, key: str, tenant: str) -> Key:
        return Key(self.new_name("key_"), tenant, _hint(key), created_at=self.now())

    def _insert_key(self, secret: str, key: Key, limits: Limits) -> None:
        check_limits(limits)
        known = self._renew_secret(secret)
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


def _hint(key: str) -> str:
    """The end of a key; of a short one four characters would be too much."""
    return key[-_HINT:] if len(key) >= _SHORT else ""


def key_of(row: Row, limits: Mapping[str, Any]) -> Key:
    """The key in a row that holds all of its columns, with its limits."""
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
