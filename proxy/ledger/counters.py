"""What tenants and keys have spent and reserved, and what is left to them: the one place that computes it.

A tenant is one scope of limits, each of its keys another; what is spent counts in both. A scope has one budget window
or several, all of which must hold. A row belongs to a window by the time of its settlement, so that any window can be
added up again.
"""

from collections.abc import Iterable

from proxy.errors import NotFound
from proxy.ledger import Amount
from proxy.ledger.database import Row
from proxy.ledger.store import MAX_INTEGER, Store
from proxy.types import Account, Budget
from proxy.values import value
from proxy.windows import window

TENANT, KEY = "tenant", "key"
"""The kinds of scopes, which are also the columns that name them in the rows."""

SUMS = ", ".join(
    f"CAST(coalesce(sum({what}), 0) AS BIGINT) AS {name}"
    for name, what in {"nano": "cost_nano", "tokens": "prompt_tokens + completion_tokens", "samples": "samples"}.items()
)
"""What rows take from a budget, added up."""

_SUM = f"""SELECT {SUMS} FROM draws WHERE {{kind}} = ? AND settled_at >= ? AND settled_at < ?"""  # noqa: S608 - columns of our own


def tenant_scope(name: str) -> str:
    """The scope of a tenant."""
    return f"{TENANT}:{name}"


def key_scope(key_id: str) -> str:
    """The scope of a key, by its public id."""
    return f"{KEY}:{key_id}"


def scopes(account: Account) -> list[str]:
    """The scopes that hold for what an account spends, always in the same order."""
    return [tenant_scope(account.tenant), *([key_scope(account.key)] if account.key else [])]


def unknown(scope: str) -> NotFound:
    """The error that nothing goes by this name."""
    kind, _, name = scope.partition(":")
    return NotFound(f"there is no {kind} {name!r}")


@value(frozen=True, slots=True)
class Window:
    """A budget in the window that holds now. Times are in seconds since 1970."""

    place: int
    budget: Budget
    start: float
    end: float
    spent: Amount


@value(frozen=True, slots=True)
class Standing:
    """One scope's counters now."""

    scope: str
    blocked: bool
    spent: Amount
    reserved: Amount
    windows: tuple[Window, ...]

    @property
    def room(self) -> Amount:
        """What may still be reserved, in all windows at once; negative after a settlement beyond its reservation."""
        rooms = [_room(window, self.reserved) for window in self.windows]
        return Amount(*(min(getattr(room, kind) for room in rooms) for kind in Amount.__dataclass_fields__))

    @property
    def left(self) -> float:
        """The share in [0, 1] that is left of the window which has least left."""
        return min(_left(window, self.reserved) for window in self.windows)

    @property
    def left_free(self) -> float:
        """The same for what costs no money: limits of tokens and samples alone."""
        return min(_left(window, self.reserved, free=True) for window in self.windows)

    def passes(self, soft_nano: int | None) -> bool:
        """Whether so much money (None: no limit), or more, is spent and reserved in the first window."""
        return soft_nano is not None and self.windows[0].spent.nano + self.reserved.nano >= soft_nano


def _left(window: Window, reserved: Amount, *, free: bool = False) -> float:
    """The least share of a window's limits that is neither spent nor reserved; 1 without a limit."""
    budget, used = window.budget, window.spent + reserved
    money = None if free else budget.max_nano
    pairs = ((money, used.nano), (budget.max_tokens, used.tokens), (budget.max_samples, used.samples))
    return min(
        (max(0.0, 1 - taken / limit) if limit else 0.0 for limit, taken in pairs if limit is not None), default=1.0
    )


def _room(window: Window, reserved: Amount) -> Amount:
    budget = window.budget
    limit = Amount(_limit(budget.max_nano), _limit(budget.max_tokens), _limit(budget.max_samples))
    return limit + -window.spent + -reserved


def affordable(room: Amount, base: Amount, each: Amount, choices: int) -> int:
    """The largest k up to `choices` with `base + k * each` within `room`, in money, tokens and samples alike.

    What costs nothing is never held back by a limit on it.
    """
    return min(
        fit(room.nano, base.nano, each.nano, choices),
        fit(room.tokens, base.tokens, each.tokens, choices),
        fit(room.samples, base.samples, each.samples, choices),
    )


