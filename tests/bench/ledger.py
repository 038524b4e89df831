"""How many reservations and settlements a ledger takes a second, from one process and from many.

    python -m tests.bench.ledger --seconds 10

The same load, shorter, stands in the tests: no limit may be passed, by however many processes.
"""

import argparse
import asyncio
import multiprocessing
import random
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from proxy.errors import LedgerUnavailable
from proxy.ledger import Amount, DrawRow, Ledger, Reservation, Settlement
from proxy.ledger.books import Books
from proxy.ledger.checking import TenantCheck, check
from proxy.ledger.opening import open_books, open_ledger, read_books
from proxy.ledger.remote import RemoteLedger
from proxy.ledger.serving import LedgerServer
from proxy.ledger.sqlite import SqliteLedger
from proxy.ledger.store import wall_clock
from proxy.types import Account, Tenant
from tests.postgres import databases

DRAW = 1000
"""What each reservation holds, in nano-USD; a settlement charges some of it."""

_CONTEXT = multiprocessing.get_context("spawn")
_PAUSE_S = 0.01


@dataclass(frozen=True)
class Load:
    """`tasks` in each of `processes` that reserve and settle for so long, for the tenants in turn."""

    processes: int
    tasks: int
    seconds: float
    tenants: tuple[str, ...] = ("t0",)


@dataclass(frozen=True)
class Done:
    pairs: int
    spent: int
    refused: int
    unavailable: int
    seconds: float

    def __add__(self, other: "Done") -> "Done":
        return Done(
            self.pairs + other.pairs,
            self.spent + other.spent,
            self.refused + other.refused,
            self.unavailable + other.unavailable,
            max(self.seconds, other.seconds),
        )

    @property
    def rate(self) -> float:
        """Pairs a second."""
        return self.pairs / self.seconds


def tenants(url: str, names: Sequence[str], limit: int | None) -> None:
    with closing(open_books(url, clock=wall_clock)) as books:
        for name in names:
            books.add_tenant(Tenant(name, max_nano=limit, duration="1mo"))


def checks(url: str) -> list[TenantCheck]:
    with closing(read_books(url, clock=wall_clock)) as books:
        return check(books)


def row(attempt: str, nano: int) -> DrawRow:
    return DrawRow(
        id=f"{attempt}:0",
        purpose="draw",
        round=1,
        index=0,
        status="ok",
        model="openai/small",
        deployment="small",
        prompt_tokens=100,
        cached_tokens=0,
        completion_tokens=300,
        reasoning_tokens=0,
        cost_nano=nano,
        estimated=False,
        finish_reason="stop",
        latency_ms=900,
        samples=1,
    )


class _Client:
    """One process' tasks."""

    def __init__(self, ledger: Ledger, load: Load, place: int) -> None:
        self._ledger = ledger
        self._load = load
        self._place = place
        self._rng = random.Random(place)
        self.pairs = self.spent = self.refused = self.unavailable = 0

    async def run(self) -> Done:
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for task in range(self._load.tasks):
                group.create_task(self._task(task, begun + self._load.seconds))
        await self._ledger.flush()
        return Done(self.pairs, self.spent, self.refused, self.unavailable, time.monotonic() - begun)

    async def _task(self, task: int, until: float) -> None:
        names = self._load.tenants
        tenant = names[(self._place + task) % len(names)]
        number = 0
        while time.monotonic() < until:
            number += 1
            attempt = f"{self._place}.{task}.{number}"
            account = Account(tenant, None, attempt)
            try:
                granted = await self._ledger.reserve(
                    Reservation(attempt, account, Amount(0, 100), Amount(DRAW, 300, 1), 1, 600.0)
                )
            except LedgerUnavailable:
                self.unavailable += 1
                await asyncio.sleep(_PAUSE_S)
                continue
            if not granted:
                self.refused += 1
                await asyncio.sleep(_PAUSE_S)
                continue
            nano = self._rng.randint(DRAW // 2, DRAW)
            self._ledger.settle(Settlement(attempt, account, (row(attempt, nano),)))
            self.pairs += 1
            self.spent += nano


async def _client(ledger: Ledger, load: Load, place: int) -> Done:
    try:
        return await _Client(ledger, load, place).run()
    finally:
        await ledger.close()


def _nothing(_: Books) -> None:
    pass


def _direct(url: str) -> Ledger:
    return open_ledger(url, clock=wall_clock, prepare=_nothing)


def _remote(url: str, path: Path, place: int) -> Ledger:
    return RemoteLedger(path, f"owner{place}", (), books=partial(open_books, url, clock=wall_clock))


def _process(url: str, path: Path | None, load: Load, place: int, ways: tuple[Any, Any]) -> None:
    start, done = ways
    start.wait()
    make = partial(_direct, url) if path is None else partial(_remote, url, path, place)
    done.put(asyncio.run(_client(make(), load, place)))


def _write(url: str, path: Path) -> None:
    async def serve() -> None:
        server = LedgerServer(SqliteLedger.open(url, clock=wall_clock))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.bind(str(path))
            door.listen(128)
            await server.serve(door)

    asyncio.run(serve())


@contextmanager
def writer(url: str, path: Path) -> Iterator[BaseProcess]:
    """The process that writes a SQLite ledger, serving at `path`."""
    process = _CONTEXT.Process(target=_write, args=(url, path))
    process.start()
    try:
        give_up = time.monotonic() + 30
        while not path.is_socket() and time.monotonic() < give_up:
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.join()


def clients(url: str, load: Load, path: Path | None = None) -> Done:
    """What all processes have done together; on the ledger itself, or through the writer at `path`."""
    start, done = _CONTEXT.Barrier(load.processes), _CONTEXT.Queue()
    processes = [
        _CONTEXT.Process(target=_process, args=(url, path, load, place, (start, done)))
        for place in range(load.processes)
    ]
    for process in processes:
        process.start()
    total = Done(0, 0, 0, 0, 0.0)
    for _ in processes:
        total += done.get(timeout=load.seconds + 45)
    for process in processes:
        process.join()
    return total


def hammer(url: str, load: Load, folder: Path, *, limit: int | None = None) -> Done:
    """Put `load` on an empty ledger."""
    tenants(url, load.tenants, limit)
    if not url.startswith("sqlite") or load.processes == 1:
        return clients(url, load)
    with writer(url, folder / "ledger.sock"):
        return clients(url, load, folder / "ledger.sock")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    given = parser.parse_args()
    sys.stdout.write("| store | processes x tasks | tenants | pairs a second |\n|---|---|---|---|\n")
    with TemporaryDirectory() as folder, databases() as make:
        for kind, processes, many in (
            ("sqlite", 1, 1),
            ("sqlite", 8, 1),
            ("sqlite", 8, 8),
            ("postgres", 1, 1),
            ("postgres", 8, 1),
            ("postgres", 8, 8),
        ):
            if given.only not in (None, kind):
                continue
            place = Path(folder) / f"{kind}{processes}{many}"
            place.mkdir()
            url = make() if kind == "postgres" else f"sqlite:///{place / 'tally.db'}"
            load = Load(processes, 32, given.seconds, tuple(f"t{number}" for number in range(many)))
            done = hammer(url, load, place)
            assert all(one.ok for one in checks(url))
            sys.stdout.write(f"| {kind} | {processes} x 32 | {many} | {done.rate:,.0f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
