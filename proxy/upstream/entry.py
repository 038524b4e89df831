"""Rates from prices by LiteLLM's names, as its table has them and as `litellm_params` may."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches

from proxy.money import IN_COMPLETION, IN_PROMPT, Kinds, Rates, pico_usd

_NAMES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "cache_read_input_audio_token_cost": "cached_audio",
    "input_cost_per_audio_token": "audio_input",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_reasoning_token": "reasoning",
    "output_cost_per_audio_token": "audio_output",
    "output_cost_per_image_token": "image_output",
}
SERVICES = {
    "priority": "priority",
    "fast": "priority",
    "flex": "flex",
    "balanced": "balanced",
    "ultrafast": "ultrafast",
}
"""Grades of service as providers call them, by the name that their prices have."""

_SERVICE = "|".join(sorted(set(SERVICES.values())))
_PRICE = re.compile(
    rf"(?P<name>{'|'.join(_NAMES)})(?:_(?P<early>{_SERVICE}))?(?:_above_(?P<above>\d+)(?P<k>k?)_tokens)?"
    rf"(?:_(?P<service>{_SERVICE}))?"
)
_LIKE = re.compile(r"(^|_)cost(_|$)|_pricing$")
# prices of what tally does not do (batches), of what a request must turn on, and other ways to say a price a token
_ASIDE = re.compile(
    r"_batches$|_decisions$|_per_character(_above_\w+)?$|_dbu_cost_per_token$|^explicit_cache_read_|_cache_hit$|"
    r"^search_context_cost_per_query$|_grounding_cost_per_query$|^code_interpreter_|^file_search_|^vector_store_|"
    r"^computer_use_|^output_cost_per_image$|^off_peak_pricing$|^tiered_pricing$"
)
_INCLUSIVE = frozenset({"xai"})
"""Providers whose dearer rates begin at a threshold, not above it."""

Found = dict[tuple[str, int], dict[str, int]]
"""Rates by grade of service and threshold, and by kind of token."""


def is_price(name: str) -> bool:
    """Whether a name says what something costs, of tokens or of anything else."""
    return _LIKE.search(name) is not None


def meant(name: str, known: Collection[str]) -> str | None:
    """What is wrong with a key that looks like a price's and is none that calls are billed by; None: nothing.

    `known` are further names that LiteLLM has for prices.
    """
    if billable(name) or _ASIDE.search(name) or name in known:
        return None
    # what is not even spelt like a price must be all but one
    close = get_close_matches(name, [*_NAMES, *known], n=1, cutoff=0.6 if is_price(name) else 0.85)
    if not close and not is_price(name):
        return None
    return "is no price that is known" + (f"; did you mean {close[0]}?" if close else "")


def billable(name: str) -> bool:
    """Whether a name is that of a price which calls are billed by."""
    return _PRICE.fullmatch(name) is not None or name == "tiered_pricing"


def unbilled(entry: Mapping[str, object]) -> list[str]:
    """The prices of an entry that its calls may cost beside its tokens' and that tally does not bill by."""
    names = [name for name, price in entry.items() if price and is_price(name) and not _PRICE.fullmatch(name)]
    free = not (entry.get("input_cost_per_token") or entry.get("output_cost_per_token"))
    # what costs nothing by the token is paid by the piece
    by_piece = ["output_cost_per_image"] if free and entry.get("output_cost_per_image") else []
    return [name for name in names if not _ASIDE.search(name)] + by_piece


def read_rates(entry: Mapping[str, object], *, inclusive: bool | None = None) -> Rates | None:
    """The rates of an entry, or None where tokens in or out have no price. Raises ValueError for what is no price.

    `tiered_pricing` counts where no price stands beside it.
    """
    inclusive = entry.get("litellm_provider") in _INCLUSIVE if inclusive is None else inclusive
    found = _found({**_tiered(entry.get("tiered_pricing")), **entry}, 1 if inclusive else 0)
    usual = found.get(("", 0), {})
    if "input" not in usual or "output" not in usual:
        return None
    made = _grade(found, "")
    names = sorted({service for service, _ in found if service})
    services = tuple((name, grade) for name in names if (grade := _grade(found, name)) != made)
    return replace(made, services=services)


def _found(entry: Mapping[str, object], less: int) -> Found:
    found: Found = {}
    # DeepSeek's entries have the one name or the other, or both
    hit = {"cache_read_input_token_cost": entry.get("input_cost_per_token_cache_hit")}
    for name, price in {**hit, **entry}.items():
        match = _PRICE.fullmatch(name)
        if match is None or price is None:
            continue
        above = int(match["above"] or 0) * (1000 if match["k"] else 1)
        place = (match["early"] or match["service"] or "", max(0, above - less))
        found.setdefault(place, {})[_NAMES[match["name"]]] = _pico(price)
    return found


def _grade(found: Found, service: str) -> Rates:
    """The rates of a grade of service; what has no price of its own there costs what it usually does."""
    priced = dict(found.get((service, 0), {})) if service else {}
    own = _distinct(_over(found["", 0], priced))
    made, tiers = _flat(own), []
    for above in sorted({above for name, above in found if above and name in ("", service)}):
        # a service that has no price there is not cheaper there than below
        usual = {kind: max(rate, priced.get(kind, 0)) for kind, rate in found.get(("", above), {}).items()}
        there = found.get((service, above), {}) if service else {}
        priced |= there
        own = _over(_over(own, usual), there)
        tiers.append((above, _flat(own)))
    return replace(made, tiers=tuple(tiers))


def _over(usual: Mapping[str, int], own: Mapping[str, int]) -> dict[str, int]:
    """`usual` where `own` says nothing. Reasoning goes with the output it is a part of."""
    rest = {kind: rate for kind, rate in usual.items() if kind != "reasoning" or "output" not in own}
    return {**rest, **own}


def _distinct(own: Mapping[str, int]) -> dict[str, int]:
    """Without the rates that only say again what text costs, so that above a threshold they do not stay behind."""
    again = {kind for kind in IN_PROMPT if own.get(kind) == own["input"]}
    again |= {kind for kind in IN_COMPLETION if own.get(kind) == own["output"]}
    return {kind: rate for kind, rate in own.items() if kind not in again}


def _flat(own: Mapping[str, int]) -> Rates:
    plain = ("input", "output", "cached_input")
    kinds = {kind: rate for kind, rate in own.items() if kind not in plain}
    made = Rates(own["input"], own["output"], own.get("cached_input"))
    return replace(made, kinds=Kinds(**kinds)) if kinds else made


def _tiered(table: object) -> dict[str, object]:
    """Alibaba's way to write tiers, a list with a range each, as prices with thresholds."""
    return dict(_thresholds(table)) if isinstance(table, list) else {}


def _thresholds(table: list[object]) -> Iterator[tuple[str, object]]:
    tiers = [tier for tier in table if isinstance(tier, dict) and len(tier.get("range") or ()) == 2]
    for index, tier in enumerate(sorted(tiers, key=lambda tier: float(tier["range"][0]))):
        ending = f"_above_{int(tier['range'][0])}_tokens" if index else ""
        # a tier that does not say what cached tokens cost has no price of their own for them
        for name, price in {"cache_read_input_token_cost": tier.get("input_cost_per_token"), **tier}.items():
            if name in _NAMES:
                yield name + ending, price


def _pico(price: object) -> int:
    # some prices were computed in floating point: 15 digits tell 4e-07 from 4.0000000000000003e-07
    return pico_usd(f"{price:.15g}" if isinstance(price, float) else price)
