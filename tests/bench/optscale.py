"""OptScale measured: `python -m tests.bench.optscale [POOL...]`.

Three tables. How long a fit takes. On queries with truncated-normal scores of known mu and sigma: how often the best
score reaches s_min and how many samples that took, beside an oracle that knows mu and sigma and is held to the same
first draws and maximum. On recorded pools with real scores: the best-scored answer of OptScale beside best-of-N at
equal tokens, in a paired bootstrap over questions.
"""

import gzip
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from proxy.core.batch import Limits, Sample
from proxy.core.optscale import OptScaleBatch
from proxy.core.prior import Prior
from proxy.core.truncnorm import cdf, fit, samples_needed

Floats = NDArray[np.float64]
Make = Callable[[], OptScaleBatch]

S_MIN, CONFIDENCE = 0.9, 0.9
MUS = (0.5, 0.6, 0.7, 0.8, 0.9)
SIGMAS = (0.05, 0.1, 0.15, 0.2)
GRID = tuple(product(MUS, SIGMAS))
POOLS = Path(__file__).resolve().parents[3] / "shared" / "pools"
SCORED = ("qwen_math100_rm_8.jsonl.gz", "bayesprm_math_llama1b_prm_256.jsonl.gz")


def grid_prior() -> Prior:
    """What a history of the grid's own queries would teach."""
    return Prior(float(np.mean(MUS)), float(np.mean(SIGMAS)), float(np.std(MUS)), float(np.std(SIGMAS)))


def maker(max_samples: int, *, refit: str = "always", s_min: float = S_MIN, confidence: float = CONFIDENCE) -> Make:
    """Makes batches with a maximum of samples and no bound on rounds."""
    limits = Limits(max_samples, max_rounds=max_samples)
    return lambda: OptScaleBatch(
        s_min=s_min, confidence=confidence, refit="once" if refit == "once" else "always", limits=limits
    )


def served(batch: OptScaleBatch, scores: Sequence[float], prior: Prior | None, *, trickle: bool = False) -> int:
    """How many of `scores` a query starts, told in draw order, wave by wave; or one by one, as they `trickle` in."""
    batch.join(0, prior=prior)
    batch.close()
    waiting = list(batch.ask())
    while not batch.decided():
        now = 1 if trickle else len(waiting)
        for draw in waiting[:now]:
            batch.tell(Sample(draw.id, "a", scores[draw.id]))
        waiting = waiting[now:] + list(batch.ask())
    return batch.started


@dataclass(frozen=True, slots=True)
class Cell:
    """The queries of one mu and sigma: the share that reached s_min, the oracle's, and the mean samples of both."""

    mu: float
    sigma: float
    needed: int | None
    oracle: int
    reached: float
    sure: float
    samples: float

    @property
    def in_reach(self) -> bool:
        """Whether the oracle itself reaches the confidence within the maximum."""
        return self.needed is not None and self.needed <= self.oracle


def simulate(
    make: Make,
    prior: Prior | None = None,
    *,
    queries: int,
    seed: int,
    trickle: bool = False,
    laws: Sequence[tuple[float, float]] = GRID,
) -> list[Cell]:
    """A cell for each (mu, sigma), on the same uniform numbers for every policy."""
    first, most = make()._first(), make().limits.max_samples
    cells = []
    for mu, sigma in laws:
        rng = np.random.default_rng([seed, round(100 * mu), round(100 * sigma)])
        scores = truncated(rng.random((queries, most)), mu, sigma)
        taken = [served(make(), row, prior, trickle=trickle) for row in scores.tolist()]
        best = [row[:count].max() for row, count in zip(scores, taken, strict=True)]
        needed = samples_needed(mu, sigma, S_MIN, CONFIDENCE)
        oracle = most if needed is None else min(max(needed, first), most)
        sure = 1 - cdf(S_MIN, mu, sigma) ** oracle
        reached = float(np.mean(np.array(best) >= S_MIN))
        cells.append(Cell(mu, sigma, needed, oracle, reached, sure, float(np.mean(taken))))
    return cells


def truncated(uniform: Floats, mu: float, sigma: float) -> Floats:
    """Truncated-normal scores from uniform numbers, by inversion."""
    low, high = ndtr(-mu / sigma), ndtr((1 - mu) / sigma)
    scores: Floats = np.clip(mu + sigma * ndtri(low + (high - low) * uniform), 0.0, 1.0)
    return scores


@dataclass(frozen=True, slots=True)
class Question:
    """A recorded question: what each of its samples scored, took and got right."""

    scores: Floats
    tokens: Floats
    right: Floats


