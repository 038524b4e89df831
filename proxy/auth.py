"""From a bearer key to the tenant who pays, within the limits of both."""

import asyncio
import hmac
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from proxy.errors import NotAllowed, NotAuthenticated, TallyError
from proxy.faults import contained
from proxy.ledger import Ledger
from proxy.ledger.counters import key_scope, tenant_scope
from proxy.types import Key, Limits, Tenant
from proxy.values import value

CACHE_S = 1.0
_MOST_CACHED = 10_000

LOCAL = Tenant(name="local")
MASTER = Tenant(name="master")


@value(frozen=True, slots=True)
class Caller:
    """Who calls: the tenant, narrowed to what its key may do, and the key (None: none was needed, or the master key).

    `scopes` are the limits of each by the names of their scopes. `left` is the share, in [0, 1], that is left of the
    budget window which has least left, and `left_free` the same for what costs no money; `soft`: a soft budget is
    used up with which scaling ends.
    """

    tenant: Tenant
    key: Key | None = None
    scopes: tuple[tuple[str, Limits], ...] = ()
    left: float = 1.0
    left_free: float = 1.0
    soft: bool = False

    @property
    def key_id(self) -> str | None:
        """The key's public id."""
        return None if self.key is None else self.key.id

    @property
    def is_master(self) -> bool:
        """Whether it came with the master key."""
        return self.key is None and self.tenant.name == MASTER.name


@dataclass(frozen=True, slots=True)
class SoftBudget:
    """How the soft budget of a tenant, or of the one `key` (its public id), stands; `changed`: it stood otherwise."""

    tenant: str
    key: str | None
    used: bool
    changed: bool


class Auth:
    """Knows callers by their bearer key. `clock` is monotonic seconds.

    `open_to_all`: nobody has a key, so every caller is the tenant `local`; only for a server bound to loopback.
    `keyless` is who comes without a key of a tenant: `local`, or `master` with the master key.
    What the ledger says of a key is believed for at most a second. `alert` hears of each soft budget whenever it is
    looked at. As an async context manager it also looks when a request is `over` that may have used one up.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        master_key: str | None,
        open_to_all: bool,
        clock: Callable[[], float],
        keyless: Tenant | None = None,
        alert: Callable[[SoftBudget], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._master = master_key
        self._open = open_to_all
        self._keyless = keyless or (LOCAL if open_to_all else MASTER)
        self._clock = clock
        self._alert = alert
        self._log = structlog.get_logger("tally.auth")
        self._known: dict[str, tuple[float, Caller]] = {}
        self._soft: set[str] = set()
        self._bearers: dict[str, str] = {}
        self._due: asyncio.Queue[str | None] = asyncio.Queue()
        self._waiting: set[str] = set()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._due.put_nowait(None)
        await self._tasks.__aexit__(kind, error, trace)

    async def caller(self, authorization: str | None) -> Caller:
        """The caller with this `Authorization` header. Raises NotAuthenticated, NotAllowed or LedgerUnavailable."""
        if self._open:
            return Caller(self._keyless)
        key = bearer(authorization)
        if self.is_master(key):
            return Caller(self._keyless)
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

    def over(self, caller: Caller) -> None:
        """A request is over and all of it is settled: look whether it has used up a soft budget. Never waits."""
        unused = any(limits.soft_nano is not None and scope not in self._soft for scope, limits in caller.scopes)
        bearer = self._bearers.get(caller.key_id or "")
        if unused and bearer is not None and bearer not in self._waiting:
            self._waiting.add(bearer)
            self._due.put_nowait(bearer)

    async def _watch(self) -> None:
        while (bearer := await self._due.get()) is not None:
            self._waiting.discard(bearer)
            # nobody waits for this; the next request looks again
            with contained(self._log, "soft_budget_not_seen"), suppress(TallyError):
                await self._look(bearer)

    async def _lookup(self, key: str) -> Caller:
        known = self._known.get(key)
        return known[1] if known is not None and known[0] > self._clock() else await self._look(key)

    async def _look(self, key: str) -> Caller:
        now = self._clock()
        found = await self._ledger.authenticate(key)
        if found is None:
            self._known.pop(key, None)
            raise NotAuthenticated("The API key is unknown, revoked or expired.")
        if len(self._known) >= _MOST_CACHED:
            self._known.clear()
            self._bearers.clear()
        tenant, own = found.tenant, found.key
        scopes: tuple[tuple[str, Limits], ...] = ((tenant_scope(tenant.name), tenant), (key_scope(own.id), own))
        caller = Caller(
            tenant=tenant.narrowed(own),
            key=own,
            scopes=scopes,
            left=found.left,
            left_free=found.left_free,
            soft=any(scope in found.soft and limits.scale_until == "soft" for scope, limits in scopes),
        )
        self._known[key] = (now + CACHE_S, caller)
        self._bearers[own.id] = key
        self._tell(caller, found.soft)
        return caller

    def _tell(self, caller: Caller, used: Collection[str]) -> None:
        """Tell of the soft budgets of a caller; `used` names the scopes of those that are used up."""
        for (scope, limits), key in zip(caller.scopes, (None, caller.key_id), strict=True):
            changed = (scope in used) != (scope in self._soft)
            if changed:
                self._soft ^= {scope}
            if changed or limits.soft_nano is not None:
                self._alert(SoftBudget(caller.tenant.name, key, scope in used, changed))


def bearer(authorization: str | None) -> str:
    """The key in an `Authorization` header. Raises NotAuthenticated."""
    scheme, _, key = (authorization or "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise NotAuthenticated("No API key was given: send it as `Authorization: Bearer KEY`.")
    return key
