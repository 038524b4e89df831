"""The client, on raw sockets: `python -m tests.bench.client` reads a `Load` and writes a `Outcome` of it, as JSON.

In the closed loop each of so many clients asks anew as soon as it was answered. In the open loop requests arrive at
random, so many a second, whether or not earlier ones were answered; what one took counts from its arrival.
"""

import asyncio
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from math import ceil
from typing import Any, cast

import orjson
import uvloop

from proxy.types import JSON
from tests.bench.upstream import raise_files

MARK = "########"
"""Stands in a body for the number of the request, so that no two are alike."""

_SEED = 7
_LEAST_HEAD = 16


@dataclass(frozen=True, slots=True)
class Load:
    """What to ask, of whom, and how often. The `keys` go in turn; `requests` 0: until `seconds` are over,
    and `least` were asked, so that a busy machine does not leave too few to tell anything.

    `rate` above 0: the open loop, with so many arrivals a second.
    """

    port: int
    path: str
    body: JSON
    keys: tuple[str, ...] = ("none",)
    clients: int = 16
    seconds: float = 1.0
    requests: int = 0
    least: int = 32
    rate: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back. Times are in milliseconds; `first` is the first event of a stream, `events` counts them."""

    requests: int
    failed: int
    seconds: float
    p50: float
    p95: float
    p99: float
    most: float
    first_p50: float
    first_p99: float
    events: int
    statuses: dict[str, int]
    own_cpu_s: float

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return (self.requests - self.failed) / self.seconds

    @property
    def event_rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


@dataclass(slots=True)
class _Record:
    took: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    events: int = 0
    statuses: Counter[str] = field(default_factory=Counter)


class _Connection(asyncio.Protocol):
    """Sends a request and calls back when its reply is complete, or its connection lost."""

    def __init__(self, record: _Record, ended: Callable[["_Connection"], None]) -> None:
        self._record = record
        self._ended = ended
        self._data = bytearray()
        self._began = 0.0
        self._busy = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own are no children of asyncio's
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.lost = True
        if self._busy:
            self._end("lost")

    def ask(self, request: Sequence[bytes], began: float) -> None:
        self._began, self._busy = began, True
        self._data.clear()
        self._head = 0
        self._first: float | None = None
        self.transport.writelines(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._head:
            self._read_head()
        if not self._head:
            return
        if self._first is None and self._data.find(b"data:", self._head) >= 0:
            self._first = time.perf_counter()
        if self._length is None:
            if self._data.endswith(b"0\r\n\r\n", self._head):
                self._end(self._status)
        elif len(self._data) >= self._head + self._length:
            self._end(self._status)

    def _read_head(self) -> None:
        end = self._data.find(b"\r\n\r\n", _LEAST_HEAD)
        if end < 0:
            return
        self._head = end + 4
        head = bytes(self._data[: end + 2]).lower()
        self._status = head[9:12].decode()
        at = head.find(b"\r\ncontent-length:")
        self._length = int(head[at + 17 : head.find(b"\r\n", at + 2)]) if at >= 0 else None

    def _end(self, status: str) -> None:
        self._busy = False
        record = self._record
        record.statuses[status] += 1
        if status == "200":
            record.took.append(time.perf_counter() - self._began)
            if self._first is not None:
                record.first.append(self._first - self._began)
                record.events += self._data.count(b"data:", self._head)
        self._ended(self)


class _Asking:
    """What the two loops share: requests, and connections to send them on."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.record = _Record()
        self._numbers = count()
        self._before, _, self._after = orjson.dumps(load.body).partition(MARK.encode())
        told = "".join(f"{name}: {value}\r\n" for name, value in load.headers.items())
        length = len(self._before) + len(self._after) + (len(MARK) if self._after else 0)
        self._heads = [
            f"POST {load.path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n{told}"
            f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n".encode()
            for key in load.keys
        ]

    def request(self) -> Sequence[bytes]:
        number = next(self._numbers)
        head = self._heads[number % len(self._heads)]
        if not self._after:
            return (head, self._before)
        return (head, self._before, b"%08d" % number, self._after)

    async def connect(self, ended: Callable[[_Connection], None]) -> _Connection:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: _Connection(self.record, ended), "127.0.0.1", self.load.port)
        return made


