"""Many reservations and settlements at once: counters are read once a group, and written once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from proxy.errors import NotFound
from proxy.ledger import Amount, Hot, RequestRow, Reservation, Settlement
from proxy.ledger.counters import Standing, affordable, scopes
from proxy.ledger.recording import Recording, Voter, ballot_values, named
from proxy.ledger.reserving import (
    INSERT_DRAW,
    INSERT_HELD,
    NO_BALLOT,
    PART,
    Reserving,
    account_of,
    drawn_values,
    held_values,
)
from proxy.ledger.store import MAX_INTEGER
from proxy.types import Account

_HELD = ("attempt", "tenant", "key", "request", "nano", "tokens", "samples")
# one row in JSON: for each that is fetched this thread may have to wait for the interpreter
_FIND = f"""SELECT json_group_array(json_array({", ".join(_HELD)})) FROM reservations
WHERE attempt IN (SELECT value FROM json_each(?))"""  # noqa: S608 - names of our own
_DELETE = "DELETE FROM reservations WHERE attempt IN (SELECT value FROM json_each(?))"


class Together(Recording, Reserving):
    """The hot path for a group, with the same outcome as one by one in some order."""

    def together(
        self, asked: Sequence[Hot], owners: Sequence[str | None], verdicts: Sequence[RequestRow] = ()
    ) -> list[int | bool] | None:
        """Do all that is asked, settlements first; `owners` are whose each is (None: this process').

        The verdicts are written behind it, with the ballots of the draws that are settled in it.
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
            held = self._found([*attempts, *wishes])
            if not wishes.keys().isdisjoint(held):
                return None
            now = self.now()
            accounts = [*map(account_of, held.values()), *(wish.account for wish, _ in wishes.values())]
            tally = self._tally(accounts, now)
            if tally is None:
                return None
            written = [named(verdict) for verdict in verdicts]
            ballots = {
                (row.account.tenant, row.account.request, ballot.draw): ballot_values(ballot)
                for row in written
                for ballot in row.ballots
            }
            cast = self._settle_all(settles, held, tally, ballots)
            granted = self._reserve_all(wishes.values(), tally, now)
            for sums in tally.values():
                self._charge(sums.standing, sums.cost, sums.held, now)
            for tenant in {wish.account.tenant for wish, _ in wishes.values() if not granted[wish.attempt]}:
                # makes no room now, for it charges what was reserved; but the next window is free of it
                self.sweep(tenant, most=PART)
            self.write(written, cast)
        return [granted[each.attempt] if isinstance(each, Reservation) else each.attempt in held for each in asked]

    def _tally(self, accounts: Iterable[Account], now: float) -> "dict[str, _Sums] | None":
        try:
            found = {scope: _Sums(self.standing(scope)) for scope in {s for each in accounts for s in scopes(each)}}
        except NotFound:
            return None
        # a clock that was put back is for those who look at each window
        late = any(window.start > now for sums in found.values() for window in sums.standing.windows)
        return None if late else found

    def _found(self, attempts: Sequence[str]) -> dict[str, dict[str, Any]]:
        found: str = self.rows(_FIND, _json(attempts)).fetchone()[0]
        return {values[0]: dict(zip(_HELD, values, strict=True)) for values in orjson.loads(found)}

    def _settle_all(
        self,
        settles: Sequence[Settlement],
        held: Mapping[str, Mapping[str, Any]],
        tally: "dict[str, _Sums]",
        ballots: Mapping[Voter, tuple[Any, ...]],
    ) -> set[Voter]:
        """Charge what was held; returns the voters whose ballots stand beside their draws now."""
        drawn, cast = [], set[Voter]()
        for settlement in settles:
            row = held.get(settlement.attempt)
            if row is None:
                continue
            account = account_of(row)
            cost = sum((each.amount for each in settlement.rows), Amount())
            for scope in scopes(account):
                tally[scope].settle(cost, Amount(row["nano"], row["tokens"], row["samples"]))
            told = (account.tenant, account.key, account.request, settlement.attempt, self.now())
            for each in settlement.rows:
                voter = account.tenant, account.request, each.id
                if voter in ballots:
                    cast.add(voter)
                drawn.append((*told, *drawn_values(each), *ballots.get(voter, NO_BALLOT)))
        if held:
            self._db.execute(_DELETE, (_json([*held]),))
        self._db.insert(INSERT_DRAW, drawn)
        return cast

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
        self._db.insert(INSERT_HELD, made)
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


def _json(texts: Sequence[str]) -> str:
    return orjson.dumps(texts).decode()


def _countable(asked: Sequence[Hot]) -> bool:
    """Whether a row of each can be written: one that cannot would take the others with it."""
    rows = (row for each in asked if isinstance(each, Settlement) for row in each.rows)
    return all(max(row.cost_nano, row.prompt_tokens, row.completion_tokens) <= MAX_INTEGER for row in rows)
