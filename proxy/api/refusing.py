"""Why a budget holds no more, in words: whose limit it is, on what, in which window, and until when."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from proxy.errors import BudgetExceeded, LedgerUnavailable, NotFound
from proxy.ledger import Limited, Refused, Shortage
from proxy.money import usd
from proxy.purse import Purse
from proxy.types import JSON

Ask = Callable[[Refused], Awaitable[Shortage | None]]
"""Asks the ledger which limit did not hold something."""

_WORDS: dict[Limited, tuple[str, str]] = {
    "money": ("may spend {} USD", "{} USD"),
    "tokens": ("may use {} tokens", "{}"),
    "samples": ("may draw {} samples", "{}"),
}


async def explained(error: BudgetExceeded, purse: Purse, ask: Ask) -> BudgetExceeded:
    """The same error with what ran short, as far as that can be told; without it while the ledger does not answer."""
    refused = purse.refused or Refused(purse.account)
    held = purse.room(refused.base.nano, refused.each.nano, refused.choices)
    if held == 0:
        return _own(error, purse, refused, 1)
    try:
        found = await ask(refused)
    except (LedgerUnavailable, NotFound):
        return error
    if found is None and held < refused.choices:
        return _own(error, purse, refused, refused.choices)
    if found is None:
        return error
    return BudgetExceeded(f"{error.message} {_sentence(found)}", budget=_fields(found), retry_after=_wait(found))


def _own(error: BudgetExceeded, purse: Purse, refused: Refused, choices: int) -> BudgetExceeded:
    """The request's own limit was it."""
    limit, needed = usd(purse.limit or 0), usd(refused.base.nano + choices * refused.each.nano)
    told = f"It may cost at most {limit} USD (max_cost_usd), and this has to reserve {needed} USD."
    return BudgetExceeded(f"{error.message} {told}", budget={"limited": "money", "limit": limit, "needed": needed})


def _sentence(found: Shortage) -> str:
    whose = f"The tenant {found.tenant!r}" if found.key is None else f"The key {found.key!r}"
    window = " in all" if found.duration is None else f" in each window of {found.duration}"
    if found.limited == "blocked":
        return f"{whose} is blocked."
    if found.limited == "soft budget":
        return f"{whose} has used up its soft budget of {usd(found.limit)} USD{window}.{_until(found)}"
    may, amount = _WORDS[found.limited]
    limit, left, needed = (_number(found, value) for value in (found.limit, found.left, found.needed))
    told = f"{whose} {may.format(limit)}{window}, and {amount.format(left)} of it is left"
    if found.needed:
        told += f"; this has to reserve {amount.format(needed)}"
    return f"{told}.{_until(found)}"


def _until(found: Shortage) -> str:
    return "" if found.resets_at is None else f" The window ends at {_moment(found.resets_at)}."


def _wait(found: Shortage) -> float | None:
    """Seconds until there may be room; None where no window is ever large enough, or none ends."""
    return None if found.needed > found.limit else found.resets_in


def _fields(found: Shortage) -> JSON:
    """The same for programs; money in US dollars, as text so that it is exact."""
    numbers = {"limit": found.limit, "left": found.left, **({"needed": found.needed} if found.needed else {})}
    counted = {} if found.limited == "blocked" else {name: _number(found, value) for name, value in numbers.items()}
    return {
        "tenant": found.tenant,
        "key": found.key,
        "limited": found.limited,
        **counted,
        "budget_duration": found.duration,
        "resets_at": None if found.resets_at is None else _moment(found.resets_at),
    }


def _number(found: Shortage, value: int) -> str:
    return usd(value) if found.limited in ("money", "soft budget") else str(value)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
