"""The rows of a call: its usage shared out over its choices."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from proxy.ledger import DrawRow
from proxy.money import Rates


def rows(whole: DrawRow, rates: Rates, shares: Sequence[int], finish: Mapping[int, str | None]) -> tuple[DrawRow, ...]:
    """A row a choice: the prompt with the first, completions in proportion to `shares`, costs that sum to the call's.

    `whole` is the call as one row: its `id` is the call's, its `index` the first choice's. `finish` are the
    finish_reasons by choice.
    """
    made = []
    charged = completion = 0
    for place, part in enumerate(_split(whole.completion_tokens, shares)):
        completion += part
        total = rates.cost(whole.prompt_tokens, completion, whole.cached_tokens)
        made.append(
            replace(
                whole,
                id=row_id(whole.id, place),
                index=whole.index + place,
                prompt_tokens=0 if place else whole.prompt_tokens,
                cached_tokens=0 if place else whole.cached_tokens,
                completion_tokens=part,
                reasoning_tokens=0 if place else whole.reasoning_tokens,
                cost_nano=total - charged,
                finish_reason=finish.get(place),
            )
        )
        charged = total
    return tuple(made)


def row_id(call: str, place: int) -> str:
    """The id of the row of the choice at `place` of a call."""
    return f"{call}:{place}"


def _split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts in proportion to `weights`; evenly where nothing was weighed."""
    if not any(weights):
        weights = [1] * len(weights)
    whole, parts, seen, given = sum(weights), [], 0, 0
    for weight in weights:
        seen += weight
        parts.append(total * seen // whole - given)
        given += parts[-1]
    return parts
