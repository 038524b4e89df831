"""Which of several texts is the most central: free prose has no majority.

Minimum Bayes risk (Kumar & Byrne 2004): the text that is most like all the others is returned. How much two texts are
alike is the overlap of their words in order, 2 * LCS / (words of one + words of the other), which is ROUGE-L's F1.

Each word becomes one character, so that a pair is one call of rapidfuzz: 32 texts of 4,000 characters take 30 to 90 ms,
where `fuzz.token_set_ratio` over the letters takes 800 ms. `process.cdist` is no quicker for these and imports numpy; a
bag of words is about as quick, and does not see order.
"""

import re
from collections.abc import Sequence
from math import fsum, hypot, isfinite

from proxy.answers.messages import refused, sounds_refusing, truncated, visible_text
from proxy.answers.structured import has_tool_calls
from proxy.types import AnswerSpec, Choice

LONGEST = 4_000
"""Characters of a text that are looked at: half of them from its beginning, half from its end."""

_MOST_WORDS = 512
_REFERENCES = 32
"""Texts that all others are compared with; where there are more, the first ones stand for them."""

# scripts that write no spaces between words: each of their characters counts as one
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def picks(spec: AnswerSpec) -> bool:
    """Whether one of several texts is to be chosen, where by default prose gets no second draw."""
    return spec.kind == "text" and spec.pick != "none" and spec.votable != "never"


def candidates(choices: Sequence[Choice]) -> list[int]:
    """The places of the choices that may be returned, in order; empty only for none.

    Refusals are a class: where they are more than half one of them is returned, else none of them. Then what is
    complete and says something comes before what was cut, and that before what was filtered or is empty.
    """
    refusing = [refused(choice) or sounds_refusing(visible_text(choice)) for choice in choices]
    most_refuse = 2 * sum(refusing) > len(choices)
    flaws = {place: _flaw(choices[place]) for place, refuses in enumerate(refusing) if refuses == most_refuse}
    least = min(flaws.values(), default=0)
    return [place for place, flaw in flaws.items() if flaw == least]


def shortened(text: str, longest: int = LONGEST) -> str:
    """`text`, or where it is longer its beginning and its end, `longest` characters together, with dots between."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} … {text[-half:]}"


def central(texts: Sequence[str]) -> list[float]:
    """How much each text is like the others in the mean, in [0, 1]; 0 where there is no other.

    Case does not count. Of a text its first and last 2,000 characters are looked at, and 256 words of each.
    """
    # few servers choose between texts: the others need not load it
    from rapidfuzz.distance import Indel

    numbers: dict[str, int] = {}
    coded = ["".join(chr(numbers.setdefault(word, len(numbers))) for word in _words(text)) for text in texts]
    alike: list[list[float]] = [[] for _ in texts]
    for place, one in enumerate(coded):
        for other in range(min(place, _REFERENCES)):
            same = Indel.normalized_similarity(one, coded[other])
            alike[place].append(same)
            if place < _REFERENCES:
                alike[other].append(same)
    # fsum: in whatever order they come, the same texts have the same mean
    return [fsum(values) / len(values) if values else 0.0 for values in alike]


def nearest(vectors: Sequence[Sequence[float]]) -> list[float] | None:
    """How near each vector is to the others by the cosine in the mean, moved from [-1, 1] to [0, 1].

    None where they are not vectors of one length and of finite numbers.
    """
    if len({len(vector) for vector in vectors}) != 1:
        return None
    lengths = [hypot(*vector) for vector in vectors]
    if not all(map(isfinite, lengths)):
        return None
    units = [[x / (length or 1.0) for x in vector] for vector, length in zip(vectors, lengths, strict=True)]
    total = [fsum(column) for column in zip(*units, strict=True)]
    others = max(1, len(units) - 1)
    # the sum of the cosines with the others is the product with the sum of all, less that with itself
    cosines = [
        (sum(x * y for x, y in zip(unit, total, strict=True)) - sum(x * x for x in unit)) / others for unit in units
    ]
    return [min(1.0, max(0.0, (1.0 + cosine) / 2.0)) for cosine in cosines]


def _flaw(choice: Choice) -> int:
    """0: complete; 1: cut; 2: filtered, or says nothing."""
    says = choice.message.get("refusal") or visible_text(choice) or has_tool_calls(choice.message)
    if choice.finish_reason == "content_filter" or not says:
        return 2
    return int(truncated(choice))


def _words(text: str) -> list[str]:
    words = _WORD.findall(shortened(text).casefold())
    return words if len(words) <= _MOST_WORDS else words[: _MOST_WORDS // 2] + words[-_MOST_WORDS // 2 :]
