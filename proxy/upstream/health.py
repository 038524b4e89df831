"""How a deployment has fared of late, and whether it is given a rest."""

from collections import deque
from collections.abc import Callable
from math import inf

from proxy.errors import TallyError, UpstreamError
from proxy.upstream.limits import MINUTE_S

ALLOWED_FAILS = 3
COOLDOWN_S = 5.0

_ELSEWHERE = frozenset({401, 403, 408, 429})


def may_pass_elsewhere(error: TallyError) -> bool:
    """Whether a call that failed with `error` may go well with another deployment: the request is not what is wrong."""
    return isinstance(error, UpstreamError) and (error.status in _ELSEWHERE or error.status >= 500)


def over_in(error: TallyError) -> float:
    """Seconds until what went wrong may be over: as it says, else 0; never, where the operator must mend it."""
    if not may_pass_elsewhere(error) or error.status in (401, 403):
        return inf
    return error.retry_after or 0.0


class Health:
    """Failures and the rest that follows them, as LiteLLM's router has it. `clock` is monotonic seconds.

    After a 429 a deployment rests for as long as it says, else for `cooldown_s`; after more than `allowed_fails` other
    failures in a minute for `cooldown_s`.
    """

    def __init__(
        self, *, clock: Callable[[], float], allowed_fails: int = ALLOWED_FAILS, cooldown_s: float = COOLDOWN_S
    ) -> None:
        self._clock = clock
        self._allowed = allowed_fails
        self._cooldown_s = cooldown_s
        self._fails: deque[float] = deque(maxlen=allowed_fails + 1)
        self._back = 0.0

    @property
    def rest(self) -> float:
        """Seconds until it is back; 0: it does not rest."""
        return max(0.0, self._back - self._clock()) if self._back else 0.0

    def failed(self, error: UpstreamError) -> None:
        """Take note of a call that failed, and not by its own fault."""
        now = self._clock()
        if error.status == 429:
            self._cool(now, self._cooldown_s if error.retry_after is None else error.retry_after)
            return
        self._fails.append(now)
        if len(self._fails) > self._allowed and now - self._fails[0] < MINUTE_S:
            self._cool(now, self._cooldown_s)
            # what it is given a rest for is done with: else each further failure would be one more rest
            self._fails.clear()

    def _cool(self, now: float, seconds: float) -> None:
        self._back = max(self._back, now + seconds)
