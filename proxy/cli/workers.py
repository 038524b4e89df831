"""Worker processes that serve on one socket, and on SQLite the one that writes the ledger for all of them."""

import asyncio
import gc
import secrets
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
import uvloop
from prometheus_client import multiprocess

from proxy.admission.shared import SharedStates, Table
from proxy.app import Shared, Tally, adopt
from proxy.cli.server import Server, settings
from proxy.cli.supervisor import Role, Supervisor
from proxy.config import Config
from proxy.ledger import Ledger
from proxy.ledger.books import Books
from proxy.ledger.opening import is_postgres, open_books, open_ledger, prepare_ledger
from proxy.ledger.remote import RemoteLedger
from proxy.ledger.serving import LedgerServer
from proxy.ledger.sqlite import SqliteLedger
from proxy.ledger.store import wall_clock

_BACKLOG = 2048
_MOST_REPLACED = 16
_NOT_STARTED = 3


class Crew:
    """The processes of one server. `folder` is private to them.

    The ledger is made ready here, so that what is wrong is told before anything runs. Raises ConfigError.
    """

    def __init__(self, config: Config, workers: int, folder: Path) -> None:
        self.open_to_all = False
        self._config = config
        self._workers = workers
        self._folder = folder
        self._url = config.general_settings.database_url
        # by worker: under which name it reserves, and the names of those that died in its place
        self._owners = [secrets.token_hex(8) for _ in range(workers)]
        self._replaced: list[tuple[str, ...]] = [()] * workers
        self._admitted = Table(workers, folder / "rates")
        prepare_ledger(self._url, clock=wall_clock, prepare=self._prepare)

    def run(self, host: str, port: int) -> None:
        """Serve until the process is told to stop. Exits with status 3 where the address cannot be listened to."""
        roles = [Role(str(place), partial(self._serve, place)) for place in range(self._workers)]
        with _listening(host, port) as self._listener:
            if is_postgres(self._url):
                self._supervise(roles)
                return
            # it outlives the writer, so that workers have somewhere to call while the next one starts
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as self._door:
                self._door.bind(str(self._folder / "ledger.sock"))
                (self._folder / "ledger.sock").chmod(0o600)
                self._door.listen(_BACKLOG)
                self._supervise([Role("ledger", self._write, last=True), *roles])

    def _supervise(self, roles: list[Role]) -> None:
        gc.collect()
        # what is in memory now is shared by all of them, as long as nobody writes to it
        gc.freeze()
        # who connects is refused at once only where no process has the socket any more
        Supervisor(roles, clock=time.monotonic, died=self._died, stopping=self._listener.close).run()

    def _prepare(self, books: Books) -> None:
        self.open_to_all = adopt(self._config, books)

    def _died(self, role: Role, pid: int) -> None:
        if role.last:
            return
        multiprocess.mark_process_dead(pid, str(self._folder))  # type: ignore[no-untyped-call]  # it has no types
        place = int(role.name)
        self._admitted.clear(place)
        self._replaced[place] = (self._owners[place], *self._replaced[place])[:_MOST_REPLACED]
        self._owners[place] = secrets.token_hex(8)

    def _serve(self, place: int) -> int:
        """Be a worker."""
        states = SharedStates(self._admitted, place)
        shared = Shared(self._ledger(place), self.open_to_all, states, self._folder)
        tally = Tally(self._config, shared=shared)
        server = Server(settings(tally, "", 0), tally.stopping)
        with suppress(KeyboardInterrupt):
            server.run([self._listener])
        return 0 if server.started else _NOT_STARTED

    def _ledger(self, place: int) -> Ledger:
        if is_postgres(self._url):
            return open_ledger(self._url, clock=wall_clock, prepare=lambda _: None)
        books = partial(open_books, self._url, clock=wall_clock)
        return RemoteLedger(self._folder / "ledger.sock", self._owners[place], self._replaced[place], books=books)

    def _write(self) -> int:
        """Be the one that writes."""
        # nobody connects to it, and it outlives those who are asked
        self._listener.close()
        ledger = SqliteLedger.open(self._url, clock=wall_clock, living=self._owners)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_served(ledger, self._door))
        return 0


async def _served(ledger: SqliteLedger, door: socket.socket) -> None:
    server = LedgerServer(ledger)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    await server.serve(door)


def _listening(host: str, port: int) -> socket.socket:
    try:
        (family, *_), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        structlog.get_logger("tally").error("cannot listen", host=host, port=port, reason=str(error))
        sys.exit(_NOT_STARTED)
