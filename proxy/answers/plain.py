"""From LaTeX, markdown and typography to plain text."""

import re
import unicodedata

_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_MIXED = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
# minus and dashes, fraction slash, products, division, quotes, full stop; then what is invisible
_CHARACTERS = str.maketrans(
    "\u2212\u2013\u2010\u2011\u2044\u00d7\u22c5\u00b7\u00f7\u2019\u2018\u201c\u201d\u3002",
    "----/***/''\"\".",
    "\u200b\u200c\u200d\u2060\ufeff\x00",
)
_SYMBOLS = {
    r"\cdot": "*",
    r"\times": "*",
    r"\div": "/",
    r"\pi": "π",
    r"\infty": "∞",
    r"\circ": "°",
    r"\degree": "°",
    r"\leq": "≤",
    r"\geq": "≥",
    r"\le": "≤",
    r"\ge": "≥",
    r"\neq": "≠",
    r"\ne": "≠",
    r"\pm": "±",
    r"\cup": "\u222a",
    r"\in": "∈",
    r"\left": "",
    r"\right": "",
    r"\displaystyle": "",
    r"\textstyle": "",
    r"\limits": "",
    r"\quad": " ",
    r"\qquad": " ",
}
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_BOLD = re.compile(r"(?<![\w)*])(\*\*|__)(?=\S)([^*_\n]{1,200})\1(?![\w(*])")
_CODE = re.compile(r"`{1,3}([^`\n]{1,200})`{1,3}")
_SPACING = re.compile(r"(?<=,)\\! (?=\d)|\\[,;:!> ]|~|(?<=\d)\{,\}(?=\d)")
_DELIMITERS = re.compile(r"\\[()\[\]]|\$")
_FRACTION_WORD = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_MIXED_FRACTION = re.compile(r"(?<=\d)\s*(?=\\frac)")
# their spaces are what tells bars around a value from those of a table
_BARS = re.compile(r"\\left\s*\|\s*|\s*\\right\s*\||\\[lr]?vert(?![a-zA-Z])\s*")
_UNWRAPPED = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|bb|cal|normal)|mbox|operatorname|boxed|fbox|emph|underline)"
    r"\s*\{([^{}]*)\}"
)
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*(?:\{([^{}]*)\}|([\w]))")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\w)\s*(?:\{([^{}]*)\}|(\w))")
_ROOT = re.compile(r"(?:\\sqrt|√)\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\w))")
_EXPONENT = re.compile(r"\^\{([^{}]*)\}")
_SINGLE = re.compile(r"-?[\w.]+|-?\d*sqrt\([^()]*\)")
# below a bar `2x` is no single thing: what follows the fraction is not divided by
_SINGLE_BELOW = re.compile(r"-?(?:[\d.]+|[^\W\d]+|sqrt\([^()]*\))")
_PASSES = 6
_NOTE = re.compile(r"(?<=[\w.,)%!?*]) ?\[\^?\d{1,2}\](?![(\w^])")


def plain(text: str) -> str:
    """`text` with LaTeX, markdown emphasis and typographic variants undone; linear in its length.

    `\\boxed{\\dfrac12}` becomes `1/2`, `**42**` becomes `42`, `50\\%` becomes `50%`. Case is kept.
    """
    text = _SUPERSCRIPTS.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]), text)
    text = unicodedata.normalize("NFKC", _MIXED.sub(" ", text)).translate(_CHARACTERS)
    text = _CODE.sub(r"\1", _BOLD.sub(r"\2", text))
    if any(mark in text for mark in "\\${√^"):
        text = _unlatex(text)
    return " ".join(text.split())


def without_notes(text: str) -> str:
    """A plain text without the marks of footnotes: `5 km [1]` becomes `5 km`."""
    return _NOTE.sub("", text) if "[" in text else text


def _unlatex(text: str) -> str:
    text = _SPACING.sub(_space, text.replace(r"\$", "$").replace(r"\%", "%").replace(r"\{", "{ ").replace(r"\}", " }"))
    text = _DELIMITERS.sub("", _BARS.sub("|", text))
    text = _COMMAND.sub(lambda match: _SYMBOLS.get(match[0], match[0]), text)
    text = _MIXED_FRACTION.sub(" ", _FRACTION_WORD.sub(r"\\frac", text))
    # each pass opens the innermost braces
    for _ in range(_PASSES):
        before = text
        text = _UNWRAPPED.sub(r"\1", text)
        text = _ROOT.sub(lambda match: f"sqrt({match[1] or match[2] or match[3] or ''})", text)
        text = _EXPONENT.sub(_exponent, text)
        text = _SHORT_FRACTION.sub(_fraction, _FRACTION.sub(_fraction, text))
        if text == before:
            break
    return text.replace("^°", "°")


def _space(match: re.Match[str]) -> str:
    return "" if match[0] in {r"\! ", r"\!", r"\,", r"\;", r"\:", r"\>"} else "," if "," in match[0] else " "


def _exponent(match: re.Match[str]) -> str:
    inside = match[1].strip()
    return f"^{inside}" if len(inside) == 1 or inside.lstrip("+-").isdecimal() else f"^({inside})"


def _fraction(match: re.Match[str]) -> str:
    top, bottom = match[1].strip(), (match[2] or match[3] or "").strip()
    return f"{_grouped(top, _SINGLE)}/{_grouped(bottom, _SINGLE_BELOW)}"


def _grouped(part: str, single: re.Pattern[str]) -> str:
    return part if single.fullmatch(part) else f"({part})"
