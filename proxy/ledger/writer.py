"""The one writer of a ledger: a thread that commits all that waits in one transaction (group commit).

A durable commit costs an fsync, about 4 ms; sixty-four operations in one cost the same. Nobody is answered before what
he asked is on disk. When the store fails, what must not be lost stays in order and is tried again, and all others are
refused at once.
"""

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import inf
from queue import Empty, SimpleQueue
from typing import cast

from proxy.errors import LedgerUnavailable
from proxy.ledger import Amount, Hot, RequestRow, Reservation, Settlement
from proxy.ledger.books import Books
from proxy.ledger.database import StoreLost, unavailable

_GROUP = 256
_PAUSE_S = 0.1
# at closing time a broken store is tried this often; what stays unwritten is still reserved, and swept at next start
_LAST_TRIES = 20
_log = logging.getLogger(__name__)

Answer = Callable[[object, Exception | None], None]
"""Hears the result of an operation, or the error; called in the writer's thread."""


@dataclass(slots=True, eq=False)
class Operation:
    """Work on the books. A `kept` one is tried until it is committed; others are refused while the store fails.

    `run` may be called again, after a transaction that came to nothing. `tenant` is whose counters it changes.
    `extends` is the attempt whose reservation it adds to. `hot` is what `run` does, where the books may do it
    together with others of its kind, and `owner` whose it is; `row` is the verdict that it writes, in the same way.
    """

    run: Callable[[Books], object]
    answer: Answer | None = None
    kept: bool = False
    tenant: str | None = None
    hot: Hot | None = None
    owner: str | None = None
    extends: str | None = None
    row: RequestRow | None = None

    @property
    def named(self) -> bool:
        """Whether it is known whose counters it changes."""
        return not (self.tenant is None and self.extends is None and self.row is None)


def reserving(reservation: Reservation) -> Operation:
    """The work of a reservation."""
    return Operation(lambda books: books.reserve(reservation), tenant=reservation.account.tenant, hot=reservation)


def extending(attempt: str, more: Amount) -> Operation:
    """The work of an extension."""
    return Operation(lambda books: books.extend(attempt, more), extends=attempt)


def settling(settlement: Settlement) -> Operation:
    """The work of a settlement."""
    return Operation(
        lambda books: books.settle(settlement), kept=True, tenant=settlement.account.tenant, hot=settlement
    )


def recording(row: RequestRow) -> Operation:
    """The work of a verdict."""
    return Operation(lambda books: books.record(row), kept=True, row=row)


class _OneFailed(Exception):
    """An operation of a group has failed, and with it the group's transaction."""


