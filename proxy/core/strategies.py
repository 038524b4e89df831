"""From a strategy's name and parameters to its batch."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.core.batch import Batch, Limits
from proxy.core.fixed import FixedBatch
from proxy.types import Strategy

if TYPE_CHECKING:
    import numpy as np


def batch_for(strategy: Strategy, rng: "Callable[[], np.random.Generator]") -> Batch:
    """A fresh batch for live use. `rng` is asked for a generator only by strategies that draw lots."""
    # numpy and scipy are a tenth of a second to import: only those who need them pay
    limits = Limits(strategy.max_samples, strategy.max_rounds)
    match strategy.name:
        case "off":
            return FixedBatch(1, limits)
        case "self_consistency":
            return FixedBatch(strategy.samples, limits)
        case "dynscaling":
            from proxy.core.dynscaling import DynScalingBatch

            return DynScalingBatch(
                unit=strategy.unit,
                thought_length=strategy.thought_length,
                exploration=strategy.exploration,
                mean_samples=strategy.mean_samples,
                target=strategy.target,
                limits=limits,
                rng=rng(),
            )
        case "optscale":
            from proxy.core.optscale import OptScaleBatch

            return OptScaleBatch(s_min=strategy.s_min, confidence=strategy.confidence, limits=limits)
