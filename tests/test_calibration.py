"""From a confidence to the chance of being right: what is learned, from what, and which of two sources counts."""

import math
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.calibration import LAST, Calibrator, calibration_file, read_calibrations
from proxy.core.calibration import FEWEST, Calibration, calibrate
from proxy.errors import ConfigError

Outcomes = list[tuple[float, bool]]
outcomes = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=FEWEST, max_size=80)


def simulated(count: int, intercept: float, slope: float, seed: int = 1) -> Outcomes:
    """Answers that are right with chance logistic(intercept + slope * logit(confidence))."""
    rng = random.Random(seed)
    told = [rng.uniform(0.3, 0.995) for _ in range(count)]
    chances = [1 / (1 + math.exp(-intercept - slope * math.log(c / (1 - c)))) for c in told]
    return [(c, rng.random() < chance) for c, chance in zip(told, chances, strict=True)]


@pytest.mark.parametrize(("intercept", "slope"), [(0.0, 1.0), (-1.0, 0.5), (1.0, 1.5), (0.5, 0.0)])
def test_a_known_mapping_is_recovered_from_simulated_answers(intercept: float, slope: float) -> None:
    found = calibrate(simulated(6000, intercept, slope))
    assert found is not None
    assert found.outcomes == 6000
    assert (found.intercept, found.slope) == pytest.approx((intercept, slope), abs=0.12)
    logit = math.log(0.9 / 0.1)
    assert found.chance(0.9) == pytest.approx(1 / (1 + math.exp(-intercept - slope * logit)), abs=0.03)


@given(outcomes, st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_whatever_was_learned_is_a_chance_and_never_falls(judged: Outcomes, told: list[float]) -> None:
    found = calibrate(judged)
    if found is None:
        assert len({right for _, right in judged}) == 1
        return
    chances = [found.chance(confidence) for confidence in sorted(told)]
    assert all(0 <= chance <= 1 for chance in chances)
    assert chances == sorted(chances)
    assert 0 <= found.chance(0.0) <= found.chance(1.0) <= 1


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_answers_says_nothing(rng: random.Random) -> None:
    judged = simulated(60, -0.5, 0.7)
    mixed = list(judged)
    rng.shuffle(mixed)
    one, other = calibrate(judged), calibrate(mixed)
    assert one is not None
    assert other is not None
    assert other.chance(0.8) == pytest.approx(one.chance(0.8), abs=1e-6)


def test_confidences_that_tell_the_wrong_way_round_teach_a_constant() -> None:
    found = calibrate([(0.9, False)] * 40 + [(0.2, True)] * 40)
    assert found is not None
    assert found.slope == 0
    assert found.chance(0.2) == found.chance(0.9) == pytest.approx(0.5, abs=0.05)


def test_few_answers_or_answers_of_one_kind_teach_nothing() -> None:
    judged = simulated(FEWEST, 0.0, 1.0)
    assert {right for _, right in judged} == {True, False}
    assert calibrate(judged) is not None
    assert calibrate(judged[1:]) is None
    assert calibrate([(0.9, True)] * 500) is None
    assert calibrate([(0.9, False)] * 500) is None


def test_few_answers_move_a_confidence_little_and_many_much() -> None:
    few, many = (calibrate([(0.9, True)] * half + [(0.9, False)] * half) for half in (15, 500))
    assert few is not None
    assert many is not None
    assert 0.5 < many.chance(0.9) < few.chance(0.9) < 0.9
    assert many.chance(0.9) < 0.52


class Ledger:
    """Judged answers by tenant and model, and how often they were asked for."""

    def __init__(self, kept: dict[tuple[str, str], Outcomes]) -> None:
        self.kept = kept
        self.reads: list[tuple[str, str, int]] = []

    async def __call__(self, tenant: str, model: str, limit: int) -> Outcomes:
        self.reads.append((tenant, model, limit))
        return self.kept.get((tenant, model), [])


FILE = {("small", "adaptive"): Calibration(0.0, 0.5, 100)}


def calibrator(read: Callable[[str, str, int], Awaitable[Outcomes]], now: list[float]) -> Calibrator:
    return Calibrator(read, FILE, clock=lambda: now[0])


@pytest.mark.anyio
async def test_feedback_counts_before_the_file_once_there_is_enough_of_it() -> None:
    ledger = Ledger({("acme", "small"): simulated(FEWEST - 1, -1.0, 0.5)})
    now = [0.0]
    found = calibrator(ledger, now)
    assert await found.of("acme", "small", "adaptive") == FILE["small", "adaptive"]
    assert await found.of("acme", "small", "pets") is None
    ledger.kept["acme", "small"] = simulated(FEWEST, -1.0, 0.5)
    now[0] = 60.0
    learned = await found.of("acme", "small", "adaptive")
    assert learned is not None
    assert learned == calibrate(simulated(FEWEST, -1.0, 0.5)) == await found.of("acme", "small", "pets")
    assert await found.of("other", "small", "adaptive") == FILE["small", "adaptive"]
    assert await found.of("acme", "large", "adaptive") is None


@pytest.mark.anyio
async def test_the_ledger_is_read_once_a_minute_for_each_tenant_and_model() -> None:
    ledger = Ledger({})
    now = [5.0]
    found = calibrator(ledger, now)
    for at in (5.0, 64.9, 65.0, 100.0):
        now[0] = at
        await found.of("acme", "small", "adaptive")
        await found.of("acme", "small", "pets")
    assert ledger.reads == [("acme", "small", LAST)] * 2
    await found.of("acme", "large", "adaptive")
    assert ledger.reads[2:] == [("acme", "large", LAST)]


def test_a_file_says_what_was_written_into_it(tmp_path: Path) -> None:
    known = {("small", "adaptive"): Calibration(-0.25, 0.5, 100), ("other/model", "pets"): Calibration(1.0, 0.0, 30)}
    path = tmp_path / "calibration.json"
    path.write_bytes(calibration_file(known))
    assert read_calibrations(path) == known


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Invalid JSON"),
        ("{}", "calibrations: Field required"),
        ('{"calibrations": [{"model": "m", "strategy": "pets", "intercept": 0, "slope": -1, "outcomes": 9}]}', "slope"),
        ('{"calibrations": [{"model": "m", "strategy": "x", "intercept": 0, "slope": 1, "outcomes": 9}]}', "strategy"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason) as raised:
        read_calibrations(path)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.json: cannot be read: No such file"):
        read_calibrations(tmp_path / "nothing.json")
