"""What verifiers have said of a tenant's and a model's samples."""

from itertools import groupby

from proxy.ledger.reserving import storable
from proxy.ledger.store import Store

_SCORES = """SELECT latest.id, draws.score FROM
(SELECT id, recorded_at FROM requests WHERE tenant = ?1 AND model = ?2 AND strategy IN ('best_of_n', 'optscale')
ORDER BY recorded_at DESC LIMIT ?3) AS latest
JOIN draws ON draws.tenant = ?1 AND draws.request = latest.id
WHERE draws.score IS NOT NULL ORDER BY latest.recorded_at DESC, latest.id, draws.number"""


def recent_scores(store: Store, tenant: str, model: str, limit: int) -> list[list[float]]:
    """The scores of each of the last `limit` requests whose strategy has its samples scored, latest first.

    Those without any score are left out. How a model grades itself (sp3) is on another scale.
    """
    with store.reading():
        rows = store.rows(_SCORES, *storable((tenant, model)), limit).fetchall()
    return [[row["score"] for row in drawn] for _, drawn in groupby(rows, key=lambda row: str(row["id"]))]
