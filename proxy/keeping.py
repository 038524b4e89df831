"""Finished samples of requests whose clients went away, kept for a while for the retry that may come.

Clients close a connection that took too long and ask the same again. What their first request finished by then is paid
for: the second one starts from it.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import orjson

from proxy.core.batch import Draw, Step
from proxy.types import JSON, Choice

MOST_STOCKS = 1_000
"""How many requests' samples are kept at a time."""

MOST_BYTES = 64 * 1024 * 1024
"""How many bytes of messages and log-probabilities are kept at a time."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A finished sample. `place` and `given` are places among its query's draws, which a retry takes over.

    `score` is a verifier's; None: there is none, or it had not come yet.
    """

    place: int
    given: tuple[int, ...]
    round: int
    step: Step
    row: str
    choice: Choice
    score: float | None


@dataclass(frozen=True, slots=True)
class Stock:
    """The samples of one request, in draw order; `places` are those taken by all of its draws, finished or not.

    `head` is the provider's own id, model and the like; `prompt_tokens` and `prompt_bound` are the purse's.
    """

    samples: tuple[Kept, ...] = ()
    places: int = 0
    head: JSON = field(default_factory=dict)
    prompt_tokens: int = 0
    prompt_bound: int = 0
    prompt_estimated: bool = False

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(orjson.dumps([[kept.choice.message, kept.choice.logprobs] for kept in self.samples]))

    def find(self, draw: Draw, given: Sequence[int], used: Container[int], at_hand: Iterable[int]) -> Kept | None:
        """The earliest sample, not `used` yet, that can stand for `draw`, whose `given` are the places that it sees.

        It was made by the same step from the same samples. Where several attempts are shown they are drawn by lot, so
        that another lot of the same round is as good, as long as all of it is at hand.
        """
        free = [kept for kept in self.samples if kept.place not in used and kept.step == draw.step]
        same = next((kept for kept in free if kept.given == tuple(given)), None)
        if same is not None or not given or draw.step != "answer":
            return same
        here = set(at_hand)
        alike = (kept for kept in free if kept.given and kept.round == draw.round and here.issuperset(kept.given))
        return next(alike, None)


EMPTY = Stock()


def fingerprint(body: bytes, *marks: str | None) -> bytes:
    """What equal requests have in common: a digest of their bytes, and of what their path and headers say."""
    digest = hashlib.sha256(body)
    for mark in marks:
        digest.update(b"\0" if mark is None else b"\1" + mark.encode())
    return digest.digest()


class Claim:
    """One request's hold on a key: the `stock` it starts from, and what becomes of its own samples.

    Whoever draws says `settled` when nothing more will come of it; whoever answers says `left` when the client went, or
    `answered`. It is over after `answered`, or after both of the others, in any order.
    """

    def __init__(self, keeper: "Keeper", key: Hashable, stock: Stock) -> None:
        self.stock = stock
        self.awaited = 0
        self.over = asyncio.Event()
        self._keeper = keeper
        self._key = key
        self._found: Stock | None = None
        self._left = False

    @property
    def leaving(self) -> bool:
        """Whether its client went, and its draws are being stopped."""
        return self._left and not self.over.is_set()

    def settled(self, found: Stock) -> None:
        """Take what was drawn, once every draw has ended."""
        if self._found is None:
            self._found = found
            self._finish()

    def left(self) -> None:
        """Take it that the client is gone."""
        self._left = True
        self._finish()

    def answered(self) -> None:
        """Take it that the client has its answer, or its error."""
        if not self.over.is_set():
            self._end(keep=self.awaited > 0)

    def _finish(self) -> None:
        if self._left and self._found is not None and not self.over.is_set():
            self._end(keep=True)

    def _end(self, *, keep: bool) -> None:
        self.over.set()
        self._keeper.release(self._key, self, self._found if keep and self._found is not None else EMPTY)


class Keeper:
    """Keeps samples for `seconds`, in this process, at most `most` stocks and `most_bytes` bytes; the oldest go first.

    `clock` is monotonic seconds. 0 seconds: nothing is kept, and nobody waits for another. A key must hold whoever pays
    and everything that decides how a request is drawn: what is kept under it goes to the first who claims it.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        seconds: float = 30.0,
        most: int = MOST_STOCKS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._stocks: OrderedDict[Hashable, tuple[float, int, Stock]] = OrderedDict()
        self._claims: dict[Hashable, list[Claim]] = {}

    async def claim(self, key: Hashable, *, again: bool = False) -> Claim:
        """A hold on `key`, with what is kept under it.

        Waits for a request of the same key that is being stopped, as its samples are about to be kept; and with
        `again`, where the client itself says that it has asked before, for one that still runs: one of the two is
        drawn.
        """
        while self._seconds and (before := self._before(key, again=again)) is not None:
            before.awaited += 1
            try:
                await before.over.wait()
            finally:
                before.awaited -= 1
        made = Claim(self, key, self._take(key))
        if self._seconds:
            self._claims.setdefault(key, []).append(made)
        return made

    def release(self, key: Hashable, claim: Claim, found: Stock) -> None:
        """Forget a claim that is over, and keep what it found."""
        claims = self._claims.get(key, [])
        if claim in claims:
            claims.remove(claim)
        if not claims:
            self._claims.pop(key, None)
        if found.samples and self._seconds:
            self._keep(key, found)

    @property
    def held(self) -> tuple[int, int]:
        """How many stocks and bytes are kept now."""
        self._expire()
        return len(self._stocks), self._bytes

    def _before(self, key: Hashable, *, again: bool) -> Claim | None:
        return next((claim for claim in self._claims.get(key, ()) if again or claim.leaving), None)

    def _keep(self, key: Hashable, found: Stock) -> None:
        self._drop(key)
        size = found.size
        self._stocks[key] = (self._clock() + self._seconds, size, found)
        self._bytes += size
        self._expire()
        while self._stocks and (len(self._stocks) > self._most or self._bytes > self._most_bytes):
            self._drop(next(iter(self._stocks)))

    def _take(self, key: Hashable) -> Stock:
        self._expire()
        return self._drop(key)

    def _expire(self) -> None:
        # all are kept equally long, so the first in is the first to go
        while self._stocks and next(iter(self._stocks.values()))[0] <= self._clock():
            self._drop(next(iter(self._stocks)))

    def _drop(self, key: Hashable) -> Stock:
        _, size, stock = self._stocks.pop(key, (0.0, 0, EMPTY))
        self._bytes -= size
        return stock
