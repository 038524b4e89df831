"""From the ledger's recorded samples to a pool that can be replayed."""

from collections.abc import Hashable, Iterable, Iterator, Sequence

from proxy.answers import canonical
from proxy.ledger.samples import RecordedRequest, RecordedSample
from proxy.types import JSON

_Key = tuple[str, str, str | None, str | None]


def pool_lines(requests: Iterable[RecordedRequest], min_samples: int) -> Iterator[JSON]:
    """A line of the pool a request, with at least `min_samples` samples; what is right (`gold`) nobody knows.

    Requests of one tenant and model with the same stored question are one line, under the first one's id.
    """
    together: dict[_Key, list[RecordedRequest]] = {}
    for request in requests:
        alone = request.request if request.question is None else None
        together.setdefault((request.tenant, request.model, request.question, alone), []).append(request)
    for group in together.values():
        samples = [sample for request in group for sample in request.samples]
        if len(samples) >= min_samples:
            first = group[0]
            said = [sample.answer for sample in samples]
            yield {
                "id": first.request,
                "gold": None,
                "model": first.model,
                "tenant": first.tenant,
                **({} if first.question is None else {"question": first.question}),
                "samples": [
                    _sample(sample, answer)
                    for sample, answer in zip(samples, said if len(group) == 1 else alike(said), strict=True)
                ],
            }


def alike(answers: Sequence[str | None]) -> list[str | None]:
    """The same answers, equal ones written as the first of them: each request wrote them in its own way."""
    texts: dict[Hashable, str] = {}
    return [None if answer is None else texts.setdefault(canonical(answer) or answer, answer) for answer in answers]


def _sample(sample: RecordedSample, answer: str | None) -> JSON:
    found: JSON = {"answer": answer, "tokens": sample.tokens}
    if sample.score is not None:
        found["score"] = sample.score
    if sample.mean_logprob is not None:
        found["mean_logprob"] = sample.mean_logprob
    return found