class Writer:
    """Runs operations in the order of `submit`, which any thread may call.

    Every `tend_s` seconds, also where nothing is asked, it tends the books between two groups (None: another does).
    """

    def __init__(self, books: Books, tend_s: float | None = None) -> None:
        self._books = books
        self._tend_s = tend_s
        self._tended = -inf
        self._queue: SimpleQueue[Sequence[Operation] | None] = SimpleQueue()
        self._pending: deque[Operation] = deque()
        self._closed = False
        self._ending = False
        # a process that dies without `close` must not hang on this thread; its reservations are swept at next start
        self._thread = threading.Thread(target=self._work, name="tally-ledger", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation) -> None:
        """Add work. Raises LedgerUnavailable after `stop`."""
        self.submit_all((operation,))

    def submit_all(self, operations: Sequence[Operation]) -> None:
        """Add several at once, in order."""
        if self._closed:
            raise LedgerUnavailable("the ledger is closed")
        self._queue.put(operations)

    @property
    def closed(self) -> bool:
        """Whether no more work is taken."""
        return self._closed

    def stop(self) -> None:
        """Take no more work; does not wait."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)

    def join(self) -> None:
        """Wait until all work is done, or given up because the store stays broken, and close the books."""
        self._thread.join()
        self._books.close()

    def _work(self) -> None:
        failures = 0
        while self._gather():
            _, error = _tried(self._commit)
            if error is None:
                failures = 0
                self._tend()
                continue
            failures += 1
            foreseen = isinstance(error, (sqlite3.Error, StoreLost))
            _log.warning("the ledger cannot be written: %s", error, exc_info=None if foreseen else error)
            self._refuse(error, everything=self._ending and failures >= _LAST_TRIES)
            time.sleep(_PAUSE_S)

    def _tend(self) -> None:
        if self._tend_s is None or abs(self._books.now() - self._tended) < self._tend_s:
            return
        self._tended = self._books.now()
        _, error = _tried(self._books.tend)
        if error is not None:
            _log.warning("the ledger cannot be looked after: %s", error)

    def _gather(self) -> bool:
        """Move what has arrived to what is pending, waiting for the first; false when nothing more will come.

        Where it has waited for long there may be none.
        """
        wait = not self._pending and not self._ending
        try:
            while True:
                arrived = self._queue.get(block=wait, timeout=self._tend_s)
                wait = False
                if arrived is None:
                    self._ending = True
                else:
                    self._pending.extend(arrived)
        except Empty:
            return bool(self._pending) or not self._ending

    def _commit(self) -> None:
        group = [self._pending[index] for index in range(min(_GROUP, len(self._pending)))]
        if not group:
            return
        try:
            results = self._attempt(group, steps=False)
        except _OneFailed:
            # a step for each costs more, so that only a group in which one fails takes them
            results = self._attempt(group, steps=True)
        for operation, (result, error) in zip(group, results, strict=True):
            self._pending.popleft()
            _tell(operation, result, error)

    def _attempt(self, group: Sequence[Operation], *, steps: bool) -> list[tuple[object, Exception | None]]:
        """All in one transaction; with `steps` each may fail alone, without the first that fails ends it."""
        hot = [] if steps else [operation for operation in group if operation.hot is not None]
        rows = [operation.row for operation in group if operation.row is not None]
        if len(hot) + len(rows) == len(group) > 1 and hot:
            told = self._together(hot, rows)
            if told is not None:
                return self._each(group, iter(told), steps=steps)
        with self._books.transaction():
            self._books.lock(
                {operation.tenant for operation in group if operation.tenant is not None},
                {operation.extends for operation in group if operation.extends is not None},
                others=len(group) > 1 and not all(operation.named for operation in group),
            )
            told = self._together(hot, rows) if hot and 1 < len(hot) + len(rows) < len(group) else None
            return self._each(group, None if told is None else iter(told), steps=steps)

    def _each(
        self, group: Sequence[Operation], done: Iterator[int | bool] | None, *, steps: bool
    ) -> list[tuple[object, Exception | None]]:
        """One by one, but for hot ones and verdicts that are `done`; else verdicts are written together, before what
        may read them.
        """
        found: list[tuple[object, Exception | None]] = []
        rows: list[RequestRow] = []
        for operation in group:
            if done is not None and operation.hot is not None:
                found.append((next(done), None))
            elif done is not None and operation.row is not None:
                found.append((None, None))
            elif operation.row is not None and not steps:
                rows.append(operation.row)
                found.append((None, None))
            else:
                if operation.hot is None:
                    self._record(rows)
                found.append(self._run(operation, step=steps))
        self._record(rows)
        return found

    def _record(self, rows: list[RequestRow]) -> None:
        if rows:
            written = tuple(rows)
            self._run(Operation(lambda books: books.record_all(written)), step=False)
            rows.clear()

    def _together(self, hot: Sequence[Operation], rows: Sequence[RequestRow]) -> list[int | bool] | None:
        asked = [operation.hot for operation in hot if operation.hot is not None]
        owners = [operation.owner for operation in hot]
        told, _ = self._run(Operation(lambda books: books.together(asked, owners, rows)), step=False)
        return cast("list[int | bool] | None", told)

    def _run(self, operation: Operation, *, step: bool) -> tuple[object, Exception | None]:
        def run() -> object:
            with self._books.transaction() if step else nullcontext():
                return operation.run(self._books)

        result, error = _tried(run)
        if error is not None and unavailable(error):
            raise error
        if error is not None and not step:
            raise _OneFailed from error
        return result, error

    def _refuse(self, cause: Exception, *, everything: bool) -> None:
        """Refuse what need not be kept, also what arrived while the store was tried."""
        self._gather()
        kept: deque[Operation] = deque()
        for operation in self._pending:
            if operation.kept and not everything:
                kept.append(operation)
            else:
                _tell(operation, None, _unavailable(cause))
        self._pending = kept


def _tried(work: Callable[[], object]) -> tuple[object, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - the thread must live
        # whatever it is, it goes to those who asked, and their neighbours go on
        return None, error


def _unavailable(cause: Exception) -> LedgerUnavailable:
    error = LedgerUnavailable(f"the ledger cannot be written just now: {cause}")
    error.__cause__ = cause
    error.retry_after = 1.0
    return error


def _tell(operation: Operation, result: object, error: Exception | None) -> None:
    if operation.answer is not None:
        operation.answer(result, error)
    elif error is not None:
        _log.error("an entry of the ledger was not written: %s", error, exc_info=error)
