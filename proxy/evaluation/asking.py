"""Asking a question through the proxy, and what came of it."""

from asyncio import TaskGroup
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.answers import Algebra
from proxy.errors import TallyError
from proxy.evaluation.questions import Question, graded, matches
from proxy.evaluation.setup import Setup
from proxy.money import nano_usd
from proxy.types import JSON, Choice

_HOPELESS = frozenset({401, 403, 404})
"""What is wrong with one request is wrong with all: the key, the address or the model's name."""


class Draw(BaseModel):
    """One sample: what it said (None: it abstained), its completion tokens, its score, and whether it saw others.

    `right`: whether that is what is right; None in answers kept before it was.
    """

    model_config = ConfigDict(frozen=True)

    answer: str | None
    tokens: int
    score: float | None = None
    finish_reason: str | None = None
    conditioned: bool = False
    right: bool | None = None


class Result(BaseModel):
    """An answered question. Tokens are what was paid, `cost_nano` is in nano-USD; `latency_s` as the client saw it.

    `served` is the strategy that tally used, `reason` why it was another one or stopped early; `confidence` is None
    where nothing was voted on, and in answers kept before it was.
    """

    model_config = ConfigDict(frozen=True)

    strategy: str
    id: str
    answer: str | None
    correct: bool
    served: str
    reason: str | None
    samples: int
    prompt_tokens: int
    completion_tokens: int
    cost_nano: int
    latency_s: float
    confidence: float | None = None
    draws: tuple[Draw, ...]

    @property
    def tokens(self) -> int:
        """All that was paid, prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


class Failed(BaseModel):
    """A question that was not answered, and why. It counts for nothing and is asked again by the next run."""

    model_config = ConfigDict(frozen=True)

    strategy: str
    id: str
    why: str


class _Paid(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Tally(BaseModel):
    strategy: str
    samples: int
    cost_usd: Decimal
    paid: _Paid
    confidence: float | None = None
    reason: str | None
    draws: list[Draw]


class _Said(BaseModel):
    message: dict[str, Any]
    finish_reason: str | None = None


class _Usage(BaseModel):
    completion_tokens: int = 0


class _Reply(BaseModel):
    choices: Annotated[list[_Said], Field(min_length=1)]
    usage: _Usage = _Usage()
    tally: _Tally


class Asker:
    """Asks through `client`, whose base URL is the proxy's and ends before `/chat/completions`.

    `clock` is monotonic seconds; `algebra` compares answers with what is right.
    """

    def __init__(
        self, client: httpx.AsyncClient, setup: Setup, *, clock: Callable[[], float], algebra: Algebra
    ) -> None:
        self._client = client
        self._setup = setup
        self._clock = clock
        self._algebra = algebra

    async def ask(self, strategy: str, question: Question) -> Result | Failed:
        """Ask one question. Raises TallyError where every further one would fail alike."""
        began = self._clock()
        try:
            response = await self._client.post("chat/completions", json=self._setup.body(question, strategy))
        except httpx.RequestError as error:
            return Failed(strategy=strategy, id=question.id, why=_unreached(error))
        seconds = self._clock() - began
        if response.status_code != 200:
            why = f"HTTP {response.status_code}: {_message(response)}"
            if response.status_code in _HOPELESS:
                raise TallyError(f"The proxy refuses this evaluation: {why}")
            return Failed(strategy=strategy, id=question.id, why=why)
        try:
            reply = _Reply.model_validate_json(response.content)
        except ValidationError as error:
            wrong = [".".join(map(str, each["loc"])) or "the body" for each in error.errors()]
            if "tally" in wrong:
                raise TallyError("The reply has no `tally` object: this is not a tally proxy.") from None
            return Failed(strategy=strategy, id=question.id, why=f"the reply's {wrong[0]} is missing or wrong")
        return await self._result(strategy, question, reply, seconds)

    async def ask_all(
        self, todo: Iterable[tuple[str, Question]], concurrency: int, heard: Callable[[Result | Failed], None]
    ) -> None:
        """Ask all of `todo`, in order, `concurrency` at a time; `heard` is told of each as it ends.

        Raises TallyError where every further one would fail alike.
        """
        waiting = iter(todo)

        async def work() -> None:
            for strategy, question in waiting:
                heard(await self.ask(strategy, question))

        try:
            async with TaskGroup() as tasks:
                for _ in range(concurrency):
                    tasks.create_task(work())
        except ExceptionGroup as errors:
            # several workers meet the same trouble at once; the first tells it
            raise errors.exceptions[0] from None

    async def _result(self, strategy: str, question: Question, reply: _Reply, seconds: float) -> Result:
        said, tally = reply.choices[0], reply.tally
        choice = Choice(0, said.message, said.finish_reason)
        answer, correct = await graded(choice, question.gold, self._setup.answer, self._algebra)
        right: dict[str | None, bool] = {
            said: await matches(said, question.gold, self._setup.answer, self._algebra)
            for said in dict.fromkeys(draw.answer for draw in tally.draws)
            if said is not None
        }
        counted = shared(reply.usage.completion_tokens, [draw.tokens for draw in tally.draws])
        return Result(
            strategy=strategy,
            id=question.id,
            answer=answer,
            correct=correct,
            served=tally.strategy,
            reason=tally.reason,
            samples=tally.samples,
            prompt_tokens=tally.paid.prompt_tokens,
            completion_tokens=tally.paid.completion_tokens,
            cost_nano=nano_usd(tally.cost_usd),
            latency_s=round(seconds, 4),
            confidence=tally.confidence,
            draws=tuple(
                draw.model_copy(update={"tokens": tokens, "right": right.get(draw.answer, False)})
                for draw, tokens in zip(tally.draws, counted, strict=True)
            ),
        )


def shared(total: int, counts: Sequence[int]) -> list[int]:
    """`total` tokens, as the provider told them, over draws that the proxy counted: a draw's own count is a guess."""
    whole = sum(counts)
    if not total or not whole:
        return list(counts)
    found, seen, given = [], 0, 0
    for count in counts:
        seen += count
        found.append(total * seen // whole - given)
        given += found[-1]
    return found


def _unreached(error: httpx.RequestError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.DecodingError):
        return f"the reply cannot be unpacked: {error}"
    return f"the proxy cannot be reached: {str(error) or type(error).__name__}"


def _message(response: httpx.Response) -> str:
    try:
        body: JSON = response.json()
        return str(body["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200].strip() or response.reason_phrase
