"""What a request asks: the text of its last user turn."""

from proxy.types import JSON

LONGEST = 8_000


def question(request: JSON) -> str:
    """The last user turn's text, parts joined by lines, at most its first 8,000 characters; empty where there is none.

    Images, files and sounds are left out.
    """
    turns = [turn for turn in request["messages"] if isinstance(turn, dict) and turn.get("role") == "user"]
    content = turns[-1].get("content") if turns else None
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(text for text in texts if isinstance(text, str))
    return content[:LONGEST] if isinstance(content, str) else ""
