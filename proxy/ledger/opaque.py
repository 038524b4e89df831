"""Answers as names that mean nothing outside their request: votes can still be counted, and nothing can be read."""

from dataclasses import replace

from proxy.ledger import Ballot, RequestRow


class Names:
    """Gives equal texts equal names: `#1`, `#2` in the order in which they first come."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def of(self, text: str | None) -> str | None:
        """The name of a text. None, which is no answer, stays None."""
        return None if text is None else self._names.setdefault(text, f"#{len(self._names) + 1}")


def opaque(row: RequestRow) -> RequestRow:
    """The same request without a text: each answer is a name, given in draw order, and the rest is gone."""
    names = Names()
    return replace(
        row,
        ballots=tuple([Ballot(each.draw, names.of(each.label), each.score, each.mean_logprob) for each in row.ballots]),
        answer=names.of(row.answer),
        first_answer=names.of(row.first_answer),
        question=None,
        texts=None,
    )
