"""Finished samples of requests whose clients went away, kept for a while for the retry that may come.

Clients close a connection that took too long and ask the same again. What their first request finished by then is paid
for: the second one starts from it.
"""

import asyncio
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from dataclasses import field

import orjson

from proxy.core.batch import Draw, Step
from proxy.types import JSON, Choice
from proxy.values import value

MOST_STOCKS = 1_000
"""How many requests' samples are kept at a time."""

MOST_BYTES = 16 * 1024 * 1024
"""How many bytes of messages and log-probabilities are kept at a time, as JSON: about five times that in memory."""

Key = tuple[Hashable, ...]
"""Who asks, and then everything that decides how a request is drawn."""


@value(frozen=True, slots=True)
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


@value(frozen=True, slots=True)
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
        """How many bytes its messages and log-probabilities take as JSON."""
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


def fingerprint(body: bytes) -> bytes:
    """What equal requests have in common: a digest of their bytes."""
    return hashlib.sha256(body).digest()


@value(frozen=True, slots=True)
class Try:
    """What a client says of its request: `number` tries went before, each given up after `patience_s` seconds or so."""

    number: int = 0
    patience_s: float = 0.0


FIRST = Try()


class Claim:
    """One request's hold on a key: the `stock` it starts from, and what becomes of its own samples.

    It is its client's try `number`, and `began` on the keeper's clock; `awaited`: another try waits for its samples.
    Whoever draws says `settled` when nothing more will come of it; whoever answers says `left` when the client went, or
    `answered`. It is over after `answered`, or after both of the others, in any order.
    """

    def __init__(self, keeper: "Keeper", key: Key, stock: Stock, number: int, began: float) -> None:
        self.stock = stock
        self.number = number
        self.began = began
        self.awaited = False
        self.over = asyncio.Event()
        self._keeper = keeper
        self._key = key
        self._found: Callable[[], Stock] | None = None
        self._left = False

    @property
    def leaving(self) -> bool:
        """Whether its client went, and its draws are being stopped."""
        return self._left and not self.over.is_set()

    def settled(self, found: Callable[[], Stock]) -> None:
        """Take what was drawn, once every draw has ended: nearly always nobody will look at it."""
        if self._found is None and not self.over.is_set():
            self._found = found
            self._finish()

    def left(self) -> None:
        """Take it that the client is gone."""
        self._left = True
        self._finish()

    def answered(self) -> None:
        """Take it that the client has its answer, or its error."""
        if not self.over.is_set():
            self._end(keep=self.awaited)

    def _finish(self) -> None:
        if self._left and self._found is not None and not self.over.is_set():
            self._end(keep=True)

    def _end(self, *, keep: bool) -> None:
        self.over.set()
        # what finds the samples knows this claim, too
        found, self._found = self._found, None
        self._keeper.release(self._key, self, found() if keep and found is not None else EMPTY)


class Keeper:
    """Keeps samples for `seconds`, in this process, at most `most` stocks and `most_bytes` bytes of them as JSON.

    Over a bound the oldest stock goes of whoever has the most, so that nobody's many requests cost others theirs.
    `clock` is monotonic seconds. 0 seconds: nothing is kept, and nobody waits for another. What is kept under a key
    goes to the first who claims it.
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
        self._stocks: OrderedDict[Key, tuple[float, int, Stock]] = OrderedDict()
        self._claims: dict[Key, list[Claim]] = {}

    async def claim(self, key: Key, tried: Try = FIRST, *, wait_s: float | None = None) -> Claim:
        """A hold on `key`, with what is kept under it.

        Waits for a request of the same key that is being stopped, as its samples are about to be kept, and for one that
        still runs where it may be the client's own, earlier try, of which nobody has seen yet that it was given up: one
        of the two is drawn. It waits for one request at most, for which nobody else waits, and at most `wait_s` seconds
        (None: until that is over).
        """
        before = self._before(key, tried) if self._seconds else None
        if before is not None:
            before.awaited = True
            try:
                async with asyncio.timeout(wait_s):
                    await before.over.wait()
            except TimeoutError:
                pass  # it draws for itself in the time that is left
            finally:
                before.awaited = False
        made = Claim(self, key, self._take(key), tried.number, self._clock())
        if self._seconds:
            self._claims.setdefault(key, []).append(made)
        return made

    def release(self, key: Key, claim: Claim, found: Stock) -> None:
        """Forget a claim that is over, and keep what it found."""
        claims = self._claims.get(key, [])
        if claim in claims:
            claims.remove(claim)
        if not claims:
            self._claims.pop(key, None)
        if found.samples and self._seconds:
            self._keep(key, found)

    def _before(self, key: Key, tried: Try) -> Claim | None:
        free = (claim for claim in self._claims.get(key, ()) if not claim.awaited)
        return next((claim for claim in free if claim.leaving or self._earlier(claim, tried)), None)

    def _earlier(self, claim: Claim, tried: Try) -> bool:
        """Whether a claim may be an earlier try: a younger one is not given up yet, but another request that equals."""
        return claim.number < tried.number and self._clock() - claim.began >= tried.patience_s

    def _keep(self, key: Key, found: Stock) -> None:
        self._drop(key)
        size = found.size
        self._stocks[key] = (self._clock() + self._seconds, size, found)
        self._bytes += size
        self._expire()
        while len(self._stocks) > self._most or self._bytes > self._most_bytes:
            self._evict()

    def _take(self, key: Key) -> Stock:
        self._expire()
        return self._drop(key)

    def _expire(self) -> None:
        # all are kept equally long, so the first in is the first to go
        while self._stocks and next(iter(self._stocks.values()))[0] <= self._clock():
            self._drop(next(iter(self._stocks)))

    def _evict(self) -> None:
        shares: Counter[Hashable] = Counter()
        by_size = self._bytes > self._most_bytes
        for key, (_, size, _) in self._stocks.items():
            shares[key[0]] += size if by_size else 1
        largest = max(shares, key=shares.__getitem__)
        self._drop(next(key for key in self._stocks if key[0] == largest))

    def _drop(self, key: Key) -> Stock:
        _, size, stock = self._stocks.pop(key, (0.0, 0, EMPTY))
        self._bytes -= size
        return stock
