"""Patterns and paths that users write: compiled, or refused with a reason. Matching costs time linear in the text."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from jsonpath import JSONPath

_MAX_LENGTH = 1_000
_MAX_MEMORY = 1 << 20


class Match(Protocol):
    """A match of a pattern."""

    def group(self, group: int | str = 0) -> str | None:
        """What a group matched."""


class Pattern(Protocol):
    """A compiled RE2 pattern."""

    groups: int
    groupindex: "dict[str, int]"

    def search(self, text: str) -> Match | None:
        """The first match in a text."""


def pattern(text: str) -> Pattern:
    """A pattern in RE2's syntax. Raises ValueError with what is wrong with it."""
    import re2

    if len(text) > _MAX_LENGTH:
        raise ValueError(f"a pattern has at most {_MAX_LENGTH} characters")
    options = re2.Options()
    # without these RE2 writes to stderr, and a pattern may take eight times the memory
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    try:
        compiled: Pattern = re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0]
        raise ValueError(reason.decode() if isinstance(reason, bytes) else str(reason)) from None
    return compiled


def path(text: str) -> "JSONPath":
    """A JSONPath (RFC 9535) of names, indices and wildcards. Raises ValueError with what is wrong with it.

    Slices, filters and descendants are refused: over hostile data they cost more than linear time.
    """
    import jsonpath
    from jsonpath.segments import JSONPathChildSegment
    from jsonpath.selectors import IndexSelector, NameSelector, WildcardSelector

    if len(text) > _MAX_LENGTH:
        raise ValueError(f"a path has at most {_MAX_LENGTH} characters")
    try:
        compiled = jsonpath.compile(text)
    except jsonpath.JSONPathError as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    plain = (NameSelector, IndexSelector, WildcardSelector)
    if not isinstance(compiled, jsonpath.JSONPath) or not all(
        isinstance(segment, JSONPathChildSegment) and all(isinstance(each, plain) for each in segment.selectors)
        for segment in compiled.segments
    ):
        raise ValueError("only names, indices and [*] are served, such as $.items[0].id")
    return compiled
