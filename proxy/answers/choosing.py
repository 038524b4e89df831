"""One of several options: by its letter, by its text, or by the only one that is named."""

from proxy.answers.canonical import canonical, choice
from proxy.answers.extract import Found, last_choice, lists_choices, only_choice
from proxy.answers.options import Options
from proxy.answers.plain import plain


def pointed_choice(phrase: str, options: Options) -> Found | None:
    """The choice that a marked answer makes: its letter goes before a text that contradicts it."""
    letter = choice(plain(phrase).strip("*_ ."))
    if letter is not None:
        return phrase, ("text", letter)
    return _as(phrase, options.named(canonical(phrase))) or last_choice(phrase) or _only(phrase, options)


def fallen_choice(text: str, options: Options, *, short: bool) -> tuple[Found | None, bool]:
    """The choice that a reply without a marker makes, and whether it is the reply's own whole answer."""
    letter = only_choice(text) if short and not lists_choices(text) else None
    if letter is not None:
        return letter, True
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
