"""What deciding costs: `python -m tests.bench.core`.

CPU time of one process; no model, no network, no clock but the processor's. Three tables: microseconds a draw of each
strategy, by itself and dealt by replay; milliseconds a fit of OptScale; seconds of a whole `tally replay`. The pool is
made from a seed, shaped like recorded ones of a reasoning model on hard multiple-choice questions.

Times are medians of several runs after a first one, which alone fills the tables that a process keeps (the gains of
`adaptive`: about 0.15 s for all counts up to 64). What `tally replay` takes holds all of that, and imports too.
"""

import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from proxy.core.adaptive import AdaptiveBatch
from proxy.core.adaptive_consistency import AdaptiveConsistencyBatch
from proxy.core.bank import Bank
from proxy.core.batch import Batch, Limits, Sample
from proxy.core.dynscaling import DynScalingBatch, Mode
from proxy.core.fixed import FixedBatch
from proxy.core.pets import PetsBatch
from proxy.core.prior import Prior
from proxy.core.truncnorm import fit
from proxy.core.vote import Ballot
from proxy.replay.making import REPLAYABLE, Setting
from proxy.replay.pool import Pool, Question
from proxy.replay.trial import Deal, play, shuffle
from proxy.types import Strategy, StrategyName

QUERIES, SAMPLES = 198, 80
MEAN = 16
RUNS = 5
CAP = 64
AIM_DRAW_US, AIM_FIT_MS, AIM_REPLAY_S = 20.0, 2.0, 10.0
FREE = Limits(CAP, CAP)
FEW = Limits(CAP, 4)


def made_pool(questions: int = QUERIES, samples: int = SAMPLES, seed: int = 0) -> Pool:
    """Four answers a question; the share of the first goes from a quarter to one, and doubt makes samples longer."""
    rng = np.random.default_rng(seed)
    return Pool("made", tuple(_question(str(place), samples, rng) for place in range(questions)))


def _question(name: str, samples: int, rng: np.random.Generator) -> Question:
    share = 0.25 + 0.75 * rng.beta(1.2, 0.6)
    others = rng.dirichlet(np.ones(3)) * (1 - share)
    labels = rng.choice(list("ABCD"), size=samples, p=[share, *others]).tolist()
    tokens = rng.lognormal(8.5 - share, 0.4, samples).astype(int).tolist()
    scores = rng.beta(1 + 4 * share, 2, samples).tolist()
    return Question(name, "A", tuple(map(Ballot, labels, scores, tokens)))


Bare = Callable[[Pool], int]
"""Plays a pool with nothing around the core; returns how many draws were told."""


def closed(make: Callable[[], Batch], pool: Pool) -> int:
    """All questions in one batch, its draws told as they were asked."""
    batch = make()
    for query in range(len(pool.questions)):
        batch.join(query)
    batch.close()
    return run(batch, [question.samples for question in pool.questions])


def stream(make: Callable[[Bank], Batch], credit: float, pool: Pool) -> int:
    """One question after the other, each a batch of its own, with one bank."""
    bank = Bank(credit)
    told = 0
    for question in pool.questions:
        batch = make(bank)
        batch.join(0)
        batch.close()
        told += run(batch, [question.samples])
    return told


def run(batch: Batch, samples: Sequence[Sequence[Ballot]]) -> int:
    """Ask and tell to the end, `samples` by query; returns how many draws were told."""
    nexts = [iter(own) for own in samples]
    while draws := batch.ask():
        for draw in draws:
            sample = next(nexts[draw.query])
            batch.tell(Sample(draw.id, sample.label, sample.score, sample.tokens, sample.tokens))
    return batch.started


@dataclass(frozen=True, slots=True)
class Case:
    """A strategy by itself, and the same in replay (None: replay has no such mode)."""

    name: str
    bare: Bare
    strategy: Strategy
    setting: Setting | None


def cases() -> list[Case]:
    """What is measured a draw."""
    stepwise = Setting(cap=CAP)
    return [
        Case(
            "self_consistency", partial(closed, lambda: FixedBatch(MEAN, FREE)), Strategy("self_consistency"), stepwise
        ),
        Case("dynscaling exact", partial(closed, partial(_dynscaling, "exact")), Strategy("dynscaling"), stepwise),
        Case("dynscaling live", partial(closed, partial(_dynscaling, "live")), Strategy("dynscaling"), None),
        Case("adaptive", partial(closed, partial(_adaptive, FREE)), Strategy("adaptive", target=1.0), stepwise),
        Case(
            "adaptive, 4 rounds",
            partial(closed, partial(_adaptive, FEW)),
            Strategy("adaptive", target=1.0),
            Setting(cap=CAP, rounds=4),
        ),
        Case(
            "adaptive, a stream",
            partial(stream, partial(_adaptive, FEW), MEAN),
            Strategy("adaptive", target=1.0),
            Setting(cap=CAP, rounds=4, arrivals="stream"),
        ),
        Case("pets", partial(closed, lambda: PetsBatch(mean_samples=MEAN, limits=FREE)), Strategy("pets"), stepwise),
        Case(
            "adaptive_consistency",
            partial(closed, lambda: AdaptiveConsistencyBatch(limits=FREE)),
            Strategy("adaptive_consistency"),
            stepwise,
        ),
    ]


