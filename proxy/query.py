"""One request in a batch, with all that was drawn for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from proxy.answers import Answer, Groups, Reader, mean_logprob, truncated
from proxy.core.batch import Draw, Sample
from proxy.core.calibration import Calibration
from proxy.core.prior import Prior
from proxy.core.vote import SILENT
from proxy.errors import TallyError
from proxy.keeping import EMPTY, Claim, Kept, Stock
from proxy.purse import Purse
from proxy.scoring import Scorer
from proxy.types import JSON, AnswerSpec, Choice, Pick, Plan
from proxy.upstream.deployment import Deployment
from proxy.upstream.routing import Route
from proxy.values import value


@value(frozen=True, slots=True)
class Drawn:
    """A finished sample with its text. `row` is its line in the ledger; `place` its place among its query's draws.

    `draw` is what was asked; what it was `given` counts only where the prompt really showed it.
    """

    draw: Draw
    place: int
    row: str
    choice: Choice
    answer: Answer | None
    truncated: bool
    score: float | None
    mean_logprob: float | None


@dataclass(slots=True, eq=False)
class Query:
    """One request in a batch, with what was drawn for it. `started` and `deadline` are on the monotonic clock.

    `route` is where its calls go: each to a deployment of its own.

    `drawn` is by id of the draw; `places` counts the draws started; `errors` are why draws were lost. `groups` are the
    answers that count as the same; none given: those that are written alike. `pick` is the id of the draw that was
    picked where there is no vote, `picked` what picked it (None: nothing was to be picked). `stock` is what an earlier
    try of the same request had drawn, `reused` the places of what was taken from it, and `claim` what hears of this
    one's samples. `heard` is called with every sample that is told, and what it votes for. `cached` are
    the deployments that have its prompt in their caches, or will soon. `filtered`: a filter has ended a sample of it.
    """

    id: int
    plan: Plan
    request: JSON
    route: Route
    purse: Purse
    started: float
    deadline: float
    scorer: Scorer | None = None
    prior: Prior | None = None
    calibration: Calibration | None = None
    overhead: float = 0.0
    groups: Groups = field(default_factory=lambda: Groups(AnswerSpec()))
    reader: Reader = field(init=False)
    drawn: dict[int, Drawn] = field(default_factory=dict)
    places: int = 0
    rounds: int = 0
    cut: bool = False
    filtered: bool = False
    head: JSON = field(default_factory=dict)
    errors: list[TallyError] = field(default_factory=list)
    pick: int | None = None
    picked: Pick | None = None
    stock: Stock = EMPTY
    reused: set[int] = field(default_factory=set)
    claim: Claim | None = None
    heard: Callable[[Sample], None] | None = None
    cached: set[Deployment] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.reader = Reader(self.plan.answer, self.request)

    def keep(self, draw: Draw, place: int, row: str, choice: Choice, score: float | None = None) -> Drawn:
        """Keep a finished choice as a sample of this query."""
        self.filtered |= choice.finish_reason == "content_filter"
        drawn = self.drawn[draw.id] = Drawn(
            draw=draw,
            place=place,
            row=row,
            choice=choice,
            answer=None if self.plan.unread or draw.step in SILENT else self.reader.read(choice),
            truncated=truncated(choice),
            score=score,
            mean_logprob=mean_logprob(choice),
        )
        return drawn

    def in_order(self) -> list[Drawn]:
        """The finished samples in draw order, whatever order they came in."""
        return sorted(self.drawn.values(), key=lambda drawn: drawn.place)

    def start_from(self, stock: Stock) -> None:
        """Take samples of `stock` where draws are asked that they can stand for; new ones get places after them."""
        self.stock = stock
        self.places = max(self.places, stock.places)
        self.head = self.head or stock.head
        if not self.purse.prompt_bound:
            self.purse.prompt_tokens, self.purse.prompt_bound = stock.prompt_tokens, stock.prompt_bound
            self.purse.prompt_estimated = stock.prompt_estimated

    def reuse(self, draws: Sequence[Draw]) -> dict[int, Kept]:
        """The samples of the stock that stand for draws, by id of the draw."""
        found: dict[int, Kept] = {}
        if len(self.reused) == len(self.stock.samples):
            return found
        at_hand = [drawn.place for drawn in self.drawn.values()]
        for draw in draws:
            given = [self.drawn[each].place for each in draw.given if each in self.drawn]
            kept = self.stock.find(draw, given, self.reused, at_hand)
            if kept is not None:
                found[draw.id] = kept
                self.reused.add(kept.place)
        return found

    def remains(self) -> Stock:
        """What another try of the same request can start from: what was drawn, and what was not yet taken over."""
        samples = {kept.place: kept for kept in self.stock.samples}
        samples |= {drawn.place: self._kept(drawn) for drawn in self.drawn.values()}
        purse = self.purse
        return Stock(
            tuple(samples[place] for place in sorted(samples)),
            self.places,
            self.head,
            purse.prompt_tokens,
            purse.prompt_bound,
            purse.prompt_estimated,
        )

    def _kept(self, drawn: Drawn) -> Kept:
        draw = drawn.draw
        given = tuple(self.drawn[each].place for each in draw.given)
        # without a verifier a score is a grade, which comes with the draw that gave it
        score = None if self.scorer is None else drawn.score
        return Kept(drawn.place, given, draw.round, draw.step, drawn.row, drawn.choice, score)

    async def settle(self) -> None:
        """Give every answer the label of its group, in draw order: the same samples always get the same verdict."""
        samples = self.in_order()
        labels = await self.groups.in_order([sample.answer for sample in samples])
        for sample, label in zip(samples, labels, strict=True):
            if sample.answer is not None and label != sample.answer.label:
                self.drawn[sample.draw.id] = replace(sample, answer=replace(sample.answer, label=label))
