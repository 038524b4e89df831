"""How every endpoint begins: who asks, whether it may come in just now, and what it sends."""

from collections.abc import Callable, Mapping
from math import inf

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from proxy.admission import Admission, Entry
from proxy.api.patience import Patience
from proxy.api.wire import known_strategy, parse_body
from proxy.auth import Auth, Caller
from proxy.config import GeneralSettings
from proxy.errors import BodyTooLarge, BodyTooSlow, ClientGone
from proxy.keeping import Try
from proxy.types import JSON


class Door:
    """Lets requests in. `new_id` gives ids that are unique for ever."""

    def __init__(self, auth: Auth, admission: Admission, settings: GeneralSettings, new_id: Callable[[], str]) -> None:
        self._auth = auth
        self._admission = admission
        self._settings = settings
        self._new_id = new_id

    def headers(self, identity: str | None = None) -> dict[str, str]:
        """What every reply says; `identity` is the request's own id, where it has one that is used elsewhere, too."""
        return {"x-request-id": f"req_{identity or self._new_id()}"}

    async def caller(self, request: Request) -> Caller:
        """Who asks, before anything of the body is read.

        Raises NotAuthenticated, NotAllowed and LedgerUnavailable, and RequestInvalid for a strategy that the path names
        and nobody knows.
        """
        caller = await self._auth.caller(request.headers.get("authorization"))
        known_strategy(request.path_params.get("strategy"), "path")
        return caller

    def enter(self, caller: Caller) -> Entry:
        """Let a request in, as far as requests and tokens a minute and requests at once go. Raises RateLimited."""
        entry = self._admission.enter(caller.scopes)

        def leave(tokens: int) -> None:
            entry.leave(tokens)
            self._auth.over(caller)

        return Entry(leave, entry.told)

    async def body(self, request: Request, most: int | None = None) -> JSON:
        """The JSON object that is sent, of at most `most` bytes (None: as the configuration says).

        Raises BodyTooLarge, where the headers tell the size before it came, BodyTooSlow, RequestInvalid, ClientGone.
        """
        limit, seconds = most or self._settings.max_request_bytes, self._settings.read_s
        declared = request.headers.get("content-length", "0")
        if not (declared.isdigit() and int(declared) > limit):
            try:
                with Patience(seconds):
                    raw = await _read(request.receive, limit)
            except ClientDisconnect:
                raise ClientGone from None
            except TimeoutError:
                raise BodyTooSlow(f"The body did not come within {seconds:g} seconds.") from None
            if raw is not None:
                return parse_body(raw)
        raise BodyTooLarge(f"The body is larger than {limit} bytes.")


def tried(headers: Mapping[str, str]) -> Try:
    """What the official clients say in every request: how often they have tried before, and how long they wait."""
    number = _number(headers.get("x-stainless-retry-count"))
    patience = headers.get("x-stainless-read-timeout") or headers.get("x-stainless-timeout")
    return Try(int(number), _number(patience))


def _number(text: str | None) -> float:
    """A number of at least 0 that is not endless; 0 where `text` is none."""
    try:
        number = float(text or 0)
    except ValueError:
        return 0.0
    return number if 0 <= number < inf else 0.0


async def _read(receive: Receive, limit: int) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            return None
        if not message.get("more_body"):
            return b"".join([*parts, part]) if parts else part
        parts.append(part)
