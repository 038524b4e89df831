"""What a request asks: the text of its last user turn, or of all its turns."""

from proxy.types import JSON

LONGEST = 8_000

_MOST = 100_000
_ASKED = 20_000


def question(request: JSON) -> str:
    """The last user turn's text, parts joined by lines, at most its first 8,000 characters; empty where there is none.

    Images, files and sounds are left out.
    """
    return _last(request)[:LONGEST]


def asked(request: JSON) -> str:
    """The last user turn's text, as in `question`, but its last 20,000 characters: where its options stand."""
    return _last(request)[-_ASKED:]


def prompt_text(request: JSON) -> str:
    """The texts of all turns, whoever's, joined by lines; at most 100,000 characters of the beginning and the end."""
    text = "\n".join(_text(turn) for turn in _turns(request))
    return text if len(text) <= _MOST else f"{text[: _MOST // 2]}\n{text[-_MOST // 2 :]}"


def _last(request: JSON) -> str:
    return next((_text(turn) for turn in reversed(_turns(request)) if turn.get("role") == "user"), "")


def _turns(request: JSON) -> list[JSON]:
    turns = request.get("messages")
    return [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []


def _text(turn: JSON) -> str:
    content = turn.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""
