"""The line before the deployments of a model, in a time that passes only while everybody waits."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamError
from proxy.types import JSON
from proxy.upstream import Endpoint
from proxy.upstream.deployment import Deployment
from proxy.upstream.direct import DirectLane
from proxy.upstream.group import PASSED_S, Group
from proxy.upstream.health import Health
from proxy.upstream.limits import MINUTE_S, Limits
from proxy.upstream.need import Need, Place
from proxy.upstream.routing import Route, Tour

LANE = DirectLane()
BUSY = UpstreamError("slow down", status=429)


class Stuck(Exception):
    """Nothing would ever happen again."""


class Clock(selectors.SelectSelector):
    """Where a loop would wait for a while, that while has passed, once `idle` has looked at how things stand."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.idle: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck
        if timeout > 0:
            self.idle()
            self.now += timeout
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._virtual = clock

    def time(self) -> float:
        return self._virtual()


def passes(clock: Clock, story: Coroutine[Any, Any, None]) -> None:
    """Run a story to its end, in a time of its own."""
    with asyncio.Runner(loop_factory=lambda: Loop(clock)) as runner:
        runner.run(story)


def made(name: str, clock: Clock, *, limit: int = 1, tpm: int | None = None) -> Deployment:
    limits = Limits(None, tpm, clock=clock) if tpm else None
    health = Health(clock=clock)
    return Deployment(name, Endpoint("openai", name, None, None, {}), LANE, limit=limit, limits=limits, health=health)


def need(tokens: int = 100, kind: type[Need] = Need) -> Need:
    """A call of about so many tokens: 100 and more."""
    request: JSON = {"messages": [], "max_tokens": 1}
    spare = tokens - Need(request).tokens(made("any", Clock()))[0] - 1
    request["messages"] = "x" * max(0, 2 * spare)
    return kind(request)


@dataclass(frozen=True)
class Planned:
    """A call to be: when it comes, where it may go, how large it is, how long it takes, and for how long it waits."""

    at: int
    among: int
    tokens: int
    takes: int
    gives_up: int | None
    rest: int | None


CALLS = st.lists(
    st.builds(
        Planned,
        st.integers(0, 30),
        st.integers(1, 7),
        st.sampled_from([100, 120, 300, 500, 600, 900, 1500]),
        st.integers(0, 20),
        st.none() | st.integers(0, 40),
        st.none() | st.none() | st.integers(0, 9),
    ),
    max_size=30,
)


@dataclass(frozen=True, eq=False)
class Guest:
    """One who came for a place at one of `among`."""

    need: Need
    among: tuple[Deployment, ...]