def read_pool(path: Path) -> list[Question]:
    """The questions of a recorded pool."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    questions = []
    for line in text.splitlines():
        samples = json.loads(line)["samples"]
        columns = ([sample[name] for sample in samples] for name in ("score", "tokens", "correct"))
        questions.append(Question(*(np.array(column, dtype=float) for column in columns)))
    return questions


@dataclass(frozen=True, slots=True)
class Duel:
    """OptScale against best-of-N on a pool: accuracies and mean tokens, and the 95 % interval of the difference."""

    s_min: float
    confidence: float
    optscale: float
    fixed: float
    tokens: float
    samples: float
    low: float
    high: float


def duel(pool: Sequence[Question], *, s_min: float, confidence: float, trials: int, seed: int) -> Duel:
    """Over random orders of each question's samples. Best-of-N's mean tokens are OptScale's, by mixing two N."""
    rng = np.random.default_rng(seed)
    most = min(64, *(len(question.scores) for question in pool))
    make = maker(most, s_min=s_min, confidence=confidence)
    right, tokens, counts = (np.zeros((len(pool), trials)) for _ in range(3))
    fixed_right, fixed_tokens = (np.zeros((most + 1, len(pool))) for _ in range(2))
    for place, question in enumerate(pool):
        for trial in range(trials):
            order = rng.permutation(len(question.scores))[:most]
            scores, spent = question.scores[order], np.cumsum(question.tokens[order])
            count = served(make(), scores.tolist(), None)
            best = [int(np.argmax(scores[:n])) for n in range(1, most + 1)]
            right[place, trial] = question.right[order[best[count - 1]]]
            tokens[place, trial] = spent[count - 1]
            counts[place, trial] = count
            fixed_right[1:, place] += question.right[order[best]] / trials
            fixed_tokens[1:, place] += spent / trials
    budget = float(tokens.mean())
    means = fixed_tokens.mean(axis=1)
    above = int(np.searchsorted(means, budget))
    share = (budget - means[above - 1]) / (means[above] - means[above - 1])
    fixed = (1 - share) * fixed_right[above - 1] + share * fixed_right[above]
    gains = right.mean(axis=1) - fixed
    again = gains[rng.integers(len(pool), size=(4000, len(pool)))].mean(axis=1)
    low, high = np.quantile(again, (0.025, 0.975)).tolist()
    mean_right = float(right.mean())
    return Duel(s_min, confidence, mean_right, float(fixed.mean()), budget, float(counts.mean()), low, high)


def fit_times(count: int = 300) -> Iterator[tuple[int, str, float, float]]:
    """CPU milliseconds of one fit, mean and worst, by the number of scores and the kind of fit."""
    prior = grid_prior()
    for size in (3, 10, 32, 64):
        for name, believed in (("MLE", None), ("MAP", prior)):
            rng = np.random.default_rng(size)
            rows = [truncated(rng.random(size), *law).tolist() for law in ((0.7, 0.1), (0.95, 0.1), (0.9, 0.3))]
            taken = []
            for row in rows * (count // 3):
                started = time.process_time()
                fit(row, believed)
                taken.append((time.process_time() - started) * 1e3)
            yield size, name, float(np.mean(taken)), max(taken)


def main(arguments: Sequence[str]) -> None:
    """Print the tables."""
    for line in report([Path(argument) for argument in arguments] or [POOLS / name for name in SCORED]):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def report(pools: Sequence[Path]) -> Iterator[str]:
    """The lines of all tables; pools that are not there are left out."""
    yield "CPU ms a fit: scores, kind, mean, worst"
    for size, name, mean, worst in fit_times():
        yield f"  {size:3} {name}  {mean:.3f}  {worst:.3f}"
    kinds = [
        ("MLE", None, "always"),
        ("MLE", None, "once"),
        ("MAP", grid_prior(), "always"),
        ("MAP", grid_prior(), "once"),
    ]
    for most in (8, 16, 32, 64):
        yield f"simulated, s_min {S_MIN}, confidence {CONFIDENCE}, at most {most}: cells that the oracle reaches; all"
        for kind, prior, refit in kinds:
            cells = simulate(maker(most, refit=refit), prior, queries=300, seed=1)
            yield from _summary(f"{kind} {refit}", cells)
        yield from _summary("trickling", simulate(maker(most), queries=100, seed=1, trickle=True))
    for path in (path for path in pools if path.is_file()):
        yield from _duels(path)


def _summary(name: str, cells: Sequence[Cell]) -> Iterator[str]:
    for shown in ([cell for cell in cells if cell.in_reach], cells):
        reached, sure = np.mean([cell.reached for cell in shown]), np.mean([cell.sure for cell in shown])
        worst = min(cell.reached - min(CONFIDENCE, cell.sure) for cell in shown)
        ratio = sum(cell.samples for cell in shown) / sum(cell.oracle for cell in shown)
        most = max(cell.samples / cell.oracle for cell in shown)
        yield (
            f"  {name:10} {len(shown):2} cells: reached {reached:.3f}, oracle {sure:.3f}, worst cell {worst:+.3f};"
            f" samples {ratio:.2f} of the oracle's, worst cell {most:.2f}"
        )


def _duels(path: Path) -> Iterator[str]:
    pool = read_pool(path)
    yield f"{path.name}: {len(pool)} questions; best verdict, OptScale against best-of-N at equal tokens"
    for s_min in (0.8, 0.9, 0.95, 0.97, 0.99):
        made = duel(pool, s_min=s_min, confidence=CONFIDENCE, trials=40, seed=1)
        gain = made.optscale - made.fixed
        yield (
            f"  s_min {s_min}: {made.samples:5.2f} samples, {made.tokens:6.0f} tokens: {made.optscale:.2%} against"
            f" {made.fixed:.2%}: {gain:+.2%} [{made.low:+.2%}, {made.high:+.2%}]"
            f" {'more' if made.low > 0 else 'less' if made.high < 0 else 'no difference shown'}"
        )
    yield "  Intervals are over questions. One that holds 0 shows no difference; few questions may never show one."


if __name__ == "__main__":
    main(sys.argv[1:])
