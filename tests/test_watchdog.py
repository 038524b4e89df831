"""How long callbacks keep the loop waiting is seen from a thread beside it."""

import asyncio
import time

import pytest

from proxy.telemetry import Metrics
from proxy.watchdog import Watchdog

pytestmark = pytest.mark.anyio


def burn(seconds: float) -> None:
    """Use so much CPU time in one callback."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(200))


async def watched(work: list[float], told: list[float], asleep: float = 0.0) -> None:
    watchdog = Watchdog(told.append)
    watchdog.start()
    try:
        await asyncio.sleep(0.1)
        loop = asyncio.get_running_loop()
        for seconds in work:
            loop.call_soon(burn, seconds)
        if asleep:
            time.sleep(asleep)  # noqa: ASYNC251 - what stands still without CPU time is the point
        await asyncio.sleep(0.3)
    finally:
        watchdog.stop()


async def test_a_long_callback_is_told_with_its_cpu_time() -> None:
    told: list[float] = []
    await watched([0.3], told)
    # a look every few milliseconds, where the machine lets it
    assert 0.15 < max(told) < 0.4


async def test_many_short_callbacks_are_not_taken_for_a_long_one() -> None:
    told: list[float] = []
    await watched([0.03] * 12, told)
    assert max(told, default=0.0) < 0.15


async def test_a_callback_that_only_sleeps_uses_no_cpu_time() -> None:
    told: list[float] = []
    await watched([], told, asleep=0.3)
    assert max(told, default=0.0) < 0.05


def sample(text: str, name: str) -> float:
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))


def test_the_longest_callback_is_told_until_the_metrics_are_asked_for() -> None:
    metrics = Metrics()
    for seconds in (0.02, 0.07, 0.03):
        metrics.callback(seconds)
    first, second = (metrics.exposition().decode() for _ in range(2))
    assert sample(first, "tally_callback_seconds_max") == 0.07
    assert sample(second, "tally_callback_seconds_max") == 0.0
    assert sample(second, "tally_callback_seconds_count") == 3
