"""The votes of a request while its samples are still being drawn, as comments in its stream."""

import asyncio
import json

from proxy.core.batch import Label, Sample
from proxy.core.vote import plurality, voices
from proxy.query import Query
from proxy.types import JSON


class Progress:
    """Hears of a query's samples, and has a line for each in `notes`: `: tally {"votes": [...], "samples": 3}`.

    Votes are counted one a sample, whatever rule the verdict goes by.
    """

    def __init__(self, query: Query) -> None:
        self.notes: asyncio.Queue[bytes] = asyncio.Queue()
        self._query = query
        self._labels: dict[int, Label | None] = {}

    @staticmethod
    def wanted(request: JSON) -> bool:
        """Whether a request asks for it."""
        return bool((request.get("tally") or {}).get("progress"))

    def hear(self, sample: Sample) -> None:
        """Take one more sample."""
        self._labels[sample.draw] = sample.label
        # ASCII alone: some clients end a line where Unicode says that one ends
        line = json.dumps({"votes": self._votes(), "samples": len(self._labels)}, separators=(",", ":"))
        self.notes.put_nowait(f": tally {line}\n\n".encode())

    def _votes(self) -> list[JSON]:
        samples = [drawn for drawn in self._query.in_order() if drawn.draw.id in self._labels]
        labels = [self._labels[drawn.draw.id] for drawn in samples]
        voting = voices([drawn.draw for drawn in samples], labels)
        texts: dict[Label, str] = {}
        for drawn, label in zip(samples, labels, strict=True):
            if label is not None and drawn.answer is not None:
                texts.setdefault(label, drawn.answer.text)
        found = plurality([label if votes else None for label, votes in zip(labels, voting, strict=True)])
        return [{"answer": texts.get(label), "count": count} for label, count in found.counts]
