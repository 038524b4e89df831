"""What a request asks: the text of its last user turn, or of all its turns."""

from proxy.types import JSON

LONGEST = 8_000

_MOST = 100_000


def question(request: JSON) -> str:
    """The last user turn's text, parts joined by lines, at most its first 8,000 characters; empty where there is none.

    Images, files and sounds are left out.
    """
    turns = [turn for turn in request["messages"] if isinstance(turn, dict) and turn.get("role") == "user"]
    return _text(turns[-1])[:LONGEST] if turns else ""


def prompt_text(request: JSON) -> str:
    """The texts of all turns, whoever's, joined by lines; at most 100,000 characters of the beginning and the end."""
    text = "\n".join(_text(turn) for turn in request["messages"] if isinstance(turn, dict))
    return text if len(text) <= _MOST else f"{text[: _MOST // 2]}\n{text[-_MOST // 2 :]}"


def _text(turn: JSON) -> str:
    content = turn.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""
