import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.rate import admit

moments = st.floats(0, 2e9)
rates = st.integers(1, 3000)


@settings(deadline=None)
@given(moments, st.integers(1, 300))
def test_from_idle_exactly_a_minutes_worth_passes_at_one_moment(now: float, per_minute: int) -> None:
    tat = 0
    for left in range(per_minute - 1, -1, -1):
        passed = admit(tat, now, per_minute)
        assert passed.allowed
        assert passed.remaining == left
        assert passed.retry_after == 0
        tat = passed.tat
    refused = admit(tat, now, per_minute)
    assert not refused.allowed
    assert refused.tat == tat
    assert refused.remaining == 0
    assert refused.retry_after == pytest.approx(60 / per_minute, abs=2e-6)


@settings(deadline=None)
@given(moments, rates, st.integers(1, 50))
def test_the_refused_pass_after_the_wait_they_were_told_and_not_before(now: float, per_minute: int, burst: int) -> None:
    tat = 0
    for _ in range(burst):
        tat = admit(tat, now, per_minute, burst).tat
    wait = admit(tat, now, per_minute, burst).retry_after
    assert not admit(tat, now + wait - 4e-6, per_minute, burst).allowed
    after = admit(tat, now + wait + 1e-6, per_minute, burst)
    assert after.allowed
    assert after.remaining == 0


@settings(deadline=None)
@given(rates, st.integers(1, 20), st.lists(st.floats(0, 3), max_size=60))
def test_no_stretch_of_time_lets_more_pass_than_burst_and_rate_allow(
    per_minute: int, burst: int, gaps: list[float]
) -> None:
    tat, now, passed = 0, 1000.0, []
    for gap in gaps:
        now += gap
        answer = admit(tat, now, per_minute, burst)
        tat = answer.tat
        if answer.allowed:
            passed.append(now)
    for first, start in enumerate(passed):
        for last, end in enumerate(passed[first:], first):
            assert last - first + 1 <= burst + (end - start) * per_minute / 60 + 1e-5


@settings(deadline=None)
@given(st.lists(st.floats(0, 120), max_size=30), rates)
def test_what_remains_is_what_then_passes(gaps: list[float], per_minute: int) -> None:
    tat, now, burst = 0, 0.0, 5
    for gap in gaps:
        now += gap
        answer = admit(tat, now, per_minute, burst)
        tat = probe = answer.tat
        for _ in range(answer.remaining):
            more = admit(probe, now, per_minute, burst)
            assert more.allowed
            probe = more.tat
        assert not admit(probe, now, per_minute, burst).allowed


def test_a_key_that_rested_has_its_full_burst_again_and_no_more() -> None:
    tat = admit(0, 100.0, 60, 3).tat
    assert admit(tat, 1000.0, 60, 3).remaining == 2


def test_a_rate_or_burst_below_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        admit(0, 0.0, 0)
    with pytest.raises(ValueError, match="at least 1"):
        admit(0, 0.0, 60, 0)
