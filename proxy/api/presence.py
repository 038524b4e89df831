"""Whether a client is still there while its reply is made."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.types import Receive, Scope

EXTENSION = "tally.connection"
"""The ASGI extension under which a server hands over a `Connection`."""


class Connection(Protocol):
    """A client's connection, which tells when it is lost."""

    def watch(self, lost: Callable[[], None]) -> None:
        """Have `lost` called when the client goes, soon where it has gone already."""

    def unwatch(self, lost: Callable[[], None]) -> None:
        """Call it no more."""


async def while_there(scope: Scope, receive: Receive, work: Callable[[], Awaitable[None]]) -> bool:
    """Do `work` until it is done or the client goes, which cancels it; whether the client stayed to the end."""
    connection: Connection | None = (scope.get("extensions") or {}).get(EXTENSION)
    if connection is None:
        return await _beside(receive, work)
    task = asyncio.current_task()
    gone = False

    def lost() -> None:
        nonlocal gone
        gone = True
        if task is not None:
            task.cancel()

    connection.watch(lost)
    try:
        await work()
    except asyncio.CancelledError:
        # it may be the server that stops, too
        if not gone or task is None or task.uncancel():
            raise
    finally:
        connection.unwatch(lost)
    return not gone


async def _beside(receive: Receive, work: Callable[[], Awaitable[None]]) -> bool:
    """The same for any server, which costs two tasks."""

    async def working() -> None:
        await work()

    async with asyncio.TaskGroup() as tasks:
        served, gone = tasks.create_task(working()), tasks.create_task(_disconnected(receive))
        await asyncio.wait({served, gone}, return_when=asyncio.FIRST_COMPLETED)
        stayed = served.done()
        served.cancel()
        gone.cancel()
    return stayed


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
