"""The rows of a call: its usage shared out over its choices."""

from collections.abc import Mapping, Sequence

from proxy.ledger import DrawRow


def rows(
    whole: DrawRow, parts: Sequence[int], costs: Sequence[int], finish: Mapping[int, str | None]
) -> tuple[DrawRow, ...]:
    """A row a choice: the prompt with the first, and of each its completion's tokens (`parts`) and its cost.

    `whole` is the call as one row: its `id` is the call's, its `index` the first choice's. `finish` are the
    finish_reasons by choice.
    """
    # written out: copying with `replace` takes three times as long, and there are very many
    return tuple(
        [
            DrawRow(
                id=row_id(whole.id, place),
                purpose=whole.purpose,
                round=whole.round,
                index=whole.index + place,
                status=whole.status,
                model=whole.model,
                deployment=whole.deployment,
                prompt_tokens=0 if place else whole.prompt_tokens,
                cached_tokens=0 if place else whole.cached_tokens,
                completion_tokens=part,
                reasoning_tokens=0 if place else whole.reasoning_tokens,
                cost_nano=cost,
                estimated=whole.estimated,
                finish_reason=finish.get(place),
                latency_ms=whole.latency_ms,
                samples=whole.samples,
            )
            for place, (part, cost) in enumerate(zip(parts, costs, strict=True))
        ]
    )


def row_id(call: str, place: int) -> str:
    """The id of the row of the choice at `place` of a call."""
    return f"{call}:{place}"


def split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts in proportion to `weights`; evenly where nothing was weighed."""
    if not any(weights):
        weights = [1] * len(weights)
    whole, parts, seen, given = sum(weights), [], 0, 0
    for weight in weights:
        seen += weight
        parts.append(total * seen // whole - given)
        given += parts[-1]
    return parts
