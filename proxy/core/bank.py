"""What a tenant's queries leave for each other, and the price of a sample.

Every query brings the same credit. Easy ones leave most of it in the bank, hard ones draw from it, and the price (a
gain of agreement a sample, below which no sample is drawn) follows: it falls while credit is left over and rises while
more is spent than comes in. So the share of a stream that deserves samples gets them with no batch at all.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable

_FIRST_PRICE = 0.02
_AT_CREDIT = 8.0
_POWER = 1.5
_CHEAPEST = 1e-6
_DEAREST = 0.25


class Bank:
    """A balance in samples of mean cost, shared by queries that come one after the other or side by side.

    `credit` samples come with each query. A query that comes finds at most `bound` credits saved beyond those of the
    queries that are open; what queries side by side leave, the last of them may still use. `integral` says how fast the
    price follows what queries spend, `proportional` how much savings lower it; a full bank asks next to nothing.
    `sample_tokens` is the mean cost of a sample in tokens; None: the mean of the samples that queries open with.

    The first price, 0.02 at 8 samples a query and falling with the power 3/2, is where prices settled on recorded
    samples of reasoning models. ValueError when `credit` is not above 0 or `bound` below 1.
    """

    def __init__(
        self,
        credit: float,
        *,
        bound: float = 16.0,
        integral: float = 0.1,
        proportional: float = 0.1,
        sample_tokens: float | None = None,
    ) -> None:
        if credit <= 0 or bound < 1:
            raise ValueError("credit is above 0, and bound at least 1")
        self.credit = credit
        self.balance = 0.0
        self._open = 0
        self._bound = bound
        self._integral = integral
        self._proportional = proportional
        self._known_tokens = sample_tokens
        self._opening_tokens = 0.0
        self._openings = 0
        self._log_price = math.log(min(_DEAREST, _FIRST_PRICE * (_AT_CREDIT / credit) ** _POWER))

    @property
    def price(self) -> float:
        """The least gain of agreement, a sample of mean cost, that is paid for now."""
        saved = max(self.balance / self.credit - self._open, 0.0)
        # what a full bank does not spend is thrown away, and so costs nothing
        price = math.exp(self._log_price - self._proportional * saved) * max(1.0 - saved / self._bound, 0.0)
        return min(max(price, _CHEAPEST), _DEAREST)

    def cost(self, tokens: float, samples: int = 1) -> float:
        """What `samples` of `tokens` in all cost, in samples of mean cost; while no length is known each costs 1."""
        if self._known_tokens:
            return tokens / self._known_tokens
        return tokens * self._openings / self._opening_tokens if self._opening_tokens else float(samples)

    def open(self) -> None:
        """A query came: put its credit in, and cut what is saved to the bound."""
        self._open += 1
        self.balance = min(self.balance + self.credit, (self._bound + self._open) * self.credit)

    def learn(self, tokens: float) -> None:
        """Hear what a sample cost that a query opened with. Later ones would count hard queries more than once."""
        self._opening_tokens += tokens
        self._openings += 1

    def take(self, samples: float) -> None:
        """Take out what draws are expected to cost; a negative number puts back what they did not."""
        self.balance -= samples

    def settle(self, spent: float) -> None:
        """A query was decided or left after spending `spent` samples of mean cost: the price follows."""
        self._open -= 1
        self._follow(spent - self.credit)

    def correct(self, samples: float) -> None:
        """A query that was settled has spent `samples` more (less: a negative number) than was thought then."""
        self.take(samples)
        self._follow(samples)

    def _follow(self, excess: float) -> None:
        self._log_price += self._integral * excess / self.credit
        self._log_price = min(max(self._log_price, math.log(_CHEAPEST)), math.log(_DEAREST))


class Banks:
    """The banks of a server, one for each owner (whatever names it), made on first use.

    Kept are the `most` that were used last.
    """

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._banks: OrderedDict[Hashable, Bank] = OrderedDict()

    def of(self, owner: Hashable, credit: float) -> Bank:
        """The bank of an owner whose queries bring `credit` samples."""
        bank = self._banks.setdefault((owner, credit), Bank(credit))
        self._banks.move_to_end((owner, credit))
        if len(self._banks) > self._most:
            self._banks.popitem(last=False)
        return bank
