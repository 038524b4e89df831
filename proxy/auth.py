"""From a bearer key to the tenant who pays, within the limits of both."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from proxy.errors import NotAllowed, NotAuthenticated
from proxy.ledger import Ledger
from proxy.ledger.counters import key_scope, tenant_scope
from proxy.types import Key, Limits, Tenant

CACHE_S = 1.0
_MOST_CACHED = 10_000

LOCAL = Tenant(name="local")
MASTER = Tenant(name="master")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the tenant, narrowed to what its key may do, and the key (None: none was needed, or the master key).

    `scopes` are the limits of each by the names of their scopes. `left` is the share, in [0, 1], that is left of the
    budget window which has least left; `soft`: a soft budget is used up.
    """

    tenant: Tenant
    key: Key | None = None
    scopes: tuple[tuple[str, Limits], ...] = ()
    left: float = 1.0
    soft: bool = False

    @property
    def key_id(self) -> str | None:
        """The key's public id."""
        return None if self.key is None else self.key.id


class Auth:
    """Knows callers by their bearer key. `clock` is monotonic seconds.

    `open_to_all`: nobody has a key, so every caller is the tenant `local`; only for a server bound to loopback.
    What the ledger says of a key is believed for at most a second. `alert` hears of a tenant whose soft budget, or
    that of a key of it, was used up (true) or has room again (false).
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        master_key: str | None,
        open_to_all: bool,
        clock: Callable[[], float],
        alert: Callable[[str, bool], None] = lambda _tenant, _used: None,
    ) -> None:
        self._ledger = ledger
        self._master = master_key
        self._open = open_to_all
        self._clock = clock
        self._alert = alert
        self._known: dict[str, tuple[float, Caller]] = {}
        self._soft: set[str] = set()

    async def caller(self, authorization: str | None) -> Caller:
        """The caller with this `Authorization` header. Raises NotAuthenticated, NotAllowed or LedgerUnavailable."""
        if self._open:
            return Caller(LOCAL)
        key = bearer(authorization)
        if self.is_master(key):
            return Caller(MASTER)
        caller = await self._lookup(key)
        tenant, own = caller.tenant, caller.key
        if own is not None and own.blocked:
            raise NotAllowed(f"The key {own.id!r} is blocked.", code="key_blocked")
        if tenant.blocked:
            raise NotAllowed(f"The tenant {tenant.name!r} is blocked.", code="tenant_blocked")
        return caller

    def is_master(self, key: str) -> bool:
        """Whether it is the master key."""
        return self._master is not None and hmac.compare_digest(key.encode(), self._master.encode())

    async def _lookup(self, key: str) -> Caller:
        now = self._clock()
        known = self._known.get(key)
        if known is not None and known[0] > now:
            return known[1]
        found = await self._ledger.authenticate(key)
        if found is None:
            self._known.pop(key, None)
            raise NotAuthenticated("The API key is unknown, revoked or expired.")
        if len(self._known) >= _MOST_CACHED:
            self._known.clear()
        tenant, own = found.tenant, found.key
        caller = Caller(
            tenant=tenant.narrowed(own),
            key=own,
            scopes=((tenant_scope(tenant.name), tenant), (key_scope(own.id), own)),
            left=found.left,
            soft=found.soft,
        )
        self._known[key] = (now + CACHE_S, caller)
        self._told(own.id, caller)
        return caller

    def _told(self, key_id: str, caller: Caller) -> None:
        """Alert where what is known of a soft budget has changed."""
        if caller.soft != (key_id in self._soft):
            self._soft ^= {key_id}
            self._alert(caller.tenant.name, caller.soft)


def bearer(authorization: str | None) -> str:
    """The key in an `Authorization` header. Raises NotAuthenticated."""
    scheme, _, key = (authorization or "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise NotAuthenticated("No API key was given: send it as `Authorization: Bearer KEY`.")
    return key
