"""How calls find a deployment: by weight and load, inside the limits of a minute, past those that fail."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import BudgetExceeded, RateLimited, TallyError, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.money import Rates
from proxy.types import JSON
from proxy.upstream import Endpoint
from proxy.upstream.deployment import Deployment
from proxy.upstream.direct import DirectLane
from proxy.upstream.group import Group
from proxy.upstream.health import Health, may_pass_elsewhere
from proxy.upstream.limits import MINUTE_S, Limits
from proxy.upstream.need import Need, Place
from proxy.upstream.routing import Fits, Route, Tour

LANE = DirectLane()
REQUEST: JSON = {"messages": [{"role": "user", "content": "What is six times seven?"}], "max_tokens": 100}
BUSY = UpstreamError("slow down", status=429)
BROKEN = UpstreamError("it broke", status=500)


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ahead:
    """A real clock that is so many `seconds` ahead."""

    seconds = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.seconds


def made(name: str = "m", clock: Callable[[], float] = time.monotonic, **known: Any) -> Deployment:
    health = Health(clock=clock, allowed_fails=known.pop("allowed_fails", 3), cooldown_s=5.0)
    return Deployment(name, Endpoint("openai", name, None, None, {}), LANE, health=health, **known)


def route(*groups: list[Deployment], clock: Callable[[], float] = time.monotonic) -> Route:
    return Route("m", [Group(tuple(deployments)) for deployments in groups], clock=clock)


def at_once(group: Group, need: Need | None = None) -> Place | None:
    return group.at_once(need or Need(REQUEST), group.deployments)


def tour(way: Route, need: Need | None = None, *, fits: Fits | None = None, seconds: float = 10.0) -> Tour:
    return Tour(way, need or Need(REQUEST), fits=fits, deadline=way.clock() + seconds)


async def walk(going: Tour, fails: dict[str, TallyError]) -> str:
    """Go until a deployment takes the call; its name. `fails` are the errors of the others."""
    while True:
        async with going.stop() as place:
            name = place.deployment.model_name
            if name in fails:
                raise fails[name]
            return name


# spreading


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 200))
def test_calls_one_after_the_other_are_spread_in_proportion_to_the_weights(weights: list[int], calls: int) -> None:
    group = Group(tuple(made(str(index), weight=float(weight)) for index, weight in enumerate(weights)))
    served: Counter[str] = Counter()
    for _ in range(calls):
        place = at_once(group)
        assert place is not None
        served[place.deployment.model_name] += 1
        group.leave(place)
    for index, weight in enumerate(weights):
        assert abs(served[str(index)] - calls * weight / sum(weights)) <= len(weights)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 100))
def test_calls_at_the_same_time_load_deployments_in_proportion_to_the_weights(weights: list[int], calls: int) -> None:
    group = Group(tuple(made(str(index), weight=float(weight)) for index, weight in enumerate(weights)))
    for _ in range(calls):
        assert at_once(group) is not None
    loads = [deployment.calls / deployment.weight for deployment in group.deployments]
    for load, weight in zip(loads, weights, strict=True):
        # one call less, and it would not be above any other
        assert load - 1 / weight <= min(loads) + 1e-9


@given(st.data())
def test_no_deployment_ever_has_more_calls_than_it_takes_at_once(data: st.DataObject) -> None:
    limits = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    group = Group(tuple(made(str(index), limit=limit) for index, limit in enumerate(limits)))
    held: list[Place] = []
    for goes in data.draw(st.lists(st.booleans(), max_size=40)):
        if goes and held:
            group.leave(held.pop())
        else:
            place = at_once(group)
            assert (place is None) == (len(held) == sum(limits))
            held += [place] if place else []
        assert all(each.calls <= each.limit for each in group.deployments)
    assert sum(each.calls for each in group.deployments) == len(held)


def test_a_deployment_that_was_away_is_not_given_what_it_missed() -> None:
    clock = Clock()
    away, there = made("away", clock), made("there", clock)
    group = Group((away, there))
    away.failed(BUSY)
    for _ in range(20):
        place = at_once(group)
        assert place is not None
        assert place.deployment is there
        group.leave(place)
    clock.now += 5.0
    served: Counter[str] = Counter()
    for _ in range(10):
        place = at_once(group)
        assert place is not None
        served[place.deployment.model_name] += 1
        group.leave(place)
    assert 5 <= served["away"] <= 6


def test_a_call_asks_for_no_more_choices_than_its_deployment_takes_unless_all_must_be_one_call() -> None:
    group = Group((made(max_n=3),))
    few, all_of_them = at_once(group, Need(REQUEST, 8)), at_once(group, Need(REQUEST, 8, whole=True))
    assert few is not None
    assert all_of_them is not None
    assert (few.choices, all_of_them.choices) == (3, 8)


# limits of a minute


@given(
    st.integers(1, 4),
    st.integers(10, 100),
    st.lists(st.tuples(st.floats(0, 40), st.integers(1, 120), st.integers(0, 120)), max_size=40),
)
def test_no_minute_has_more_requests_or_tokens_than_its_limits(
    rpm: int, tpm: int, calls: list[tuple[float, int, int]]
) -> None:
    clock = Clock()
    limits = Limits(rpm, tpm, clock=clock)
    log: list[tuple[float, int]] = []
    for pause, tokens, used in calls:
        clock.now += pause
        wait = limits.wait(tokens)
        assert 0 <= wait <= MINUTE_S + 1e-6
        # a sum of times may be rounded
        clock.now += wait + 1e-6
        assert limits.wait(tokens) == 0
        taken = limits.take(tokens)
        here = [each for at, each in [*log, (clock.now, tokens)] if clock.now < at + MINUTE_S]
        assert len(here) <= rpm
        assert sum(here) <= tpm or sum(each > 0 for each in here) == 1
        taken.correct(min(used, tokens))
        log.append((clock.now, min(used, tokens)))


def test_room_comes_when_the_oldest_request_is_a_minute_old() -> None:
    clock = Clock()
    limits = Limits(2, None, clock=clock)
    limits.take(0)
    clock.now += 10
    limits.take(0)
    assert limits.wait(0) == 50
    clock.now += 50
    assert limits.wait(0) == 0
    limits.take(0)
    assert limits.wait(0) == 10


def test_tokens_that_were_not_used_make_room_at_once_and_late_corrections_change_nothing() -> None:
    clock = Clock()
    limits = Limits(None, 100, clock=clock)
    first = limits.take(90)
    assert (limits.wait(20), limits.fit(5, 5, 8)) == (60, 1)
    first.correct(30)
    assert (limits.wait(20), limits.fit(5, 5, 20)) == (0, 13)
    clock.now += 60
    limits.take(50)
    first.correct(1000)
    first.undo()
    assert limits.used == 50


def test_a_request_larger_than_the_limit_goes_through_alone() -> None:
    clock = Clock()
    limits = Limits(None, 100, clock=clock)
    assert limits.fit(500, 10, 4) == 1
    limits.take(500)
    assert limits.wait(1) == 60


def test_a_request_that_was_not_sent_leaves_no_trace() -> None:
    limits = Limits(1, 100, clock=Clock())
    limits.take(90).undo()
    assert (limits.wait(100), limits.used) == (0, 0)


def test_a_wave_is_split_where_only_a_part_fits_in_a_minute() -> None:
    clock = Clock()
    need = Need(REQUEST, 8)
    base, each = need.tokens(made())
    tight = made("tight", clock, limits=Limits(None, base + 3 * each, clock=clock))
    wide = made("wide", clock, limits=Limits(None, 100_000, clock=clock))
    group = Group((tight, wide))
    first, second = at_once(group, need), at_once(group, Need(REQUEST, 5))
    assert first is not None
    assert second is not None
    assert [(place.deployment.model_name, place.choices) for place in (first, second)] == [("tight", 3), ("wide", 5)]


# rest


def test_a_429_gives_a_rest_for_as_long_as_it_says_or_else_for_the_cooldown() -> None:
    clock = Clock()
    health = Health(clock=clock, cooldown_s=7.0)
    health.failed(UpstreamError("later", status=429, retry_after=30))
    assert health.rest == 30
    health.failed(BUSY)
    assert health.rest == 30
    clock.now += 30
    assert health.rest == 0
    health.failed(BUSY)
    assert health.rest == 7


@pytest.mark.parametrize("error", [BROKEN, UpstreamUnreachable("gone"), UpstreamTimeout("late")])
@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_more_failures_than_allowed_in_a_minute_give_a_rest(error: UpstreamError, allowed: int) -> None:
    clock = Clock()
    health = Health(clock=clock, allowed_fails=allowed, cooldown_s=5.0)
    for _ in range(allowed):
        health.failed(error)
        clock.now += 1
    assert health.rest == 0
    health.failed(error)
    assert health.rest == 5


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_after_a_rest_as_many_failures_are_allowed_again(allowed: int) -> None:
    clock = Clock()
    health = Health(clock=clock, allowed_fails=allowed, cooldown_s=5.0)
    for _ in range(3):
        for _ in range(allowed):
            health.failed(BROKEN)
        assert health.rest == 0
        health.failed(BROKEN)
        assert health.rest == 5
        clock.now += 5


def test_failures_that_are_more_than_a_minute_apart_give_no_rest() -> None:
    clock = Clock()
    health = Health(clock=clock, allowed_fails=1)
    for _ in range(5):
        health.failed(BROKEN)
        assert health.rest == 0
        clock.now += 60


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 504, 529])
def test_what_is_not_the_requests_own_fault_is_tried_elsewhere(status: int) -> None:
    assert may_pass_elsewhere(UpstreamError("", status=status))


@pytest.mark.parametrize(
    "error", [*(UpstreamError("", status=status) for status in (400, 404, 409, 413, 422)), BudgetExceeded("")]
)
def test_what_is_the_requests_own_fault_is_not_tried_elsewhere(error: TallyError) -> None:
    assert not may_pass_elsewhere(error)


# the way of a call


@pytest.mark.anyio
async def test_a_call_that_fails_goes_to_the_other_deployments_and_then_to_the_fallbacks() -> None:
    way = route([made("a"), made("b")], [made("c")], [made("d")])
    assert await walk(tour(way), {}) == "a"
    assert await walk(tour(way), {"a": BROKEN, "b": BROKEN}) == "c"
    assert await walk(tour(way), {"a": BROKEN, "b": BUSY, "c": UpstreamError("key", status=401)}) == "d"
    assert [deployment.calls for group in way.groups for deployment in group.deployments] == [0, 0, 0, 0]


@pytest.mark.anyio
async def test_where_all_fail_the_models_own_error_is_told_and_not_its_fallbacks() -> None:
    way = route([made("a")], [made("b")])
    for error in (UpstreamError("key", status=401), UpstreamError("no", status=400), BudgetExceeded("")):
        with pytest.raises(UpstreamError) as caught:
            await walk(tour(way), {"a": BROKEN, "b": error})
        assert caught.value is BROKEN


@pytest.mark.anyio
@pytest.mark.parametrize("error", [UpstreamError("no", status=400), BudgetExceeded("")])
async def test_what_is_the_clients_own_fault_goes_nowhere_else(error: TallyError) -> None:
    way = route([made("a"), made("b")], [made("c")])
    with pytest.raises(TallyError) as caught:
        await walk(tour(way), dict.fromkeys("abc", error))
    assert caught.value is error
    assert [deployment.turn for group in way.groups for deployment in group.deployments] == [1.0, 0.0, 0.0]


@pytest.mark.anyio
async def test_a_call_of_which_something_has_come_goes_nowhere_else() -> None:
    way = route([made("a"), made("b")])
    going = tour(way)
    going.stay()
    with pytest.raises(UpstreamError, match="it broke"):
        await walk(going, {"a": BROKEN})


@pytest.mark.anyio
async def test_those_that_rest_are_left_out_while_another_is_there_and_a_fallback_counts_as_one() -> None:
    clock = Clock()
    first, second, other = (made(name, clock) for name in ("first", "second", "other"))
    way = route([first, second], [other], clock=clock)
    first.failed(BUSY)
    assert [await walk(tour(way), {}) for _ in range(3)] == ["second"] * 3
    clock.now += 1
    second.failed(BUSY)
    assert await walk(tour(way), {}) == "other"
    other.failed(BUSY)
    # all of them rest: the one of its own that is back first, then the next, each once
    assert await walk(tour(way), {}) == "first"
    assert await walk(tour(way), {"first": BROKEN}) == "second"
    assert await walk(tour(way), {"first": BROKEN, "second": BROKEN}) == "other"
    with pytest.raises(UpstreamError) as caught:
        await walk(tour(way), {"first": BROKEN, "second": BROKEN, "other": BUSY})
    assert caught.value is BROKEN


@pytest.mark.anyio
async def test_a_call_that_waits_for_the_first_to_be_back_is_not_sent_away() -> None:
    clock = Clock()
    full, resting = made("full", clock, limits=Limits(1, None, clock=clock)), made("resting", clock)
    way = route([full, resting], clock=clock)
    resting.failed(BUSY)
    assert await walk(tour(way), {}) == "full"
    # the one is full for a minute, the other rests for five seconds
    assert way.groups[0].wait(Need(REQUEST), way.own) == 5.0
    with pytest.raises(RateLimited) as caught:
        await walk(tour(way, seconds=3), {})
    assert caught.value.retry_after == 5.0


@pytest.mark.anyio
async def test_a_fallbacks_error_is_never_told_for_the_models_own() -> None:
    clock = Clock()
    limits = Limits(1, None, clock=clock)
    limits.take(0)
    way = route([made("full", clock, limits=limits)], [made("other", clock)], clock=clock)
    with pytest.raises(RateLimited) as caught:
        await walk(tour(way, seconds=2), {"other": UpstreamError("Incorrect API key", status=401)})
    assert caught.value.retry_after == MINUTE_S


LATER = UpstreamError("later", status=429, retry_after=30)
KEY = UpstreamError("key", status=401)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("one", "other", "told"),
    [(LATER, BROKEN, BROKEN), (BROKEN, LATER, BROKEN), (KEY, LATER, LATER), (LATER, KEY, LATER)],
)
async def test_of_several_errors_the_one_that_is_sooner_over_is_told(
    one: TallyError, other: TallyError, told: TallyError
) -> None:
    with pytest.raises(UpstreamError) as caught:
        await walk(tour(route([made("a"), made("b")])), {"a": one, "b": other})
    assert caught.value is told


@pytest.mark.anyio
async def test_what_cannot_be_paid_is_asked_of_those_of_the_model_that_cost_otherwise_and_of_no_fallback() -> None:
    dear, cheap = Rates(9, 9), Rates(1, 1)
    way = route([made("a", rates=dear), made("b", rates=dear), made("c", rates=cheap)], [made("d", rates=cheap)])
    poor = BudgetExceeded("")
    assert await walk(tour(way), {"a": poor, "b": poor}) == "c"
    assert way.own[1].turn == 0.0
    with pytest.raises(BudgetExceeded):
        await walk(tour(way, fits=lambda each: each.rates == dear or each.model_name == "d"), {"a": poor, "b": poor})
    # one that fails beside it is what may be over
    with pytest.raises(UpstreamError) as caught:
        await walk(tour(way), {"a": poor, "b": poor, "c": BROKEN, "d": poor})
    assert caught.value is BROKEN


@pytest.mark.anyio
async def test_a_lone_deployment_is_called_however_often_it_failed() -> None:
    clock = Clock()
    lone = made("lone", clock, allowed_fails=0)
    way = route([lone], clock=clock)
    for error in (BUSY, BROKEN, BROKEN):
        with pytest.raises(UpstreamError) as caught:
            await walk(tour(way), {"lone": error})
        assert caught.value is error
    assert lone.rest > 0
    assert await walk(tour(way), {}) == "lone"


@pytest.mark.anyio
async def test_only_deployments_that_fit_are_asked() -> None:
    way = route([made("a"), made("b")], [made("c"), made("d")])
    assert await walk(tour(way, fits=lambda each: each.model_name in {"b", "d"}), {"b": BROKEN}) == "d"
    with pytest.raises(UpstreamError):
        await walk(tour(way, fits=lambda each: each.model_name == "b"), {"b": BROKEN})


@pytest.mark.anyio
async def test_where_every_limit_is_used_up_beyond_the_deadline_the_client_is_told_when_to_come_back() -> None:
    clock = Clock()
    full = made("full", clock, limits=Limits(1, None, clock=clock))
    way = route([full], clock=clock)
    assert await walk(tour(way), {}) == "full"
    clock.now += 20
    with pytest.raises(RateLimited) as caught:
        await walk(tour(way, seconds=30), {})
    assert (caught.value.status, caught.value.retry_after) == (429, 40)


@pytest.mark.anyio
async def test_a_deployment_with_room_is_asked_before_one_at_its_limit_and_so_is_a_fallback() -> None:
    clock = Clock()
    one, two, other = (made(name, clock, limits=Limits(1, None, clock=clock)) for name in ("one", "two", "other"))
    way = route([one, two], [other], clock=clock)
    assert [await walk(tour(way), {}) for _ in range(3)] == ["one", "two", "other"]


@pytest.mark.anyio
async def test_room_within_the_deadline_is_waited_for() -> None:
    clock = Ahead()
    limits = Limits(1, None, clock=clock)
    limits.take(0)
    clock.seconds = MINUTE_S - 0.1
    began = time.monotonic()
    assert await walk(tour(route([made("soon", limits=limits)], clock=clock)), {}) == "soon"
    assert 0.05 <= time.monotonic() - began < 5


@pytest.mark.anyio
async def test_another_deployment_that_gets_free_is_not_waited_past() -> None:
    clock = Ahead()
    spent, busy = made("spent", limits=Limits(1, None, clock=clock)), made("busy", limit=1)
    way = route([spent, busy], clock=clock)
    assert await walk(tour(way), {}) == "spent"
    async with asyncio.TaskGroup() as tasks, tour(way).stop() as place:
        assert place.deployment is busy
        waiting = tasks.create_task(walk(tour(way), {}))
        await asyncio.sleep(0.01)
        assert not waiting.done()
    assert waiting.result() == "busy"


@pytest.mark.anyio
async def test_those_in_line_are_let_in_in_order_and_whoever_gives_up_holds_up_nobody() -> None:
    group = Group((made(limit=1),))
    served: list[int] = []

    async def one(number: int) -> None:
        place = await group.enter(Need(REQUEST), group.deployments)
        served.append(number)
        group.leave(place)

    held = at_once(group)
    assert held is not None
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(one(number)) for number in range(5)]
        await asyncio.sleep(0)
        assert at_once(group) is None
        waiting[0].cancel()
        waiting[2].cancel()
        await asyncio.sleep(0)
        group.leave(held)
        # it has a place from now on, and gives it back unused
        waiting[1].cancel()
    assert served == [3, 4]
    assert group.deployments[0].calls == 0


@pytest.mark.anyio
async def test_a_place_that_is_free_by_the_deadline_nowhere_is_a_timeout() -> None:
    way = route([made("a", limit=1)])
    async with tour(way).stop():
        with pytest.raises(UpstreamTimeout) as caught:
            await walk(tour(way, seconds=0.02), {})
    assert (caught.value.status, caught.value.sent) == (504, False)


@pytest.mark.anyio
async def test_a_deployment_that_is_full_hands_its_calls_to_one_that_is_not() -> None:
    full, free = made("full", limit=1, weight=100.0), made("free")
    way = route([full, free])
    async with tour(way).stop() as place:
        assert place.deployment is full
        assert [await walk(tour(way), {}) for _ in range(3)] == ["free"] * 3
