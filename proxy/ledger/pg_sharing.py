"""Books that replicas share on one Postgres: who lives, what the dead have left, and who waits for whom."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from secrets import randbits
from typing import Self

from proxy.errors import ConfigError, Problem
from proxy.ledger.books import Books
from proxy.ledger.counters import tenant_scope
from proxy.ledger.database import Row, StoreLost
from proxy.ledger.pg import PostgresDatabase
from proxy.ledger.process import Process, this_process
from proxy.ledger.replicas import Replica, Suspects
from proxy.ledger.reserving import PART, account_of, tell_swept
from proxy.ledger.store import MAX_INTEGER
from proxy.types import Budget

PATIENT_S = 30.0
"""How long a statement may take while no request waits for it, as at the start of a server."""
_PREPARING = 7_463_254_002
"""The advisory lock of whoever adopts tenants; no replica has it, for theirs are negative."""
_LOCK_BITS = 62
_SLOW = -1
_LOSE = "SELECT tally_lose(?, ?) AS done"
_HELD = """SELECT DISTINCT (classid::bigint << 32) | objid::bigint AS lock FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


class Sharing(Books):
    """The books as one of several replicas has them."""

    def __init__(
        self,
        database: PostgresDatabase,
        clock: Callable[[], float],
        token: Callable[[int], bytes],
        pepper: bytes | None,
        suspects: Suspects,
    ) -> None:
        super().__init__(database, clock, token, pepper)
        self._database = database
        self._suspects = suspects

    def take_part(self, process: Process | None = None) -> None:
        """Be known as alive, and charge what those who are surely dead have left reserved. Raises ConfigError.

        `process` is the one that lives (None: this one).
        """
        with opening(self._database, "opened"):
            self.join(Replica(-1 - randbits(_LOCK_BITS), process or this_process()))
            self.sweep_dead()

    def join(self, replica: Replica) -> None:
        """Be one with a replica, on a connection more."""
        self._database.join(replica.lock)
        self._replica = replica
        self.owner = str(replica)

    @property
    def error(self) -> type[Exception]:
        """What Postgres itself may complain of."""
        return self._database.error

    def beside(self, timeout: float) -> Self:
        """The same books, of the same replica, on a connection more. `timeout` is in seconds. Raises ConfigError."""
        made = type(self)(self._database.another(timeout), self._clock, self._token, self._given, self._suspects)
        with ExitStack() as failing:
            failing.callback(made.close)
            with opening(made._database, "opened"):
                made.join(self._replica)
            failing.pop_all()
        return made

    def prepare(self, prepare: Callable[[Books], None]) -> None:
        """Have the books prepared in one transaction, while no other replica does it. Raises ConfigError."""
        with opening(self._database, "prepared"), self.transaction():
            self._db.execute("SELECT pg_advisory_xact_lock(?)", (_PREPARING,))
            prepare(self)

    def lock(self, tenants: Collection[str], attempts: Collection[str] = (), *, others: bool = False) -> None:
        """Lock the counters of tenants in one order, so that two replicas never wait for each other.

        A single one is locked by whoever changes its counters first, but for `others`, which may have locked a key's.
        """
        known = set(tenants)
        least = 1 if others else 2
        if attempts and len(known) + len(attempts) >= least:
            found = self._db.execute("SELECT DISTINCT tenant FROM reservations WHERE attempt = ANY (?)", ([*attempts],))
            known.update(row["tenant"] for row in found)
        if len(known) >= least:
            ids = [tenant_scope(tenant) for tenant in known]
            self._db.execute("SELECT id FROM scopes WHERE id = ANY (?) ORDER BY id FOR UPDATE", (ids,))

    def probe(self) -> None:
        """Write a row, and take it away again: no other replica waits for it. What is due is left to `tend`."""
        name = f"probed_at {self.owner}"
        with self.transaction():
            self._set_meta(name, f"{self.now():.3f}".encode())
            self._db.execute("DELETE FROM meta WHERE name = ?", (name,))

    def tend(self) -> None:
        """Do a part of what is due, and charge what the dead have left; in no transaction, for it has many."""
        super().tend()
        self.sweep_dead()

    def sweep(self, tenant: str | None = None, *, most: int = MAX_INTEGER) -> int:
        """Charge expired reservations, but for those of other replicas that live: their clocks may be behind.

        Returns how many there were.
        """
        due = "expires_at <= ? AND tenant = coalesce(?, tenant)"
        with self.transaction():
            now = self.now()
            owners = self.rows(f"SELECT DISTINCT owner FROM reservations WHERE {due}", now, tenant).fetchall()  # noqa: S608 - our own words
            if not owners:
                return 0
            living = self._living(row["owner"] for row in owners)
            expired = f"SELECT * FROM reservations WHERE {due} AND owner <> ALL (?) LIMIT ?"  # noqa: S608 - our own words
            return self._lose(self.rows(expired, now, tenant, living, most).fetchall())

    def _living(self, owners: Iterable[str]) -> list[str]:
        """Those of other replicas that hold their locks now."""
        others = {owner: replica for owner in owners if owner != self.owner and (replica := Replica.read(owner))}
        held = self._held() if others else set()
        return [owner for owner, replica in others.items() if replica.lock in held]

    def _held(self) -> set[int]:
        return {row["lock"] for row in self.rows(_HELD)}

    def _set_budgets(self, scope: str, budgets: Iterable[Budget]) -> None:
        # all that was ever spent may have to be added up for a new window
        with self._database.patient(PATIENT_S):
            super()._set_budgets(scope, budgets)

    def sweep_dead(self) -> int:
        """Charge what was reserved by those who are no longer alive; returns how many reservations there were."""
        found = self.rows("SELECT DISTINCT owner FROM reservations WHERE owner NOT IN ('', ?)", self.owner)
        owners = [row["owner"] for row in found]
        held = self._held() if owners else set()
        return sum(map(self._sweep_dead, self._suspects.dead(owners, held)))

    def _sweep_dead(self, owner: str) -> int:
        """One part after the other, so that none takes long."""
        swept = 0
        while True:
            with self.transaction():
                if not self._holds(Replica.read(owner)):
                    return swept
                found = self.rows("SELECT * FROM reservations WHERE owner = ? LIMIT ?", owner, PART).fetchall()
                swept += self._lose(found)
            tell_swept(found)
            if len(found) < PART:
                return swept

    def _holds(self, replica: Replica | None) -> bool:
        """Whether nobody else has the lock of a replica, until the end of the transaction."""
        if replica is None:
            return True
        row = self.row("SELECT pg_try_advisory_xact_lock(?) AS free", replica.lock)
        return row is not None and bool(row["free"])

    def _lose(self, reservations: list[Row]) -> int:
        """End reservations, all in one statement where their windows hold now."""
        accounts = {(held["tenant"], held["key"]): account_of(held) for held in reservations}
        with self.transaction():
            self.lock({tenant for tenant, _ in accounts})
            for _ in range(2):
                row = self.row(_LOSE, [held["attempt"] for held in reservations], self.now())
                if row is not None and row["done"] != _SLOW:
                    return int(row["done"])
                for account in accounts.values():
                    # begins the windows whose time has come
                    self._standings(account)
            return super()._lose(reservations)


@contextmanager
def opening(database: PostgresDatabase, what: str) -> Iterator[None]:
    """Be patient with a database, and raise ConfigError, with the reason, where it fails."""
    hot, database.timeout = database.timeout, PATIENT_S
    try:
        yield
    except (StoreLost, OSError, database.error) as error:
        raise ConfigError([Problem("database_url", "", f"cannot be {what} as a ledger: {error}")]) from error
    finally:
        database.timeout = hot
