"""How many requests and tokens a deployment takes in a minute."""

from collections import deque
from collections.abc import Callable

MINUTE_S = 60.0


class Taken:
    """One request's part of a minute: when it began, and its tokens, as thought beforehand or as billed."""

    __slots__ = ("_limits", "at", "tokens")

    def __init__(self, limits: "Limits", at: float, tokens: int) -> None:
        self._limits: Limits | None = limits
        self.at = at
        self.tokens = tokens

    def correct(self, tokens: int) -> None:
        """Put what was really used in place of what was reserved; nothing happens once its minute is over."""
        if self._limits is not None:
            self._limits.correct(tokens - self.tokens)
        self.tokens = tokens

    def undo(self) -> None:
        """It was not sent after all."""
        if self._limits is not None:
            self._limits.undo(self)

    def forget(self) -> None:
        """Its minute is over."""
        self._limits = None


class Limits:
    """At most `rpm` requests and `tpm` tokens in any 60 seconds (None: any number). `clock` is monotonic seconds.

    A request that is larger than the whole `tpm` goes through alone: else it never would. `used` are the tokens of the
    last minute.
    """

    def __init__(self, rpm: int | None, tpm: int | None, *, clock: Callable[[], float]) -> None:
        self.used = 0
        self._rpm = rpm
        self._tpm = tpm
        self._clock = clock
        self._minute: deque[Taken] = deque()
        self._room_at: dict[int, float] = {}

    def wait(self, tokens: int) -> float:
        """Seconds until there is room for one more request of so many tokens, if nobody else comes; 0: now."""
        now = self._now()
        until = now
        if self._rpm is not None and len(self._minute) >= self._rpm:
            until = self._minute[len(self._minute) - self._rpm].at + MINUTE_S
        over = self._over(tokens)
        if over > 0:
            # many ask while nothing changes, and a minute may hold thousands
            if over not in self._room_at:
                self._room_at[over] = self._free_at(over)
            until = max(until, self._room_at[over])
        return until - now

    def fit(self, base: int, each: int, most: int) -> int:
        """How many of `most` choices there is room for now, in one request of `base` tokens and `each` a choice."""
        self._now()
        if self._over(base + each) > 0 or (self._rpm is not None and len(self._minute) >= self._rpm):
            return 0
        if self._tpm is None or not each:
            return most
        return max(1, min(most, (self._tpm - self.used - base) // each))

    def take(self, tokens: int) -> Taken:
        """Count a request that begins now."""
        taken = Taken(self, self._now(), tokens)
        self._minute.append(taken)
        self.correct(tokens)
        return taken

    def correct(self, tokens: int) -> None:
        """Count so many tokens more, or less."""
        self.used += tokens
        self._room_at.clear()

    def undo(self, taken: Taken) -> None:
        """Forget a request that was not sent."""
        self._minute.remove(taken)
        self._drop(taken)

    def _over(self, tokens: int) -> int:
        """Tokens that must leave the minute before a request of so many has room."""
        return 0 if self._tpm is None else self.used + min(tokens, self._tpm) - self._tpm

    def _free_at(self, tokens: int) -> float:
        """When so many tokens of the minute are over."""
        for taken in self._minute:
            tokens -= taken.tokens
            if tokens <= 0:
                return taken.at + MINUTE_S
        return self._minute[-1].at + MINUTE_S

    def _now(self) -> float:
        """The time, once what is older than a minute is left out."""
        now = self._clock()
        while self._minute and self._minute[0].at + MINUTE_S <= now:
            self._drop(self._minute.popleft())
        return now

    def _drop(self, taken: Taken) -> None:
        self.correct(-taken.tokens)
        taken.forget()
