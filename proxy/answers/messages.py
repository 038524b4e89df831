"""What a choice holds beside its answer: visible text, refusal, truncation, log-probabilities."""

import re
from math import isfinite

from proxy.types import Choice

_THINKING = re.compile(r"<(/?)think(?:ing)?>")
_REFUSAL_WORDS = 60
_CANNOT = (
    r"(?:can(?:not|'t| not)|could(?: not|n't)|(?:am|'m) (?:un|not )able|won't|will not|must decline|have to decline)"
)
_HELP = (
    r"(?:help|assist|comply|provide|fulfil|fulfill|answer|respond|do that|do this|discuss|support|engage|participate"
    r"|advise|create|generate|write|give|share|offer|continue|complete|process)"
)
# who cannot give an exact answer may well give one
_HEDGED = (
    r"(?! (?:you )?(?:an? |the )?(?:exact|precise|definit|closed|full|complete|single)| with (?:certainty|confidence))"
)
_REFUSES = (
    rf"(?:{_CANNOT}(?: (?:be able )?to)? {_HELP}\b{_HEDGED}|(?:must|have to|need to) (?:respectfully )?decline\b"
    r"|(?:refuse|decline) to\b)"
)
_REFUSING = re.compile(
    rf"(?:(?:i'm|i am|we're|we are) (?:(?:very|really|so|truly) )?sorry\b[^\n]{{0,60}}?|sorry\b[^\n]{{0,60}}?"
    rf"|(?:unfortunately|as an ai(?: language model| assistant)?|no),? |(?:i'm|i am) afraid (?:that )?"
    rf"|(?:i apologi[sz]e|apologies|thank)\b[^\n]{{0,60}}?)?"
    rf"\b(?:i|we)(?: |(?=')){_REFUSES}",
    re.IGNORECASE,
)


def visible_text(choice: Choice, limit: int = 200_000) -> str:
    """The text that answers: thinking left out, of at most the last `limit` characters, encodable as UTF-8."""
    text = choice.content[-limit:].encode(errors="replace").decode()
    if "think" not in text:
        return text.strip()
    shown: list[str] = []
    hidden, position = False, 0
    for tag in _THINKING.finditer(text):
        if not tag[1]:
            if not hidden:
                shown.append(text[position : tag.start()])
            hidden = True
        elif hidden:
            hidden, position = False, tag.end()
        else:
            # some servers swallow the opening tag, so all that came before was thinking
            shown, position = [], tag.end()
    if not hidden:
        shown.append(text[position:])
    return "".join(shown).strip()


def refused(choice: Choice) -> bool:
    """Whether the provider marked the choice as a refusal or filtered it."""
    return bool(choice.message.get("refusal")) or choice.finish_reason == "content_filter"


def sounds_refusing(text: str) -> bool:
    """Whether a short reply begins by saying that it will not help."""
    start = text[:400].replace("\u2019", "'").lstrip("*_ \n")
    return len(text) < 1_000 and len(text.split()) <= _REFUSAL_WORDS and _REFUSING.match(start) is not None


def truncated(choice: Choice) -> bool:
    """Whether the choice was cut at its token limit."""
    return choice.finish_reason == "length"


def mean_logprob(choice: Choice) -> float | None:
    """The mean log-probability (natural logarithm) of the choice's tokens, or None when they were not told."""
    entries = (choice.logprobs or {}).get("content")
    if not isinstance(entries, list):
        return None
    told = [entry.get("logprob") for entry in entries if isinstance(entry, dict)]
    values = [value for value in told if isinstance(value, float | int) and isfinite(value)]
    return sum(values) / len(values) if values else None
