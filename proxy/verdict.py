"""What was decided about one request: the winner, the votes, and what it took."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from proxy.answers import Candidate, Composed, kin, question, winner
from proxy.answers.order import ranked
from proxy.core.batch import BUDGET, CONFIDENT, FAILED, NO_SCORES, PRICED, ROUND_CAP, SAMPLE_CAP, SPENT
from proxy.core.mode import chance_of_mode
from proxy.core.strategies import rule_for, scored
from proxy.core.vote import SILENT, Votes, admitted, poll, voices
from proxy.core.vote import Ballot as Vote
from proxy.errors import BudgetExceeded, ClientGone, LowConfidence, TallyError, UpstreamError, UpstreamTimeout
from proxy.ledger import Ballot, RequestRow, Texts
from proxy.ledger.texts import kept
from proxy.money import usd
from proxy.purse import Purse
from proxy.query import Drawn, Query
from proxy.scoring.agreement import AgreementScorer, agreement
from proxy.types import JSON, Choice, Degraded, Pick, Plan, Strategy
from proxy.values import value

UNVOTED = "no votes"
DEADLINE = "deadline"
GONE = "client gone"
PROSE = "prose"
SHADOW = "shadow"
"""Why nobody is served by a vote: its request was answered by one sample."""

_ENOUGH = frozenset({None, CONFIDENT, PRICED, ROUND_CAP, SAMPLE_CAP, SPENT})
"""Why a strategy ends that went its way."""


@value(frozen=True, slots=True)
class Verdict:
    """`winner` is the place of `choice` among the samples, in draw order; `votes` are `(answer, count)`, most first.

    `first_answer` is what one sample would have said; `confidence` in [0, 1], None where nothing was voted on.
    `head` is the provider's own id, created, model and the like; `draws` is every sample, where the request asks.
    `question` is what was asked, and `texts` that and what was said, where it may be stored. `said` is the answer where
    its fields voted for themselves; `composed`: no sample has all of it. `picked` is what chose one of several texts
    ("none": the first complete one was taken), None where texts were not to be chosen from.
    `chance_right` is what the query's calibration makes of the confidence, None where it has none; `low_confidence`
    whether that, or else the confidence, misses what the request asks for, None where it asks for nothing.
    `others` are the further choices of a request that asks for several, ranked by the vote, and `winners` the place of
    each of its choices, `winner` first; both are empty where one is returned. `reused` is how many samples an earlier
    try of the request, whose client went away, had drawn and paid for. `degraded` is what the plan took away because
    the budget runs short.
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
    texts: Texts | None = None
    said: str | None = None
    composed: bool = False
    picked: Pick | None = None
    chance_right: float | None = None
    low_confidence: bool | None = None
    others: tuple[Choice, ...] = ()
    winners: tuple[int, ...] = ()
    reused: int = 0
    degraded: Degraded | None = None

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Every choice of the reply, the winning one first."""
        return (self.choice, *self.others)

    @property
    def answer(self) -> str | None:
        """The winning answer, or None when every sample abstained."""
        return self.said or (self.votes[0][0] if self.votes else None)

    @property
    def usage(self) -> JSON:
        """OpenAI's usage: the prompt once, the completions of all samples."""
        prompt = self.purse.prompt_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.purse.drawn_tokens,
            "total_tokens": prompt + self.purse.drawn_tokens,
        }

    @property
    def paid_usage(self) -> JSON:
        """The same shape with every token that was paid for: prompts as often as they were sent, and all calls."""
        paid = self.purse.paid
        return {
            "prompt_tokens": paid.prompt,
            "completion_tokens": paid.completion,
            "total_tokens": paid.prompt + paid.completion,
            "prompt_tokens_details": {"cached_tokens": paid.cached},
            "completion_tokens_details": {"reasoning_tokens": paid.reasoning},
        }

    def tally(self) -> JSON:
        """The response's `tally` object."""
        paid = self.purse.paid
        return {
            "strategy": self.strategy,
            "samples": self.samples,
            **({"reused": self.reused} if self.reused else {}),
            "abstained": self.abstained,
            "rounds": self.rounds,
            "votes": [{"answer": answer, "count": count} for answer, count in self.votes],
            "answer": self.answer,
            "confidence": self.confidence,
            "chance_right": self.chance_right,
            **({} if self.low_confidence is None else {"low_confidence": self.low_confidence}),
            "winner": self.winner,
            **({"winners": list(self.winners)} if self.winners else {}),
            "first_answer": self.first_answer,
            "cost_usd": float(usd(self.purse.spent)),
            "paid": {
                "prompt_tokens": paid.prompt,
                "completion_tokens": paid.completion,
                "estimated": paid.estimated,
            },
            "reason": self.reason,
            **({} if self.degraded is None else {"degraded": self.degraded}),
            **({"composed": True} if self.composed else {}),
            **({} if self.picked is None else {"picked": self.picked}),
            **({} if self.draws is None else {"draws": list(self.draws)}),
        }


