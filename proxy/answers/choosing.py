"""One of several options: by its letter, by its text, or by the only one that is named."""

import re

from proxy.answers.canonical import canonical
from proxy.answers.extract import Found, last_choice, lists_choices, only_choice
from proxy.answers.letters import choice, several
from proxy.answers.options import Options
from proxy.answers.plain import plain

_BEGINNING = 2_000
_FIRST = re.compile(r"[\s*_(\[]*([A-J])[*_)\]]*(?=,|;| ?[(\u2013\u2014]| - | (?:rather|not|since|because|as|is)\b)")


def pointed_choice(phrase: str, options: Options) -> Found | None:
    """The choice that a marked answer makes: its letter goes before a text that contradicts it."""
    letter = choice(plain(phrase).strip("*_ ."))
    if letter is not None:
        return phrase, ("text", letter)
    named = _as(phrase, options.named(canonical(phrase)))
    if named is not None:
        return named
    bare = plain(phrase).strip("*_ .")
    letters = several(bare)
    if letters is not None:
        return phrase, ("text", letters)
    first = _FIRST.match(bare)
    return (phrase, ("text", first[1].lower())) if first else last_choice(phrase) or _only(phrase, options)


def fallen_choice(text: str, options: Options, *, short: bool) -> tuple[Found | None, bool]:
    """The choice that a reply without a marker makes, and whether it is the reply's own whole answer."""
    letter = None if lists_choices(text[:_BEGINNING]) else only_choice(text)
    if letter is not None:
        return letter, True
    letters = several(plain(text).strip("*_ .")) if short else None
    if letters is not None:
        return (text, ("text", letters)), True
    line = text.rpartition("\n")[2]
    whole = _as(text, options.named(canonical(text))) or _as(line, options.named(canonical(line)))
    if whole is not None:
        return whole, True
    return last_choice(text) or _only(line, options) or (_only(text, options) if short else None), False


def pointed_label(phrase: str, options: Options) -> Found | None:
    """The option that a marked answer is, or the only one that it names."""
    return _as(phrase, options.named(canonical(phrase))) or _only(phrase, options)


def fallen_label(text: str, options: Options) -> Found | None:
    """The option that the last line is or names, else the only one that the reply names."""
    before, _, line = text.rpartition("\n")
    return pointed_label(line, options) or (_only(text, options) if before else None)


def _only(text: str, options: Options) -> Found | None:
    return _as(text, options.only(text))


def _as(text: str, label: tuple[object, ...] | None) -> Found | None:
    return None if label is None else (text, label)
