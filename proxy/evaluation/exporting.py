"""From the ledger's recorded samples to a pool that can be replayed."""

from collections.abc import Iterable, Iterator

from proxy.ledger.samples import RecordedRequest, RecordedSample
from proxy.types import JSON


def pool_lines(requests: Iterable[RecordedRequest], min_samples: int) -> Iterator[JSON]:
    """A line of the pool a request, with at least `min_samples` samples; what is right (`gold`) nobody knows.

    Requests with the same stored question stay apart: what was said before it is not stored.
    """
    for request in requests:
        if len(request.samples) >= min_samples:
            yield {
                "id": request.request,
                "gold": None,
                "model": request.model,
                "tenant": request.tenant,
                **({} if request.question is None else {"question": request.question}),
                "samples": [_sample(sample) for sample in request.samples],
            }


def _sample(sample: RecordedSample) -> JSON:
    found: JSON = {"answer": sample.answer, "tokens": sample.tokens}
    if sample.score is not None:
        found["score"] = sample.score
    if sample.mean_logprob is not None:
        found["mean_logprob"] = sample.mean_logprob
    return found
