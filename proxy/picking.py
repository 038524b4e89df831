"""Which of the samples of free prose is returned: the most central one, or the one that a model names."""

import asyncio
from collections.abc import Callable, Sequence

from proxy.answers.central import candidates, central, nearest, picks, shortened
from proxy.conditioning import said
from proxy.core.strategies import rule_for
from proxy.query import Drawn, Query
from proxy.scoring.embedding import Embedder
from proxy.scoring.universal import Universal
from proxy.types import Plan

_CENTRE = 3
"""Of two texts neither is more central."""


def to_pick(plan: Plan) -> bool:
    """Whether a plan has one of its samples picked."""
    return picks(plan.answer) and plan.strategy.name != "off"


class Picker:
    """Picks a sample of each query of free prose. `clock` is monotonic.

    With an `embedder` the centre is found by meaning, else, and where that fails, by the words that texts share. What
    grows with the texts runs in threads: many long ones take longer than the event loop may stand still.
    """

    def __init__(self, universal: Universal, embedder: Embedder | None = None, *, clock: Callable[[], float]) -> None:
        self._universal = universal
        self._embedder = embedder
        self._clock = clock

    async def pick(self, query: Query) -> None:
        """Set `pick` of a query to one of its samples, and `picked` to what really decided.

        Nothing is picked of a query without samples, nor where the best score decides and there is one. Of fewer than
        three candidates the first is taken unless a model names another.
        """
        samples = query.in_order()
        query.picked = "none"
        if not samples or _scored(query, samples):
            return
        kept, texts = await asyncio.to_thread(_candidates, samples)
        place = await self._named(query, texts) if query.plan.answer.pick == "universal" else None
        if place is not None:
            query.picked = "universal"
        elif len(kept) >= _CENTRE:
            place = await self._centre(query, texts)
            query.picked = "central"
        query.pick = kept[place or 0].draw.id

    async def _named(self, query: Query, texts: Sequence[str]) -> int | None:
        """The text that the model names, if it does so in time; texts that are all the same are not worth a call."""
        left = query.deadline - self._clock()
        if left <= 0 or len(set(texts)) == 1:
            return None
        try:
            async with asyncio.timeout(left):
                return await self._universal.choose(query.purse, query.route, query.request, texts, query.deadline)
        except TimeoutError:
            return None

    async def _centre(self, query: Query, texts: Sequence[str]) -> int:
        scores = await self._meant(query, texts)
        if scores is None:
            scores = await asyncio.to_thread(central, texts)
        # max() keeps the first of equals, which is the earliest
        return max(range(len(texts)), key=scores.__getitem__)

    async def _meant(self, query: Query, texts: Sequence[str]) -> list[float] | None:
        """How near each text is to the others by its embedding; None where that cannot be told in time."""
        if self._embedder is None or len(set(texts)) == 1:
            return None
        vectors = await self._embedder.embed(query.purse, [shortened(text) for text in texts], query.deadline)
        return None if vectors is None else await asyncio.to_thread(nearest, vectors)


def _candidates(samples: Sequence[Drawn]) -> tuple[list[Drawn], list[str]]:
    """The samples that may be picked, and what each of them says."""
    kept = [samples[place] for place in candidates([sample.choice for sample in samples])]
    return kept, [_text(sample) for sample in kept]


def _text(sample: Drawn) -> str:
    """What a sample says: its visible text and the tools it calls, else the provider's own word for its refusal."""
    return said(sample.choice) or str(sample.choice.message.get("refusal") or "")


def _scored(query: Query, samples: Sequence[Drawn]) -> bool:
    best = rule_for(query.plan.strategy).by == "best"
    return best and any(sample.score is not None for sample in samples)
