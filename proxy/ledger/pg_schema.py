"""The tables of a ledger on Postgres, as numbered migrations that only go forward, and the functions beside them.

The numbers are those of `proxy.ledger.schema`: `postgres.sql` has the first ten, `postgres_011.sql` the next one, and
so on. Functions have no number: they are made anew whenever their file is another than the one they were made of.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from math import inf

from proxy.errors import ConfigError, Problem
from proxy.ledger.pg import PostgresDatabase
from proxy.ledger.schema import MIGRATIONS

FUNCTIONS = "functions"
"""The row of `meta` that tells of which file the functions were made."""

_FIRST = 10
_LOCK = 7_463_254_001
"""The advisory lock of whoever changes the tables; no replica has it, for theirs are negative."""


def version(database: PostgresDatabase) -> int:
    """The number of the last migration that the database has seen; 0 for an empty one."""
    if not database.execute("SELECT to_regclass('migrations') IS NOT NULL AS known").fetchone()["known"]:
        return 0
    return int(database.execute("SELECT coalesce(max(number), 0) AS number FROM migrations").fetchone()["number"])


def migrate(database: PostgresDatabase, target: int = len(MIGRATIONS)) -> None:
    """Bring the tables to version `target`, in one transaction; several replicas may start at once.

    A large ledger takes as long as it takes; a lock that others hold is waited for no longer than usual.
    Functions are made for the newest tables alone. Raises ConfigError for a ledger that is newer.
    """
    with _unhurried(database), _alone(database):
        found = version(database)
        if found > target or 0 < found < _FIRST:
            reason = f"is a ledger of version {found}, this program has version {target}"
            raise ConfigError([Problem("database_url", "", reason)])
        if not found:
            database.script(_text("postgres.sql"))
            _note(database, 1, _FIRST)
        for number in range(max(found, _FIRST) + 1, target + 1):
            database.script(_text(f"postgres_{number:03}.sql"))
            _note(database, number, number)
        if target == len(MIGRATIONS):
            _make_functions(database)


def _make_functions(database: PostgresDatabase) -> None:
    text = _text("postgres_functions.sql")
    digest = sha256(text.encode()).digest()
    made = database.execute("SELECT value FROM meta WHERE name = ?", (FUNCTIONS,)).fetchone()
    if made is not None and made["value"] == digest:
        return
    database.script(text)
    database.execute(
        "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (FUNCTIONS, digest),
    )


@contextmanager
def _unhurried(database: PostgresDatabase) -> Iterator[None]:
    usual, database.timeout = database.timeout, inf
    try:
        yield
    finally:
        database.timeout = usual


@contextmanager
def _alone(database: PostgresDatabase) -> Iterator[None]:
    database.begin()
    try:
        database.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
        yield
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def _note(database: PostgresDatabase, first: int, last: int) -> None:
    names = [(number, MIGRATIONS[number - 1].__name__.lstrip("_")) for number in range(first, last + 1)]
    database.executemany("INSERT INTO migrations (number, name) VALUES (?, ?)", names)


def _text(name: str) -> str:
    return files("proxy.ledger").joinpath(name).read_text()
