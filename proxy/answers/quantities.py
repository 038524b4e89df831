"""Numbers with their units, as replies in words give them."""

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

from proxy.answers import units
from proxy.answers.canonical import Label, strip
from proxy.answers.numbers import CONTINENTAL, number
from proxy.answers.plain import plain, without_notes
from proxy.answers.words import IN_WORDS, SCALES, STOPS, in_words, is_number_word

Found = tuple[str, Label]
"""A quantity as the reply says it, and its label `("quantity", value, unit, written)`.

`value` is an exact fraction in the base unit of what is measured, `unit` that unit or None, `written` the number
before it was converted, None where several units were added up.
"""

_WINDOW = 4_000
_AFTER = 80
_SHORT = 2_000
_PHRASE = 1_000
_MOST_WORDS = 5
_MOST_UNKNOWN = 3
_MOST_PARTS = 3
_LONGEST_ATTACHED = 3
# an escaped dollar sign, or one before a number that nothing closes, is money and no delimiter of a formula
_MONEY = re.compile(r"\\\$|\$(?= ?-?[\d.])(?![^$\n]{0,200}\$)")
_NAMED = re.compile(r"[A-Za-z](?:_\w{1,3})? ?= ?(?=[^=\s])")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?![\d/.])|\d+)"
_DECIMAL = rf"(?:{CONTINENTAL}(?![\d.,]*\d)|{_DIGITS}(?:\.\d+)?|\.\d+)(?:e[+-]?\d{{1,3}}(?![\w.]))?"
_AMOUNT = re.compile(
    r"(?<![\w.^±])(?<!± )(?<!\+/)(?<!\+/-)(?<!\+/- )(?<!out of )(?<![\w.)][-+,:/])"
    r"(?P<sign>[-+]?)(?P<money>[¤€£¥₹]?) ?(?P<inner>-?)"
    rf"(?P<number>\d{{1,9}} \d{{1,9}}/\d{{1,9}}|{_DECIMAL}(?: ?/ ?{_DECIMAL})?"
    r"(?: ?[*x\u00d7] ?10\^[({]?[-+]?\d{1,3}[)}]?)?|10\^[({]?[-+]?\d{1,3}[)}]?)"
    r"(?![-/:.,]?\d| ?[π√]|[(^_])",
    re.ASCII | re.IGNORECASE,
)
# "3 to 5", "between 3 and 5" and "3 or 5" are no 5
_RANGED = re.compile(r"(?:\d[^\s,]{0,3}(?: [a-z]+)? (?:to|or)|\bbetween \S+(?: [a-z]+)? and) [$€£¥₹¤]?$", re.IGNORECASE)
_BEFORE = 40
_MONEY_SCALE = re.compile(r" ?(?:(k)|(m|mm|mn)|(bn?)|(tn?))\b", re.IGNORECASE)
_MONEY_SCALES = (10**3, 10**6, 10**9, 10**12)
# a height: 5'6" is 5 feet 6 inches
_HEIGHT = re.compile(r"(?<![\w.,])(\d)['\u2032] ?(\d{1,2}(?:\.\d+)?)(?![\w.])(?:\"|''|\u2032\u2032)?")
# twenty-first, two thirds, 3 and a half
_PART = re.compile(
    r"-(?:first|second|third|(?:four|fif|six|seven|eigh|nin)th)\b| and (?:a|one|two|three)[- ](?:half|third|quarter)"
    r"|[- ](?:half|halves|thirds?|quarters?|(?:four|fif|six|seven|eigh|nin|ten|hundred)ths?)\b",
    re.IGNORECASE,
)
_SCALE = re.compile(rf"[ -]({'|'.join(SCALES)})\b", re.IGNORECASE)
_TOKEN = re.compile(r"(?P<gap>[ -]?)(?P<word>(?:[^\W\d_]|[µ])+(?:\^?[23](?!\w|\.\d))?|%|°[CFcf]?(?!\w)|[€£¥₹¤¢]|/)")
_ORDINAL = frozenset({"st", "nd", "rd", "th"})
_NO_DECADE = re.compile(r"\d{4}s\b")
_JOINED = re.compile(r",? (?:and )?|(?=\d)")
_GOES_ON = re.compile(r" ?(?:[-+*/^=<>÷≈~]|(?:and|or|to|times|plus|minus|x)\b[^.]*\d)|.*[=≈]", re.DOTALL)
_FORMAL = re.compile(r"\\(?:text|mathrm|rm|mbox|operatorname)\b")
_NO_UNIT_WORDS = (
    "factorial squared cubed mod modulo choose base pi tau sqrt log ln exp sin cos tan cot sec csc theta alpha beta "
    "gamma lambda phi infinity root roots"
)
_NO_UNITS = frozenset(_NO_UNIT_WORDS.split())
_SUMMED = frozenset({"m", "kg", "s", "l", "usd", "year"})
_MORE_WORDS = re.compile(r"(?:,? and|,)?[ -]([a-z]+)", re.IGNORECASE)
_LAST_WORD = re.compile(r"([a-z]+)(?:,? and|,)?[ -]$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Measure:
    """A quantity in a text, up to `end`. `factor` tells hours from minutes; `words` is its unit as it stands."""

    value: Fraction
    unit: str | None
    written: Fraction | None
    factor: Fraction
    end: int
    words: tuple[str, ...] = ()
    attached: bool = False

    @property
    def label(self) -> Label:
        return "quantity", str(self.value), self.unit, None if self.written is None else str(self.written)


def quantity(phrase: str) -> Found | None:
    """The quantity that an answer is or begins with (`42 km`, `about $3.50 each`, `2 h 30 min`), else its last one."""
    text = _bare(phrase)
    measure = _measure(text, 0)
    if measure is not None and not _GOES_ON.match(text, measure.end):
        return _shown(text[: measure.end]), measure.label
    return last_quantity(phrase)


def last_quantity(text: str) -> Found | None:
    """The last number in `text` with its unit; of a short text without digits the last number in words."""
    end = max(text.rfind(digit) for digit in "0123456789")
    if end < 0:
        return _last_in_words(text) if len(text) <= _SHORT else None
    window = _read_as(text[max(0, end - _WINDOW) : end + _AFTER])
    starts = [match.start() for match in _AMOUNT.finditer(window)]
    for place in range(len(starts) - 1, -1, -1):
        measure = _measure(window, starts[place])
        if measure is not None and _RANGED.search(window[max(0, starts[place] - _BEFORE) : starts[place]]):
            return None
        if measure is not None:
            start, measure = _begun_before(window, starts[max(0, place - _MOST_PARTS) : place], starts[place], measure)
            return _shown(window[start : measure.end]), measure.label
    return None


def without_unit(phrase: str) -> str | None:
    """The value, as a fraction in digits, of an answer that is one number and a unit: `42 cm`, `42^\\circ`; else None.

    Letters that may be variables are no units: `5 m` is one only where the reply sets it as text.
    """
    text = _bare(phrase)
    measure = _measure(text, 0)
    if measure is None or measure.end < len(text) or measure.written is None or measure.unit in {None, "%"}:
        return None
    if any(word.casefold() in _NO_UNITS for word in measure.words):
        return None
    if not _FORMAL.search(phrase):
        known = units.known(" ".join(measure.words)) is not None
        shortest = len(measure.words[0]) if known else min(len(word) for word in measure.words)
        if measure.words[0][0] not in "°¤$€£¥₹¢" and shortest < (2 if known else 3):
            return None
        if measure.attached and not known:
            return None
    return str(measure.written)


def _bare(phrase: str) -> str:
    text = strip(_read_as(phrase[:_PHRASE]))
    return _NAMED.sub("", text, count=1) if _NAMED.match(text) else text


def _read_as(text: str) -> str:
    """A text in plain characters, without the marks of its footnotes, and heights in feet and inches."""
    return _HEIGHT.sub(r"\1 feet \2 inches", without_notes(plain(_MONEY.sub("¤", text))))


def _shown(text: str) -> str:
    return text.strip().replace("¤", "$")


def _last_in_words(text: str) -> Found | None:
    window = plain(text)
    for match in reversed(list(IN_WORDS.finditer(window))):
        # "the one who", "no one": seldom a number
        if match["words"].casefold() != "one":
            before = _LAST_WORD.search(window, max(0, match.start() - _AFTER), match.start())
            measure = _measure(window, match.start())
            if measure is None or (before is not None and is_number_word(before[1].casefold())):
                return None
            return _shown(window[match.start() : measure.end]), measure.label
    return None


def _begun_before(text: str, starts: list[int], start: int, measure: _Measure) -> tuple[int, _Measure]:
    """The whole of `2 hours and 30 minutes`, of which `measure` is the end."""
    for earlier in starts:
        whole = _measure(text, earlier)
        if whole is not None and whole.written is None and whole.end >= measure.end:
            return earlier, whole
    return start, measure


def _measure(text: str, start: int) -> _Measure | None:
    """The quantity that begins at `start`, of one or several units."""
    first = whole = _part(text, start)
    for _ in range(_MOST_PARTS):
        if first is None or whole is None or first.unit not in _SUMMED:
            return whole
        gap = _JOINED.match(text, whole.end)
        following = None if gap is None else _part(text, gap.end())
        if following is None or following.unit != first.unit or following.factor >= whole.factor:
            return whole
        whole = _Measure(whole.value + following.value, first.unit, None, following.factor, following.end)
    return whole


def _part(text: str, start: int) -> _Measure | None:
    amount = _AMOUNT.match(text, start)
    if amount is not None and _NO_DECADE.match(text, amount.start("number")):
        return None
    read = _amount(amount) if amount is not None else _in_words(text, start)
    if read is None:
        return None
    value, end = read
    if (amount is None or text.startswith(" ", end)) and _PART.match(text, end):
        return None
    scale = _SCALE.match(text, end)
    if scale is not None:
        value, end = value * SCALES[scale[1].lower()], scale.end()
        more = _MORE_WORDS.match(text, end)
        if more is not None and is_number_word(more[1].casefold()):
            return None
    money = None if amount is None else amount["money"]
    short = _MONEY_SCALE.match(text, end) if money and scale is None else None
    if short is not None and short.lastindex is not None:
        value, end = value * _MONEY_SCALES[short.lastindex - 1], short.end()
    return _with_unit(text, value, end, money or None, scaled=scale is not None)


def _amount(match: re.Match[str]) -> tuple[Fraction, int] | None:
    label = number(match["number"])
    if label is None:
        return None
    value = Fraction(label[1])
    return (-value if (match["sign"] == "-") != (match["inner"] == "-") else value), match.end()


def _in_words(text: str, start: int) -> tuple[Fraction, int] | None:
    match = IN_WORDS.match(text, start)
    value = None if match is None else in_words(match["words"])
    return None if match is None or value is None else (Fraction(value), match.end("words"))


def _with_unit(text: str, value: Fraction, end: int, money: str | None, *, scaled: bool) -> _Measure | None:
    if money is not None:
        base, factor = units.known(money) or (money, Fraction(1))
        return _Measure(value * factor, base, value, factor, end, (money,))
    tokens = _unit_tokens(text, end)
    if not tokens:
        return _Measure(value, None, value, Fraction(1), end)
    attached = not tokens[0]["gap"] and not scaled
    for count in range(len(tokens), 0, -1):
        words = tuple(token["word"] for token in tokens[:count])
        unit = units.known(_spelled(words))
        if unit is not None:
            return _Measure(value * unit[1], unit[0], value, unit[1], tokens[count - 1].end(), words, attached)
    return _with_unknown(tokens, value, end, attached=attached)


def _with_unknown(tokens: list[re.Match[str]], value: Fraction, end: int, *, attached: bool) -> _Measure | None:
    first = tokens[0]["word"].casefold()
    if is_number_word(first) or (attached and (first in _ORDINAL or len(first) > _LONGEST_ATTACHED)):
        return None
    words = _plain_words(tokens)
    if not words:
        return _Measure(value, None, value, Fraction(1), end)
    last = tokens[len(words) - 1].end()
    return _Measure(value, units.unknown(words), value, Fraction(1), last, tuple(words), attached)


def _unit_tokens(text: str, start: int) -> list[re.Match[str]]:
    """What may be the name of a unit after a number: up to five words, none of them a stop word."""
    tokens: list[re.Match[str]] = []
    while len(tokens) < _MOST_WORDS:
        token = _TOKEN.match(text, start)
        if token is None or _ends(token["word"], tokens, text[token.end() : token.end() + 2]):
            break
        tokens.append(token)
        start = token.end()
    return tokens


def _ends(word: str, before: list[re.Match[str]], after: str) -> bool:
    folded = word.casefold()
    if folded == "per":
        return False
    if folded == "in":
        # inches, where no word follows
        return bool(before) or after.strip()[:1].isalpha()
    return folded in STOPS


def _spelled(words: tuple[str, ...]) -> str:
    return " ".join(words).replace(" / ", "/")


def _plain_words(tokens: list[re.Match[str]]) -> list[str]:
    """The words of a unit that is in no table."""
    words: list[str] = []
    for token in islice(tokens, _MOST_UNKNOWN):
        word = token["word"]
        if not word[0].isalpha() or word.casefold() == "per":
            break
        words.append(word)
    return words
