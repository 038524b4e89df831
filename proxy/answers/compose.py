"""One document out of many: every field is what most documents say it is."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from proxy.answers.structured import Document, Documents, dump, parse
from proxy.types import Choice
from proxy.values import value

_DEEPEST = 32
"""Objects that lie deeper vote as a whole."""

_USUAL = 32
"""Characters of a number that is worth remembering."""

_OBJECT, _ABSENT = ("object",), ("absent",)


@value(frozen=True, slots=True)
class Composed:
    """What to return where fields vote for themselves.

    `choice` is that of the sample at `place`; where it is `made`, with a content that no sample has, and without its
    log-probabilities, which are of another text.
    """

    place: int
    choice: Choice
    made: bool


def compose(
    choices: Sequence[Choice | None], documents: Documents, best: Callable[[Sequence[int]], int]
) -> Composed | None:
    """The choice whose document is what the fields' pluralities say; None where no choice has a document that fits.

    It is a sample's own, byte for byte, where one says just that; else the closest sample's with its content replaced,
    keys in its order; and where that does not fit, the closest sample's own. `best` says which of several places is
    taken. So the result fits whenever any choice does.
    """
    read = [None if choice is None else documents.document(choice) for choice in choices]
    cast = {place: document for place, document in enumerate(read) if document is not None}
    if not cast:
        return None
    voted = vote(list(cast.values()))
    equal = [place for place, document in cast.items() if _key(document.part) == _key(voted.part)]
    place = best(equal or _closest(cast, voted))
    choice = choices[place]
    if choice is None:
        raise ValueError("only a place that was offered may be taken")
    text = json.dumps(_laid(cast[place].whole, cast[place].part, voted.whole), ensure_ascii=False)
    if equal or not documents.fits(text):
        return Composed(place, choice, made=False)
    return Composed(place, replace(choice, message={**choice.message, "content": text}, logprobs=None), made=True)


def vote(documents: Sequence[Document]) -> Document:
    """The document that the fields' pluralities make, of at least one, in draw order.

    A field is voted on by those documents that have the object it is in, and to leave it out is a vote, too. Where most
    say an object, those that do vote on its fields; lists and all else vote as a whole. Ties go to what came first.
    """
    made = _vote(documents, 0)
    if made is None:
        raise ValueError("nothing was said")
    return made


def _vote(documents: Sequence[Document | None], depth: int) -> Document | None:
    groups: dict[Hashable, list[Document | None]] = {}
    for document in documents:
        groups.setdefault(_class(document, depth), []).append(document)
    # max() keeps the first of equals
    kind = max(groups, key=lambda key: len(groups[key]))
    if kind != _OBJECT:
        return groups[kind][0]
    objects = [
        (document.whole, document.part)
        for document in groups[kind]
        if document is not None and isinstance(document.whole, dict) and isinstance(document.part, dict)
    ]
    whole, part = {}, {}
    for name in dict.fromkeys(name for _, parts in objects for name in parts):
        made = _vote(
            [Document(wholes[name], parts[name]) if name in parts else None for wholes, parts in objects], depth + 1
        )
        if made is not None:
            whole[name], part[name] = made.whole, made.part
    return Document(whole, part)


def _class(document: Document | None, depth: int) -> Hashable:
    """What a field's ballot says: nothing, some object, or just this."""
    if document is None:
        return _ABSENT
    return _OBJECT if isinstance(document.part, dict) and depth < _DEEPEST else _key(document.part)


def _key(value: object) -> str:
    """Equal for values that are written differently and say the same, as 1 and 1.0 do."""
    text = json.dumps(value)
    if value is None or isinstance(value, str | bool):
        return text
    return _number(text) if isinstance(value, int | float) and len(text) <= _USUAL else dump(parse(text))


@lru_cache(maxsize=4096)
def _number(text: str) -> str:
    # to read it takes far longer than all else here, and most are alike
    return dump(parse(text))


def _closest(cast: Mapping[int, Document], voted: Document) -> list[int]:
    agreed = {place: _agreement(document.part, voted.part, 0) for place, document in cast.items()}
    most = max(agreed.values())
    return [place for place, count in agreed.items() if count == most]


def _agreement(part: object, voted: object, depth: int) -> int:
    """How many fields are as was voted, less those that were voted out."""
    if not (isinstance(part, dict) and isinstance(voted, dict) and depth < _DEEPEST):
        return _key(part) == _key(voted)
    same = sum(_agreement(part[name], value, depth + 1) for name, value in voted.items() if name in part)
    return same - len(part.keys() - voted.keys())


def _laid(whole: object, part: object, voted: object) -> object:
    """What was voted, keys in the order of a whole document, and with what is ignored as that one has it."""
    if not (isinstance(whole, dict) and isinstance(part, dict) and isinstance(voted, dict)):
        return voted
    laid = {
        name: _laid(value, part.get(name), voted[name]) if name in voted else value
        for name, value in whole.items()
        if name in voted or name not in part
    }
    return laid | {name: value for name, value in voted.items() if name not in whole}
