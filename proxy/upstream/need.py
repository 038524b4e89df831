"""What a call asks of a deployment, and the place that it gets there."""

from dataclasses import dataclass
from math import ceil

from proxy.types import JSON
from proxy.upstream.deployment import Deployment
from proxy.upstream.limits import Taken
from proxy.upstream.usage import PROMPT_SHARE, output_bound, prompt_bound

_OUTPUT = 1024
"""Output tokens that a choice is thought to have at most, for the limits of a minute."""


@dataclass(slots=True)
class Need:
    """What a call asks for: up to `choices` of them, or all of them in one piece (`whole`).

    `request` is looked at only where a deployment limits tokens. `generates` false: there is only a prompt.
    """

    request: JSON
    choices: int = 1
    whole: bool = False
    generates: bool = True
    _bound: int | None = None

    def tokens(self, deployment: Deployment) -> tuple[int, int]:
        """About how many tokens a call has, and each of its choices."""
        if self._bound is None:
            self._bound = prompt_bound(self.request)
        base = ceil(self._bound * (deployment.prompt_share or PROMPT_SHARE))
        if not self.generates:
            return base, 0
        bound = output_bound({**deployment.defaults, **self.request}, deployment)
        return base, _OUTPUT if bound is None else min(bound, _OUTPUT)

    def least(self, deployment: Deployment) -> int:
        """Tokens of the least of it that a deployment may be asked for; 0 where nothing is limited."""
        if deployment.limits is None:
            return 0
        base, each = self.tokens(deployment)
        return base + each * (self.choices if self.whole else 1)

    def wait(self, deployment: Deployment) -> float:
        """Seconds until a deployment's own limits have room for the least of it."""
        return 0.0 if deployment.limits is None else deployment.limits.wait(self.least(deployment))

    def fit(self, deployment: Deployment) -> int:
        """How many choices one call to a deployment may have now; 0: it has no room."""
        most = self.choices if self.whole else min(self.choices, deployment.max_n or self.choices)
        if deployment.limits is None:
            return most
        base, each = self.tokens(deployment)
        if self.whole:
            return most if deployment.limits.fit(base + each * most, 0, 1) else 0
        return deployment.limits.fit(base, each, most)

    def take(self, deployment: Deployment, choices: int) -> Taken | None:
        """Count a call of so many choices in the deployment's minute."""
        if deployment.limits is None:
            return None
        base, each = self.tokens(deployment)
        return deployment.limits.take(base + each * choices)


@dataclass(slots=True, eq=False)
class Place:
    """One of the calls that a deployment takes at once, with as many `choices` as it may ask for.

    `taken` is its part of the deployment's minute, to be corrected by what is billed.
    """

    deployment: Deployment
    choices: int
    taken: Taken | None = None
