"""The address of a database, and what of it may be shown."""

from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

_HIDDEN = "***"
_SECRET = frozenset({"password", "sslpassword", "passfile"})


def shown(url: str) -> str:
    """A URL as it may be shown: without its passwords, also where they are parameters."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://{_HIDDEN}"
    user, _, host = parts.netloc.rpartition("@")
    if ":" in user:
        parts = parts._replace(netloc=f"{user.partition(':')[0]}:{_HIDDEN}@{host}")
    given = parse_qsl(parts.query, keep_blank_values=True)
    if any(name in _SECRET for name, _ in given):
        told = [(name, _HIDDEN if name in _SECRET else value) for name, value in given]
        parts = parts._replace(query=urlencode(told, safe="*/"))
    return url if parts == urlsplit(url) else urlunsplit(parts)


def scrubbed(text: str, url: str) -> str:
    """A text without the passwords of a URL, however they are written in it."""
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return text


def _secrets(url: str) -> set[str]:
    # what is special and not escaped may have cut the password into pieces that stand for a host or a port
    rest = url.partition("://")[2]
    user, _, _ = rest.rpartition("@")
    given = user.partition(":")[2]
    _, _, query = rest.partition("?")
    told = {value for name, value in parse_qsl(query) if name in _SECRET}
    pieces = {piece for piece in _split(given) if len(piece) > 1}
    return {each for secret in {given, *pieces, *told} for each in (secret, unquote(secret)) if each}


def _split(text: str) -> list[str]:
    for mark in "@:/?#":
        text = text.replace(mark, " ")
    return text.split()
