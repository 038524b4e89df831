"""Many reservations and settlements at once: counters are read once a group, and written once."""

import json
from collections.abc import Iterable, Sequence

from proxy.errors import NotFound
from proxy.ledger import Amount, Hot, Reservation, Settlement
from proxy.ledger.counters import Standing, affordable, scopes
from proxy.ledger.database import Row
from proxy.ledger.reserving import INSERT_DRAW, INSERT_HELD, PART, Reserving, account_of, drawn_values, held_values
from proxy.ledger.store import MAX_INTEGER
from proxy.types import Account

_FIND = "SELECT * FROM reservations WHERE attempt IN (SELECT value FROM json_each(?))"


class Together(Reserving):
    """The hot path for a group, with the same outcome as one by one in some order."""

    def together(self, asked: Sequence[Hot], owners: Sequence[str | None]) -> list[int | bool] | None:
        """Do all that is asked, settlements first; `owners` are whose each is (None: this process').

        Returns what each was granted, or whether it had been reserved. None: nothing was done, ask singly.
        """
        settles = [each for each in asked if isinstance(each, Settlement)]
        wishes = {
            each.attempt: (each, self.owner if owner is None else owner)
            for each, owner in zip(asked, owners, strict=True)
            if isinstance(each, Reservation)
        }
        attempts = {settlement.attempt for settlement in settles}
        if len(asked) != len(attempts) + len(wishes) or not attempts.isdisjoint(wishes) or not _countable(asked):
            return None
        with self.transaction():
            held = {row["attempt"]: row for row in self.rows(_FIND, json.dumps([*attempts, *wishes]))}
            if not wishes.keys().isdisjoint(held):
                return None
            now = self.now()
            accounts = [*map(account_of, held.values()), *(wish.account for wish, _ in wishes.values())]
            tally = self._tally(accounts, now)
            if tally is None:
                return None
            self._settle_all(settles, held, tally, now)
            granted = self._reserve_all(wishes.values(), tally, now)
            for sums in tally.values():
                self._charge(sums.standing, sums.cost, sums.held, now)
            for tenant in {wish.account.tenant for wish, _ in wishes.values() if not granted[wish.attempt]}:
                # makes no room now, for it charges what was reserved; but the next window is free of it
                self.sweep(tenant, most=PART)
        return [granted[each.attempt] if isinstance(each, Reservation) else each.attempt in held for each in asked]

    def _tally(self, accounts: Iterable[Account], now: float) -> "dict[str, _Sums] | None":
        try:
            found = {scope: _Sums(self.standing(scope)) for scope in {s for each in accounts for s in scopes(each)}}
        except NotFound:
            return None
        # a clock that was put back is for those who look at each window
        late = any(window.start > now for sums in found.values() for window in sums.standing.windows)
        return None if late else found

    def _settle_all(
        self, settles: Sequence[Settlement], held: dict[str, Row], tally: "dict[str, _Sums]", now: float
    ) -> None:
        drawn = []
        for settlement in settles:
            row = held.get(settlement.attempt)
            if row is None:
                continue
            account = account_of(row)
            cost = sum((each.amount for each in settlement.rows), Amount())
            for scope in scopes(account):
                tally[scope].settle(cost, Amount(row["nano"], row["tokens"], row["samples"]))
            told = (account.tenant, account.key, account.request, settlement.attempt, now)
            drawn += [(*told, *drawn_values(each)) for each in settlement.rows]
        self._db.executemany("DELETE FROM reservations WHERE attempt = ?", [(name,) for name in held])
        self._db.executemany(INSERT_DRAW, drawn)

    def _reserve_all(
        self, wishes: Iterable[tuple[Reservation, str]], tally: "dict[str, _Sums]", now: float
    ) -> dict[str, int]:
        granted, made = {}, []
        for wish, owner in wishes:
            mine = [tally[scope] for scope in scopes(wish.account)]
            choices = min(sums.affordable(wish) for sums in mine)
            granted[wish.attempt] = choices
            if choices:
                amount = wish.base + wish.each.times(choices)
                for sums in mine:
                    sums.hold(amount)
                made.append(held_values(wish, amount, owner, now))
        self._db.executemany(INSERT_HELD, made)
        return granted


class _Sums:
    """What a group does to one scope: what it charges, and what it lets go of less what it holds."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.cost = Amount()
        self.held = Amount()
        self._room = standing.room

    def settle(self, cost: Amount, held: Amount) -> None:
        self.cost += cost
        self.held += held
        self._room += held + -cost

    def hold(self, amount: Amount) -> None:
        self.held += -amount
        self._room += -amount

    def affordable(self, wish: Reservation) -> int:
        return 0 if self.standing.blocked else affordable(self._room, wish.base, wish.each, wish.choices)


def _countable(asked: Sequence[Hot]) -> bool:
    """Whether a row of each can be written: one that cannot would take the others with it."""
    rows = (row for each in asked if isinstance(each, Settlement) for row in each.rows)
    return all(max(row.cost_nano, row.prompt_tokens, row.completion_tokens) <= MAX_INTEGER for row in rows)
