"""The admin API's reports on what was spent."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import groupby

from proxy.config.limits import dollars
from proxy.ledger.admin.asking import Nothing, SpendAsked
from proxy.ledger.admin.keys import find
from proxy.ledger.admin.telling import told_draw
from proxy.ledger.books import Books
from proxy.ledger.reports import DaySpend, Wanted, daily_spend, last_draws, total_spend
from proxy.types import JSON


def logs(books: Books, asked: SpendAsked) -> list[JSON]:
    """The latest lines of the ledger, one for each draw, retry and judge's call; or what each day took.

    Raises NotFound for an unknown key or team.
    """
    if asked.team_id is not None:
        books.find_tenant(asked.team_id)
    wanted = Wanted(
        tenant=asked.team_id,
        key=None if asked.api_key is None else find(books, asked.api_key),
        request=asked.request_id,
        since=_start(asked.start_date),
        until=None if asked.end_date is None else _start(asked.end_date + timedelta(days=1)),
    )
    if asked.summarize and asked.start_date is not None and asked.end_date is not None:
        return [_day(day, list(rows)) for day, rows in groupby(daily_spend(books, wanted), lambda row: row.day)]
    return [told_draw(row) for row in last_draws(books, wanted, asked.limit)]


def total(books: Books, _: Nothing) -> JSON:
    """What all tenants have ever spent, in US dollars."""
    return {"spend": dollars(total_spend(books)), "max_budget": None}


def _start(day: date | None) -> float | None:
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _day(day: int, rows: list[DaySpend]) -> JSON:
    return {
        "startTime": (date(1970, 1, 1) + timedelta(days=day)).isoformat(),
        "spend": dollars(sum(row.nano for row in rows)),
        "models": _by((row.model, row.nano) for row in rows),
        "api_keys": _by((row.key or "", row.nano) for row in rows),
        "teams": _by((row.tenant, row.nano) for row in rows),
    }


def _by(amounts: Iterable[tuple[str, int]]) -> JSON:
    found: dict[str, int] = {}
    for name, nano in amounts:
        found[name] = found.get(name, 0) + nano
    return {name: dollars(nano) for name, nano in found.items()}
