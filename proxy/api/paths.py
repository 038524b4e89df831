"""Paths and methods that are not served: errors in OpenAI's envelope, and what a path can do."""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from proxy.api.wire import error_response
from proxy.errors import NotFound, RequestInvalid, TallyError

_MOST_CHARS = 200


class Unserved:
    """The application's exception handlers. No page of another origin is let in: there are no CORS headers."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id

    async def http_error(self, request: Request, error: Exception) -> Response:
        """404 for a path, 405 for a method of a known path; OPTIONS is told the methods, with 204."""
        path = request.url.path[:_MOST_CHARS]
        if not isinstance(error, HTTPException) or error.status_code != 405:
            return error_response(NotFound(f"Unknown path: {request.method} {path}."), self._headers())
        allowed = (error.headers or {}).get("Allow", "")
        headers = {**self._headers(), "allow": ", ".join(sorted(allowed.split(", ")))}
        if request.method == "OPTIONS":
            return Response(None, 204, headers)
        wrong = RequestInvalid(f"{request.method} is not allowed for {path}.", code="method_not_allowed")
        wrong.status = 405
        return error_response(wrong, headers)

    async def fault(self, _request: Request, _error: Exception) -> Response:
        """500 that tells nothing of what happened: the log does."""
        failed = TallyError("the proxy failed on this request; its log says why", code="internal_error")
        return error_response(failed, self._headers())

    def _headers(self) -> dict[str, str]:
        return {"x-request-id": f"req_{self._new_id()}"}
