"""What tenants say of the answers they got: whether they were right."""

from proxy.ledger.reserving import storable
from proxy.ledger.store import Store

# the condition on feedback must stand here as it stands in the index
_OUTCOMES = """SELECT confidence, feedback FROM requests
WHERE tenant = ? AND model = ? AND feedback IS NOT NULL AND confidence IS NOT NULL
ORDER BY recorded_at DESC LIMIT ?"""
_TELL = "UPDATE requests SET feedback = ? WHERE tenant = ? AND id = ? AND status = 200"


def tell_feedback(store: Store, tenant: str, request: str, *, correct: bool) -> bool:
    """Keep whether the answer to a request was right; the last word counts.

    False where the tenant has no such request, or one that was not answered: then nothing changes.
    """
    with store.transaction():
        return store.rows(_TELL, int(correct), *storable((tenant, request))).rowcount > 0


def recent_outcomes(store: Store, tenant: str, model: str, limit: int) -> list[tuple[float, bool]]:
    """The confidence of each of the last `limit` judged answers, and whether it was right, latest first."""
    with store.reading():
        rows = store.rows(_OUTCOMES, *storable((tenant, model)), limit)
        return [(row["confidence"], bool(row["feedback"])) for row in rows]
