"""What was decided about one request: the winner, the votes, and what it took."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.answers import Candidate, question, winner
from proxy.core.batch import BUDGET
from proxy.core.strategies import rule_for
from proxy.core.vote import Ballot as Vote
from proxy.core.vote import Votes, admitted, poll, voices
from proxy.drawing import Drawn, Query
from proxy.errors import BudgetExceeded, ClientGone, TallyError, UpstreamError, UpstreamTimeout
from proxy.ledger import Ballot, RequestRow
from proxy.money import usd
from proxy.purse import Purse
from proxy.types import JSON, Choice, Plan, Strategy

UNVOTED = "no votes"
DEADLINE = "deadline"
GONE = "client gone"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`winner` is the place of `choice` among the samples, in draw order; `votes` are `(answer, count)`, most first.

    `first_answer` is what one sample would have said; `confidence` in [0, 1], None where nothing was voted on.
    `head` is the provider's own id, created, model and the like; `draws` is every sample, where the request asks.
    `question` is what was asked, where it may be stored.
    """

    strategy: str
    choice: Choice
    winner: int
    samples: int
    abstained: int
    rounds: int
    votes: tuple[tuple[str, int], ...]
    confidence: float | None
    first_answer: str | None
    reason: str | None
    purse: Purse
    head: JSON
    ballots: tuple[Ballot, ...]
    draws: tuple[JSON, ...] | None = None
    question: str | None = None

    @property
    def answer(self) -> str | None:
        """The winning answer, or None when every sample abstained."""
        return self.votes[0][0] if self.votes else None

    @property
    def usage(self) -> JSON:
        """OpenAI's usage: the prompt once, the completions of all samples."""
        prompt = self.purse.prompt_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.purse.drawn_tokens,
            "total_tokens": prompt + self.purse.drawn_tokens,
        }

    def tally(self) -> JSON:
        """The response's `tally` object."""
        paid = self.purse.paid
        return {
            "strategy": self.strategy,
            "samples": self.samples,
            "abstained": self.abstained,
            "rounds": self.rounds,
            "votes": [{"answer": answer, "count": count} for answer, count in self.votes],
            "answer": self.answer,
            "confidence": self.confidence,
            "winner": self.winner,
            "first_answer": self.first_answer,
            "cost_usd": float(usd(self.purse.spent)),
            "paid": {
                "prompt_tokens": paid.prompt,
                "completion_tokens": paid.completion,
                "estimated": paid.estimated,
            },
            "reason": self.reason,
            **({} if self.draws is None else {"draws": list(self.draws)}),
        }


def verdict(query: Query, reason: str | None) -> Verdict:
    """The verdict over what was drawn for a query. Raises the error to answer with when nothing was."""
    samples = query.in_order()
    if not samples:
        raise failure(query.errors, reason)
    labels = _labels(samples)
    votes, place = _vote(samples, labels, query.plan.strategy)
    texts = _texts(samples)
    scaled = query.plan.strategy.name != "off"
    return Verdict(
        strategy=query.plan.strategy.name,
        choice=samples[place].choice,
        winner=place,
        samples=len(samples),
        abstained=votes.abstained,
        rounds=query.rounds,
        votes=tuple((texts[label], count) for label, count in votes.counts),
        confidence=votes.confidence if scaled else None,
        first_answer=samples[0].answer.text if samples[0].answer else None,
        reason=reason
        or (BUDGET if query.cut else query.plan.reason)
        or (None if votes.counts or not scaled else UNVOTED),
        purse=query.purse,
        head=query.head,
        ballots=tuple(
            Ballot(sample.row, texts[label] if label is not None else None, sample.score, sample.mean_logprob)
            for sample, label in zip(samples, labels, strict=True)
        ),
        draws=_draws(samples, [None if label is None else texts[label] for label in labels])
        if query.plan.detail
        else None,
        question=question(query.request) if query.plan.store_question else None,
    )