@dataclass
class Hall:
    """Three deployments, who waits before them in order of arrival, and who was let in."""

    clock: Clock
    deployments: tuple[Deployment, ...]
    waiting: list[Guest] = field(default_factory=list)
    sent: list[tuple[float, Place]] = field(default_factory=list)
    given: list[tuple[Deployment, list[Guest]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.group = Group(self.deployments, self.clock)

    async def visit(self, planned: Planned) -> None:
        await asyncio.sleep(planned.at)
        among = tuple(each for index, each in enumerate(self.deployments) if planned.among >> index & 1)
        mine = Guest(need(planned.tokens), among)
        place = self.group.at_once(mine.need, among)
        if place is None:
            self.waiting.append(mine)
            try:
                async with asyncio.timeout(planned.gives_up):
                    place = await self.group.enter(mine.need, among)
            except TimeoutError:
                return
            finally:
                elder = self.waiting[: self.waiting.index(mine)]
                # one that rests is taken only by those who have nothing else
                if place is not None and not place.deployment.rest:
                    self.given.append((place.deployment, elder))
                self.waiting.remove(mine)
        self.sent.append((self.clock.now, place))
        await asyncio.sleep(planned.takes)
        if planned.rest is not None:
            place.deployment.failed(UpstreamError("slow down", status=429, retry_after=planned.rest))
        self.group.leave(place)

    def could(self, guest: Guest) -> bool:
        """Whether there is a place for one who waits."""
        return any(not each.rest and each.calls < each.limit and not guest.need.wait(each) for each in guest.among)

    async def story(self, calls: Sequence[Planned]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for planned in calls:
                tasks.create_task(self.visit(planned))


@given(CALLS)
def test_no_place_stays_free_that_somebody_waits_for_and_nobody_is_gone_past_for_it(calls: list[Planned]) -> None:
    clock = Clock()
    hall = Hall(clock, tuple(made(name, clock, limit=1 + (name == "c")) for name in "abc"))

    def look() -> None:
        assert not any(map(hall.could, hall.waiting))
        while hall.given:
            deployment, elder = hall.given.pop()
            assert not any(each in hall.waiting and deployment in each.among for each in elder)
        assert all(each.calls <= each.limit for each in hall.deployments)

    clock.idle = look
    passes(clock, hall.story(calls))
    assert (hall.waiting, len(hall.group._line)) == ([], 0)
    assert [each.calls for each in hall.deployments] == [0, 0, 0]


@given(CALLS)
def test_inside_the_limits_of_a_minute_the_eldest_never_waits_for_nothing_and_no_take_is_lost_or_left(
    calls: list[Planned],
) -> None:
    clock = Clock()
    hall = Hall(clock, tuple(made(name, clock, limit=2, tpm=1000) for name in "abc"))

    def look() -> None:
        assert not any(map(hall.could, hall.waiting[:1]))
        for each in hall.deployments:
            mine = [place.taken for at, place in hall.sent if place.deployment is each and clock.now < at + MINUTE_S]
            tokens = [taken.tokens for taken in mine if taken is not None]
            assert each.limits is not None
            assert each.limits.wait(1) >= 0
            assert each.limits.used == sum(tokens)
            # one that is larger than the limit is alone in its minute
            assert sum(tokens) <= 1000 or len(tokens) == 1

    clock.idle = look
    passes(clock, hall.story(calls))
    assert (hall.waiting, len(hall.group._line)) == ([], 0)
    assert [each.calls for each in hall.deployments] == [0, 0, 0]


@given(st.integers(300, 3000), st.integers(100, 250), st.floats(0.2, 20), st.booleans())
def test_a_large_call_that_others_go_past_is_served_within_ten_seconds_and_a_minute(
    large: int, small: int, every: float, choosy: bool
) -> None:
    clock = Clock()
    limited = made("limited", clock, limit=100, tpm=1000)
    group = Group((limited, made("other", clock, limit=1)) if choosy else (limited,), clock)
    held = clock.now

    async def story() -> None:
        nonlocal held
        for _ in range(4):
            group.leave(await group.enter(need(200), (limited,)))
        async with asyncio.TaskGroup() as tasks:
            came = clock.now
            waiting = tasks.create_task(group.enter(need(large), (limited,)))
            await asyncio.sleep(0)
            while not waiting.done() and clock.now < came + 3 * MINUTE_S:
                tasks.create_task(passer())
                await asyncio.sleep(every)
            held = clock.now - came

    async def passer() -> None:
        group.leave(await group.enter(need(small), (limited,)))

    passes(clock, story())
    assert held <= PASSED_S + MINUTE_S + every


def test_a_call_that_is_too_large_for_what_is_left_of_a_minute_holds_up_smaller_ones_only_later() -> None:
    clock = Clock()
    limited = made("limited", clock, limit=9, tpm=1000)
    group = Group((limited,), clock)

    async def small() -> None:
        group.leave(await group.enter(need(100), group.deployments))

    async def story() -> None:
        await small()
        async with asyncio.TaskGroup() as tasks:
            large = tasks.create_task(group.enter(need(5000), group.deployments))
            began = clock.now
            for _ in range(2):
                await asyncio.sleep(PASSED_S / 3)
                assert group.at_once(need(100), group.deployments) is not None
                await small()
                assert clock.now < began + PASSED_S
            await asyncio.sleep(PASSED_S)
            assert group.at_once(need(100), group.deployments) is None
            tasks.create_task(small())
            await large

    passes(clock, story())


def test_whoever_gives_up_lets_in_the_next_of_its_kind() -> None:
    clock = Clock()
    limited = made("limited", clock, limit=9, tpm=1000)
    group = Group((limited,), clock)

    async def story() -> None:
        await group.enter(need(600), group.deployments)
        first = asyncio.create_task(group.enter(need(450), group.deployments))
        second = asyncio.create_task(group.enter(need(350), group.deployments))
        await asyncio.sleep(0)
        began = clock.now
        first.cancel()
        await second
        assert clock.now == began

    passes(clock, story())


@pytest.mark.parametrize("choosy", [False, True])
def test_the_work_grows_with_the_calls_and_not_with_the_square_of_those_that_wait(choosy: bool) -> None:
    def work(count: int) -> int:
        asked = 0

        class Counted(Need):
            def fit(self, deployment: Deployment) -> int:
                nonlocal asked
                asked += 1
                return super().fit(deployment)

            def wait(self, deployment: Deployment) -> float:
                nonlocal asked
                asked += 1
                return super().wait(deployment)

        async def story() -> None:
            deployments = made("one", clock, tpm=10**9), made("other", clock, tpm=10**9)
            group = Group(deployments, clock)
            held = [group.at_once(need(100), (each,)) for each in deployments]
            among = deployments[:1] if choosy else deployments
            calls = [need(100 + 50 * (index % 20), Counted) for index in range(count)]
            tasks = [asyncio.create_task(group.enter(call, among)) for call in calls]
            await asyncio.sleep(0)
            for task in tasks[: count // 2]:
                task.cancel()
            await asyncio.sleep(0)
            for task in tasks[count // 2 :]:
                place = held.pop(0)
                assert place is not None
                group.leave(place)
                held.insert(0, await task)

        clock = Clock()
        passes(clock, story())
        return asked

    small, large = work(200), work(400)
    assert 0 < large <= 2.5 * small
    assert large <= 50 * 400


# rests, and places that are given too late


def test_one_that_is_back_from_its_rest_takes_those_that_wait() -> None:
    clock = Clock()
    one, other = made("one", clock), made("other", clock)
    group = Group((one, other), clock)

    async def story() -> None:
        first, second = group.at_once(need(), (one,)), group.at_once(need(), (other,))
        assert first is not None
        assert second is not None
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(group.enter(need(), group.deployments))
            await asyncio.sleep(0)
            one.failed(BUSY)
            group.leave(first)
            began = clock.now
            assert (await waiting).deployment is one
            assert clock.now - began == pytest.approx(5.0)

    passes(clock, story())


def test_whoever_came_while_one_rested_does_not_wait_for_the_other_alone() -> None:
    clock = Clock()
    one, other = made("one", clock), made("other", clock)
    way = Route("m", [Group((one, other), clock)], clock=clock)
    one.failed(BUSY)
    began = clock.now
    served: list[tuple[str, float]] = []

    async def call() -> None:
        async with Tour(way, need(), deadline=clock.now + 100).stop() as place:
            served.append((place.deployment.model_name, clock.now - began))
            await asyncio.sleep(20)

    async def story() -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(call())

    passes(clock, story())
    assert served == [("other", 0.0), ("one", pytest.approx(5.0))]


def test_a_place_that_comes_too_late_leaves_no_take() -> None:
    clock = Clock()
    limited = made("limited", clock, tpm=1000)
    group = Group((limited,), clock)

    async def story() -> None:
        held = group.at_once(need(100), group.deployments)
        assert held is not None
        waiting = asyncio.create_task(group.enter(need(300), group.deployments))
        await asyncio.sleep(0)
        group.leave(held)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    passes(clock, story())
    assert limited.limits is not None
    assert (limited.limits.used, limited.calls) == (100, 0)


def test_a_call_is_thought_to_write_no_more_than_its_deployment_lets_it_by_default() -> None:
    clock = Clock()
    plain, brief = made("plain", clock), made("brief", clock)
    brief.defaults = {"max_tokens": 50}
    asked = Need({"messages": []})
    assert (asked.tokens(plain)[1], asked.tokens(brief)[1]) == (1024, 50)
    assert Need({"messages": [], "max_tokens": 70}).tokens(brief)[1] == 70
