"""What is written of requests: verdicts, ballots, and for a tenant that wants it what was said, until its time is up.

A request's `expires_at` says until when its texts are kept; where there is none its answers are opaque names. What has
run out is reduced to such names little by little, by whoever tends the books.
"""

from collections.abc import Container, Sequence
from dataclasses import fields
from math import inf
from operator import attrgetter
from typing import Any

from proxy.ledger import Ballot, RequestRow
from proxy.ledger.database import Insert, Row, SqliteDatabase
from proxy.ledger.opaque import Names, opaque
from proxy.ledger.reserving import storable
from proxy.ledger.store import Store

_VERDICT = [field.name for field in fields(RequestRow) if field.name not in ("account", "ballots", "texts")]
# a request that is written again, as by its shadow, keeps the end of what was stored of it before
_INSERT_REQUEST = Insert(
    f"requests (tenant, key, id, recorded_at, expires_at, {', '.join(_VERDICT)})",
    5 + len(_VERDICT),
    f"""ON CONFLICT (tenant, id) DO UPDATE SET expires_at = coalesce(excluded.expires_at, requests.expires_at),
    {", ".join(f"{name} = excluded.{name}" for name in ("key", "recorded_at", *_VERDICT))}""",
)
# SQLite must not look for them among all draws of the tenant
_UPDATE_BALLOT = """UPDATE draws SET label = ?, score = ?, mean_logprob = ?
WHERE request = ? AND tenant || '' = ? AND id = ?"""
_INSERT_TEXT = Insert(
    "samples (tenant, request, draw, text, cut)",
    5,
    "ON CONFLICT (tenant, request, draw) DO UPDATE SET text = excluded.text, cut = excluded.cut",
)

_FOUND = "SELECT tenant, id, answer, first_answer FROM requests"
_HELD = "tenant = ? AND recorded_at < ? AND expires_at IS NOT NULL"
_PAGE = f"SELECT id FROM requests WHERE {_HELD} AND id > ? ORDER BY id LIMIT ?"  # noqa: S608 - conditions of our own
_LABELS = """SELECT number, label FROM draws WHERE tenant || '' = ? AND request = ? AND label IS NOT NULL
ORDER BY "index", number"""
_REDUCE = """UPDATE requests SET answer = ?, first_answer = ?, question = NULL, expires_at = NULL
WHERE tenant = ? AND id = ?"""

_verdict_values = attrgetter(*_VERDICT)

Voter = tuple[str, str, str]
"""Whose a ballot is: the tenant, the request and the draw, by their names and ids."""

_DAY_S = 86_400.0
_CHUNK = 32
"""Requests that are reduced in one transaction, in which others wait."""
_WIPE_MS = 200
"""How long the emptying of a file's log waits for others: less than a server waits to write."""


class Recording(Store):
    """The rows of requests, and the texts of those whose tenants store them."""

    def record(self, row: RequestRow) -> None:
        """Write a verdict, the ballots beside the draws that are settled, and the texts if there are some."""
        self.record_all((row,))

    def record_all(self, rows: Sequence[RequestRow]) -> None:
        """The same for many requests, in order."""
        self.write([named(row) for row in rows])

    def write(self, rows: Sequence[RequestRow], cast: Container[Voter] = ()) -> None:
        """The same for what is `named`. The ballots of the voters `cast` stand there already."""
        now = self.now()
        ballots = [
            (*ballot_values(ballot), row.account.request, row.account.tenant, ballot.draw)
            for row in rows
            for ballot in row.ballots
            if (row.account.tenant, row.account.request, ballot.draw) not in cast
        ]
        texts = [
            (row.account.tenant, row.account.request, *storable((text.draw, text.text, text.cut)))
            for row in rows
            if row.texts is not None
            for text in row.texts.said
        ]
        with self.transaction():
            self.insert(_INSERT_REQUEST, [_request_values(row, now) for row in rows])
            if ballots:
                self.update(_UPDATE_BALLOT, ballots)
            if texts:
                self.insert(_INSERT_TEXT, texts)

    def expire(self) -> int:
        """Reduce requests whose time is up, the first of them; returns how many there were."""
        # another replica may be at the same ones, and nobody needs to wait for it
        locking = self._db.locking and f"{self._db.locking} SKIP LOCKED"
        with self.transaction():
            due = self.rows(f"{_FOUND} WHERE expires_at <= ? ORDER BY expires_at LIMIT ?{locking}", self.now(), _CHUNK)
            return self._reduce(due.fetchall())

    def forget(self, tenant: str, before: float | None = None) -> int:
        """Reduce all requests of a tenant at once, or those recorded `before` (seconds since 1970).

        Returns how many had texts. It takes a transaction for some at a time, unless it stands in one.
        """
        until = inf if before is None else before
        count, last = 0, ""
        while page := self.rows(_PAGE, tenant, until, last, _CHUNK).fetchall():
            first, last = page[0]["id"], page[-1]["id"]
            with self.transaction():
                # somebody else may have reduced some of them meanwhile
                sql = f"{_FOUND} WHERE {_HELD} AND id >= ? AND id <= ? ORDER BY id{self._db.locking}"
                count += self._reduce(self.rows(sql, tenant, until, first, last).fetchall())
        self._wipe()
        return count

    def _wipe(self) -> None:
        """Have a file's log of changes written and emptied, for the texts stand there, too; unless somebody reads."""
        if not isinstance(self._db, SqliteDatabase) or self._db.in_transaction:
            return
        waits = self.rows("PRAGMA busy_timeout").fetchone()[0]
        # a server cannot write while this waits for those who read
        self._db.execute(f"PRAGMA busy_timeout = {_WIPE_MS}")
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {waits}")

    def _reduce(self, found: Sequence[Row]) -> int:
        for row in found:
            names, request = Names(), (row["tenant"], row["id"])
            labels = self.rows(_LABELS, *request).fetchall()
            renamed = [(names.of(draw["label"]), draw["number"]) for draw in labels]
            self.update("UPDATE draws SET label = ? WHERE number = ?", renamed)
            self._db.execute("DELETE FROM samples WHERE tenant = ? AND request = ?", request)
            self._db.execute(_REDUCE, (names.of(row["answer"]), names.of(row["first_answer"]), *request))
        return len(found)


def named(row: RequestRow) -> RequestRow:
    """A request as it is written: with names in the place of answers, unless its texts are stored."""
    return opaque(row) if row.texts is None else row


def ballot_values(ballot: Ballot) -> tuple[Any, ...]:
    """What is written of a ballot, beside its draw."""
    return storable((ballot.label, ballot.score, ballot.mean_logprob))


def _request_values(row: RequestRow, now: float) -> tuple[Any, ...]:
    account = row.account
    expires_at = None if row.texts is None else now + row.texts.days * _DAY_S
    return (account.tenant, account.key, account.request, now, expires_at, *storable(_verdict_values(row)))
