"""Where a call goes over HTTP, and the head of its request."""

import re
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit

from proxy import __version__
from proxy.upstream import Endpoint
from proxy.upstream.connection import Origin

OPENAI_BASE = "https://api.openai.com/v1"
_PLAIN = re.compile(
    r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/%:@!$&'()*+,;=-]*)?"
)
_BREAK = re.compile(r"[\r\n\0]")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_AGENT = f"tally/{__version__}"


class Target(NamedTuple):
    """Where POSTs go: `head` is all of a request before the number of bytes of its body.

    `origin` None: the address is of a kind, or its way through a `proxy`, that a plain connection does not do.
    """

    url: str
    headers: Mapping[str, str]
    origin: Origin | None
    head: bytes
    proxy: str | None


def target(endpoint: Endpoint, path: str, environ: Mapping[str, str]) -> Target:
    """The target of POSTs to a `path` of an endpoint (see `Lane.post`). `environ` may name proxies.

    Raises ValueError for an address or a header that cannot be sent.
    """
    url = _address(endpoint.api_base or OPENAI_BASE, path)
    headers = _headers(endpoint)
    proxy, origin, head = _proxy(url, environ), None, b""
    if proxy is None and _PLAIN.fullmatch(url):
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        origin = Origin(tls, parts.hostname or "", parts.port or (443 if tls else 80))
        named = {"host": parts.netloc} | headers
        lines = [f"POST {parts.path or '/'} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
        head = "\r\n".join([*lines, "content-length: "]).encode()
    return Target(url, headers, origin, head, proxy)


def _headers(endpoint: Endpoint) -> dict[str, str]:
    """Header names in lower case; the operator's own count before those that tally knows."""
    headers = {"accept": "*/*", "user-agent": _AGENT, "content-type": "application/json"}
    if endpoint.api_key:
        headers["authorization"] = f"Bearer {endpoint.api_key}"
    headers |= {name.lower(): str(value) for name, value in endpoint.params.get("extra_headers", {}).items()}
    if organization := endpoint.params.get("organization"):
        headers["openai-organization"] = str(organization)
    if any(_BREAK.search(text) for pair in headers.items() for text in pair):
        raise ValueError("a header has a line break")
    return headers


def _address(base: str, path: str) -> str:
    return f"{base.removesuffix('/v1')}{path}" if path.startswith("/") else f"{base}/{path}"


def _proxy(url: str, environ: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for a URL; none for this machine itself."""
    parts = urlsplit(url)
    named = (f"{parts.scheme}_proxy", f"{parts.scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    found = next((environ[name] for name in named if environ.get(name)), None)
    host = parts.hostname or ""
    if found is None or host in _LOOPBACK:
        return None
    spared = (name.strip().lower() for name in (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(","))
    return None if any(_covers(name, host, parts.netloc) for name in spared) else found


def _covers(name: str, host: str, netloc: str) -> bool:
    """Whether a name in `no_proxy` is that of a host, with or without its port, or of a domain that it is in."""
    bare = name.removeprefix("*").removeprefix(".")
    if "/" in name:
        return _within(name, host)
    return name == "*" or (bool(bare) and (bare in (host, netloc) or host.endswith(f".{bare}")))


def _within(network: str, host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host) in ip_network(network, strict=False)
    return False
