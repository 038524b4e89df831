"""Budget windows: the duration grammar that LiteLLM's users know, and where a window begins and ends.

`30s`, `30m`, `24h` are fixed windows that begin at first use. `1d`, `7d`, `1mo`, `daily`, `weekly` and `monthly` are
calendar windows in UTC: days from midnight, weeks from Monday, months from the first.
"""

import re
from datetime import UTC, datetime, timedelta

_GRAMMAR = re.compile(r"([0-9]{1,6})(s|m|h|d|w|mo)")
_NAMES = {"daily": "1d", "weekly": "1w", "monthly": "1mo"}
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_EPOCH_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration(text: str) -> tuple[int, str]:
    """`(count, unit)` of a duration such as `24h`; units are s, m, h, d, w, mo. ValueError names what is wrong."""
    match = _GRAMMAR.fullmatch(_NAMES.get(text, text))
    if match is None or int(match[1]) == 0:
        raise ValueError(
            f"{text!r} is not a duration: use a number and s, m, h, d, w or mo, or daily, weekly or monthly"
        )
    return int(match[1]), match[2]


def window(duration: str | None, now: float, opened: float | None) -> tuple[float, float]:
    """The window that holds `now`, as `(start, end)` in seconds since 1970 (UTC); for ever when `duration` is None.

    `opened` is when the window in use began (None: never used). Fixed windows run from first use: the old one still
    stands while it holds `now`, else a new one begins at `now`. Calendar windows do not look at `opened`.
    A clock that was put back by less than a fixed window's length does not begin a new one.
    """
    if duration is None:
        return 0.0, float("inf")
    count, unit = parse_duration(duration)
    if unit in _SECONDS:
        length = float(count * _SECONDS[unit])
        if opened is not None and opened - length < now < opened + length:
            return opened, opened + length
        return now, now + length
    if unit == "mo":
        return _months(count, now)
    # whole weeks begin on a Monday, also when they are written as 7d
    days = count * 7 if unit == "w" else count
    origin = (_EPOCH_MONDAY if days % 7 == 0 else _EPOCH).timestamp()
    length = timedelta(days=days).total_seconds()
    start = origin + (now - origin) // length * length
    return start, start + length


def _months(count: int, now: float) -> tuple[float, float]:
    moment = datetime.fromtimestamp(now, UTC)
    month = (moment.year * 12 + moment.month - 1) // count * count
    return _first_of(month), _first_of(month + count)


def _first_of(month: int) -> float:
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()
