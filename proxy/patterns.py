"""Patterns and paths that users write: compiled, or refused with a reason. Matching costs time linear in the text."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from jsonpath import JSONPath

_MAX_LENGTH = 1_000
_MAX_MEMORY = 1 << 20
_WINDOWS = (4_000, 40_000)
_MOST_MATCHES = 2_000
_MOST_WORK = 8_000_000


class Match(Protocol):
    """A match of a pattern."""

    def group(self, group: int | str = 0) -> str | None:
        """What a group matched; None where it took no part."""

    def start(self) -> int:
        """Where the match begins, in characters."""

    def end(self) -> int:
        """Where the match ends, in characters."""


class Pattern(Protocol):
    """A compiled RE2 pattern."""

    groups: int
    groupindex: "dict[str, int]"

    def search(self, text: str) -> Match | None:
        """The first match in a text."""

    def finditer(self, text: str, pos: int = 0) -> Iterator[Match]:
        """The matches in a text from `pos` on that do not overlap, in order."""


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


def last_match(compiled: Pattern, text: str) -> Match | None:
    """The last match of a pattern in a text, or None; looked for in its last lines first, then further up.

    A single match costs linear time, all matches of a hostile pattern the square: of more than 2,000, or of those that
    take over some 20 ms, the last one looked at counts.
    """
    starts = [text.find("\n", len(text) - window) + 1 for window in _WINDOWS if len(text) > window]
    found = (_last_from(compiled, text, start) for start in [*(start for start in starts if start), 0])
    return next((match for match in found if match is not None), None)


def _last_from(compiled: Pattern, text: str, start: int) -> Match | None:
    match, work = None, 0
    for match in islice(compiled.finditer(text, start), _MOST_MATCHES):
        work += len(text) - match.end()
        if work > _MOST_WORK:
            break
    return match


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
