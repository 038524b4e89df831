"""Who may come in just now: requests and tokens a minute, and requests at once, of tenants and keys.

The limits are those of one machine, whose workers count together; each replica lets in so many.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from types import TracebackType
from typing import Self

from proxy.admission.states import Private, State, States
from proxy.core.rate import Admission as Passed
from proxy.core.rate import admit, charge
from proxy.errors import RateLimited
from proxy.types import Limits

_NS = 10**9
_RETRY_S = 1.0
"""When to come back where too many are being served: nobody knows when the first of them ends."""


_Asked = tuple[Passed | None, Passed | None]
"""What one request more, and one token more, would meet; None without such a limit."""


@dataclass(slots=True)
class Entry:
    """A request that was let in; `leave` must be called once it is over. `told` are the headers that say what is left.

    A block under it leaves for the request where it ends in an error.
    """

    _leave: Callable[[int], None]
    told: dict[str, str] = field(default_factory=dict)
    _left: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.leave()

    def leave(self, tokens: int = 0) -> None:
        """It is over, and has used so many tokens. The second time is a no-op."""
        if not self._left:
            self._left = True
            self._leave(tokens)


class Admission:
    """Lets requests in. `clock` is monotonic seconds; `states` are this process' own where none are given."""

    def __init__(self, clock: Callable[[], float], states: States | None = None) -> None:
        self._clock = clock
        self._states = Private() if states is None else states

    def enter(self, scopes: Sequence[tuple[str, Limits]]) -> Entry:
        """Let a request of these scopes in, if all of them have room. Raises RateLimited, which counts it nowhere."""
        limited = [
            (name, limits)
            for name, limits in scopes
            if (limits.rpm_limit, limits.tpm_limit, limits.max_parallel) != (None, None, None)
        ]
        if not limited:
            return Entry(lambda _: None)
        bounds = [limits for _, limits in limited]
        with self._states.held():
            now = self._clock()
            states = self._states.find([name for name, _ in limited], round(now * _NS))
            passed = [_ask(state, limits, now) for state, limits in zip(states, bounds, strict=True)]
            for (name, limits), state, asked in zip(limited, states, passed, strict=True):
                if refusal := _refusal(state, limits, asked):
                    may, retry_after = refusal
                    message = f"Rate limit reached: {_whose(name)} may {may}."
                    untaken = [_untaken(*each) for each in zip(states, passed, strict=True)]
                    raise RateLimited(message, retry_after=retry_after, told=_headers(bounds, untaken, now))
            for state, (requests, _) in zip(states, passed, strict=True):
                state.enter()
                state.requests = requests.tat if requests is not None else state.requests
        return Entry(partial(self._leave, states, bounds), _headers(bounds, passed, now))

    def _leave(self, states: Sequence[State], bounds: Sequence[Limits], tokens: int) -> None:
        with self._states.held():
            moment = self._clock()
            for state, limits in zip(states, bounds, strict=True):
                state.leave()
                if limits.tpm_limit is not None:
                    state.tokens = charge(state.tokens, moment, limits.tpm_limit, tokens)


def _ask(state: State, limits: Limits, now: float) -> _Asked:
    """What a scope says of one request more, and of one token more."""
    return (
        None if limits.rpm_limit is None else admit(state.requests, now, limits.rpm_limit),
        None if limits.tpm_limit is None else admit(state.tokens, now, limits.tpm_limit),
    )


def _refusal(state: State, limits: Limits, asked: _Asked) -> tuple[str, float] | None:
    """What a scope may at most where it lets nobody in, and for how many seconds; None where it does."""
    if limits.max_parallel is not None and state.inside >= limits.max_parallel:
        return f"have {limits.max_parallel} requests at once", _RETRY_S
    may = f"send {limits.rpm_limit} requests a minute", f"use {limits.tpm_limit} tokens a minute"
    for passed, told in zip(asked, may, strict=True):
        if passed is not None and not passed.allowed:
            return told, passed.retry_after
    return None


def _whose(scope: str) -> str:
    kind, _, name = scope.partition(":")
    return f"the {kind} {name!r}"


def _untaken(state: State, asked: _Asked) -> _Asked:
    """The same, where the request is not let in after all and so takes nothing."""
    requests, tokens = asked
    return (
        requests and requests._replace(tat=state.requests, remaining=requests.remaining + requests.allowed),
        tokens and tokens._replace(tat=state.tokens, remaining=tokens.remaining + tokens.allowed),
    )


def _headers(limits: Sequence[Limits], passed: Sequence[_Asked], now: float) -> dict[str, str]:
    """OpenAI's `x-ratelimit-*` headers, each kind of the scope that has least left of it."""
    told: dict[str, str] = {}
    for place, (kind, name) in enumerate((("requests", "rpm_limit"), ("tokens", "tpm_limit"))):
        found = [
            (each[place].remaining, getattr(limit, name), each[place].full_in(now))  # type: ignore[union-attr]
            for limit, each in zip(limits, passed, strict=True)
            if each[place] is not None
        ]
        if found:
            remaining, most, full_in = min(found)
            told[f"x-ratelimit-limit-{kind}"] = str(most)
            told[f"x-ratelimit-remaining-{kind}"] = str(remaining)
            told[f"x-ratelimit-reset-{kind}"] = duration(full_in)
    return told


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them: `17ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{ceil(seconds * 1000) / 1000:g}s"
    return f"{ceil(seconds) // 60}m{ceil(seconds) % 60}s"
