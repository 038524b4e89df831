"""Why a budget did not hold something: looked up once it was refused, and only then."""

from collections.abc import Iterator
from dataclasses import replace
from math import isfinite

from proxy.ledger import Amount, Limited, Refused, Shortage
from proxy.ledger.counters import KEY, Standing, Window, fit, scopes
from proxy.ledger.scopes import Scopes


def shortage(books: Scopes, refused: Refused) -> Shortage | None:
    """Which limit did not hold something; None where there is room for it by now. Raises NotFound.

    Of several it is the one that holds fewest of the choices, and of those the one with the least share left. What
    refused a vote (nothing is said of amounts) is a soft budget with which scaling ends, before it is any other.
    """
    vote = refused.base + refused.each == Amount()
    standings = [books.glance(scope) for scope in scopes(refused.account)]
    for standing in standings:
        if standing.blocked:
            return _named(standing, refused, "blocked")
    for standing in standings if vote and not refused.free else ():
        limits = books.limits(standing.scope)
        if limits["scale_until"] == "soft" and standing.passes(limits["soft_nano"]):
            told = _told(standing, refused, "soft budget", standing.windows[0], books.now())
            return replace(told, limit=limits["soft_nano"])
    found = [each for standing in standings for each in _limits(standing, refused, books.now())]
    if not found:
        return None
    fits, _, told = min(found, key=lambda each: each[:2])
    return told if vote or fits < refused.choices else None


def _limits(standing: Standing, refused: Refused, now: float) -> Iterator[tuple[int, float, Shortage]]:
    """All limits of one scope: for how many choices each has room, which share of it is left, and what to tell."""
    base, each, choices = refused.base, refused.each, refused.choices
    for window in standing.windows:
        budget, used = window.budget, window.spent + standing.reserved
        kinds: tuple[tuple[Limited, int | None, int, int, int], ...] = (
            ("money", budget.max_nano, used.nano, base.nano, each.nano),
            ("tokens", budget.max_tokens, used.tokens, base.tokens, each.tokens),
            ("samples", budget.max_samples, used.samples, base.samples, each.samples),
        )
        for limited, limit, taken, first, more in kinds:
            if limit is None or (refused.free and limited == "money"):
                continue
            fits = max(0, fit(limit - taken, first, more, choices))
            left = max(0, limit - taken)
            needed = first + min(choices, fits + 1) * more
            told = _told(standing, refused, limited, window, now)
            yield fits, left / limit if limit else 0.0, replace(told, limit=limit, left=left, needed=needed)


def _told(standing: Standing, refused: Refused, limited: Limited, window: Window, now: float) -> Shortage:
    named = replace(_named(standing, refused, limited), duration=window.budget.duration)
    return replace(named, resets_at=window.end, resets_in=window.end - now) if isfinite(window.end) else named


def _named(standing: Standing, refused: Refused, limited: Limited) -> Shortage:
    account = refused.account
    return Shortage(account.tenant, account.key if standing.scope.startswith(f"{KEY}:") else None, limited)
