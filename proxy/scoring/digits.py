"""The digit that a model says, as the mean over the digits that it might have said."""

import re
from collections.abc import Sequence
from math import exp, isfinite

from proxy.types import JSON, Choice

_LEAST_MASS = 0.5
_DIGITS = frozenset("0123456789")
_SPACES = " \t\r\n\u0120\u2581"
"""White space, and what two kinds of tokenisers write for a space."""

_ANY = re.compile(r"\d")
_GOES_ON = re.compile(r"[.,]?\d|\s*(?:/|-|\u2013|to\b|out of\b)\s*\d|\s?%", re.IGNORECASE)
_IN_A_NUMBER = re.compile(r"[\d.,/-]$")


def expected_digit(said: Choice) -> float | None:
    """The mean of the digits 0 to 9, in [0, 9], weighed by the probabilities told at the first token that is a digit.

    None where no probabilities are told, where that digit is part of something longer ("85", "7/9") or of thinking, or
    where all digits together have less than half of the probability there.
    """
    entries = (said.logprobs or {}).get("content")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None
    tokens = [str(entry.get("token")) for entry in entries]
    place = next((place for place, token in enumerate(tokens) if _ANY.search(token)), None)
    if place is None or _digit(tokens[place]) is None or not _stands_alone(tokens, place):
        return None
    masses = _masses(entries[place])
    whole = sum(masses.values())
    return sum(int(digit) * mass for digit, mass in masses.items()) / whole if whole >= _LEAST_MASS else None


def _digit(token: str) -> str | None:
    bare = token.strip(_SPACES)
    return bare if bare in _DIGITS else None


def _stands_alone(tokens: Sequence[str], place: int) -> bool:
    before, after = "".join(tokens[:place]), "".join(tokens[place + 1 :])
    joined = tokens[place][0] not in _SPACES and _IN_A_NUMBER.search(before)
    return "<think" not in before and not joined and _GOES_ON.match(after) is None


def _masses(entry: JSON) -> dict[str, float]:
    """The probability of each digit: of the token that was said and of those that might have been."""
    top = entry.get("top_logprobs")
    told = {
        str(each.get("token")): each.get("logprob")
        for each in [entry, *(top if isinstance(top, list) else ())]
        if isinstance(each, dict)
    }
    masses: dict[str, float] = {}
    for token, logprob in told.items():
        digit = _digit(token)
        if digit is not None and isinstance(logprob, int | float) and isfinite(logprob):
            # the same digit may be told with and without a space before it
            masses[digit] = masses.get(digit, 0.0) + exp(min(logprob, 0.0))
    return masses
