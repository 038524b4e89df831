"""What a verifier is shown of a request and of a reply to it: text alone, of bounded length, without thinking."""

from proxy.answers import prompt_text, question
from proxy.conditioning import said
from proxy.types import JSON, Choice

_MOST_INSTRUCTIONS = 8_000
_MOST_ANSWER = 16_000


def shown_instructions(request: JSON) -> str:
    """The texts of the system's turns, at most their first 8,000 characters; empty where there are none."""
    turns = [turn for turn in request["messages"] if turn.get("role") in ("system", "developer")]
    return prompt_text({"messages": turns})[:_MOST_INSTRUCTIONS].strip()


def shown_question(request: JSON) -> str:
    """The instructions and the last user turn's text, at most 16,000 characters."""
    return "\n\n".join(text for text in (shown_instructions(request), question(request).strip()) if text)


def shown_answer(choice: Choice) -> str:
    """What a reply says and which tools it calls, at most the last 16,000 characters; empty where it only thought."""
    return said(choice).strip()[-_MOST_ANSWER:]
