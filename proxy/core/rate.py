"""Requests a minute: the generic cell rate algorithm (ITU-T I.371), as a pure function.

The state is one integer a key, the theoretical arrival time `tat`: when the bucket will be full again.
"""

from typing import NamedTuple

_NS = 10**9
_MINUTE = 60 * _NS
_MICRO = 1000


class Admission(NamedTuple):
    """Whether a request may pass, and `tat` (nanoseconds), the state to keep.

    `retry_after` is in seconds, 0 if allowed. `remaining` requests more would pass at the same moment.
    """

    allowed: bool
    tat: int
    retry_after: float
    remaining: int

    def full_in(self, now: float) -> float:
        """In how many seconds after `now` as many as ever would pass at one moment."""
        return max(0, self.tat - round(now * _NS)) / _NS


def admit(tat: int, now: float, per_minute: int, burst: int | None = None) -> Admission:
    """Admit or refuse one request at `now` (seconds, of any clock), given the last state `tat` (0 for a new key).

    From idle exactly `burst` requests (default `per_minute`) pass at one moment; after that one passes every
    60/`per_minute` seconds, to the nanosecond and never sooner. A refusal changes nothing. `retry_after` is rounded up
    to a microsecond. ValueError when `per_minute` or `burst` is below 1.
    """
    burst = per_minute if burst is None else burst
    if per_minute < 1 or burst < 1:
        raise ValueError("per_minute and burst are at least 1")
    # whole nanoseconds: sums of floats would drift, and let one request too many or too few through
    moment = round(now * _NS)
    interval = -(-_MINUTE // per_minute)
    tat_now = max(tat, moment)
    wait = tat_now - (burst - 1) * interval - moment
    if wait > 0:
        return Admission(False, tat, -(-wait // _MICRO) * _MICRO / _NS, 0)
    tat_now += interval
    return Admission(True, tat_now, 0.0, burst - -(-(tat_now - moment) // interval))


def charge(tat: int, now: float, per_minute: int, amount: int) -> int:
    """The state after `amount` was used at `now`, whether it was there or not: a debt is waited for."""
    return max(tat, round(now * _NS)) + amount * -(-_MINUTE // per_minute)
