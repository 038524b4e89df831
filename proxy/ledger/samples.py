"""The samples that the ledger has recorded: as far as they can be drawn again, and what was said in them."""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from proxy.ledger.database import Row
from proxy.ledger.opaque import Names
from proxy.ledger.store import Store
from proxy.types import JSON

SHOWING = ("dynscaling", "sp1", "sp2", "sp3", "multi_round")
"""Strategies whose later draws see earlier ones: only their first round is independent."""

# how sp3 has a model grade itself is on another scale than a verifier's scores
_SCORE = "CASE WHEN requests.strategy <> 'sp3' THEN draws.score END"
# a draw that was lost, cut or cancelled has no finish_reason; one that was told to the vote may have a label alone
_SAMPLES = f"""SELECT requests.tenant, requests.id, requests.model, requests.question,
draws.label, draws.completion_tokens, {_SCORE} AS score, draws.mean_logprob,
requests.expires_at IS NOT NULL AND requests.expires_at <= ? AS ended FROM requests
JOIN draws ON draws.tenant = requests.tenant AND draws.request = requests.id
WHERE draws.purpose = 'draw' AND (draws.finish_reason IS NOT NULL OR draws.label IS NOT NULL)
AND (draws.round = 1 OR requests.strategy NOT IN ({", ".join("?" * len(SHOWING))}))
AND requests.tenant = coalesce(?, requests.tenant) AND requests.model = coalesce(?, requests.model)
AND requests.strategy = coalesce(?, requests.strategy) AND requests.recorded_at >= coalesce(?, requests.recorded_at)
ORDER BY requests.recorded_at, requests.id, draws."index", draws.number"""  # noqa: S608 - columns of our own
_TOLD = ("tenant", "request", "model", "strategy", "recorded_at", "expires_at")
_TEXTS = """SELECT samples.*, requests.model, requests.strategy, requests.recorded_at, requests.expires_at FROM samples
JOIN requests ON requests.tenant = samples.tenant AND requests.id = samples.request
WHERE samples.tenant = coalesce(?, samples.tenant) AND requests.expires_at > ?
ORDER BY requests.recorded_at, samples.tenant, samples.request, samples.draw"""


@dataclass(frozen=True, slots=True)
class RecordedSample:
    """A finished draw: what it said (None: it abstained), its completion tokens, and what a verifier said of it.

    Where samples are not stored, or no longer, `answer` is a name that tells only which draws of the request said the
    same.
    """

    answer: str | None
    tokens: int
    score: float | None
    mean_logprob: float | None


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request's independent samples, in draw order. `question` is there only where questions are stored."""

    tenant: str
    request: str
    model: str
    question: str | None
    samples: tuple[RecordedSample, ...]


def recorded(
    store: Store,
    *,
    tenant: str | None = None,
    model: str | None = None,
    strategy: str | None = None,
    since: float | None = None,
) -> Iterator[RecordedRequest]:
    """The requests of one tenant, model and strategy, or of all, earliest first, as they are read.

    `since` is in seconds since 1970. What the ledger charged for nothing (lost or cancelled draws, judges) is left out.
    """
    with store.reading():
        rows = store.stream(_SAMPLES, store.now(), *SHOWING, tenant, model, strategy, since)
        for _, drawn in groupby(rows, key=lambda row: (row["tenant"], row["id"])):
            yield _request(list(drawn))


def stored(store: Store, tenant: str | None = None) -> Generator[JSON, None, None]:
    """What was asked and said, of one tenant or of all: of each request its `messages`, then each sample's `message`.

    `draw` is the id of the sample's draw. Of what was too long the beginning is there, as `text`. Times are in seconds
    since 1970.
    """
    with store.reading():
        for row in store.stream(_TEXTS, tenant, store.now()):
            yield _line(row)


def _request(lines: Sequence[Row]) -> RecordedRequest:
    first, names = lines[0], Names()
    ended = bool(first["ended"])
    samples = tuple(
        RecordedSample(
            names.of(line["label"]) if ended else line["label"],
            line["completion_tokens"],
            line["score"],
            line["mean_logprob"],
        )
        for line in lines
    )
    question = None if ended else first["question"]
    return RecordedRequest(first["tenant"], first["id"], first["model"], question, samples)


def _line(row: Row) -> JSON:
    draw, text, cut = row["draw"] or None, row["text"], bool(row["cut"])
    said = {"text": text} if cut else {"messages" if draw is None else "message": json.loads(text)}
    return {name: row[name] for name in _TOLD} | {"draw": draw, "cut": cut} | said
