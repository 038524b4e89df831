"""The way in for the requests that there are many of: a table of paths before the router and what stands around it."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Serve = Callable[[Request], Awaitable[Response]]


class Front:
    """ASGI middleware: POSTs to a path in `endpoints` go to that endpoint, all else to `app`.

    A path may have one segment before it, the `strategy`, as with the router: `/adaptive/v1/chat/completions`.
    """

    def __init__(self, app: ASGIApp, *, endpoints: Mapping[str, Serve]) -> None:
        self._app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or hand it on."""
        serve = self._found(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if serve is None:
            await self._app(scope, receive, send)
            return
        response = await serve(Request(scope, receive))
        await response(scope, receive, send)

    def _found(self, scope: Scope) -> Serve | None:
        path: str = scope["path"]
        serve = self._endpoints.get(path)
        if serve is None:
            strategy, _, rest = path[1:].partition("/")
            serve = self._endpoints.get(f"/{rest}") if strategy else None
            if serve is not None:
                scope["path_params"] = {"strategy": strategy}
        return serve
