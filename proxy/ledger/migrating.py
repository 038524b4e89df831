"""Moving a whole ledger from one store to another: every table, row by row, counters and keys included."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from proxy.errors import ConfigError, Problem
from proxy.ledger.books import Books
from proxy.ledger.database import Insert, Row
from proxy.ledger.lock import ServerLock
from proxy.ledger.opening import is_postgres
from proxy.ledger.pg_schema import FUNCTIONS
from proxy.ledger.store import database_path

TABLES = ("meta", "tenants", "keys", "scopes", "budgets", "reservations", "requests", "draws", "samples")
"""In an order in which what a row refers to is there before it."""

_ORDER = {"draws": "number"}
"""A column that numbers the rows: the new store numbers them anew, in the same order."""

_COPIED = {"meta": f"SELECT * FROM meta WHERE name <> '{FUNCTIONS}'"}  # noqa: S608 - names of our own
"""What is said of a store's own functions stays with it."""

_KEPT = ("tenants", "requests", "draws")
_CHUNK = 500
_SERVERS = """SELECT count(*) AS number FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


@contextmanager
def unserved(url: str, books: Books) -> Iterator[None]:
    """Hold a ledger that no server uses. On Postgres one may still start meanwhile. Raises ConfigError."""
    if is_postgres(url):
        row = books.row(_SERVERS)
        if row is not None and row["number"]:
            raise ConfigError([Problem("--from", "", "a tally server uses this ledger: stop it first")])
        yield
        return
    path = database_path(url)
    lock = None if path is None else ServerLock(path)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def copy(source: Books, target: Books) -> dict[str, int]:
    """Copy all that `source` holds in one transaction; returns the rows of each table.

    `target` must be new, and nobody may write to either meanwhile. Raises ConfigError.
    """
    with source.reading(), target.transaction():
        for table in _KEPT:
            if target.row(f"SELECT 1 FROM {table} LIMIT 1") is not None:  # noqa: S608 - names of our own
                raise ConfigError([Problem("--to", "", f"is not empty: there are {table} in it")])
        return {table: _copy_table(source, target, table) for table in TABLES}


def _copy_table(source: Books, target: Books, table: str) -> int:
    order = _ORDER.get(table)
    everything = _COPIED.get(table, f"SELECT * FROM {table}")  # noqa: S608 - names of our own
    columns = [name for name in target.columns(everything) if name != order]
    names = ", ".join(f'"{name}"' for name in columns)
    # whoever opened the new store may have left a note
    conflict = "ON CONFLICT (name) DO UPDATE SET value = excluded.value" if table == "meta" else ""
    insert = Insert(f"{table} ({names})", len(columns), conflict)
    rows = source.stream(everything if order is None else f"{everything} ORDER BY {order}")
    count = 0
    while chunk := list(islice(rows, _CHUNK)):
        target.insert(insert, [_values(row, columns) for row in chunk])
        count += len(chunk)
    return count


def _values(row: Row, columns: list[str]) -> list[object]:
    return [row[name] for name in columns]