def fit(room: int, base: int, each: int, choices: int) -> int:
    """The same of one kind alone."""
    if not base and not each:
        return choices
    if base > room:
        return 0
    return min(choices, (room - base) // each) if each else choices


class Counters(Store):
    """The counters of each scope. Windows begin lazily: whoever looks first begins the new one."""

    def standing(self, scope: str) -> Standing:
        """Counters now, in the caller's transaction; begins windows whose time has come. Raises NotFound."""
        return self._standing(scope, begin=True)

    def glance(self, scope: str) -> Standing:
        """The same without a change to the ledger: a window that has not begun is empty. Raises NotFound."""
        return self._standing(scope, begin=False)

    def glance_of(self, counters: Row, budgets: Iterable[Row], *, begin: bool = False) -> Standing:
        """The same of a row of `scopes`, and its rows of `budgets` by their places, that were read already."""
        return Standing(
            scope=counters["id"],
            blocked=bool(counters["blocked"]),
            spent=Amount(counters["spent_nano"], counters["spent_tokens"], counters["spent_samples"]),
            reserved=Amount(counters["reserved_nano"], counters["reserved_tokens"], counters["reserved_samples"]),
            windows=tuple(self._window(each, begin=begin) for each in budgets),
        )

    def window_sum(self, scope: str, start: float, end: float) -> Amount:
        """What the rows settled from `start` until `end` add up to."""
        kind, _, name = scope.partition(":")
        row = self.row(_SUM.format(kind=kind), name, start, end)
        return Amount(row["nano"], row["tokens"], row["samples"]) if row is not None else Amount()

    def _standing(self, scope: str, *, begin: bool) -> Standing:
        row = self.row(f"SELECT * FROM scopes WHERE id = ?{self._db.locking if begin else ''}", scope)  # noqa: S608 - our own words
        if row is None:
            raise unknown(scope)
        found = self.rows("SELECT * FROM budgets WHERE scope = ? ORDER BY place", scope).fetchall()
        return self.glance_of(row, found, begin=begin)

    def _window(self, row: Row, *, begin: bool) -> Window:
        opened = row["window_start"]
        start, end = window(row["duration"], self.now(), opened)
        spent = Amount(row["nano"], row["tokens"], row["samples"])
        if (start, end) != (opened, row["window_end"]):
            # nothing is charged to it yet, unless the clock was put back into an earlier window
            spent = self.window_sum(row["scope"], start, end)
            if begin:
                self._begin(row["scope"], row["place"], (start, end), spent)
        return Window(row["place"], budget_of(row), start, end, spent)

    def _begin(self, scope: str, place: int, times: tuple[float, float], spent: Amount) -> None:
        self._db.execute(
            """UPDATE budgets SET window_start = ?, window_end = ?, nano = ?, tokens = ?, samples = ?
            WHERE scope = ? AND place = ?""",
            (*times, spent.nano, spent.tokens, spent.samples, scope, place),
        )

    def _set_budgets(self, scope: str, budgets: Iterable[Budget]) -> None:
        """Give a scope other windows; what was spent in them stays spent, counted again where the length is new."""
        before = {row["place"]: row for row in self.rows("SELECT * FROM budgets WHERE scope = ?", scope).fetchall()}
        places = []
        for place, budget in enumerate(budgets):
            places.append(place)
            limits = (budget.duration, budget.max_nano, budget.max_tokens, budget.max_samples)
            if place not in before:
                self._db.execute(
                    "INSERT INTO budgets (scope, place, duration, max_nano, max_tokens, max_samples) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (scope, place, *limits),
                )
            else:
                self._db.execute(
                    "UPDATE budgets SET duration = ?, max_nano = ?, max_tokens = ?, max_samples = ? "
                    "WHERE scope = ? AND place = ?",
                    (*limits, scope, place),
                )
            opened = before[place]["window_start"] if place in before else None
            if place in before and before[place]["duration"] == budget.duration:
                continue
            times = window(budget.duration, self.now(), opened)
            self._begin(scope, place, times, self.window_sum(scope, *times))
        for place in before.keys() - set(places):
            self._db.execute("DELETE FROM budgets WHERE scope = ? AND place = ?", (scope, place))

    def _reserve(self, scope: str, more: Amount) -> None:
        """Add to what is reserved; take away with a negative amount."""
        self._db.execute(
            """UPDATE scopes SET reserved_nano = reserved_nano + ?, reserved_tokens = reserved_tokens + ?,
            reserved_samples = reserved_samples + ? WHERE id = ?""",
            (more.nano, more.tokens, more.samples, scope),
        )

    def _charge(self, standing: Standing, cost: Amount, held: Amount, moment: float) -> None:
        """Charge `cost` at `moment`, and let go of what was `held` for it."""
        self._db.execute(
            """UPDATE scopes SET spent_nano = spent_nano + ?, spent_tokens = spent_tokens + ?,
            spent_samples = spent_samples + ?, reserved_nano = reserved_nano - ?, reserved_tokens = reserved_tokens - ?,
            reserved_samples = reserved_samples - ? WHERE id = ?""",
            (cost.nano, cost.tokens, cost.samples, held.nano, held.tokens, held.samples, standing.scope),
        )
        # a clock that was put back may have left a window in use that begins later than another one ends
        places = [window.place for window in standing.windows if window.start <= moment < window.end]
        if cost != Amount():
            self._db.executemany(
                """UPDATE budgets SET nano = nano + ?, tokens = tokens + ?, samples = samples + ?
                WHERE scope = ? AND place = ?""",
                [(cost.nano, cost.tokens, cost.samples, standing.scope, place) for place in places],
            )


def budget_of(row: Row) -> Budget:
    """The limits in a row of `budgets`."""
    return Budget(row["duration"], row["max_nano"], row["max_tokens"], row["max_samples"])


def _limit(value: int | None) -> int:
    return MAX_INTEGER if value is None else value
