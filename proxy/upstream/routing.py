"""Where the calls for a model go: its own deployments, and then those of its fallbacks."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from types import TracebackType

from proxy.errors import BudgetExceeded, RateLimited, TallyError, UpstreamError, UpstreamTimeout
from proxy.upstream.deployment import Deployment
from proxy.upstream.group import Group
from proxy.upstream.health import may_pass_elsewhere, over_in
from proxy.upstream.need import Need, Place

RETRIES = 2
"""How often a call is tried again, as with LiteLLM, unless the configuration says otherwise."""

Fits = Callable[[Deployment], bool]
_Stage = tuple[Group, Sequence[Deployment]]


class Route:
    """The way of a model's calls: `groups` are its own deployments and, in order, those of its fallbacks.

    `model` is the name that clients call it by; `retries` is how often a sample's call is tried again after all of them
    have failed. `clock` is monotonic seconds.
    """

    def __init__(
        self, model: str, groups: Sequence[Group], *, clock: Callable[[], float], retries: int = RETRIES
    ) -> None:
        self.model = model
        self.groups = tuple(groups)
        self.retries = retries
        self.clock = clock

    @property
    def own(self) -> tuple[Deployment, ...]:
        """The model's own deployments."""
        return self.groups[0].deployments

    @property
    def first(self) -> Deployment:
        """The first one, which stands for all where something must be told before a call."""
        return self.groups[0].deployments[0]

    @property
    def streams(self) -> bool:
        """Whether any of the model's own deployments streams."""
        return any(deployment.streams for deployment in self.own)

    @property
    def timeout(self) -> float:
        """The time that a call may take that goes all the way, in seconds."""
        return sum(deployment.timeout for group in self.groups for deployment in group.deployments)


class Tour:
    """One call's way over a route: `stop` by `stop`, until one deployment takes it.

        while True:
            async with tour.stop() as place:
                return await call(place.deployment)

    An error that may pass elsewhere is kept while there is another deployment to go to; each is tried once, those that
    rest after failures only where nothing else is there. What cannot be paid at one of the model's own is asked of
    those of them that cost otherwise. In the end the model's own error is raised, of several the one that may be over
    first; a fallback's trouble is not the client's. `fits` says which deployments may be asked at all. `deadline` is on
    the route's clock; the `patient` wait for a place beyond it, for somebody else keeps their time.
    """

    def __init__(
        self, route: Route, need: Need, *, fits: Fits | None = None, deadline: float, patient: bool = False
    ) -> None:
        self.need = need
        self._route = route
        self._fits = fits
        self._deadline = deadline
        self._patient = patient
        self._tried: set[Deployment] = set()
        self._error: TallyError | None = None
        self._stays = False

    def stay(self) -> None:
        """From now on an error is raised, wherever else the call might have gone."""
        self._stays = True

    def stop(self) -> "_Stop":
        """Hold a place at the next deployment, in a block of its own.

        Raises RateLimited where none has room for the call in time by its limits of a minute, UpstreamTimeout where no
        place gets free in time.
        """
        return _Stop(self)

    async def enter(self) -> tuple[Group, Place]:
        """A place at the next deployment, and the group to leave it to."""
        group, among = self._next()
        return group, await self._place(group, among)

    def went_wrong(self, place: Place, error: TallyError) -> bool:
        """Whether there is another deployment to go to after an error; raises the model's own, where that differs."""
        if self._goes_on(place.deployment, error):
            return True
        if self._error is None or self._error is error:
            return False
        raise self._error from error

    def _goes_on(self, deployment: Deployment, error: TallyError) -> bool:
        """Take note of an error; whether there is another deployment to go to."""
        own = deployment in self._route.own
        elsewhere = may_pass_elsewhere(error)
        if isinstance(error, UpstreamError) and elsewhere and self._left() > 0:
            # a call that was given too little time says nothing of its deployment
            deployment.failed(error)
        self._tried.add(deployment)
        dear = isinstance(error, BudgetExceeded)
        if dear:
            self._tried.update(each for each in self._everyone() if each.rates == deployment.rates)
        if self._stays or (own and not elsewhere and not dear):
            self._error = error
            return False
        if own and (self._error is None or over_in(error) <= over_in(self._error)):
            self._error = error
        # what is too dear at a model's own price is nothing for its fallbacks
        return bool(self._left_of(self._route.groups[0])) if own and dear else bool(self._stages())

    def _stages(self) -> list[_Stage]:
        """The deployments that can be tried yet, by group."""
        stages = [(group, self._left_of(group)) for group in self._route.groups]
        return [stage for stage in stages if any(not each.rest for each in stage[1])] or self._resting(stages)

    def _next(self) -> _Stage:
        own = self._route.groups[0]
        if not self._tried:
            # what nearly every call finds
            left = self._left_of(own)
            if any(not each.rest for each in left) and own.wait(self.need, left) <= 0:
                return own, left
        # where none fits, whatever the model has: the call itself says what is wrong with that
        stages = self._stages() or [(self._route.groups[0], self._route.own)]
        waits = [group.wait(self.need, among) for group, among in stages]
        for most in (0.0, self._left()):
            for stage, wait in zip(stages, waits, strict=True):
                if wait <= most:
                    return stage
        raise self._full(min(waits))

    def _resting(self, stages: Sequence[_Stage]) -> list[_Stage]:
        """Where all that are left rest: the first that is back, of the model's own if there is one."""
        resting = ((group, [min(left, key=lambda each: each.rest)]) for group, left in stages if left)
        return list(islice(resting, 1))

    def _left_of(self, group: Group) -> list[Deployment]:
        return [each for each in group.deployments if each not in self._tried and self._fit(each)]

    def _everyone(self) -> Iterator[Deployment]:
        return (deployment for group in self._route.groups for deployment in group.deployments)

    async def _place(self, group: Group, among: Sequence[Deployment]) -> Place:
        place = group.at_once(self.need, among)
        if place is not None:
            return place
        try:
            async with asyncio.timeout(self._left()):
                return await group.enter(self.need, among)
        except TimeoutError:
            wait = group.wait(self.need, among)
            if wait > 0:
                raise self._full(wait) from None
            if not self._patient:
                late = UpstreamTimeout("no place was free before the deadline", sent=False)
                raise self._error or late from None
        return await group.enter(self.need, among)

    def _full(self, wait: float) -> TallyError:
        """What is told where every limit is used up: what went wrong with the model itself, else when to come back."""
        message = f"The model {self._route.model!r} takes no more in this minute."
        return self._error or RateLimited(message, retry_after=wait)

    def _fit(self, deployment: Deployment) -> bool:
        return self._fits is None or self._fits(deployment)

    def _left(self) -> float:
        return max(0.0, self._deadline - self._route.clock())


class _Stop:
    """The block of one stop; a class, for there are very many."""

    __slots__ = ("_group", "_place", "_tour")

    def __init__(self, tour: Tour) -> None:
        self._tour = tour
        self._group: Group | None = None
        self._place: Place | None = None

    async def __aenter__(self) -> Place:
        self._group, self._place = await self._tour.enter()
        return self._place

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._group is None or self._place is None:
            return False
        try:
            return isinstance(error, TallyError) and self._tour.went_wrong(self._place, error)
        finally:
            self._group.leave(self._place)
