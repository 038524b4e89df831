"""Reserve, extend, settle: the way of the money of one upstream call.

Every reservation ends once: by its settlement, which charges the rows, or by a sweep, which charges all of it because
nobody knows what the provider billed.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any

from proxy.ledger import Amount, DrawRow, Reservation, Settlement
from proxy.ledger.counters import Counters, Standing, affordable, scopes
from proxy.ledger.database import Insert, Row
from proxy.ledger.store import MAX_INTEGER
from proxy.types import Account

_CHARGED = ("tenant", "key", "request", "attempt", "settled_at")
_DRAW = [f'"{name}"' for name in (*_CHARGED, *(field.name for field in fields(DrawRow)))]
INSERT_DRAW = Insert(f"draws ({', '.join(_DRAW)}, label, score, mean_logprob)", len(_DRAW) + 3)
"""The statement of a draw: to whom and when it is charged, then `drawn_values`, and those of its ballot."""

_INTO_HELD = """reservations
(attempt, tenant, key, request, nano, tokens, samples, prompt_tokens, lifetime, expires_at, owner)"""
INSERT_HELD = Insert(_INTO_HELD, 11)
"""The statement of a reservation, whose values are those of `held_values`."""
_INSERT_NEW = Insert(_INTO_HELD, 11, "ON CONFLICT (attempt) DO NOTHING")

NO_BALLOT = (None, None, None)
"""The values of a ballot that is not cast yet, if it ever is."""

_EXPIRED = "SELECT * FROM reservations WHERE expires_at <= ?"
PART = 500
"""How many reservations are swept at once while others wait for the books."""

_log = logging.getLogger(__name__)
_drawn = [field.name for field in fields(DrawRow)]
_draw_values, _ESTIMATED = attrgetter(*_drawn), _drawn.index("estimated")

LOST = "lost"
"""Status of the row that charges a reservation whose end was never told."""


class Reserving(Counters):
    """The hot path. Every method is one transaction, or a step of the caller's.

    `owner` names the process whose reservations these are.
    """

    owner: str = ""

    def reserve(self, reservation: Reservation) -> int:
        """Reserve for the most choices that every budget holds; returns how many. Who is blocked gets none.

        Raises NotFound for an unknown tenant or key, ValueError for an attempt that is reserved already.
        """
        account = reservation.account
        with self.transaction():
            granted = self._affordable(account, reservation.base, reservation.each, reservation.choices)
            if granted:
                self._hold(reservation, granted)
            else:
                # makes no room now, for it charges what was reserved; but the next window is free of it
                self.sweep(account.tenant, most=PART)
        return granted

    def extend(self, attempt: str, more: Amount) -> bool:
        """Add to a reservation, and to its life, if the budgets hold it; false adds nothing."""
        with self.transaction():
            held = self.row("SELECT * FROM reservations WHERE attempt = ?", attempt)
            if held is None:
                return False
            # its own life begins anew first, so that the sweep leaves it alone
            self._db.execute(
                "UPDATE reservations SET expires_at = ? WHERE attempt = ? AND expires_at < ?",
                (self.now() + held["lifetime"], attempt, self.now() + held["lifetime"]),
            )
            account = account_of(held)
            if not self._affordable(account, Amount(), more, 1):
                self.sweep(account.tenant, most=PART)
                return False
            # another process may have ended it before its scopes were locked
            added = self._db.execute(
                "UPDATE reservations SET nano = nano + ?, tokens = tokens + ? WHERE attempt = ?",
                (more.nano, more.tokens, attempt),
            )
            if not added.rowcount:
                return False
            for scope in scopes(account):
                self._reserve(scope, more)
        return True

    def settle(self, settlement: Settlement) -> bool:
        """End a reservation and charge its rows, also beyond what was reserved. False: it had ended already."""
        with self.transaction():
            held = self.row("SELECT * FROM reservations WHERE attempt = ?", settlement.attempt)
            return held is not None and self._end(held, settlement.rows)

    def sweep(self, tenant: str | None = None, *, most: int = MAX_INTEGER) -> int:
        """Charge expired reservations, of one tenant or of all, up to so many; returns how many there were."""
        with self.transaction():
            if tenant is None:
                found = self.rows(f"{_EXPIRED} LIMIT ?", self.now(), most)
            else:
                found = self.rows(f"{_EXPIRED} AND tenant = ? LIMIT ?", self.now(), tenant, most)
            return self._lose(found.fetchall())

    def sweep_all(self, but: Collection[str] = ()) -> int:
        """Charge every reservation: those that made them are dead, `but` these owners. Returns how many there were."""
        with self.transaction():
            found = self.rows("SELECT * FROM reservations").fetchall()
            left = [held for held in found if held["owner"] not in but]
            swept = self._lose(left)
        tell_swept(left)
        return swept

    def sweep_owner(self, owner: str) -> int:
        """Charge what an owner that is dead has left reserved; returns how many reservations there were."""
        with self.transaction():
            left = self.rows("SELECT * FROM reservations WHERE owner = ?", owner).fetchall()
            swept = self._lose(left)
        tell_swept(left)
        return swept

    def _affordable(self, account: Account, base: Amount, each: Amount, choices: int) -> int:
        standings = self._standings(account)
        if any(standing.blocked for standing in standings):
            return 0
        return min(affordable(standing.room, base, each, choices) for standing in standings)

    def _standings(self, account: Account) -> list[Standing]:
        return [self.standing(scope) for scope in scopes(account)]

    def _hold(self, reservation: Reservation, choices: int) -> None:
        account = reservation.account
        amount = reservation.base + reservation.each.times(choices)
        made = self._db.execute(_INSERT_NEW.sql, held_values(reservation, amount, self.owner, self.now()))
        if not made.rowcount:
            raise ValueError(f"attempt {reservation.attempt!r} is reserved already")
        for scope in scopes(account):
            self._reserve(scope, amount)

    def _end(self, found: Row, rows: tuple[DrawRow, ...] | None) -> bool:
        """End a reservation that was found and charge its rows (None: all that it holds). False: it ended meanwhile."""
        account, attempt = account_of(found), found["attempt"]
        standings = self._standings(account)
        # never before the windows that it is charged to, also where the clock was put back
        moment = max([self.now(), *(window.start for standing in standings for window in standing.windows)])
        # only now that the scopes are locked is it known whether it is still there, and how much it holds
        held = self.row("DELETE FROM reservations WHERE attempt = ? RETURNING *", attempt)
        if held is None:
            return False
        rows = (_lost(held),) if rows is None else rows
        cost = sum((row.amount for row in rows), Amount())
        for standing in standings:
            self._charge(standing, cost, Amount(held["nano"], held["tokens"], held["samples"]), moment)
        told = (account.tenant, account.key, account.request, attempt, moment)
        self._db.insert(INSERT_DRAW, [(*told, *drawn_values(row), *NO_BALLOT) for row in rows])
        return True

    def _lose(self, reservations: list[Row]) -> int:
        # tenants in one order, as everybody locks them
        return sum(self._end(found, None) for found in sorted(reservations, key=lambda found: str(found["tenant"])))


def held_values(wish: Reservation, amount: Amount, owner: str, now: float) -> tuple[object, ...]:
    """What is written of a reservation that holds `amount`."""
    account = wish.account
    told = (wish.attempt, account.tenant, account.key, account.request)
    return (
        *told,
        amount.nano,
        amount.tokens,
        amount.samples,
        wish.base.tokens,
        wish.lifetime,
        now + wish.lifetime,
        owner,
    )


def tell_swept(left: Collection[Row]) -> None:
    """Log that reservations of the dead were charged: how many, of how many tenants, and the nano-USD of all."""
    if left:
        told = {"reservations": len(left), "nano_usd": sum(held["nano"] for held in left)}
        _log.warning("swept", extra={**told, "tenants": len({held["tenant"] for held in left})})


def account_of(held: Row | Mapping[str, Any]) -> Account:
    """Whose a reservation is."""
    return Account(held["tenant"], held["key"], held["request"])


def _lost(held: Row) -> DrawRow:
    return DrawRow(
        id=held["attempt"],
        purpose=LOST,
        round=0,
        index=0,
        status=LOST,
        model="",
        deployment="",
        prompt_tokens=held["prompt_tokens"],
        cached_tokens=0,
        completion_tokens=held["tokens"] - held["prompt_tokens"],
        reasoning_tokens=0,
        cost_nano=held["nano"],
        estimated=True,
        finish_reason=None,
        latency_ms=0,
        samples=held["samples"],
    )


def drawn_values(row: DrawRow) -> tuple[Any, ...]:
    """What is written of a draw, but for whom it is charged to and its ballot."""
    texts = f"{row.id}{row.purpose}{row.status}{row.model}{row.deployment}{row.finish_reason}"
    values = _draw_values(row)
    # nearly all texts are short and nothing but ASCII
    if not (texts.isascii() and texts.isprintable()):
        return storable(values)
    return (*values[:_ESTIMATED], int(row.estimated), *values[_ESTIMATED + 1 :])


def storable(values: Iterable[Any]) -> tuple[Any, ...]:
    """The same values as a database takes them."""
    # nearly all are numbers, or short texts that are nothing but ASCII
    return tuple(
        [
            value
            if value is None
            or (kind := type(value)) is int
            or (kind is str and value.isascii() and value.isprintable())
            else _storable(value)
            for value in values
        ]
    )


def _storable(value: object) -> object:
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, str) or (value.isascii() and "\x00" not in value):
        return value
    # a provider's JSON may hold half a surrogate pair, which has no place in UTF-8, or a NUL, which Postgres has not
    return value.encode(errors="replace").decode().replace("\x00", "\ufffd")
