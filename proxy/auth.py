"""From a bearer key to the tenant who pays, and whether it may come in just now."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from proxy.core.rate import admit
from proxy.errors import NotAllowed, NotAuthenticated, RateLimited
from proxy.ledger import Ledger
from proxy.types import Tenant

CACHE_S = 1.0
_MOST_CACHED = 10_000

LOCAL = Tenant(name="local")
MASTER = Tenant(name="master")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the tenant, and the public id of its key (None: no key was needed, or the master key)."""

    tenant: Tenant
    key: str | None


class Auth:
    """Knows callers by their bearer key. `clock` is monotonic seconds.

    `open_to_all`: nobody has a key, so every caller is the tenant `local`; only for a server bound to loopback.
    What the ledger says of a key is believed for at most a second.
    """

    def __init__(
        self, ledger: Ledger, *, master_key: str | None, open_to_all: bool, clock: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._master = master_key
        self._open = open_to_all
        self._clock = clock
        self._known: dict[str, tuple[float, Caller]] = {}
        self._arrivals: dict[str, int] = {}

    async def caller(self, authorization: str | None) -> Caller:
        """The caller with this `Authorization` header. Raises NotAuthenticated, NotAllowed or LedgerUnavailable."""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if self._open:
            return Caller(LOCAL, None)
        if scheme.lower() != "bearer" or not key:
            raise NotAuthenticated("No API key was given: send it as `Authorization: Bearer KEY`.")
        if self._master is not None and hmac.compare_digest(key.encode(), self._master.encode()):
            return Caller(MASTER, None)
        caller = await self._lookup(key)
        if caller.tenant.blocked:
            raise NotAllowed(f"The tenant {caller.tenant.name!r} is blocked.", code="tenant_blocked")
        return caller

    def admit(self, tenant: Tenant) -> None:
        """Count a request of `tenant` against its requests a minute. Raises RateLimited."""
        if tenant.rpm_limit is None:
            return
        verdict = admit(self._arrivals.get(tenant.name, 0), self._clock(), tenant.rpm_limit)
        if not verdict.allowed:
            raise RateLimited(
                f"Rate limit reached: {tenant.rpm_limit} requests a minute.", retry_after=verdict.retry_after
            )
        self._arrivals[tenant.name] = verdict.tat

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
        tenant, known_key = found
        caller = Caller(tenant, known_key.id)
        self._known[key] = (now + CACHE_S, caller)
        return caller
