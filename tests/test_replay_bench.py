"""The benchmark of the core runs what it says it measures."""

import pytest

from proxy.replay.trial import shuffle
from tests.bench.core import CAP, MEAN, Case, cases, fit_table, made_pool, replayed


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_a_case_plays_a_pool_to_its_end_within_its_budget(case: Case) -> None:
    pool = made_pool(questions=12)
    draws = case.bare(pool)
    # what stops by itself has no budget; the last draw, or the last wave's, may cost more than is left
    most = 12 * (CAP if case.strategy.name == "adaptive_consistency" else MEAN * 1.25)
    assert 12 < draws <= most
    if case.setting is not None:
        assert 12 < replayed(pool, shuffle(pool, 0, 0), case.strategy, case.setting) <= 12 * CAP


def test_the_pool_is_made_of_its_seed_alone() -> None:
    assert made_pool(2, 8, seed=1) == made_pool(2, 8, seed=1) != made_pool(2, 8, seed=2)


def test_every_fit_is_a_line_of_the_table() -> None:
    assert fit_table().row_count == 4
