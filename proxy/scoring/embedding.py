"""Embeddings of texts, charged to the tenant like everything else."""

import asyncio
from collections.abc import Callable, Sequence
from math import isfinite

from proxy.errors import TallyError
from proxy.metering import Errand, Meter
from proxy.purse import Purse
from proxy.types import JSON
from proxy.upstream.routing import Route

_MOST_CHARS = 16_000


class Embedder:
    """Asks an embedding model, by OpenAI's `/embeddings`.

    `find` gives the model to ask (an `openai/` or `hosted_vllm/` one over plain HTTP, any other by LiteLLM);
    `clock` is monotonic seconds.
    """

    def __init__(self, meter: Meter, find: Callable[[], Route], *, clock: Callable[[], float]) -> None:
        self._meter = meter
        self._find = find
        self._clock = clock

    async def embed(self, purse: Purse, texts: Sequence[str], deadline: float) -> list[list[float]] | None:
        """A vector for each text, in their order, all of one length, by one call; of a long text its last 16,000
        characters.

        None when the call failed, was not answered by the `deadline`, or the budget does not hold it.
        """
        if not texts:
            return []
        if deadline <= self._clock():
            return None
        try:
            # a server refuses an empty text
            body = {"input": [text[-_MOST_CHARS:] or " " for text in texts]}
            reply = await self._meter.post(
                purse, self._find(), "embeddings", body, Errand("embedding"), deadline=deadline
            )
        except TallyError:
            return None
        # a hundred thousand numbers and more
        return None if reply is None else await asyncio.to_thread(_vectors, reply, len(texts))


def _vectors(reply: JSON, count: int) -> list[list[float]] | None:
    """The vectors in a reply by their `index`, or None unless there are `count`, all of one length."""
    data = reply.get("data")
    if not isinstance(data, list) or len(data) != count:
        return None
    found: dict[int, list[float]] = {}
    for place, item in enumerate(data):
        vector = _vector(item)
        index = item.get("index", place) if isinstance(item, dict) else None
        if vector is None or not isinstance(index, int):
            return None
        found[index] = vector
    whole = found.keys() == set(range(count)) and len({len(vector) for vector in found.values()}) == 1
    return [found[place] for place in range(count)] if whole else None


def _vector(item: object) -> list[float] | None:
    values = item.get("embedding") if isinstance(item, dict) else None
    if not isinstance(values, list) or not values:
        return None
    told = [float(value) for value in values if isinstance(value, int | float) and isfinite(value)]
    return told if len(told) == len(values) else None