def failure(errors: Sequence[TallyError], reason: str | None) -> TallyError:
    """Why no sample came: the most frequent error by status, ties to the lowest; the budget where there is none."""
    if reason == GONE:
        return ClientGone()
    if errors:
        counts = Counter(error.status for error in errors)
        status = min(counts, key=lambda status: (-counts[status], status))
        return next(error for error in errors if error.status == status)
    if reason == DEADLINE:
        return UpstreamTimeout("no sample was finished before the deadline")
    if reason == BUDGET:
        return BudgetExceeded("The budget does not hold one more sample.")
    return UpstreamError("no sample could be drawn", status=502)


def request_row(plan: Plan, found: Verdict, latency_ms: int, status: int = 200) -> RequestRow:
    """The ledger's line about a request that was answered."""
    return RequestRow(
        account=found.purse.account,
        model=plan.model,
        strategy=found.strategy,
        status=status,
        samples=found.samples,
        abstained=found.abstained,
        rounds=found.rounds,
        winner=found.winner,
        answer=found.answer,
        first_answer=found.first_answer,
        confidence=found.confidence,
        cost_nano=found.purse.spent,
        reason=found.reason,
        latency_ms=latency_ms,
        ballots=found.ballots,
        question=found.question,
    )


def failed_row(plan: Plan, purse: Purse, error: TallyError, latency_ms: int) -> RequestRow:
    """The ledger's line about a request that was not answered."""
    return RequestRow(
        account=purse.account,
        model=plan.model,
        strategy=plan.strategy.name,
        status=error.status,
        samples=0,
        abstained=0,
        rounds=0,
        winner=None,
        answer=None,
        first_answer=None,
        confidence=None,
        cost_nano=purse.spent,
        reason=error.code or error.type,
        latency_ms=latency_ms,
    )


def _labels(samples: Sequence[Drawn]) -> list[object]:
    """What each sample says. Truncated samples say nothing while any other sample has a label."""
    whole = [None if sample.truncated or sample.answer is None else sample.answer.label for sample in samples]
    if any(label is not None for label in whole):
        return list(whole)
    return [None if sample.answer is None else sample.answer.label for sample in samples]


def _vote(samples: Sequence[Drawn], labels: Sequence[object], strategy: Strategy) -> tuple[Votes, int]:
    """The votes, and the place of the sample that speaks for their leader."""
    voting = voices([sample.draw for sample in samples], labels)
    rule = rule_for(strategy)
    # what may not vote may not win either: without a label it is passed over, and last where nobody has one
    cast = [
        Vote(label if votes else None, sample.score, sample.choice.tokens, conditioned=bool(sample.draw.given))
        for sample, label, votes in zip(samples, labels, voting, strict=True)
    ]
    ballots = admitted(cast, rule)
    votes = poll(ballots, rule)
    candidates = [
        _candidate(sample, ballot.label, heard) for sample, ballot, heard in zip(samples, ballots, voting, strict=True)
    ]
    return votes, winner(candidates, votes.leader)


def _candidate(sample: Drawn, label: object, votes: bool) -> Candidate:
    return Candidate(
        label=label,
        truncated=sample.truncated or not votes,
        score=sample.score,
        mean_logprob=sample.mean_logprob,
        length=len(sample.choice.content),
    )


def _draws(samples: Sequence[Drawn], answers: Sequence[str | None]) -> tuple[JSON, ...]:
    """Each sample as a client may see it; `tokens` as counted here, which the provider may count otherwise."""
    return tuple(
        {
            "answer": answer,
            "tokens": sample.choice.tokens,
            "score": sample.score,
            "finish_reason": sample.choice.finish_reason,
            "conditioned": bool(sample.draw.given),
        }
        for sample, answer in zip(samples, answers, strict=True)
    )


def _texts(samples: Sequence[Drawn]) -> dict[object, str]:
    """How each label is shown: as the first sample that said it did."""
    texts: dict[object, str] = {}
    for sample in samples:
        if sample.answer is not None:
            texts.setdefault(sample.answer.label, sample.answer.text)
    return texts
