"""The least that a proxy in Python costs: Starlette and aiohttp, without a check, a count or a ledger.

`python -m tests.bench.relay URL --port PORT` passes each request on to URL. It tells how fast a machine is today.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def relay(url: str) -> Starlette:
    """The application."""

    @asynccontextmanager
    async def open_(app: Starlette) -> AsyncIterator[None]:
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), cookie_jar=jar) as session:
            app.state.session = session
            yield

    async def ready(_: Request) -> Response:
        return Response()

    async def pass_on(request: Request) -> Response:
        body = orjson.dumps(orjson.loads(await request.body()))
        headers = {"content-type": "application/json", "authorization": "Bearer sk-upstream"}
        async with request.app.state.session.post(f"{url}/chat/completions", data=body, headers=headers) as reply:
            return Response(await reply.read(), reply.status, media_type="application/json")

    routes = [Route("/", ready), Route("/v1/chat/completions", pass_on, methods=["POST"])]
    return Starlette(routes=routes, lifespan=open_)


if __name__ == "__main__":
    _, upstream, _, port = sys.argv
    uvicorn.run(relay(upstream), port=int(port), loop="uvloop", http="httptools", log_level="warning", access_log=False)
