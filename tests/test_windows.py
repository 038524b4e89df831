"""Budget windows: the grammar of durations, and where windows begin and end."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.windows import parse_duration, window

DURATIONS = ["30s", "30m", "24h", "1d", "2d", "7d", "1w", "1mo", "3mo", "daily", "weekly", "monthly"]
times = st.floats(0, 4e9)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("30s", (30, "s")), ("5m", (5, "m")), ("24h", (24, "h")), ("1mo", (1, "mo")), ("weekly", (1, "w"))],
)
def test_a_duration_is_a_number_and_a_unit_or_a_name(text: str, parsed: tuple[int, str]) -> None:
    assert parse_duration(text) == parsed


@pytest.mark.parametrize(
    "text", ["", "1", "d", "0d", "-1d", "1.5h", "1 d", "1y", "1D", "yearly", "1d\n", "1234567s", "\u0661d"]
)
def test_what_is_no_duration_is_named_in_the_error(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


def test_without_a_duration_the_window_is_for_ever() -> None:
    assert window(None, at("2026-02-03"), None) == (0.0, float("inf"))


@pytest.mark.parametrize(
    ("duration", "start", "end"),
    [
        ("1d", "2026-03-18", "2026-03-19"),
        ("daily", "2026-03-18", "2026-03-19"),
        ("7d", "2026-03-16", "2026-03-23"),
        ("weekly", "2026-03-16", "2026-03-23"),
        ("1mo", "2026-03-01", "2026-04-01"),
        ("monthly", "2026-03-01", "2026-04-01"),
        ("3mo", "2026-01-01", "2026-04-01"),
    ],
)
def test_calendar_windows_begin_at_midnight_on_monday_or_on_the_first_in_utc(
    duration: str, start: str, end: str
) -> None:
    """18 March 2026 is a Wednesday."""
    assert window(duration, at("2026-03-18T13:14:15"), None) == (at(start), at(end))


def test_december_is_followed_by_january() -> None:
    assert window("1mo", at("2027-12-31T23:59:59"), None) == (at("2027-12-01"), at("2028-01-01"))


def test_a_calendar_window_ends_with_its_last_second() -> None:
    midnight = at("2026-03-19")
    assert window("1d", midnight - 0.001, None)[1] == midnight
    assert window("1d", midnight, None)[0] == midnight


def test_a_fixed_window_begins_at_first_use_and_stands_until_it_is_over() -> None:
    assert window("30s", 100.0, None) == (100.0, 130.0)
    assert window("30s", 129.9, 100.0) == (100.0, 130.0)
    assert window("30s", 130.0, 100.0) == (130.0, 160.0)


def test_a_clock_that_is_put_back_a_little_does_not_begin_a_new_fixed_window() -> None:
    assert window("30s", 99.0, 100.0) == (100.0, 130.0)
    assert window("30s", 50.0, 100.0) == (50.0, 80.0)


@given(st.sampled_from(DURATIONS), times)
def test_a_window_holds_the_moment_it_was_asked_for(duration: str, now: float) -> None:
    start, end = window(duration, now, None)
    assert start <= now < end


@given(st.sampled_from(["1d", "2d", "7d", "10d", "1w", "1mo", "5mo"]), times)
def test_calendar_windows_follow_each_other_without_a_gap(duration: str, now: float) -> None:
    start, end = window(duration, now, None)
    assert window(duration, end, start)[0] == end
    assert window(duration, start, None) == (start, end)
