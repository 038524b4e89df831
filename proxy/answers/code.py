"""Code: the last block of a reply, normalised so that layout without meaning does not matter."""

import re
from hashlib import sha256
from itertools import islice
from textwrap import dedent

from proxy.answers.canonical import Label

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})([^`\n]*)$", re.MULTILINE)
_TAB = 4
_MOST_FENCES = 2_000


def last_block(text: str) -> str | None:
    """The last fenced block of `text` that holds anything, whatever its language; None without one.

    A block that is never closed ends with the text. Fences after the two thousandth are taken for text.
    """
    opened: re.Match[str] | None = None
    last = None
    for fence in islice(_FENCE.finditer(text), _MOST_FENCES):
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and not fence[2].strip():
            inside = text[opened.end() : fence.start()]
            opened, last = None, inside if inside.strip() else last
    rest = "" if opened is None else text[opened.end() :]
    return rest if rest.strip() else last


def code_label(code: str) -> Label | None:
    """`("code", sha256 in hex)`; None for no code.

    Line endings, blanks at the ends of lines, blank lines, common indentation and tabs for blanks do not count.
    """
    lines = [line.rstrip() for line in code.expandtabs(_TAB).splitlines()]
    bare = dedent("\n".join(line for line in lines if line))
    return ("code", sha256(bare.encode(errors="replace")).hexdigest()) if bare else None
