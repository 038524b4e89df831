"""Reading the ledger beside the one who writes it, so that nobody's reservation waits for a report."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TypeVar

from proxy.errors import ConfigError, LedgerUnavailable
from proxy.ledger.books import Books
from proxy.ledger.database import StoreLost
from proxy.ledger.opening import is_postgres
from proxy.ledger.store import database_path

T = TypeVar("T")

_MOST = 2


def readable(url: str) -> bool:
    """Whether a ledger can be read beside its server, as one in memory cannot."""
    return is_postgres(url) or database_path(url) is not None


class Reader:
    """Reads on connections of its own, each in a thread, `most` at once; they are opened when needed, and kept."""

    def __init__(self, opened: Callable[[], Books], most: int = _MOST) -> None:
        self._opened = opened
        self._idle: SimpleQueue[Books] = SimpleQueue()
        self._threads = ThreadPoolExecutor(most, "tally-reader")

    async def run(self, work: Callable[[Books], T]) -> T:
        """What `work` finds in the books; its error is raised here. Raises LedgerUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, work)

    async def close(self) -> None:
        """Wait for those who read, and let go of the connections."""
        await asyncio.to_thread(self._end)

    def _read(self, work: Callable[[Books], T]) -> T:
        try:
            books = self._taken()
            try:
                return work(books)
            finally:
                self._idle.put(books)
        except (sqlite3.Error, StoreLost, ConfigError) as error:
            raise LedgerUnavailable("the ledger cannot be read just now") from error

    def _taken(self) -> Books:
        try:
            return self._idle.get_nowait()
        except Empty:
            return self._opened()

    def _end(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()