def verdict(query: Query, reason: str | None) -> Verdict:
    """The verdict over what was drawn for a query. Raises the error to answer with when nothing was."""
    samples = query.in_order()
    if not samples:
        raise failure(query.errors, reason)
    if query.plan.unread and query.picked is None:
        return _passed(query, reason, samples)
    labels = _labels(samples)
    if isinstance(query.scorer, AgreementScorer):
        samples = [replace(sample, score=score) for sample, score in zip(samples, agreement(labels), strict=True)]
    votes, candidates = _vote(samples, labels, query.plan.strategy)
    returned = _returned(query, samples, candidates, votes.leader)
    texts = _texts(samples)
    scaled = query.plan.strategy.name != "off"
    voted = None if returned.made else candidates[returned.place].label
    confidence = _confidence(votes, voted) if scaled and reason != PROSE else None
    chance_right = None if confidence is None or query.calibration is None else query.calibration.chance(confidence)
    winners = _winners(query.plan, samples, candidates, votes, returned.place)
    told = _reason(query, reason, samples, votes)
    return Verdict(
        strategy=query.plan.strategy.name,
        choice=returned.choice,
        winner=returned.place,
        samples=len(samples),
        abstained=votes.abstained,
        rounds=query.rounds,
        votes=tuple((texts[label], count) for label, count in votes.counts),
        confidence=confidence,
        first_answer=samples[0].answer.text if samples[0].answer else None,
        reason=told,
        purse=query.purse,
        head=query.head,
        ballots=tuple(
            Ballot(sample.row, texts[label] if label is not None else None, sample.score, sample.mean_logprob)
            for sample, label in zip(samples, labels, strict=True)
        ),
        draws=_draws(samples, [None if label is None else texts[label] for label in labels])
        if query.plan.detail
        else None,
        question=question(query.request) if query.plan.tenant.store_samples else None,
        texts=kept(query.plan.tenant, query.request, ((sample.row, sample.choice.message) for sample in samples)),
        said=_said(query, returned.choice) if fields_vote(query.plan) else None,
        composed=returned.made,
        picked=query.picked,
        reused=sum(sample.place in query.reused for sample in samples),
        chance_right=chance_right,
        low_confidence=_low(query.plan, confidence if chance_right is None else chance_right),
        others=tuple(samples[place].choice for place in winners[1:]),
        winners=winners,
        degraded=_degraded(query, told, len(samples)),
    )


def _passed(query: Query, reason: str | None, samples: Sequence[Drawn]) -> Verdict:
    """The verdict on samples that nobody reads: the first complete one, if there is one, speaks for them."""
    plan = query.plan
    place = next((place for place, sample in enumerate(samples) if not sample.truncated), 0)
    return Verdict(
        strategy=plan.strategy.name,
        choice=samples[place].choice,
        winner=place,
        samples=len(samples),
        abstained=0,
        rounds=query.rounds,
        votes=(),
        confidence=None,
        first_answer=None,
        reason=reason or (BUDGET if query.cut else plan.reason),
        purse=query.purse,
        head=query.head,
        ballots=(),
        reused=sum(sample.place in query.reused for sample in samples),
        low_confidence=_low(plan, None),
        degraded=plan.degraded,
    )


def fields_vote(plan: Plan) -> bool:
    """Whether the fields of JSON vote for themselves; what is passed through stays as it is."""
    return plan.answer.per_field and plan.strategy.name != "off"


def refusal(plan: Plan, found: Verdict) -> LowConfidence | None:
    """The error to answer with in place of an answer that is less sure than its request will have, or None."""
    if not found.low_confidence or plan.low_confidence != "refuse":
        return None
    if found.confidence is None:
        return LowConfidence(
            f"The answer has no confidence, for it had no votes; the request asks for {plan.min_confidence}."
        )
    if found.chance_right is None:
        return LowConfidence(
            f"The answer's confidence is {found.confidence:.4f}; the request asks for {plan.min_confidence}."
        )
    return LowConfidence(
        f"The answer's chance of being right is {found.chance_right:.4f}; the request asks for {plan.min_confidence}."
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
        # nobody was told what a shadow found
        reason=SHADOW if plan.reason == SHADOW else found.reason,
        latency_ms=latency_ms,
        ballots=found.ballots,
        question=found.question,
        texts=found.texts,
    )


def refused_row(plan: Plan, found: Verdict, error: LowConfidence, latency_ms: int) -> RequestRow:
    """The ledger's line about a request whose answer was found, and refused."""
    return replace(request_row(plan, found, latency_ms, error.status), reason=error.code)


def failed_row(plan: Plan, purse: Purse, error: TallyError, latency_ms: int) -> RequestRow:
    """The ledger's line about a request that was not answered."""
    name, reason = plan.strategy.name, error.code or error.type
    return bare_row(purse, plan.model, name, status=error.status, reason=reason, latency_ms=latency_ms)


