"""From a strategy's name and parameters to its batch and the rule of its vote."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.core.adaptive import AdaptiveBatch
from proxy.core.adaptive_consistency import AdaptiveConsistencyBatch
from proxy.core.bank import Bank
from proxy.core.batch import Batch, Limits
from proxy.core.early_stopping import EarlyStoppingBatch
from proxy.core.fixed import FixedBatch
from proxy.core.sequential import SequentialBatch
from proxy.core.vote import Rule
from proxy.types import Strategy

if TYPE_CHECKING:
    import numpy as np

    from proxy.core.dynscaling import DynScalingBatch

_SCORED = frozenset({"optscale", "best_of_n"})
_UNSCORED = frozenset({"off", "sp3"})


def scored(strategy: Strategy) -> bool:
    """Whether a verifier scores the samples of a strategy: where it looks at scores itself, or its vote does.

    One sample needs no score, and the samples of sp3 have the model's own grades.
    """
    return strategy.name in _SCORED or (strategy.verdict != "majority" and strategy.name not in _UNSCORED)


def rule_for(strategy: Strategy) -> Rule:
    """How the samples of a strategy vote: as its `verdict` says, but for best_of_n and sp3, which are what they are."""
    match strategy.name:
        case "best_of_n":
            return Rule(by="best")
        case "sp3":
            return Rule(by="best" if strategy.verdict == "best" else "weighted")
        case "dynscaling":
            return Rule(by=strategy.verdict, conditioned=strategy.votes == "conditioned")
        case "adaptive":
            # length is weak evidence, worth a tie of few ballots: shorter samples agree more often with the many
            return Rule(by=strategy.verdict, shorter=3)
        case _:
            return Rule(by=strategy.verdict)


def batch_for(
    strategy: Strategy, rng: "Callable[[], np.random.Generator]", bank: Callable[[float], Bank] = Bank
) -> Batch:
    """A fresh batch for live use.

    `rng` is asked for a generator only by strategies that draw lots, `bank` for the bank of a credit, in samples, by
    those that bank what they save; without one each batch has a bank of its own.
    """
    # numpy and scipy are a tenth of a second to import: only those who need them pay
    limits = Limits(strategy.max_samples, strategy.max_rounds)
    batch: Batch
    match strategy.name:
        case "off":
            batch = FixedBatch(1, limits)
        case "self_consistency" | "best_of_n":
            batch = FixedBatch(strategy.samples, limits)
        case "adaptive":
            samples = min(strategy.samples, strategy.max_samples)
            batch = AdaptiveBatch(mean_samples=samples, target=strategy.target, limits=limits, bank=bank(samples))
        case "dynscaling":
            batch = _dynscaling(strategy, limits, rng())
        case "optscale":
            from proxy.core.optscale import OptScaleBatch

            batch = OptScaleBatch(
                s_min=strategy.s_min, confidence=strategy.confidence, refit=strategy.refit, limits=limits
            )
        case "adaptive_consistency":
            # one draw a round would meet the round cap before it could stop
            width = -(-limits.max_samples // limits.max_rounds)
            batch = AdaptiveConsistencyBatch(threshold=strategy.threshold, width=width, limits=limits)
        case "early_stopping":
            batch = EarlyStoppingBatch(window=strategy.window, limits=limits)
        case "pets":
            from proxy.core.pets import PetsBatch

            batch = PetsBatch(mean_samples=strategy.mean_samples, width=None, subset=None, limits=limits)
        case "sp1" | "sp2" | "sp3" | "multi_round":
            batch = SequentialBatch(strategy.name, chains=strategy.chains, limits=limits)
    return batch


def _dynscaling(strategy: Strategy, limits: Limits, rng: "np.random.Generator") -> "DynScalingBatch":
    from proxy.core.dynscaling import DynScalingBatch

    return DynScalingBatch(
        unit=strategy.unit,
        thought_length=strategy.thought_length,
        exploration=strategy.exploration,
        uncertainty=strategy.uncertainty,
        votes=strategy.votes,
        integrated=strategy.integrated,
        dynamic=strategy.dynamic,
        subset=strategy.subset,
        mean_samples=strategy.mean_samples,
        target=strategy.target,
        limits=limits,
        rng=rng,
    )
