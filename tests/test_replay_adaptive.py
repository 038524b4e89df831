"""At equal tokens the adaptive strategy says what many samples would say at least as often as a fixed number does."""

from dataclasses import replace

import numpy as np
import pytest

from proxy.core.vote import Ballot
from proxy.replay.curves import Point, measure
from proxy.replay.making import Setting
from proxy.replay.pool import Pool, Question
from proxy.replay.trial import shuffle
from proxy.types import Strategy

TRIALS = 10
SAMPLES = 48


def question(rng: np.random.Generator, place: int, share: float, silent: float) -> Question:
    """A question whose first answer has this share of the samples that answer at all; doubtful ones take longer."""
    answers = rng.choice(["a", "b", "c", "d"], SAMPLES, p=[share, *[(1 - share) / 3] * 3])
    tokens = rng.integers(50, 150, SAMPLES) * (2 - share)
    return Question(
        str(place),
        "a",
        tuple(
            Ballot(None if mute else str(answer), tokens=int(length))
            for answer, length, mute in zip(answers, tokens, rng.random(SAMPLES) < silent, strict=True)
        ),
    )


def mixed(seed: int, silent: float = 0.05) -> Pool:
    """Sixty questions: a half that nearly all samples agree on, and a half of all degrees of doubt."""
    rng = np.random.default_rng(seed)
    shares = [*rng.uniform(0.9, 1.0, 30), *rng.uniform(0.35, 0.9, 30)]
    return Pool("mixed", tuple(question(rng, place, share, silent) for place, share in enumerate(shares)))


def played(pool: Pool, strategy: Strategy, budget: float, setting: Setting) -> Point:
    return measure(pool, [shuffle(pool, 1, trial) for trial in range(TRIALS)], strategy, budget, setting)


SETTINGS = {
    "batch": Setting(cap=SAMPLES),
    "batches": Setting(cap=SAMPLES, batch_size=16),
    "stream": Setting(cap=SAMPLES, arrivals="stream"),
    "rounds": Setting(cap=SAMPLES, rounds=4),
    "durations": Setting(cap=SAMPLES, durations=True),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("budget", [4, 8])
def test_at_equal_tokens_adaptive_agrees_with_the_pool_more_often_than_self_consistency(
    setting: Setting, budget: float
) -> None:
    pool = mixed(3)
    fixed = played(pool, Strategy("self_consistency"), budget, setting)
    adaptive = played(pool, Strategy("adaptive", target=1.0), budget, setting)
    assert fixed.tokens_x is not None
    assert adaptive.tokens_x is not None
    # the last sample may pass what is left
    assert adaptive.tokens_x <= max(fixed.tokens_x, budget) * 1.01
    # on this pool it is four points and more
    assert adaptive.agreement >= fixed.agreement + 0.02


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_target_saves_tokens(setting: Setting) -> None:
    pool = mixed(3)
    sure, any_doubt = (played(pool, Strategy("adaptive", target=target), 16, setting) for target in (0.8, 1.0))
    assert sure.samples < any_doubt.samples


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_questions_without_answers_and_samples_without_length_do_no_harm(setting: Setting) -> None:
    silent = Question("silent", None, (Ballot(None, tokens=0),) * SAMPLES)
    mute = Question("mute", None, (Ballot(None, tokens=100),) * SAMPLES)
    short = Question("short", "a", (Ballot("a", tokens=0), Ballot("b", tokens=0)) * (SAMPLES // 2))
    pool = Pool("odd", (*mixed(3).questions[::6], silent, mute, short))
    for unit in ("tokens", "samples"):
        found = played(pool, Strategy("adaptive", target=1.0), 8, replace(setting, unit=unit))
        assert found.agreement >= 0.8
        assert found.samples <= SAMPLES
