"""Numbers in words, and the words that end the name of a unit."""

import re

_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {
    **{word: value for value, word in enumerate((*_ONES, *_TEENS))},
    **{word: 10 * value for value, word in enumerate(_TENS, 2)},
}
_BELOW = rf"(?:(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_ONES[1:])})\b)?|{'|'.join((*_TEENS, *_ONES))})\b"
IN_WORDS = re.compile(rf"\b(?<![\w-])(?P<words>{_BELOW})(?:-(?=\w))?", re.IGNORECASE)
"""A number from zero to ninety-nine in words, not inside another word."""

_STOPS = (
    "a about according after ago all altogether an and apart are as at away because been before but by can "
    "combined deep each every for from had has have he her high his i if in into is it left less long make makes "
    "more not now of old on only or out over overall per plus minus remaining she since so tall than that the their "
    "then there therefore they thus times to together total under was we were when where which while who wide will "
    "with would you"
)

SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
"""Words that multiply the number before them."""

STOPS = frozenset(_STOPS.split())
"""Words after a number that are no part of its unit."""


def in_words(text: str) -> int | None:
    """The number from 0 to 99 that `text` is the name of, or None: `seven`, `forty-two`, `Ninety nine`."""
    values = [_VALUES.get(word) for word in text.casefold().replace("-", " ").split()]
    return None if not values or None in values else sum(value for value in values if value is not None)


def is_number_word(word: str) -> bool:
    """Whether a word, in lower case, is a number or a part of one."""
    return word in _VALUES or word in SCALES
