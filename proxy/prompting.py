"""What the draws of a wave send to a deployment, and what is left out of it once that is refused."""

from typing import Literal

from proxy.core.batch import Step
from proxy.core.strategies import scored
from proxy.query import Query
from proxy.scoring.logprobs import LogprobScorer
from proxy.types import JSON, Plan, StrategyName
from proxy.upstream.deployment import Deployment

_SHORT_TOKENS = 1024
_SEEDS = 2**63
_CANCELLING: frozenset[StrategyName] = frozenset({"dynscaling", "optscale", "adaptive", "adaptive_consistency", "pets"})
"""Strategies that may decide a query while draws of it are in flight."""

Form = Literal["full", "stream", "bare"]
"""How much of a prompt is sent: see `Prompt.seeded`."""


class Prompt:
    """The body that a wave's calls send to a deployment: the request with what tally puts in, until that is refused.

    An answer can do without the earlier ones that it is shown; any other step is nothing without them, so there its own
    prompt (`shown`) stands for the request. `version` counts what was taken out.
    """

    def __init__(self, query: Query, deployment: Deployment, step: Step, shown: JSON | None) -> None:
        self.version = 0
        self.deployment = deployment
        self._query = query
        self._request = query.request if shown is None or step == "answer" else shown
        self._shown = shown if step == "answer" else None
        self._logprobs = {} if query.request.get("logprobs") else _logprobs_wanted(query, deployment)
        self._build()

    def shows(self, form: Form) -> bool:
        """Whether a form of it shows earlier draws."""
        return self._request is not self._query.request or (form == "full" and self._shown is not None)

    @property
    def extras(self) -> bool:
        """Whether there is anything in it that tally itself put in, but for asking for a stream."""
        return self._shown is not None or bool(self._logprobs)

    @property
    def untried_stream(self) -> bool:
        """Whether it asks for a stream of a deployment that has never given one."""
        return bool(self._plain.get("stream")) and not self.deployment.has_streamed

    def seeded(self, place: int, form: Form) -> JSON:
        """The body with a seed of its own: choice i of a call has seed + i on most servers, so places never clash.

        `full` is all of it, `stream` the request alone, `bare` the request alone and no stream that was never tried.
        """
        body = self._full if form == "full" else self._plain
        if form == "bare" and self.untried_stream:
            body = self._body(self._request, stream=False)
        seed = self._query.request.get("seed")
        # a number that does not fit in 64 bits is no JSON that everybody reads
        return {**body, "seed": seed + place - (seed + place >= _SEEDS) * _SEEDS} if isinstance(seed, int) else body

    def strip(self) -> None:
        """Take out what tally put in, which the deployment refuses; and remember what it would always refuse."""
        if self._logprobs:
            self.deployment.gives_logprobs = False
        self._shown, self._logprobs = None, {}
        self._build()
        self.version += 1

    def unstream(self) -> None:
        """Ask for whole replies: the deployment does not stream, and is remembered for it."""
        self.deployment.streams = False
        self._build()
        self.version += 1

    def _build(self) -> None:
        self._plain = self._body(self._request)
        self._full = self._body(self._shown or self._request) | self._logprobs

    def _body(self, request: JSON, *, stream: bool = True) -> JSON:
        body = self.deployment.body(request)
        for name in ("n", "stream", "stream_options"):
            body.pop(name, None)
        if stream and self.deployment.streams and _worth_streaming(self._query.plan, body):
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return body


def _logprobs_wanted(query: Query, deployment: Deployment) -> JSON:
    """What the draws of a query ask for on behalf of its scores, as far as a deployment gives it."""
    if not scored(query.plan.strategy) or not deployment.gives_logprobs:
        return {}
    if query.scorer is None:
        return {"logprobs": True}
    return query.scorer.asks if isinstance(query.scorer, LogprobScorer) else {}


def _worth_streaming(plan: Plan, body: JSON) -> bool:
    """Whether draws are streamed: where they may be cancelled, or are not known to be short.

    A call that is not streamed runs on after a disconnect, and is reserved whole.
    """
    if plan.strategy.name in _CANCELLING:
        return True
    limits = [body[key] for key in ("max_completion_tokens", "max_tokens") if isinstance(body.get(key), int)]
    return not limits or min(limits) > _SHORT_TOKENS