def _dynscaling(mode: Mode) -> Batch:
    limits = FREE if mode == "exact" else Limits(CAP, 6)
    return DynScalingBatch(mode=mode, mean_samples=MEAN, limits=limits, rng=np.random.default_rng(0))


def _adaptive(limits: Limits, bank: Bank | None = None) -> Batch:
    return AdaptiveBatch(mean_samples=MEAN, limits=limits, bank=bank)


def replayed(pool: Pool, deal: Deal, strategy: Strategy, setting: Setting) -> int:
    """One trial in replay; returns how many draws were dealt."""
    return round(play(pool, deal, strategy, MEAN, setting).samples * len(pool.questions))


def a_draw(plays: Callable[[], int]) -> tuple[float, int]:
    """Microseconds of CPU a draw, the median of several runs after one that warms up; and the draws of a run."""
    draws = plays()
    return 1e6 * _median(plays) / draws, draws


def _median(work: Callable[[], object]) -> float:
    """Seconds of CPU."""
    return statistics.median(_seconds(work) for _ in range(RUNS))


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def draw_table(pool: Pool) -> Table:
    """Microseconds a draw."""
    table = _table(
        f"CPU a draw, {len(pool.questions)} questions, {MEAN} samples each in the mean",
        "strategy",
        "draws",
        "core us",
        "with replay us",
        f"aim {AIM_DRAW_US:g} us",
    )
    deal = shuffle(pool, 0, 0)
    for case in cases():
        bare, draws = a_draw(partial(case.bare, pool))
        dealt = "-"
        if case.setting is not None:
            dealt = f"{a_draw(partial(replayed, pool, deal, case.strategy, case.setting))[0]:.1f}"
        table.add_row(case.name, f"{draws}", f"{bare:.1f}", dealt, _kept(bare, AIM_DRAW_US))
    return table


def fit_table() -> Table:
    """Milliseconds a fit of the truncated normal."""
    table = _table("CPU a fit of OptScale", "fit", "scores", "ms", f"aim {AIM_FIT_MS:g} ms")
    rng = np.random.default_rng(0)
    for size in (8, 64):
        rows = [rng.beta(4, 2, size).tolist() for _ in range(50)]
        for name, prior in (("MLE", None), ("MAP", Prior(0.7, 0.12, 0.1, 0.03))):
            taken = 1e3 * _median(partial(_fits, rows, prior)) / len(rows)
            table.add_row(name, f"{size}", f"{taken:.3f}", _kept(taken, AIM_FIT_MS))
    return table


def _fits(rows: Sequence[Sequence[float]], prior: Prior | None) -> None:
    for row in rows:
        fit(row, prior)


def replay_rows(pool: Pool) -> Iterator[tuple[StrategyName, float]]:
    """CPU seconds of `tally replay` at budget 8 with 10 trials, from start to end of the process, by strategy."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "made.jsonl.gz"
        file.write_bytes(gzip.compress(b"\n".join(map(_line, pool.questions)), 1))
        for name in REPLAYABLE:
            options = ["--strategy", name, "--budget", "8", "--trials", "10", "--json"]
            before = os.times()
            subprocess.run(
                [sys.executable, "-m", "proxy", "replay", str(file), *options], check=True, capture_output=True
            )
            after = os.times()
            yield (
                name,
                after.children_user + after.children_system - before.children_user - before.children_system,
            )


def _line(question: Question) -> bytes:
    samples = [{"answer": sample.label, "tokens": sample.tokens, "score": sample.score} for sample in question.samples]
    return orjson.dumps({"id": question.id, "gold": question.gold, "samples": samples})


def replay_table(pool: Pool) -> Table:
    """Seconds a strategy."""
    size = f"{len(pool.questions)} x {len(pool.questions[0].samples)}"
    table = _table(
        f"CPU of tally replay, {size}, budget 8, 10 trials", "strategy", "seconds", f"aim {AIM_REPLAY_S:g} s"
    )
    for name, seconds in replay_rows(pool):
        table.add_row(name, f"{seconds:.1f}", _kept(seconds, AIM_REPLAY_S))
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(first, title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _kept(value: float, aim: float) -> str:
    return "kept" if value <= aim else f"{value / aim:.1f} x"


def main() -> None:
    """Print the three tables."""
    console = Console(highlight=False)
    pool = made_pool()
    console.print(draw_table(pool))
    console.print(fit_table())
    console.print(replay_table(pool))


if __name__ == "__main__":
    main()
