"""The deployments of one model, and the line of calls that wait for one of them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from proxy.types import JSON
from proxy.upstream.deployment import Deployment
from proxy.upstream.limits import Taken
from proxy.upstream.usage import PROMPT_SHARE, output_bound, prompt_bound

_OUTPUT = 1024
"""Output tokens that a choice is thought to have at most, for the limits of a minute."""


@dataclass(slots=True)
class Need:
    """What a call asks for: up to `choices` of them, or all of them in one piece (`whole`).

    `request` is looked at only where a deployment limits tokens. `generates` false: there is only a prompt.
    """

    request: JSON
    choices: int = 1
    whole: bool = False
    generates: bool = True
    _bound: int | None = None

    def tokens(self, deployment: Deployment) -> tuple[int, int]:
        """About how many tokens a call has, and each of its choices."""
        if self._bound is None:
            self._bound = prompt_bound(self.request)
        base = ceil(self._bound * (deployment.prompt_share or PROMPT_SHARE))
        if not self.generates:
            return base, 0
        bound = output_bound(self.request, deployment)
        return base, _OUTPUT if bound is None else min(bound, _OUTPUT)

    def wait(self, deployment: Deployment) -> float:
        """Seconds until a deployment's own limits have room for the least of it."""
        if deployment.limits is None:
            return 0.0
        base, each = self.tokens(deployment)
        return deployment.limits.wait(base + each * (self.choices if self.whole else 1))

    def fit(self, deployment: Deployment) -> int:
        """How many choices one call to a deployment may have now; 0: it has no room."""
        most = self.choices if self.whole else min(self.choices, deployment.max_n or self.choices)
        if deployment.limits is None:
            return most
        base, each = self.tokens(deployment)
        if self.whole:
            return most if deployment.limits.fit(base + each * most, 0, 1) else 0
        return deployment.limits.fit(base, each, most)

    def take(self, deployment: Deployment, choices: int) -> Taken | None:
        """Count a call of so many choices in the deployment's minute."""
        if deployment.limits is None:
            return None
        base, each = self.tokens(deployment)
        return deployment.limits.take(base + each * choices)


@dataclass(slots=True, eq=False)
class Place:
    """One of the calls that a deployment takes at once, with as many `choices` as it may ask for.

    `taken` is its part of the deployment's minute, to be corrected by what is billed.
    """

    deployment: Deployment
    choices: int
    taken: Taken | None = None


@dataclass(slots=True, eq=False)
class _Waiting:
    need: Need
    among: Sequence[Deployment]
    found: "asyncio.Future[Place]"


@dataclass(slots=True, eq=False)
class Group:
    """The deployments of one model. Calls go to the least loaded one by its weight, equals by turns of their weights.

    A call that finds no place stands in line; whoever leaves lets the next one in.
    """

    deployments: tuple[Deployment, ...]
    _line: dict[_Waiting, None] = field(default_factory=dict)
    _timer: asyncio.TimerHandle | None = None
    _turn: float = 0.0

    def wait(self, need: Need, among: Sequence[Deployment]) -> float:
        """Seconds until one of `among` has room for a call by its limits of a minute."""
        return min(need.wait(deployment) for deployment in among)

    def at_once(self, need: Need, among: Sequence[Deployment]) -> Place | None:
        """A place at one of `among`, where one is free and nobody waits. Whoever has it must `leave`."""
        return None if self._line else self._take(need, among)

    async def enter(self, need: Need, among: Sequence[Deployment]) -> Place:
        """The same, after those who wait already."""
        waiting = _Waiting(need, among, asyncio.get_running_loop().create_future())
        self._line[waiting] = None
        self._serve()
        try:
            # unlike a bare await, this leaves the future alone where the waiting is given up
            await asyncio.wait([waiting.found])
        except asyncio.CancelledError:
            if waiting.found.done():
                self.leave(waiting.found.result())
            else:
                del self._line[waiting]
                self._serve()
            raise
        return waiting.found.result()

    def leave(self, place: Place) -> None:
        """Give a place back."""
        place.deployment.calls -= 1
        if self._line:
            self._serve()

    def _serve(self) -> None:
        """Let in whom there is room for. The first who finds none holds up those behind, unless it is choosy."""
        pauses: list[float] = []
        for waiting in tuple(self._line):
            place = self._take(waiting.need, waiting.among)
            if place is not None:
                del self._line[waiting]
                waiting.found.set_result(place)
                continue
            free = [deployment for deployment in waiting.among if deployment.calls < deployment.limit]
            pauses += [waiting.need.wait(deployment) for deployment in free]
            if len(waiting.among) == len(self.deployments):
                break
        self._wake(min((pause for pause in pauses if pause > 0), default=None))

    def _wake(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if seconds is None else loop.call_later(seconds, self._serve)

    def _take(self, need: Need, among: Sequence[Deployment]) -> Place | None:
        """A place at the best of `among` that has one now; those that rest are left out where another is there."""
        rested = [deployment for deployment in among if not deployment.rest] or among
        free = [deployment for deployment in rested if deployment.calls < deployment.limit]
        fitting = [(deployment, choices) for deployment in free if (choices := need.fit(deployment))]
        if not fitting:
            return None
        best, choices = fitting[0] if len(fitting) == 1 else min(fitting, key=lambda pair: self._order(pair[0]))
        # turns begin anew for one that was away: what it missed is not made up for
        self._turn = max(self._turn, best.turn)
        best.turn = self._turn + 1 / best.weight
        best.calls += 1
        return Place(best, choices, need.take(best, choices))

    def _order(self, deployment: Deployment) -> tuple[float, float]:
        return deployment.calls / deployment.weight, max(self._turn, deployment.turn)