async def closed(load: Load) -> tuple[_Record, float]:
    """All connections are made before the first request; those that are lost are made anew."""
    asking = _Asking(load)
    left = load.requests or sys.maxsize
    going, asked = load.clients, 0
    over = asyncio.Event()
    again: asyncio.Queue[None] = asyncio.Queue()
    until = 0.0

    def ended(connection: _Connection) -> None:
        nonlocal left, going, asked
        now = time.perf_counter()
        if left and (load.requests or now < until or asked < load.least):
            if connection.lost:
                again.put_nowait(None)
                return
            left -= 1
            asked += 1
            connection.ask(asking.request(), now)
            return
        connection.transport.close()
        going -= 1
        if not going:
            over.set()

    async def reconnect() -> None:
        while True:
            await again.get()
            connection = await asking.connect(ended)
            # its request was counted when it was lost
            ended(connection)

    async with asyncio.TaskGroup() as group:
        made = [group.create_task(asking.connect(ended)) for _ in range(load.clients)]
    began = time.perf_counter()
    until = began + load.seconds
    async with asyncio.TaskGroup() as group:
        keeper = group.create_task(reconnect())
        for task in made:
            ended(task.result())
        await over.wait()
        keeper.cancel()
    return asking.record, time.perf_counter() - began


async def opened(load: Load) -> tuple[_Record, float]:
    """Idle connections are used again, and as many made as it takes."""
    asking = _Asking(load)
    rng = random.Random(_SEED)
    idle: deque[_Connection] = deque()
    over = asyncio.Event()
    all_sent, arrived = False, 0

    def ended(connection: _Connection) -> None:
        if not connection.lost:
            idle.append(connection)
        if all_sent and asking.record.statuses.total() == arrived:
            over.set()

    async def one(arrived: float) -> None:
        while idle and idle[0].lost:
            idle.popleft()
        connection = idle.popleft() if idle else await asking.connect(ended)
        connection.ask(asking.request(), arrived)

    begun = time.perf_counter()
    arrival = begun
    async with asyncio.TaskGroup() as group:
        while (arrival := arrival + rng.expovariate(load.rate)) < begun + load.seconds:
            await asyncio.sleep(max(0.0, arrival - time.perf_counter()))
            group.create_task(one(arrival))
            arrived += 1
    all_sent = True
    if asking.record.statuses.total() < arrived:
        await over.wait()
    return asking.record, time.perf_counter() - begun


def at(values: Sequence[float], share: float) -> float:
    """The quantile by the nearest rank, of sorted seconds, in milliseconds; 0 of none."""
    return 1e3 * values[max(0, ceil(share * len(values)) - 1)] if values else 0.0


def tallied(record: _Record, seconds: float) -> Outcome:
    took, first = sorted(record.took), sorted(record.first)
    return Outcome(
        requests=record.statuses.total(),
        failed=record.statuses.total() - record.statuses["200"],
        seconds=seconds,
        p50=at(took, 0.5),
        p95=at(took, 0.95),
        p99=at(took, 0.99),
        most=at(took, 1.0),
        first_p50=at(first, 0.5),
        first_p99=at(first, 0.99),
        events=record.events,
        statuses=dict(record.statuses),
        own_cpu_s=time.process_time(),
    )


def main() -> None:
    told: dict[str, Any] = orjson.loads(sys.stdin.buffer.read())
    load = Load(**{**told, "keys": tuple(told["keys"])})
    raise_files()
    record, seconds = uvloop.run(opened(load) if load.rate else closed(load))
    sys.stdout.buffer.write(orjson.dumps(asdict(tallied(record, seconds))))


if __name__ == "__main__":
    main()
