"""How many requests are let in at a time."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.api.wire import error_response
from proxy.errors import Overloaded

FREE = frozenset({"/health/liveliness", "/health/liveness", "/health/readiness", "/metrics"})
"""The paths that are always answered: whoever watches a full server must see that it lives."""

_RETRY_S = 1.0


class Gate:
    """ASGI middleware: over `most` requests at a time the next are answered 503, before anything of them is read.

    `new_id` gives ids for the refused, and `refused` hears of each.
    """

    def __init__(
        self, app: ASGIApp, *, most: int, new_id: Callable[[], str], refused: Callable[[], None] = lambda: None
    ) -> None:
        self._app = app
        self._most = most
        self._new_id = new_id
        self._refused = refused
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in FREE:
            await self._app(scope, receive, send)
            return
        if self._inside >= self._most:
            self._refused()
            error = Overloaded("The proxy is serving as many requests as it can; try again in a moment.")
            error.retry_after = _RETRY_S
            await error_response(error, {"x-request-id": f"req_{self._new_id()}"})(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1
