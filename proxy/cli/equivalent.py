"""The answers of recorded pools, as groups that count as the same: by the rules of live replies, and by algebra."""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from proxy.answers import Algebra, Groups
from proxy.answers.workers import Workers
from proxy.evaluation.questions import said
from proxy.replay.pool import Pool, Question
from proxy.types import AnswerSpec

_AT_A_TIME = 4
_SPEC = AnswerSpec("math")


def equivalent(pools: Sequence[Pool], tick: Callable[[], None]) -> list[Pool]:
    """Pools whose labels are texts, with the labels of their groups instead; `tick` is called for each question.

    Each question's different answers are grouped in the order in which they were drawn, the gold answer last. A text
    that says nothing abstains, and a gold answer that says nothing is not known.
    """
    return asyncio.run(_grouped(pools, tick))


async def _grouped(pools: Sequence[Pool], tick: Callable[[], None]) -> list[Pool]:
    found: dict[tuple[int, int], Question] = {}
    waiting = ((key, pool.questions[key[1]]) for key, pool in _places(pools))

    async def work(algebra: Algebra) -> None:
        for key, question in waiting:
            found[key] = await _relabelled(question, algebra)
            tick()

    async with Workers(clock=time.monotonic) as algebra, asyncio.TaskGroup() as tasks:
        for _ in range(_AT_A_TIME):
            tasks.create_task(work(algebra))
    return [
        replace(pool, questions=tuple(found[index, place] for place in range(len(pool.questions))))
        for index, pool in enumerate(pools)
    ]


def _places(pools: Sequence[Pool]) -> list[tuple[tuple[int, int], Pool]]:
    return [((index, place), pool) for index, pool in enumerate(pools) for place in range(len(pool.questions))]


async def _relabelled(question: Question, algebra: Algebra) -> Question:
    texts = list(dict.fromkeys([*(sample.label for sample in question.samples), question.gold]))
    answers = [said(text, _SPEC.kind) if isinstance(text, str) else None for text in texts]
    labels: dict[Hashable, Hashable] = dict(zip(texts, await Groups(_SPEC, algebra).in_order(answers), strict=True))
    samples = tuple(replace(sample, label=labels[sample.label]) for sample in question.samples)
    return replace(question, gold=labels[question.gold], samples=samples)
