"""The ledger on Postgres: the same books, for any number of replicas, with the hot path as one statement a call."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import fields
from secrets import token_bytes
from typing import Self

import orjson

from proxy.errors import ConfigError, Problem
from proxy.ledger import Amount, DrawRow, Hot, RequestRow, Reservation, Settlement
from proxy.ledger.books import Books
from proxy.ledger.pg import PostgresDatabase
from proxy.ledger.pg_schema import migrate, version
from proxy.ledger.pg_sharing import PATIENT_S, Sharing, opening
from proxy.ledger.replicas import Suspects
from proxy.ledger.reserving import PART, storable
from proxy.ledger.schema import MIGRATIONS
from proxy.ledger.store import MAX_INTEGER
from proxy.ledger.watch import Watch
from proxy.ledger.written import WrittenLedger
from proxy.types import JSON

_TIMEOUT_S = 0.8
"""How long a statement may take while requests wait for it: they are refused within a second."""
_IDLE_S = 5.0
"""How long a server that hangs may keep rows locked."""
_WATCH_S, _WATCH_TIMEOUT_S = 1.0, 2.0
_GRACE_S = 6.0
"""How long a lock must have been free: longer than a living replica takes to make its connection anew."""
_DRAW = tuple(field.name for field in fields(DrawRow))

_RESERVE = "SELECT tally_reserve(?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS granted"
_EXTEND = "SELECT tally_extend(?, ?, ?) AS done"
_SETTLE = "SELECT tally_settle(?, ?, ?::text::jsonb, ?) AS done"
_TOGETHER = "SELECT tally_together(?, ?::text::jsonb, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS told"
_SLOW, _TAKEN = -1, -2


class PostgresLedger(WrittenLedger):
    """A `Ledger` on a Postgres that other replicas may use, too. Made by `open`, ended by `close`."""

    def __init__(self, books: "PostgresBooks", watch: Watch) -> None:
        super().__init__(books)
        self._watch = watch

    @classmethod
    def open(
        cls,
        url: str,
        *,
        clock: Callable[[], float],
        token: Callable[[int], bytes] = token_bytes,
        pepper: bytes | None = None,
        prepare: Callable[[Books], None] = lambda _: None,
    ) -> Self:
        """Open `postgresql://...` for a server, and charge what dead ones left reserved.

        `prepare` is the first to use the books. `clock` is the wall clock, in seconds since 1970. Raises ConfigError.
        """
        books = PostgresBooks.open_url(url, clock=clock, token=token, pepper=pepper)
        with ExitStack() as failing:
            failing.callback(books.close)
            books.take_part()
            books.prepare(prepare)
            beside = books.beside(_WATCH_TIMEOUT_S)
            failing.pop_all()
        return cls(books, Watch(beside, beside.error, _WATCH_S))

    async def close(self) -> None:
        """Write what is left and let go of the database. One that is gone is given up after some seconds."""
        await super().close()
        await asyncio.to_thread(self._watch.stop)


class PostgresBooks(Sharing):
    """The books on Postgres. `open_url` opens them."""

    @classmethod
    def open_url(
        cls,
        url: str,
        *,
        clock: Callable[[], float],
        token: Callable[[int], bytes] = token_bytes,
        pepper: bytes | None = None,
        timeout: float = _TIMEOUT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Open the database, with its tables up to date. Raises ConfigError.

        `timeout` is in seconds, for each statement once it is open. `clock` is the wall clock, in seconds since 1970;
        `monotonic` is never put back.
        """
        database = PostgresDatabase(url, timeout=PATIENT_S)
        with ExitStack() as failing:
            failing.callback(database.close)
            with opening(database, "opened"):
                migrate(database)
            failing.pop_all()
        database.timeout = timeout
        if timeout <= _IDLE_S:
            database.idle = _IDLE_S
        return cls(database, clock, token, pepper, Suspects(monotonic, _GRACE_S))

    @classmethod
    def read_url(cls, url: str, *, clock: Callable[[], float]) -> Self:
        """Open an existing ledger to read alone, also beside running servers. Raises ConfigError."""
        database = PostgresDatabase(url, timeout=PATIENT_S)
        with ExitStack() as failing:
            failing.callback(database.close)
            with opening(database, "read"):
                database.execute("SET default_transaction_read_only = on")
                found = version(database)
            if found != len(MIGRATIONS):
                reason = f"is a ledger of version {found}, this program reads version {len(MIGRATIONS)}"
                raise ConfigError([Problem("database_url", "", reason)])
            failing.pop_all()
        return cls(database, clock, token_bytes, None, Suspects(time.monotonic, _GRACE_S))

    def reserve(self, reservation: Reservation) -> int:
        """Reserve for the most choices that every budget holds; returns how many. Raises NotFound, ValueError."""
        account = reservation.account
        if not _counts(reservation.base, reservation.each):
            return super().reserve(reservation)
        told = (reservation.attempt, account.tenant, account.key, account.request)
        amounts = (_list(reservation.base), _list(reservation.each), reservation.choices)
        row = self.row(_RESERVE, *told, *amounts, reservation.lifetime, self.owner, self.now())
        granted = _SLOW if row is None else int(row["granted"])
        if granted == _TAKEN:
            raise ValueError(f"attempt {reservation.attempt!r} is reserved already")
        return granted if granted > 0 else super().reserve(reservation)

    def extend(self, attempt: str, more: Amount) -> bool:
        """Add to a reservation, and to its life, if the budgets hold it; false adds nothing."""
        if not _counts(more):
            return super().extend(attempt, more)
        row = self.row(_EXTEND, attempt, _list(more), self.now())
        done = _SLOW if row is None else int(row["done"])
        return super().extend(attempt, more) if done == _SLOW else done > 0

    def settle(self, settlement: Settlement) -> bool:
        """End a reservation and charge its rows, also beyond what was reserved. False: it had ended already."""
        cost = sum((row.amount for row in settlement.rows), Amount())
        row = self.row(
            _SETTLE, settlement.attempt, _list(cost), orjson.dumps(_lines(settlement.rows)).decode(), self.now()
        )
        done = _SLOW if row is None else int(row["done"])
        return super().settle(settlement) if done == _SLOW else done > 0

    def together(
        self, asked: Sequence[Hot], _owners: Sequence[str | None] = (), verdicts: Sequence[RequestRow] = ()
    ) -> list[int | bool] | None:
        """Do all that is asked in one statement, settlements first, and then write the verdicts.

        None: nothing was done, ask singly.
        """
        settles = [each for each in asked if isinstance(each, Settlement)]
        wishes = [each for each in asked if isinstance(each, Reservation)]
        ended = {settlement.attempt for settlement in settles}
        named = ended.union(wish.attempt for wish in wishes)
        if len(named) < len(asked) or not all(_counts(wish.base, wish.each) for wish in wishes):
            return None
        told = ([*ended], orjson.dumps(_charged(settles)).decode(), *_columns(wishes))
        with self.transaction() if verdicts and not self._db.in_transaction else nullcontext():
            row = self.row(_TOGETHER, *told, self.owner, self.now())
            if row is None or row["told"] is None:
                return None
            for tenant in {
                wish.account.tenant for wish, told in zip(wishes, row["told"], strict=True) if told == _SLOW
            }:
                self.sweep(tenant, most=PART)
            if verdicts:
                self.record_all(verdicts)
        granted = iter(row["told"])
        return [True if isinstance(each, Settlement) else max(0, next(granted)) for each in asked]


def _counts(*amounts: Amount) -> bool:
    """Whether Postgres can count so far."""
    return all(value <= MAX_INTEGER for amount in amounts for value in _list(amount))


def _list(amount: Amount) -> list[int]:
    return [amount.nano, amount.tokens, amount.samples]


def _lines(rows: Iterable[DrawRow]) -> list[JSON]:
    return [dict(zip(_DRAW, storable(getattr(row, name) for name in _DRAW), strict=True)) for row in rows]


def _charged(settles: Iterable[Settlement]) -> list[JSON]:
    """The rows of all settlements, each with its attempt."""
    return [line | {"attempt": each.attempt} for each in settles for line in _lines(each.rows)]


def _columns(wishes: Sequence[Reservation]) -> tuple[list[object], ...]:
    """The wishes, column by column; their amounts are three numbers each, in one row."""
    accounts = [wish.account for wish in wishes]
    return (
        [wish.attempt for wish in wishes],
        [account.tenant for account in accounts],
        [account.key for account in accounts],
        [account.request for account in accounts],
        [number for wish in wishes for number in _list(wish.base)],
        [number for wish in wishes for number in _list(wish.each)],
        [wish.choices for wish in wishes],
        [wish.lifetime for wish in wishes],
    )
