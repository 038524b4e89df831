"""One deployment of a model: where it is, what it costs, and what was learned of it."""

from dataclasses import dataclass, field

from proxy.errors import UpstreamError
from proxy.money import Rates
from proxy.types import JSON
from proxy.upstream import Endpoint, Lane
from proxy.upstream.health import Health
from proxy.upstream.limits import Limits

MAX_CALLS = 256
"""Calls at once to a deployment unless its `max_parallel_requests` says otherwise."""

_TRY_AGAIN = 1000


@dataclass(slots=True, eq=False)
class Deployment:
    """One entry of `model_list`.

    `rates` None: the price is unknown. `max_output` None: the model's own maximum is unknown, in tokens a choice.
    `max_n` is the largest `n` the deployment has been seen, or told (`told_max_n`), to take (None: not known yet);
    `usage_per_choice`: its usage counts the first choice only, as it seems or as the operator says (`told_per_choice`).
    `tokens_per_delta` is what a streamed delta held, `prompt_share` the most that a prompt had of what it was thought
    to have at most. `streams` and `gives_logprobs` turn false where it refuses them (`has_streamed`: it did stream).
    `limit` is how many calls it takes at once, of which `calls` are going on now; it is called in proportion to its
    `weight`, and `turn` is when it is next. `limits` are those of a minute (None: there are none), `health` is how it
    has fared (None: nobody looks). `label` is its name in the ledger, where that is not the model's.
    """

    model_name: str
    endpoint: Endpoint
    lane: Lane
    rates: Rates | None = None
    max_output: int | None = None
    max_n: int | None = None
    usage_per_choice: bool = False
    streams: bool = True
    hidden_reasoning: bool = False
    timeout: float = 600.0
    defaults: JSON = field(default_factory=dict)
    limit: int = MAX_CALLS
    tokens_per_delta: float = 1.0
    gives_logprobs: bool = True
    weight: float = 1.0
    limits: Limits | None = None
    health: Health | None = None
    calls: int = 0
    turn: float = 0.0
    told_max_n: bool = False
    told_per_choice: bool = False
    has_streamed: bool = False
    prompt_share: float = 0.0
    label: str = ""
    _full: int = 0

    @property
    def name(self) -> str:
        """What the ledger calls it."""
        return self.label or self.model_name

    @property
    def rest(self) -> float:
        """Seconds that it is still given a rest after failures; 0: it can be called."""
        return 0.0 if self.health is None else self.health.rest

    def failed(self, error: UpstreamError) -> None:
        """Take note of a call that failed, and not by its own fault."""
        if self.health is not None:
            self.health.failed(error)

    def body(self, request: JSON) -> JSON:
        """`request` as this deployment is sent it: its own model name and defaults, tally's own field left out."""
        body = {**self.defaults, **request, "model": self.endpoint.model}
        body.pop("tally", None)
        return body

    def learn_max_n(self, n: int) -> None:
        """Remember that no more than `n` choices come from one call."""
        self.max_n = n if self.max_n is None else min(self.max_n, n)
        self._full = 0

    def came(self, choices: int, *, of: int) -> None:
        """A call asked for `of` choices and got `choices`. After many full ones a larger one is tried again."""
        if choices < of:
            self.learn_max_n(choices)
        elif self.max_n is not None and of >= self.max_n and not self.told_max_n:
            self._full += 1
            if self._full >= _TRY_AGAIN:
                self.max_n, self._full = None, 0
