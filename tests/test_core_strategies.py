"""What each strategy's name stands for: its first draws, what it asks for, and how its samples vote."""

import numpy as np
import pytest

from proxy.core.bank import Bank
from proxy.core.batch import Sample
from proxy.core.strategies import batch_for, rule_for, scored
from proxy.core.vote import Rule
from proxy.types import STRATEGIES, Strategy, StrategyName

FIRST: dict[StrategyName, int] = {
    "off": 1,
    # all of `samples`
    "self_consistency": 6,
    "best_of_n": 6,
    # 3/2 of `samples` over the rounds
    "adaptive": 2,
    # the first half of a unit
    "dynscaling": 5,
    # a third of the most
    "optscale": 10,
    # what reaches the most in the rounds
    "adaptive_consistency": 6,
    "pets": 6,
    # a window
    "early_stopping": 5,
    # one a chain
    "sp1": 4,
    "sp2": 4,
    "sp3": 4,
    "multi_round": 4,
}


class Asked:
    """Makes what a batch asks for, and remembers it."""

    def __init__(self) -> None:
        self.lots: list[np.random.Generator] = []
        self.credits: list[float] = []

    def rng(self) -> np.random.Generator:
        self.lots.append(np.random.default_rng(0))
        return self.lots[-1]

    def bank(self, credit: float) -> Bank:
        self.credits.append(credit)
        return Bank(credit)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_starts_its_own_number_of_draws(name: StrategyName) -> None:
    asked = Asked()
    batch = batch_for(Strategy(name, samples=6, unit=9, max_samples=32), asked.rng, asked.bank)
    batch.join(0)
    assert len(batch.ask()) == FIRST[name]


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_dynscaling_draws_lots_and_only_adaptive_has_a_bank(name: StrategyName) -> None:
    asked = Asked()
    batch_for(Strategy(name), asked.rng, asked.bank)
    assert len(asked.lots) == (name == "dynscaling")
    assert len(asked.credits) == (name == "adaptive")


@pytest.mark.parametrize(("samples", "most", "credit"), [(6, 32, 6), (16, 5, 5), (1, 32, 1)])
def test_a_query_brings_its_samples_to_the_bank_and_no_more_than_it_may_draw(
    samples: int, most: int, credit: float
) -> None:
    asked = Asked()
    batch_for(Strategy("adaptive", samples=samples, max_samples=most), asked.rng, asked.bank)
    assert asked.credits == [credit]


def test_batches_that_are_given_the_same_bank_share_it_and_without_one_each_has_its_own() -> None:
    def draws(*, shared: bool) -> int:
        bank, asked = Bank(8), Asked()
        strategy = Strategy("adaptive", max_rounds=32)
        for feed in ("aaaaaaaa", "abcdefghijklmnopqrstuvwxyz"):
            batch = batch_for(strategy, asked.rng, lambda _: bank) if shared else batch_for(strategy, asked.rng)
            batch.join(0)
            batch.close()
            while asked_for := batch.ask():
                for draw in asked_for:
                    batch.tell(Sample(draw.id, feed[draw.id], tokens=10))
        return batch.started

    assert draws(shared=False) == 8
    assert draws(shared=True) == 8 + 6


@pytest.mark.parametrize("name", STRATEGIES)
def test_samples_vote_by_majority_but_for_scores_and_grades_and_what_is_configured(name: StrategyName) -> None:
    assert rule_for(Strategy(name)).by == {"best_of_n": "best", "sp3": "weighted"}.get(name, "majority")
    assert rule_for(Strategy(name, verdict="weighted")).by == {"best_of_n": "best"}.get(name, "weighted")
    assert rule_for(Strategy(name, verdict="best")).by == "best"
    assert rule_for(Strategy(name, votes="conditioned")).conditioned == (name == "dynscaling")


@pytest.mark.parametrize("name", STRATEGIES)
def test_samples_are_scored_where_a_strategy_or_its_vote_looks_at_scores(name: StrategyName) -> None:
    assert scored(Strategy(name)) == (name in {"optscale", "best_of_n"})
    # one sample wins anyway, and sp3 grades by itself
    assert scored(Strategy(name, verdict="weighted")) == (name not in {"off", "sp3"})


def test_a_plain_vote_asks_for_no_scores_and_no_conditioning() -> None:
    assert rule_for(Strategy("self_consistency")) == Rule()
