"""Parts of JSON documents: what a path points to, and what is left when ignored fields are taken out."""

from collections.abc import Iterable, Sequence

from proxy.patterns import path

MOST_FOUND = 10_000
"""Where a path leads to more values than this, at any step of it, it leads nowhere."""

Name = tuple[str, ...]
"""A dotted name, split."""


class Path:
    """A compiled path of names, indices and wildcards. ValueError if the text is none."""

    def __init__(self, text: str) -> None:
        self._path = path(text)

    def of(self, document: object) -> list[object]:
        """The values that it points to, in the document's order; at most 10,000."""
        found = [document]
        for segment in self._path.segments:
            step: list[object] = []
            # a path may name one thing many times over, and again at every step
            for value in {id(value): value for value in found}.values():
                for selector in segment.selectors:
                    step += _children(value, selector)
                if len(step) > MOST_FOUND:
                    return []
            found = step
        return found


def without(document: object, names: Sequence[Name]) -> object:
    """A document less the fields that are named; a name goes through a list to the objects in it."""
    for name in names:
        document = _without(document, name)
    return document


def _children(value: object, selector: object) -> Iterable[object]:
    from jsonpath.selectors import IndexSelector, NameSelector

    if isinstance(value, dict):
        if isinstance(selector, NameSelector):
            return [value[selector.name]] if selector.name in value else ()
        return () if isinstance(selector, IndexSelector) else value.values()
    if isinstance(value, list):
        if isinstance(selector, IndexSelector):
            return value[selector.index :][:1] if -len(value) <= selector.index < len(value) else ()
        return () if isinstance(selector, NameSelector) else value
    return ()


def _without(value: object, name: Name) -> object:
    if isinstance(value, list):
        return [_without(each, name) if isinstance(each, dict) else each for each in value]
    if not isinstance(value, dict) or name[0] not in value:
        return value
    if len(name) == 1:
        return {key: part for key, part in value.items() if key != name[0]}
    return {**value, name[0]: _without(value[name[0]], name[1:])}
