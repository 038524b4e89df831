"""What the check programs of the Python clients share. They run in environments that have nothing but their client.

A program makes a `Suite`, hands it one function a feature, and runs it; each check is told as a line of JSON.
"""

import asyncio
import contextlib
import inspect
import io
import json
import os
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

ASK = "What is 6 x 7?"
MESSAGES = [{"role": "user", "content": ASK}]
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_TOLD = 300


@dataclass(frozen=True)
class Place:
    """One strategy on the proxy, and the keys of a tenant that may spend and of one that may not."""

    url: str
    strategy: str
    key: str
    poor_key: str
    real_model: str | None

    @property
    def base_url(self) -> str:
        """What a client takes as its base URL."""
        return f"{self.url}/{self.strategy}/v1"

    def asking(self, client: str) -> str:
        """A question that nobody else asks."""
        return f"{ASK} ({client}, {self.strategy})"

    def metric(self, start: str, part: str = "") -> float:
        """The sum of the proxy's metrics whose lines begin with `start` and hold `part`."""
        with urllib.request.urlopen(f"{self.url}/metrics") as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start) and part in line)

    @contextlib.contextmanager
    def tries(self, status: int, times: int) -> Iterator[None]:
        """What is asked in the block has the proxy answer `status` so many times."""
        asked = ("tally_requests_total{", f'status="{status}"')
        before = self.metric(*asked)
        yield
        seen = self.metric(*asked) - before
        assert seen == times, f"{seen:g} answers of status {status}, not {times}"

    def is_idle(self, within: float = 1.0) -> None:
        """Nothing is being served any more, `within` seconds."""
        give_up = time.monotonic() + within
        while (busy := self.metric("tally_requests_in_flight ")) and time.monotonic() < give_up:
            time.sleep(0.02)
        assert not busy, "the proxy goes on with what nobody waits for"


Check = Callable[[Place], Awaitable[None] | None]


class Suite:
    """The checks of one client, in the order in which they were handed in."""

    def __init__(self, client: str, distribution: str) -> None:
        self._client = client
        self._version = version(distribution)
        self._checks: list[tuple[str, Check]] = []

    def feature(self, name: str) -> Callable[[Check], Check]:
        """Hand in the check of a feature."""

        def keep(check: Check) -> Check:
            self._checks.append((name, check))
            return check

        return keep

    def told(self, place: Place, feature: str, why_not: str | None) -> None:
        """Tell what became of one check."""
        line = {"client": self._client, "version": self._version, "strategy": place.strategy, "feature": feature}
        print(json.dumps(line | {"ok": why_not is None, "told": why_not or ""}), file=sys.__stdout__, flush=True)

    def run(self, each: Callable[[Place], None] | None = None) -> None:
        """Every check on every strategy; then `each`, which tells its own."""
        for place in places():
            for feature, check in self._checks:
                if place.real_model is not None or not feature.startswith("real "):
                    self.told(place, feature, _outcome(check, place))
            if each is not None:
                each(place)


def places() -> list[Place]:
    """What the environment says to check."""
    told = os.environ
    return [
        Place(told["TALLY_URL"], name, told["TALLY_KEY"], told["TALLY_POOR_KEY"], told.get("TALLY_REAL_MODEL"))
        for name in told["TALLY_STRATEGIES"].split(",")
    ]


def is_42(text: Any) -> None:
    """The answer that most samples give."""
    assert text == "42", f"{text!r} is not the answer of most samples"


@contextlib.contextmanager
def refused(kind: type[BaseException], status: int | None = None) -> Iterator[list[Any]]:
    """The block raises `kind`; the list holds what was raised."""
    caught: list[Any] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
    assert caught, f"no {kind.__name__} came"
    found = getattr(caught[0], "status_code", None)
    assert status in {None, found}, f"status {found}, not {status}: {caught[0]}"


@contextlib.contextmanager
def waits() -> Iterator[None]:
    """The block takes as long as Retry-After says."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started > 0.9, "it was not refused, or it did not wait"


def _outcome(check: Check, place: Place) -> str | None:
    try:
        # libraries print what they like, but only checks are told on the real one
        with contextlib.redirect_stdout(io.StringIO()):
            running = check(place)
            if inspect.isawaitable(running):
                asyncio.run(_awaited(running))
    # whatever a library raises is what there is to tell
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}".replace("\n", " ")[:_TOLD]
    return None


async def _awaited(running: Awaitable[None]) -> None:
    await running
