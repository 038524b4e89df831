"""The deployments of one model, and the line of calls that wait for one of them."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, field

from proxy.upstream.deployment import Deployment
from proxy.upstream.line import Line, Waiting, kind_of
from proxy.upstream.need import Need, Place

PASSED_S = 10.0
"""How long smaller calls may go past one that waits for room in a minute's limits."""

_NONE: frozenset[Deployment] = frozenset()


@dataclass(slots=True, eq=False)
class Group:
    """The deployments of one model. Calls go to the least loaded one by its weight, equals by turns of their weights.

    A call that finds no place stands in line; whoever leaves lets in the first who has a use for the place. A call that
    waits for its limits is gone past by those that still have room, for 10 seconds: from then on what gets free there
    is kept for it. `clock` is monotonic seconds.
    """

    deployments: tuple[Deployment, ...]
    clock: Callable[[], float] = time.monotonic
    _line: Line = field(default_factory=Line)
    _timer: asyncio.TimerHandle | None = None
    _turn: float = 0.0

    def wait(self, need: Need, among: Sequence[Deployment]) -> float:
        """Seconds until one of `among` is back from its rest and has room for a call by its limits of a minute.

        Where all of them rest, that is not waited for.
        """
        if all(deployment.rest for deployment in among):
            return min(need.wait(deployment) for deployment in among)
        return min(_pause(need, deployment) for deployment in among)

    def at_once(self, need: Need, among: Sequence[Deployment]) -> Place | None:
        """A place at one of `among`, where one is free that nobody waits for. Whoever has it must `leave`."""
        if not self._line:
            return self._take(need, among)
        if kind_of(need, among) in self._line:
            return None
        now, kept = self.clock(), set[Deployment]()
        for waiting in self._line.first():
            kept |= self._kept(waiting, now)
        return self._take(need, among, kept)

    async def enter(self, need: Need, among: Sequence[Deployment]) -> Place:
        """The same, after those who wait already."""
        waiting = self._line.add(need, among, now=self.clock())
        if self._line.leads(waiting):
            self._serve()
        try:
            # unlike a bare await, this leaves the future alone where the waiting is given up
            await asyncio.wait([waiting.found])
        except asyncio.CancelledError:
            self._give_up(waiting)
            raise
        return waiting.found.result()

    def leave(self, place: Place) -> None:
        """Give a place back."""
        place.deployment.calls -= 1
        if self._line:
            self._serve()

    def _give_up(self, waiting: Waiting) -> None:
        if waiting.found.done():
            place = waiting.found.result()
            if place.taken is not None:
                place.taken.undo()
            self.leave(place)
            return
        led = self._line.leads(waiting)
        self._line.remove(waiting)
        if led:
            self._serve()

    def _serve(self) -> None:
        """Let in whom there is room for."""
        now, pauses, kept = self.clock(), list[float](), set[Deployment]()
        for waiting in self._line.first():
            place = self._take(waiting.need, waiting.among, kept)
            if place is not None:
                self._line.remove(waiting)
                waiting.found.set_result(place)
                continue
            free = [deployment for deployment in waiting.among if deployment.calls < deployment.limit]
            pauses += [_pause(waiting.need, deployment) for deployment in free]
            kept |= self._kept(waiting, now)
        self._wake(min((pause for pause in pauses if pause > 0), default=None))

    def _kept(self, waiting: Waiting, now: float) -> Set[Deployment]:
        """What is kept for one who was gone past for long enough."""
        if now - waiting.since < PASSED_S:
            return _NONE
        return {deployment for deployment in waiting.among if waiting.need.wait(deployment) > 0}

    def _wake(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = None if seconds is None else loop.call_later(seconds, self._serve)

    def _take(self, need: Need, among: Sequence[Deployment], kept: Collection[Deployment] = _NONE) -> Place | None:
        """A place at the best of `among` that has one now; those that rest are left out where another is there."""
        if len(among) == 1 and not kept:
            return self._alone(need, among[0])
        rested = [deployment for deployment in among if not deployment.rest] or among
        free = [deployment for deployment in rested if deployment.calls < deployment.limit and deployment not in kept]
        fitting = [(deployment, choices) for deployment in free if (choices := need.fit(deployment))]
        if not fitting:
            return None
        best, choices = fitting[0] if len(fitting) == 1 else min(fitting, key=lambda pair: self._order(pair[0]))
        return self._taken(need, best, choices)

    def _alone(self, need: Need, deployment: Deployment) -> Place | None:
        """The same where there is no choice."""
        choices = need.fit(deployment) if deployment.calls < deployment.limit else 0
        return self._taken(need, deployment, choices) if choices else None

    def _taken(self, need: Need, best: Deployment, choices: int) -> Place:
        # turns begin anew for one that was away: what it missed is not made up for
        self._turn = max(self._turn, best.turn)
        best.turn = self._turn + 1 / best.weight
        best.calls += 1
        return Place(best, choices, need.take(best, choices))

    def _order(self, deployment: Deployment) -> tuple[float, float]:
        return deployment.calls / deployment.weight, max(self._turn, deployment.turn)


def _pause(need: Need, deployment: Deployment) -> float:
    """Seconds until a deployment is back from its rest and has room by its limits of a minute."""
    return max(need.wait(deployment), deployment.rest)
