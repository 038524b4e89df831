"""The ledger on Postgres: the same books, for any number of replicas, with the hot path as one statement a call.

A replica holds an advisory lock for as long as it lives, under a number that its reservations name. So whoever starts
can tell what the dead have left reserved, and charges it; what the living reserved is theirs.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import fields
from importlib.resources import files
from secrets import randbits, token_bytes
from typing import Self

import orjson

from proxy.errors import ConfigError, Problem
from proxy.ledger import Amount, DrawRow, Hot, Reservation, Settlement
from proxy.ledger.books import Books
from proxy.ledger.counters import tenant_scope
from proxy.ledger.database import StoreLost
from proxy.ledger.pg import PostgresDatabase
from proxy.ledger.reserving import storable
from proxy.ledger.schema import MIGRATIONS
from proxy.ledger.store import MAX_INTEGER
from proxy.ledger.written import WrittenLedger
from proxy.types import JSON

_TIMEOUT_S = 0.8
"""How long a statement may take while requests wait for it: they are refused within a second."""
_OPENING_S = 30.0
_OWNER_BITS = 62
_DRAW = tuple(field.name for field in fields(DrawRow))
_MIGRATING, _PREPARING = 7_463_254_001, 7_463_254_002
"""The advisory locks of whoever makes the tables, or adopts tenants; no owner has them, for owners are negative."""

_RESERVE = "SELECT tally_reserve(?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS granted"
_EXTEND = "SELECT tally_extend(?, ?, ?) AS done"
_SETTLE = "SELECT tally_settle(?, ?, ?::text::jsonb, ?) AS done"
_GROUP = "SELECT tally_group(?::text::jsonb, ?::text::jsonb, ?, ?) AS told"
_SLOW, _TAKEN = -1, -2
_OWNER = re.compile(r"-[0-9]{1,19}")


class PostgresLedger(WrittenLedger):
    """A `Ledger` on a Postgres that other replicas may use, too. Made by `open`, ended by `close`."""

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
            failing.pop_all()
        return cls(books)


class PostgresBooks(Books):
    """The books on Postgres. `open_url` opens them."""

    _database: PostgresDatabase

    @classmethod
    def open_url(
        cls,
        url: str,
        *,
        clock: Callable[[], float],
        token: Callable[[int], bytes] = token_bytes,
        pepper: bytes | None = None,
        timeout: float = _TIMEOUT_S,
    ) -> Self:
        """Open the database, with its tables up to date. Raises ConfigError."""
        database = PostgresDatabase(url, timeout=_OPENING_S)
        with ExitStack() as failing:
            failing.callback(database.close)
            try:
                migrate(database)
            except (StoreLost, OSError, database.error) as error:
                raise ConfigError([Problem("database_url", "", f"cannot be opened as a ledger: {error}")]) from error
            failing.pop_all()
        database.timeout = timeout
        return cls._on(database, clock, token, pepper)

    @classmethod
    def _on(
        cls,
        database: PostgresDatabase,
        clock: Callable[[], float],
        token: Callable[[int], bytes],
        pepper: bytes | None = None,
    ) -> Self:
        books = cls(database, clock, token, pepper)
        books._database = database
        return books

    @classmethod
    def read_url(cls, url: str, *, clock: Callable[[], float]) -> Self:
        """Open an existing ledger to read alone, also beside running servers. Raises ConfigError."""
        database = PostgresDatabase(url, timeout=_OPENING_S)
        with ExitStack() as failing:
            failing.callback(database.close)
            try:
                database.execute("SET default_transaction_read_only = on")
                found = version(database)
            except (StoreLost, OSError, database.error) as error:
                raise ConfigError([Problem("database_url", "", f"cannot be read as a ledger: {error}")]) from error
            if found != len(MIGRATIONS):
                reason = f"is a ledger of version {found}, this program reads version {len(MIGRATIONS)}"
                raise ConfigError([Problem("database_url", "", reason)])
            failing.pop_all()
        return cls._on(database, clock, token_bytes)

    def take_part(self) -> None:
        """Be known as alive, and charge what the dead have left reserved."""
        number = -1 - randbits(_OWNER_BITS)
        self._db.execute("SELECT pg_advisory_lock(?)", (number,))
        self._database.owner = number
        self.owner = str(number)
        self.sweep_dead()

    def prepare(self, prepare: Callable[[Books], None]) -> None:
        """Have the books prepared, while no other replica does it."""
        self._db.execute("SELECT pg_advisory_lock(?)", (_PREPARING,))
        try:
            prepare(self)
        finally:
            self._db.execute("SELECT pg_advisory_unlock(?)", (_PREPARING,))

    def lock(self, tenants: Collection[str], attempts: Collection[str] = ()) -> None:
        """Lock the counters of several tenants in one order, so that two replicas never wait for each other."""
        known = set(tenants)
        if attempts and len(known) + len(attempts) > 1:
            found = self._db.execute("SELECT DISTINCT tenant FROM reservations WHERE attempt = ANY (?)", ([*attempts],))
            known.update(row["tenant"] for row in found)
        if len(known) > 1:
            ids = [tenant_scope(tenant) for tenant in known]
            self._db.execute("SELECT id FROM scopes WHERE id = ANY (?) ORDER BY id FOR UPDATE", (ids,))

    def probe(self) -> None:
        """Write a row, the time of this call, to see that the database takes one; and look after the dead."""
        super().probe()
        self.sweep_dead()

    def sweep_dead(self) -> int:
        """Charge what was reserved by those who are no longer alive; returns how many reservations there were."""
        with self.transaction():
            owners = [row["owner"] for row in self.rows("SELECT DISTINCT owner FROM reservations WHERE owner <> ?", "")]
            return sum(self._sweep_owner(owner) for owner in owners if owner != self.owner)

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

    def together(self, asked: Sequence[Hot], _owners: Sequence[str | None] = ()) -> list[int | bool] | None:
        """Do all that is asked in one statement, settlements first. None: nothing was done, ask singly."""
        settles = [each for each in asked if isinstance(each, Settlement)]
        wishes = [each for each in asked if isinstance(each, Reservation)]
        ended = {settlement.attempt for settlement in settles}
        named = ended.union(wish.attempt for wish in wishes)
        if len(named) < len(asked) or not all(_counts(wish.base, wish.each) for wish in wishes):
            return None
        told = (orjson.dumps(lines).decode() for lines in ([_ended(each) for each in settles], _wanted(wishes)))
        row = self.row(_GROUP, *told, self.owner, self.now())
        if row is None or row["told"] is None:
            return None
        for tenant in {wish.account.tenant for wish, told in zip(wishes, row["told"], strict=True) if told == _SLOW}:
            self.sweep(tenant)
        granted = iter(row["told"])
        return [True if isinstance(each, Settlement) else max(0, next(granted)) for each in asked]

    def _sweep_owner(self, owner: str) -> int:
        # what was copied from another store has an owner who never was here
        if _OWNER.fullmatch(owner) is not None:
            free = self.row("SELECT pg_try_advisory_xact_lock(?) AS free", int(owner))
            if free is None or not free["free"]:
                return 0
        return self._lose(self.rows("SELECT * FROM reservations WHERE owner = ?", owner).fetchall())


def version(database: PostgresDatabase) -> int:
    """The number of the last migration that the database has seen; 0 for an empty one."""
    if not database.execute("SELECT to_regclass('migrations') IS NOT NULL AS known").fetchone()["known"]:
        return 0
    return int(database.execute("SELECT coalesce(max(number), 0) AS number FROM migrations").fetchone()["number"])


def migrate(database: PostgresDatabase) -> None:
    """Make the tables where there are none. Several replicas may start at once."""
    database.begin()
    try:
        database.execute("SELECT pg_advisory_xact_lock(?)", (_MIGRATING,))
        found = version(database)
        if found not in (0, len(MIGRATIONS)):
            raise ConfigError([Problem("database_url", "", f"is a ledger of version {found}, not {len(MIGRATIONS)}")])
        if found == 0:
            database.script(files("proxy.ledger").joinpath("postgres.sql").read_text())
            names = [(number, change.__name__.lstrip("_")) for number, change in enumerate(MIGRATIONS, 1)]
            database.executemany("INSERT INTO migrations (number, name) VALUES (?, ?)", names)
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def _counts(*amounts: Amount) -> bool:
    """Whether Postgres can count so far."""
    return all(value <= MAX_INTEGER for amount in amounts for value in _list(amount))


def _list(amount: Amount) -> list[int]:
    return [amount.nano, amount.tokens, amount.samples]


def _lines(rows: Iterable[DrawRow]) -> list[JSON]:
    return [dict(zip(_DRAW, storable(getattr(row, name) for name in _DRAW), strict=True)) for row in rows]


def _ended(settlement: Settlement) -> JSON:
    cost = sum((row.amount for row in settlement.rows), Amount())
    return {"attempt": settlement.attempt, "cost": _list(cost), "rows": _lines(settlement.rows)}


def _wanted(wishes: Iterable[Reservation]) -> list[JSON]:
    return [
        {
            "place": place,
            "tenant": wish.account.tenant,
            "key": wish.account.key,
            "attempt": wish.attempt,
            "request": wish.account.request,
            "base": _list(wish.base),
            "each": _list(wish.each),
            "choices": wish.choices,
            "lifetime": wish.lifetime,
        }
        for place, wish in enumerate(wishes, 1)
    ]
