"""Whether the votes were worth it: how often they differed from the first sample, and what they cost beside it."""

from dataclasses import dataclass

from proxy.ledger.store import Store

# a place whose draw was lost and made again has several rows, of which one is the sample that came
_COMPARED = """SELECT requests.tenant, requests.model, requests.strategy, count(*) AS requests,
sum(CASE WHEN requests.answer <> requests.first_answer THEN 1 ELSE 0 END) AS differing,
CAST(sum(requests.cost_nano) AS BIGINT) AS cost_nano, CAST(sum(first.nano) AS BIGINT) AS first_nano
FROM requests JOIN (
    SELECT tenant, request, max(cost_nano) AS nano FROM draws
    WHERE purpose = 'draw' AND "index" = 0 AND status IN ('ok', 'cut') GROUP BY tenant, request
) AS first ON first.tenant = requests.tenant AND first.request = requests.id
WHERE requests.tenant = coalesce(?, requests.tenant) AND requests.status = 200 AND requests.strategy != 'off'
AND requests.samples > 1 AND requests.answer IS NOT NULL AND requests.first_answer IS NOT NULL
GROUP BY requests.tenant, requests.model, requests.strategy
ORDER BY requests.tenant, requests.model, requests.strategy"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The votes of one tenant, model and strategy: `differing` of `requests` had another answer than the first sample.

    `cost_nano` is what they cost in all, `first_nano` what their first samples alone did, in nano-USD.
    """

    tenant: str
    model: str
    strategy: str
    requests: int
    differing: int
    cost_nano: int
    first_nano: int

    @property
    def multiple(self) -> float | None:
        """What a vote cost, in samples; None where samples cost nothing."""
        return self.cost_nano / self.first_nano if self.first_nano else None


def comparisons(store: Store, tenant: str | None = None) -> list[Comparison]:
    """The votes of one tenant or of all, by tenant, model and strategy.

    Only answered requests of at least two samples count, where both answers are known and the first sample came.
    """
    with store.reading():
        return [Comparison(*row) for row in store.rows(_COMPARED, tenant)]
