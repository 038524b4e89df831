"""What a tenant has spent and reserved, and the budget window that holds now."""

from dataclasses import dataclass

from proxy.errors import NotFound
from proxy.ledger import Amount
from proxy.ledger.store import MAX_INTEGER, Store
from proxy.windows import window

_SUM = """SELECT coalesce(sum(cost_nano), 0) AS nano, coalesce(sum(prompt_tokens + completion_tokens), 0) AS tokens
FROM draws WHERE tenant = ? AND window_start = ?"""


@dataclass(frozen=True, slots=True)
class Standing:
    """One tenant's limits and counters in the window that holds now."""

    blocked: bool
    limit: Amount
    spent: Amount
    reserved: Amount
    window_start: float

    @property
    def room(self) -> Amount:
        """What may still be reserved; negative after a settlement beyond its reservation."""
        return Amount(
            self.limit.nano - self.spent.nano - self.reserved.nano,
            self.limit.tokens - self.spent.tokens - self.reserved.tokens,
        )


def affordable(room: Amount, base: Amount, each: Amount, choices: int) -> int:
    """The largest k up to `choices` with `base + k * each` within `room`, in money and in tokens alike.

    What costs nothing is never held back by a limit on it.
    """
    return min(
        _fit(room.nano, base.nano, each.nano, choices),
        _fit(room.tokens, base.tokens, each.tokens, choices),
    )


def _fit(room: int, base: int, each: int, choices: int) -> int:
    if not base and not each:
        return choices
    if base > room:
        return 0
    return min(choices, (room - base) // each) if each else choices


class Counters(Store):
    """The counters of each tenant. Windows begin lazily: whoever looks first begins the new one."""

    def standing(self, tenant: str) -> Standing:
        """Limits and counters now, in the caller's transaction. Raises NotFound."""
        row = self.row("SELECT * FROM tenants WHERE name = ?", tenant)
        if row is None:
            raise NotFound(f"there is no tenant {tenant!r}")
        start, _ = window(row["duration"], self.now(), row["window_start"])
        spent = Amount(row["window_nano"], row["window_tokens"])
        if start != row["window_start"]:
            spent = self._begin_window(tenant, start)
        return Standing(
            blocked=bool(row["blocked"]),
            limit=Amount(_limit(row["max_nano"]), _limit(row["max_tokens"])),
            spent=spent,
            reserved=Amount(row["reserved_nano"], row["reserved_tokens"]),
            window_start=start,
        )

    def window_sum(self, tenant: str, start: float) -> Amount:
        """What the rows charged to the window that began at `start` add up to."""
        row = self.row(_SUM, tenant, start)
        return Amount(row["nano"], row["tokens"]) if row is not None else Amount()

    def _begin_window(self, tenant: str, start: float) -> Amount:
        # nothing is charged to it yet, unless the clock was put back into an earlier window
        spent = self.window_sum(tenant, start)
        self._db.execute(
            "UPDATE tenants SET window_start = ?, window_nano = ?, window_tokens = ? WHERE name = ?",
            (start, spent.nano, spent.tokens, tenant),
        )
        return spent

    def _change_window(self, tenant: str, duration: str | None, opened: float | None) -> None:
        """Count the tenant's rows again for a window of another length; what was spent in it stays spent."""
        if opened is None:
            return
        start, _ = window(duration, self.now(), opened)
        self._db.execute(
            "UPDATE draws SET window_start = ? WHERE tenant = ? AND settled_at >= ?", (start, tenant, start)
        )
        self._begin_window(tenant, start)

    def _reserve(self, tenant: str, more: Amount) -> None:
        """Add to what is reserved; take away with a negative amount."""
        self._db.execute(
            """UPDATE tenants SET reserved_nano = reserved_nano + ?, reserved_tokens = reserved_tokens + ?
            WHERE name = ?""",
            (more.nano, more.tokens, tenant),
        )

    def _charge(self, tenant: str, cost: Amount) -> None:
        self._db.execute(
            """UPDATE tenants SET spent_nano = spent_nano + :nano, spent_tokens = spent_tokens + :tokens,
            window_nano = window_nano + :nano, window_tokens = window_tokens + :tokens WHERE name = :tenant""",
            {"nano": cost.nano, "tokens": cost.tokens, "tenant": tenant},
        )


def _limit(value: int | None) -> int:
    return MAX_INTEGER if value is None else value
