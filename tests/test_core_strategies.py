import numpy as np
import pytest

from proxy.core.strategies import batch_for
from proxy.types import Strategy, StrategyName


@pytest.mark.parametrize(
    ("name", "first", "lots"),
    [("off", 1, 0), ("self_consistency", 6, 0), ("dynscaling", 5, 1), ("optscale", 10, 0)],
)
def test_every_strategy_starts_its_own_number_of_draws_and_only_dynscaling_draws_lots(
    name: StrategyName, first: int, lots: int
) -> None:
    generators = []

    def rng() -> np.random.Generator:
        generators.append(np.random.default_rng(0))
        return generators[-1]

    batch = batch_for(Strategy(name, samples=6, unit=9, max_samples=32), rng)
    batch.join(0)
    assert len(batch.ask()) == first
    assert len(generators) == lots
