"""Units: their names, and exact factors to the base unit of what they measure."""

from collections.abc import Sequence
from fractions import Fraction

Unit = tuple[str, Fraction]
"""The base unit, and how many of it one is."""

_FOOT = Fraction(3048, 10_000)
_POUND = Fraction(45_359_237, 100_000_000)
_GALLON = Fraction(3_785_411_784, 1_000_000_000)

# the base unit, its names, then others with their factors
_TABLE: dict[str, dict[str, Fraction | int]] = {
    "m": {
        "m metre meter": 1,
        "nm nanometre nanometer": Fraction(1, 10**9),
        "µm μm um micrometre micrometer micron": Fraction(1, 10**6),
        "mm millimetre millimeter": Fraction(1, 1000),
        "cm centimetre centimeter": Fraction(1, 100),
        "dm decimetre decimeter": Fraction(1, 10),
        "km kilometre kilometer": 1000,
        "in inch": _FOOT / 12,
        "ft foot feet": _FOOT,
        "yd yard": 3 * _FOOT,
        "mi mile": 5280 * _FOOT,
    },
    "kg": {
        "kg kilogram kilogramme kilo": 1,
        "g gram gramme gm": Fraction(1, 1000),
        "mg milligram": Fraction(1, 10**6),
        "µg μg ug mcg microgram": Fraction(1, 10**9),
        "t tonne": 1000,
        "lb pound": _POUND,
        "oz ounce": _POUND / 16,
    },
    "s": {
        "s sec second": 1,
        "ms millisecond msec": Fraction(1, 1000),
        "min minute": 60,
        "h hr hour": 3600,
        "d day": 86_400,
        "wk week": 604_800,
    },
    "year": {"yr year": 1, "decade": 10, "century": 100, "month": Fraction(1, 12)},
    "usd": {"¤ $ usd dollar buck": 1, "¢ cent": Fraction(1, 100)},
    "eur": {"€ eur euro": 1},
    "gbp": {"£ gbp": 1},
    "yen": {"¥ jpy yen": 1},
    "inr": {"₹ inr rupee": 1},
    "%": {"% percent pct": 1},
    "°": {"° deg degree": 1},
    "°C": {"°C °c celsius centigrade": 1},
    "°F": {"°F °f fahrenheit": 1},
    "kelvin": {"K kelvin": 1},
    "rad": {"rad radian": 1},
    "l": {
        "l L liter litre": 1,
        "ml mL milliliter millilitre cc": Fraction(1, 1000),
        "cl cL centiliter centilitre": Fraction(1, 100),
        "dl dL deciliter decilitre": Fraction(1, 10),
        "gal gallon": _GALLON,
        "qt quart": _GALLON / 4,
        "pt pint": _GALLON / 8,
        "cup": _GALLON / 16,
    },
    "n": {"N newton": 1, "kN kilonewton": 1000},
    "j": {"J joule": 1, "kJ kilojoule": 1000},
    "w": {"W watt": 1, "kW kilowatt": 1000, "MW megawatt": 10**6},
    "v": {"V volt": 1},
    "hz": {"Hz hz hertz": 1, "kHz kilohertz": 1000, "MHz megahertz": 10**6, "GHz gigahertz": 10**9},
    "byte": {"byte": 1, "kB KB kilobyte": 1000, "MB megabyte": 10**6, "GB gigabyte": 10**9},
}
_KNOWN: dict[str, Unit] = {
    name: (base, Fraction(factor))
    for base, units in _TABLE.items()
    for names, factor in units.items()
    for name in names.split()
}
_WHOLE: dict[str, Unit] = {
    "per cent": _KNOWN["%"],
    "mph": ("m/s", _KNOWN["mi"][1] / 3600),
    "kph": ("m/s", Fraction(1000, 3600)),
    "kmh": ("m/s", Fraction(1000, 3600)),
    "degree celsius": _KNOWN["°C"],
    "degree centigrade": _KNOWN["°C"],
    "degree fahrenheit": _KNOWN["°F"],
    "degree c": _KNOWN["°C"],
    "degree f": _KNOWN["°F"],
    "us dollar": _KNOWN["usd"],
}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERED = {"squared": 2, "cubed": 3, "^2": 2, "^3": 3, "2": 2, "3": 3}
_IRREGULAR = {"people": "person", "children": "child", "men": "man", "women": "woman", "feet": "foot", "mice": "mouse"}
_SINGULAR = ("ss", "us", "is")
_LITRES_IN_CUBIC_METRE = 1000


def known(words: str) -> Unit | None:
    """The unit that `words` name, or None: `km`, `square metres`, `m^2`, `miles per hour`, `m/s`.

    Single letters keep their case (`m` is no `M`); singular and plural are alike.
    """
    top, bar, bottom = words.replace(" per ", "/").partition("/")
    if not bar or words == "per cent":
        return _simple(words)
    over, under = _simple(top.strip()), _simple(bottom.strip())
    return None if over is None or under is None else (f"{over[0]}/{under[0]}", over[1] / under[1])


def unknown(words: Sequence[str]) -> str:
    """A unit that is in no table, as it stands: in lower case, singular and plural alike."""
    # a single letter keeps its case: 5M is not 5 m
    folded = [word if len(word) == 1 and word.isascii() else word.casefold() for word in words]
    return " ".join([*folded[:-1], _singular(folded[-1])])


def same(one: str, other: str) -> bool:
    """Whether two units, each from `known` or `unknown`, are one: `red marble` is a `marble`."""
    if one == other:
        return True
    if one in _TABLE or other in _TABLE:
        return False
    few, many = sorted((set(one.split()), set(other.split())), key=len)
    return few <= many


def _simple(words: str) -> Unit | None:
    parts = words.split()
    if not parts:
        return None
    power = 1
    if parts[0].casefold() in _POWERS and len(parts) > 1:
        power = _POWERS[parts.pop(0).casefold()]
    else:
        ending = next((ending for ending in _POWERED if parts[-1].endswith(ending)), None)
        if ending is not None and parts != [ending]:
            power = _POWERED[ending]
            parts[-1] = parts[-1].removesuffix(ending)
            parts = [part for part in parts if part]
    unit = _named(" ".join(parts))
    return None if unit is None else _raised(unit, power)


def _raised(unit: Unit, power: int) -> Unit:
    base, factor = unit
    if power == 1:
        return unit
    if base == "m" and power == 3:
        # volumes have two families of names
        return "l", factor**3 * _LITRES_IN_CUBIC_METRE
    return f"{base}^{power}", factor**power


def _named(name: str) -> Unit | None:
    if name in _KNOWN:
        return _KNOWN[name]
    if len(name) < 2:
        return None
    folded = " ".join(_singular(word) for word in name.casefold().split())
    return _KNOWN.get(folded) or _WHOLE.get(folded) or _KNOWN.get(name.casefold())


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "zes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith(_SINGULAR) else word
