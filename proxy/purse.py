"""What one request may cost, and has cost, over all of its calls."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from proxy.errors import RequestInvalid
from proxy.ledger import Refused
from proxy.types import JSON, Account, Tenant, Usage
from proxy.upstream.asked import asking, paid_apart
from proxy.upstream.deployment import Deployment
from proxy.upstream.usage import Bounds


@dataclass(slots=True)
class Purse:
    """What one request may cost and has cost, in nano-USD, and what was learned of its prompt.

    `held` is reserved by its calls now; `limit` None: the tenant's own budget is the only limit. `paid` is every token
    of its calls, `drawn_tokens` the completions of its draws that gave a sample, `prompt_tokens` one draw's prompt as
    the provider told it (else `prompt_estimated`), and `prompt_bound` what that prompt was thought to have at most.
    `refused` is what the last call asked for that did not get all of it.
    """

    tenant: Tenant
    account: Account
    limit: int | None = None
    held: int = 0
    spent: int = 0
    paid: Usage = field(default_factory=Usage)
    drawn_tokens: int = 0
    prompt_tokens: int = 0
    prompt_bound: int = 0
    prompt_estimated: bool = False
    attempts: "count[int]" = field(default_factory=count)
    refused: Refused | None = None
    bounds: Bounds = field(default_factory=Bounds)

    def pay(self, usage: Usage, nano: int, *, drawn: bool, bound: int) -> None:
        """Count a call that ended; `bound` is its prompt's upper bound in tokens."""
        old = self.paid
        self.spent += nano
        self.paid = Usage(
            old.prompt + usage.prompt,
            old.completion + usage.completion,
            old.cached + usage.cached,
            old.reasoning + usage.reasoning,
            estimated=old.estimated or usage.estimated,
        )
        if drawn:
            self.drawn_tokens += usage.completion
            if usage.prompt and (not self.prompt_bound or (self.prompt_estimated and not usage.estimated)):
                self.prompt_tokens, self.prompt_bound = usage.prompt, bound
                self.prompt_estimated = usage.estimated

    def prompt(self, bound: int) -> int:
        """Tokens of a prompt that can have at most `bound`, by what the request's first prompt really had."""
        return -(-bound * self.prompt_tokens // self.prompt_bound) if self.prompt_bound else bound

    @property
    def limits_money(self) -> bool:
        """Whether any limit in money holds, so that what has no price may not be bought."""
        return self.tenant.limits_money or self.limit is not None

    def knows_price(self, deployment: Deployment) -> bool:
        """Whether it is known what the deployment costs, as far as it matters: money may be limited."""
        return deployment.rates is not None or not self.limits_money

    def check_price(self, deployment: Deployment) -> None:
        """Raise RequestInvalid where money is limited and nobody knows what the deployment costs."""
        if not self.knows_price(deployment):
            raise RequestInvalid(
                f"The model {deployment.model_name!r} has no known price, and what may be spent is limited in money: "
                "the operator must set input_cost_per_token and output_cost_per_token.",
                code="model_unpriced",
                param="model",
            )

    def check_prices(self, deployments: Sequence[Deployment]) -> None:
        """The same of several: one that can be paid is enough."""
        if not any(self.knows_price(deployment) for deployment in deployments):
            self.check_price(deployments[0])

    def check_request(self, deployment: Deployment, body: JSON) -> None:
        """Raise RequestInvalid where money is limited and a call's body turns on what no known rate pays for."""
        rates = deployment.rates
        if rates is None or rates.free or not self.limits_money:
            return
        field = paid_apart(asking(deployment, body), rates)
        if field is not None:
            raise RequestInvalid(
                f"{field}: what this costs with the model {deployment.model_name!r} is not known, and what may be "
                "spent is limited in money.",
                code="feature_unpriced",
                param=field,
            )

    def room(self, base: int, each: int, choices: int) -> int:
        """For how many of `choices` the request's own cost cap has room."""
        if self.limit is None:
            return choices
        free = self.limit - self.spent - self.held - base
        if free < 0:
            return 0
        return choices if each == 0 else min(choices, free // each)
