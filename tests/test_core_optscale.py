import pytest

from proxy.core.batch import NO_SCORES, QUALITY, ROUND_CAP, SAMPLE_CAP, Draw, Failure, Limits, Sample
from proxy.core.optscale import OptScaleBatch
from proxy.core.truncnorm import fit, samples_needed


def start(limits: Limits | None = None, *, probe: bool = False) -> tuple[OptScaleBatch, list[Draw]]:
    batch = OptScaleBatch(limits=limits or Limits())
    batch.join(0, probe=probe)
    batch.close()
    return batch, list(batch.ask())


def score(batch: OptScaleBatch, draws: list[Draw], scores: list[float | None]) -> None:
    for draw, value in zip(draws, scores, strict=True):
        batch.tell(Sample(draw.id, "a", value))


@pytest.mark.parametrize(
    ("max_samples", "first"), [(1, 1), (2, 2), (3, 2), (4, 2), (8, 3), (16, 5), (32, 10), (64, 20)]
)
def test_about_a_third_of_the_samples_come_first_and_at_least_two(max_samples: int, first: int) -> None:
    _, draws = start(Limits(max_samples))
    assert len(draws) == first


def test_scores_that_are_good_enough_decide_at_once() -> None:
    batch, draws = start(Limits(8))
    score(batch, draws, [0.97, 0.98, 0.99])
    assert batch.decided() == (0,)
    assert batch.reason(0) == QUALITY
    assert batch.ask() == ()


def test_nothing_is_concluded_before_the_first_draws_are_back() -> None:
    batch, draws = start(Limits(16))
    score(batch, draws[:4], [0.99, 0.98, 0.97, 0.99])
    assert batch.ask() == ()
    assert batch.decided() == ()


def test_what_is_lacking_to_the_number_needed_is_asked_at_once() -> None:
    scores: list[float] = [0.88, 0.92, 0.93, 0.94, 0.96]
    needed = samples_needed(*fit(scores), 0.95, 0.9)
    assert needed is not None
    assert 5 < needed < 16
    batch, draws = start(Limits(16))
    score(batch, draws, list(scores))
    assert len(batch.ask()) == needed - 5


def test_every_score_renews_the_number_needed_and_late_draws_are_only_accounted() -> None:
    batch, draws = start(Limits(16))
    score(batch, draws, [0.88, 0.92, 0.93, 0.94, 0.96])
    more = list(batch.ask())
    assert len(more) > 2
    score(batch, more[:2], [1.0, 1.0])
    assert batch.decided() == (0,)
    assert batch.reason(0) == QUALITY
    assert batch.outstanding == len(more) - 2
    batch.tell(Sample(more[2].id, "b", 0.1, tokens=3))
    assert batch.tokens == 3
    assert batch.ask() == ()


def test_draws_in_flight_count_towards_the_number_needed() -> None:
    scores = [0.8 + 0.008 * i for i in range(20)]
    needed, renewed = (samples_needed(*fit(found), 0.95, 0.9) for found in (scores, [*scores, 0.86]))
    assert needed is not None
    assert renewed is not None
    assert 20 < needed < renewed < 64
    batch, draws = start(Limits(64))
    score(batch, draws, [*scores])
    more = list(batch.ask())
    assert len(more) == needed - 20
    score(batch, more[:1], [0.86])
    assert len(batch.ask()) == renewed - needed


def test_poor_scores_are_drawn_on_to_the_sample_cap() -> None:
    batch, draws = start(Limits(8))
    score(batch, draws, [0.1, 0.2, 0.15])
    more = list(batch.ask())
    assert len(more) == 5
    score(batch, more, [0.1] * 5)
    assert batch.decided() == (0,)
    assert batch.reason(0) == SAMPLE_CAP


def test_the_round_cap_ends_a_query() -> None:
    batch, draws = start(Limits(8, max_rounds=1))
    score(batch, draws, [0.1, 0.2, 0.15])
    assert batch.decided() == (0,)
    assert batch.reason(0) == ROUND_CAP


@pytest.mark.parametrize("scores", [[None, None, None], [None, 0.99, None], [float("nan"), 0.99, None]])
def test_fewer_than_two_scores_end_a_query_with_a_reason(scores: list[float | None]) -> None:
    batch, draws = start(Limits(8))
    score(batch, draws, scores)
    assert batch.decided() == (0,)
    assert batch.reason(0) == NO_SCORES


def test_a_single_sample_that_the_cap_allows_is_the_caps_doing() -> None:
    batch, draws = start(Limits(1))
    score(batch, draws, [0.5])
    assert batch.decided() == (0,)
    assert batch.reason(0) == SAMPLE_CAP


def test_lost_draws_are_made_up_for() -> None:
    batch, draws = start(Limits(16))
    batch.tell(Failure(draws[0].id))
    score(batch, draws[1:], [0.88, 0.92, 0.94, 0.96])
    needed = samples_needed(*fit([0.88, 0.92, 0.94, 0.96]), 0.95, 0.9)
    assert needed is not None
    assert needed < 16
    assert len(batch.ask()) == needed - 4


def test_scores_outside_the_unit_interval_are_clipped() -> None:
    inside, draws = start(Limits(8))
    score(inside, draws, [0.0, 1.0, 1.0])
    outside, draws = start(Limits(8))
    score(outside, draws, [-3.0, 1.5, 7.0])
    assert len(outside.ask()) == len(inside.ask()) > 0


def test_a_probing_query_makes_the_rest_of_its_first_draws_once_the_probe_is_back() -> None:
    batch, draws = start(Limits(32), probe=True)
    assert len(draws) == 1
    score(batch, draws, [0.99])
    rest = list(batch.ask())
    assert len(rest) == 9
    score(batch, rest, [0.99] * 9)
    assert batch.reason(0) is None
    assert batch.decided() == (0,)
    assert batch.reason(0) == QUALITY


@pytest.mark.parametrize(("s_min", "confidence"), [(0.0, 0.9), (1.1, 0.9), (0.9, 0.0), (0.9, 1.0)])
def test_targets_that_make_no_sense_are_errors(s_min: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="s_min"):
        OptScaleBatch(s_min=s_min, confidence=confidence, limits=Limits())
