"""An evaluation in a few numbers a strategy."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from proxy.evaluation.asking import Failed, Result
from proxy.evaluation.stats import quantile, sign_test, wilson
from proxy.money import NANO_PER_USD


@dataclass(frozen=True, slots=True)
class Paired:
    """A strategy beside another on the questions that both answered.

    `better` and `worse` count those that only the one or only the other got right; `p` is the exact sign test's.
    """

    versus: str
    questions: int
    better: int
    worse: int

    @property
    def difference(self) -> float:
        """The difference of the two accuracies."""
        return (self.better - self.worse) / self.questions if self.questions else 0.0

    @property
    def p(self) -> float:
        """The chance of a difference as large, or larger, if the two were equally good."""
        return sign_test(self.better, self.worse)


@dataclass(frozen=True, slots=True)
class Summary:
    """One strategy over the questions it answered: means a question, latencies in seconds.

    `asked` counts all questions, `unscaled` those that were answered by another strategy than was asked for.
    """

    strategy: str
    asked: int
    answered: int
    failed: int
    right: int
    tokens: float
    cost_usd: float
    samples: float
    p50_s: float
    p95_s: float
    unscaled: tuple[tuple[str, int], ...]
    paired: Paired | None

    @property
    def accuracy(self) -> float:
        """The share of right answers, in [0, 1]."""
        return self.right / self.answered if self.answered else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy (Wilson)."""
        return wilson(self.right, self.answered)


def summarise(asked: int, results: Mapping[str, Sequence[Result]], failures: Sequence[Failed]) -> tuple[Summary, ...]:
    """A summary a strategy, in the order of `results`; each is paired with `off`, or else with the first one."""
    lost = Counter(failure.strategy for failure in failures)
    versus = "off" if "off" in results else next(iter(results))
    found = []
    for strategy, answers in results.items():
        paired = None if strategy == versus else _paired(versus, results[versus], answers)
        found.append(_summary(strategy, asked, answers, lost[strategy], paired))
    return tuple(found)


def _summary(strategy: str, asked: int, answers: Sequence[Result], failed: int, paired: Paired | None) -> Summary:
    others = Counter(f"{answer.served}: {answer.reason}" for answer in answers if answer.served != strategy)
    latencies = [answer.latency_s for answer in answers] or [0.0]
    return Summary(
        strategy=strategy,
        asked=asked,
        answered=len(answers),
        failed=failed,
        right=sum(answer.correct for answer in answers),
        tokens=_mean([answer.tokens for answer in answers]),
        cost_usd=_mean([answer.cost_nano for answer in answers]) / NANO_PER_USD,
        samples=_mean([answer.samples for answer in answers]),
        p50_s=quantile(latencies, 0.5),
        p95_s=quantile(latencies, 0.95),
        unscaled=tuple(others.most_common()),
        paired=paired,
    )


def _paired(versus: str, others: Sequence[Result], answers: Sequence[Result]) -> Paired:
    known = {other.id: other.correct for other in others}
    both = [(answer.correct, known[answer.id]) for answer in answers if answer.id in known]
    better = sum(mine and not theirs for mine, theirs in both)
    worse = sum(theirs and not mine for mine, theirs in both)
    return Paired(versus, len(both), better, worse)


def _mean(values: Sequence[int]) -> float:
    return fmean(values) if values else 0.0
