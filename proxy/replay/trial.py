"""One trial: the pool in a random order, each question's samples in a random order, played once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from proxy.core.strategies import rule_for
from proxy.replay.driver import Hand, drive, drive_timed
from proxy.replay.making import Maker, Setting
from proxy.replay.pool import Pool
from proxy.types import Strategy


@dataclass(frozen=True, slots=True)
class Deal:
    """The chances of one trial, the same for every strategy and budget (common random numbers).

    `queue` is the order of the questions, `orders` that of each question's samples, `lots` seeds the batches' own.
    """

    queue: tuple[int, ...]
    orders: tuple[tuple[int, ...], ...]
    lots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What one trial gave, in means a question. `accuracy` is over the questions with a gold answer, None if none has.

    `agreement` is the share of verdicts that are the pool's own plurality answer. `latency` is in tokens' time.
    """

    tokens: float
    samples: float
    rounds: float
    agreement: float
    accuracy: float | None
    latency: float


def shuffle(pool: Pool, seed: int, trial: int) -> Deal:
    """Deal the pool for one trial: without replacement, the same for the same seed."""
    rng = np.random.default_rng((seed, trial))
    queue = tuple(rng.permutation(len(pool.questions)).tolist())
    orders = tuple([tuple(rng.permutation(len(question.samples)).tolist()) for question in pool.questions])
    return Deal(queue, orders, (seed, trial, 1))


def play(pool: Pool, deal: Deal, strategy: Strategy, budget: float, setting: Setting) -> Trial:
    """Play the pool once, with `budget` multiples of one sample a question, batch after batch."""
    maker = Maker(strategy, budget, setting, pool, np.random.default_rng(deal.lots))
    run = drive_timed if setting.durations else drive
    hands: list[Hand] = []
    for group in _groups(deal.queue, setting):
        batch = maker.batch([pool.questions[query] for query in group])
        own = {query: Hand(pool.questions[query], deal.orders[query], setting.rounds) for query in group}
        run(batch, own, maker.purse(len(hands), len(hands) + len(group)))
        hands += own.values()
    return _count(hands, strategy)


def _groups(queue: Sequence[int], setting: Setting) -> Iterator[Sequence[int]]:
    size = 1 if setting.arrivals == "stream" else setting.batch_size or len(queue)
    for start in range(0, len(queue), size):
        yield queue[start : start + size]


def _count(hands: Sequence[Hand], strategy: Strategy) -> Trial:
    rule = rule_for(strategy)
    played = [(hand.verdict(rule), hand) for hand in hands]
    agree = sum(said == hand.question.plurality for said, hand in played)
    right = [said == hand.question.gold for said, hand in played if hand.question.gold is not None]
    return Trial(
        tokens=sum(hand.tokens for hand in hands) / len(hands),
        samples=sum(len(hand.ballots) for hand in hands) / len(hands),
        rounds=sum(hand.rounds for hand in hands) / len(hands),
        agreement=agree / len(hands),
        accuracy=sum(right) / len(right) if right else None,
        latency=sum(hand.end for hand in hands) / len(hands),
    )