def bare_row(
    purse: Purse, model: str, strategy: str, *, status: int, reason: str | None, latency_ms: int
) -> RequestRow:
    """The ledger's line about a request of which no sample is known: it failed, or is none that is sampled."""
    return RequestRow(
        account=purse.account,
        model=model,
        strategy=strategy,
        status=status,
        samples=0,
        abstained=0,
        rounds=0,
        winner=None,
        answer=None,
        first_answer=None,
        confidence=None,
        cost_nano=purse.spent,
        reason=reason,
        latency_ms=latency_ms,
    )


def _reason(query: Query, reason: str | None, samples: Sequence[Drawn], votes: Votes) -> str | None:
    """Why it was not scaled, or stopped early; before why its strategy had enough, that it had no votes or scores."""
    strategy = query.plan.strategy
    told = reason or (BUDGET if query.cut else query.plan.reason)
    if told in _ENOUGH and not votes.counts and query.picked is None and strategy.name != "off":
        return UNVOTED
    if told is None and len(samples) == 1 and query.errors and strategy.name != "off":
        return FAILED
    unscored = scored(strategy) and all(sample.score is None for sample in samples)
    return NO_SCORES if unscored and told in _ENOUGH else told


def _degraded(query: Query, reason: str | None, samples: int) -> Degraded | None:
    """What was taken away because the budget runs short: by the plan, or when draws were denied."""
    if query.plan.degraded is not None or reason != BUDGET or query.plan.strategy.name == "off":
        return query.plan.degraded
    return "single" if samples == 1 else "rounds"


def _confidence(votes: Votes, label: object) -> float | None:
    """How sure it is that the label returned is the mode; None where it has no votes: it abstained, or was composed."""
    place = next((place for place, (voted, _) in enumerate(votes.counts) if voted == label), None)
    return None if place is None else chance_of_mode([count for _, count in votes.counts], place)


def _low(plan: Plan, sure: float | None) -> bool | None:
    """Whether an answer misses what its request asks for; one that nobody voted on does. None: it asks for nothing."""
    return None if plan.min_confidence is None else sure is None or sure < plan.min_confidence


def _labels(samples: Sequence[Drawn]) -> list[object]:
    """What each sample says. Truncated samples say nothing while any other sample has a label."""
    whole = [None if sample.truncated or sample.answer is None else sample.answer.label for sample in samples]
    if any(label is not None for label in whole):
        return list(whole)
    return [None if sample.answer is None else sample.answer.label for sample in samples]


def _vote(samples: Sequence[Drawn], labels: Sequence[object], strategy: Strategy) -> tuple[Votes, list[Candidate]]:
    """The votes, and the samples as they stand for their labels."""
    voting = voices([sample.draw for sample in samples], labels)
    rule = rule_for(strategy)
    # what may not vote may not win either: without a label it is passed over, and last where nobody has one
    cast = [
        Vote(label if votes else None, sample.score, sample.choice.tokens, bool(sample.draw.given), kin(label))
        for sample, label, votes in zip(samples, labels, voting, strict=True)
    ]
    ballots = admitted(cast, rule)
    votes = poll(ballots, rule)
    candidates = [
        _candidate(sample, ballot.label, heard) for sample, ballot, heard in zip(samples, ballots, voting, strict=True)
    ]
    return votes, candidates


def _returned(query: Query, samples: Sequence[Drawn], candidates: Sequence[Candidate], leader: object) -> Composed:
    """What is returned: what was picked, or what the fields voted for, or the sample that speaks for the leader."""
    picked = next((place for place, sample in enumerate(samples) if sample.draw.id == query.pick), None)
    if picked is None and fields_vote(query.plan) and _is_json(leader):
        composed = query.reader.compose(
            [
                sample.choice if _is_json(candidate.label) and not candidate.truncated else None
                for sample, candidate in zip(samples, candidates, strict=True)
            ],
            lambda places: places[winner([replace(candidates[place], label=leader) for place in places], leader)],
        )
        if composed is not None:
            return composed
    place = winner(candidates, leader) if picked is None else picked
    return Composed(place, samples[place].choice, made=False)


def _winners(
    plan: Plan, samples: Sequence[Drawn], candidates: Sequence[Candidate], votes: Votes, first: int
) -> tuple[int, ...]:
    """The places of the choices that a client gets who asks for several; what is passed through keeps its own order."""
    if plan.choices == 1 or plan.strategy.name == "off":
        return ()
    silent = {place for place, sample in enumerate(samples) if sample.draw.step in SILENT}
    return tuple(ranked(candidates, [label for label, _ in votes.counts], first, plan.choices, silent=silent))


def _is_json(label: object) -> bool:
    return isinstance(label, tuple) and label[0] == "json"


def _said(query: Query, choice: Choice) -> str | None:
    answer = query.reader.read(choice)
    return None if answer is None else answer.text


def _candidate(sample: Drawn, label: object, votes: bool) -> Candidate:
    return Candidate(
        label=label,
        truncated=sample.truncated or not votes,
        score=sample.score,
        mean_logprob=sample.mean_logprob,
        length=len(sample.choice.content),
        bare=sample.answer is None or sample.answer.bare,
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
