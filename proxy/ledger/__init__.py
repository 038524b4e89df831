"""The account: what each tenant may spend, has reserved and has spent.

Three invariants hold on every store. `spent + reserved <= limit` in every window of every tenant and key, however many
requests run at once. Every reservation ends exactly once. At idle nothing is reserved and `spent` is the sum of the
ledger's rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from proxy.types import Account, Key, Tenant
from proxy.values import value

if TYPE_CHECKING:
    from proxy.ledger.books import Books

T = TypeVar("T")


@value(frozen=True, slots=True)
class Amount:
    """Money in nano-USD, tokens, and samples."""

    nano: int = 0
    tokens: int = 0
    samples: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.nano + other.nano, self.tokens + other.tokens, self.samples + other.samples)

    def __neg__(self) -> "Amount":
        return Amount(-self.nano, -self.tokens, -self.samples)

    def times(self, count: int) -> "Amount":
        """So much `count` times."""
        return Amount(self.nano * count, self.tokens * count, self.samples * count)


@value(frozen=True, slots=True)
class Reservation:
    """A wish to spend at most `base + choices * each` on one upstream call; `base` is the prompt, `each` a choice.

    `attempt` is unique for ever. `lifetime` is in seconds: after it the reservation is charged by whoever sweeps.
    """

    attempt: str
    account: Account
    base: Amount
    each: Amount
    choices: int
    lifetime: float


@value(frozen=True, slots=True)
class DrawRow:
    """One line of the ledger: a draw (or a judge's call), what it took and what it cost in nano-USD.

    `samples` is 1 for a draw, 0 for a call of another purpose, and what was reserved where the end was never told.
    """

    id: str
    purpose: str
    round: int
    index: int
    status: str
    model: str
    deployment: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost_nano: int
    estimated: bool
    finish_reason: str | None
    latency_ms: int
    samples: int = 0

    @property
    def amount(self) -> Amount:
        """What it takes from a budget."""
        return Amount(self.cost_nano, self.prompt_tokens + self.completion_tokens, self.samples)


@value(frozen=True, slots=True)
class Settlement:
    """The end of a reservation: its rows are what is charged (none: the call was not billed)."""

    attempt: str
    account: Account
    rows: tuple[DrawRow, ...]


Hot = Reservation | Settlement
"""What is asked for every upstream call."""


@value(frozen=True, slots=True)
class Ballot:
    """What a draw said, for the ledger: its label (None: abstained), verifier score and mean log-probability."""

    draw: str
    label: str | None
    score: float | None
    mean_logprob: float | None


@dataclass(frozen=True, slots=True)
class Text:
    """What one draw said, or what was asked where `draw` is empty: JSON. `cut`: its beginning alone is kept."""

    draw: str
    text: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Texts:
    """What was asked and said in a request, to be kept for so many days."""

    days: int
    said: tuple[Text, ...]


@value(frozen=True, slots=True)
class RequestRow:
    """One request's verdict. `answer` is the winner's, `first_answer` what one sample would have said.

    `question` is what was asked. Without `texts` nothing of what was said is written: answers and the ballots' labels
    become names that tell which are equal, and there is no question.
    """

    account: Account
    model: str
    strategy: str
    status: int
    samples: int
    abstained: int
    rounds: int
    winner: int | None
    answer: str | None
    first_answer: str | None
    confidence: float | None
    cost_nano: int
    reason: str | None
    latency_ms: int
    ballots: tuple[Ballot, ...] = ()
    question: str | None = None
    texts: Texts | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a bearer key stands for, and how its budgets stand.

    `left` is the share in [0, 1] of the budget window, of the tenant or of the key, that has least left; 1 without a
    limit. `left_free` is the same for what costs no money, whatever is left of that. `soft` names the scopes, of these
    two, whose soft budget is used up.
    """

    tenant: Tenant
    key: Key
    left: float = 1.0
    left_free: float = 1.0
    soft: tuple[str, ...] = ()


@value(frozen=True, slots=True)
class Refused:
    """What a budget did not hold: a call's `base + choices * each`, or without amounts a vote of unknown cost.

    `free`: what is asked costs no money.
    """

    account: Account
    base: Amount = Amount()
    each: Amount = Amount()
    choices: int = 1
    free: bool = False


Limited = Literal["money", "tokens", "samples", "soft budget", "blocked"]


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a budget does not hold something: the limit, of a tenant or of its `key`, that is nearest to its end.

    `limit`, what is `left` of it and what is `needed` are nano-USD, tokens or samples, as `limited` says. `duration` is
    the window's, which ends at `resets_at` (seconds since 1970; None: never), in `resets_in` seconds.
    """

    tenant: str
    key: str | None
    limited: Limited
    duration: str | None = None
    limit: int = 0
    left: int = 0
    needed: int = 0
    resets_at: float | None = None
    resets_in: float | None = None


class Ledger(Protocol):
    """A store of accounts. Every method may be called from any task of one event loop.

    Every awaited method raises LedgerUnavailable while the store cannot be reached or written.
    """

    async def reserve(self, reservation: Reservation) -> int:
        """Reserve for as many of the choices as every budget holds, in one transaction; returns how many."""

    async def extend(self, attempt: str, more: Amount) -> bool:
        """Add to a reservation if the budget holds it; false changes nothing."""

    def settle(self, settlement: Settlement) -> None:
        """End a reservation: release it and charge the rows. Never waits, so that a cancelled task can call it.

        Settling an attempt twice is a no-op. What was settled is written before `flush` returns.
        """

    def record(self, row: RequestRow) -> None:
        """Write a request's verdict, its draws' ballots and its texts. Never waits."""

    async def authenticate(self, key: str) -> Credentials | None:
        """What a bearer key stands for, or None when it is unknown, revoked or expired."""

    async def shortage(self, refused: Refused) -> Shortage | None:
        """Which limit did not hold something; None where there is room for it by now."""

    async def outcomes(self, tenant: str, model: str, limit: int) -> list[tuple[float, bool]]:
        """The confidence of each of the last `limit` judged answers, and whether it was right, latest first."""

    async def scores(self, tenant: str, model: str, limit: int) -> list[list[float]]:
        """The scores of the samples of each of the last `limit` scored requests, latest first."""

    async def feedback(self, tenant: str, request: str, *, correct: bool) -> bool:
        """Keep whether an answer was right. False where the tenant has no such request that was answered."""

    async def probe(self) -> None:
        """Write something, to see that the store takes it."""

    async def run(self, work: Callable[["Books"], T]) -> T:
        """Run `work` on the books, in one transaction in a thread of its own; its error is raised here."""

    async def flush(self) -> None:
        """Return when all that was settled and recorded before is durable."""

    async def close(self) -> None:
        """Flush and let go of the store."""
