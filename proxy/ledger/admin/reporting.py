"""Reports on a connection of their own, beside the one that writes."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

from proxy.errors import ConfigError, LedgerUnavailable
from proxy.ledger.admin import administer
from proxy.ledger.database import StoreLost
from proxy.ledger.opening import is_postgres, read_books
from proxy.ledger.store import database_path
from proxy.types import JSON


def readable(url: str) -> bool:
    """Whether a ledger can be read beside its server, as one in memory cannot."""
    return is_postgres(url) or database_path(url) is not None


def report(url: str, path: str, asked: JSON, *, clock: Callable[[], float]) -> Any:  # noqa: ANN401 - the answer's JSON
    """What an admin path that is a report answers. Waits for the store. Raises NotFound and LedgerUnavailable."""
    try:
        with closing(read_books(url, clock=clock)) as books:
            return administer(books, path, asked)
    except (sqlite3.Error, StoreLost, ConfigError) as error:
        raise LedgerUnavailable("the ledger cannot be read just now") from error
