"""Algebra in processes of its own, so that no formula can hold up the server."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from proxy.answers import algebra

_WORKERS = 2
_WAITING = 64
_START_S = 30.0
_COMPARISON_S = 5.0
_PATIENCE_S = 15.0
_REST_S = 60.0
_LIFE = 2_000
_TOLD = {algebra.EQUAL: True, algebra.UNEQUAL: False, algebra.UNTOLD: None}
_PASSED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL")
"""What a worker sees of the environment: no secrets."""


@dataclass(frozen=True, slots=True)
class _Question:
    one: str
    other: str
    told: "asyncio.Future[bool | None]"


class Workers:
    """Compares formulas in up to two worker processes, which start at the first questions and are used again.

    A comparison has a second of the processor, and five by the clock (`comparison_s`) once its worker is ready; then
    that one is killed and replaced, and the pair is not told. Neither is what waits for more than 15 seconds, or comes
    while 64 wait. Where no worker can be started, none is tried for a minute. `clock` is monotonic seconds.

    Open it with `async with`, in the event loop that asks; the end of the block, or `close`, ends the workers.
    """

    def __init__(self, *, clock: Callable[[], float], comparison_s: float = _COMPARISON_S) -> None:
        self._clock = clock
        self._comparison_s = comparison_s
        self._questions: asyncio.Queue[_Question] = asyncio.Queue(_WAITING)
        self._tasks = asyncio.TaskGroup()
        self._working: list[asyncio.Task[None]] = []
        self._idle = 0
        self._resting_until = 0.0

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        # what ends the block is not the tasks' affair, and would come out of them in a group
        await self._tasks.__aexit__(None, None, None)

    def close(self) -> None:
        """End the workers; what is asked from now on is not told."""
        self._resting_until = float("inf")
        for task in self._working:
            task.cancel()
        while not self._questions.empty():
            _tell(self._questions.get_nowait(), None)

    async def same(self, one: str, other: str) -> bool | None:
        """Whether two formulas are equal; None where it could not be told within the limits."""
        if not (algebra.fits(one) and algebra.fits(other)) or self._clock() < self._resting_until:
            return None
        question = _Question(one, other, asyncio.get_running_loop().create_future())
        try:
            self._questions.put_nowait(question)
        except asyncio.QueueFull:
            return None
        if self._questions.qsize() > self._idle and len(self._working) < _WORKERS:
            self._working.append(self._tasks.create_task(self._work()))
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await question.told
        except TimeoutError:
            return None

    async def _work(self) -> None:
        """Answer questions with one worker after the other."""
        worker: _Worker | None = None
        try:
            while True:
                question = await self._next()
                if worker is not None and worker.spent:
                    await worker.end()
                    worker = None
                try:
                    # whoever asked may be gone
                    if not question.told.done():
                        worker = worker or await self._start()
                        _tell(question, await worker.ask(question.one, question.other, self._comparison_s))
                except OSError:
                    if worker is not None:
                        await worker.end()
                    worker = None
                finally:
                    _tell(question, None)
        finally:
            if worker is not None:
                await worker.end()

    async def _next(self) -> _Question:
        self._idle += 1
        try:
            return await self._questions.get()
        finally:
            self._idle -= 1

    async def _start(self) -> "_Worker":
        try:
            return await _Worker.start()
        except OSError:
            # what keeps one from starting will keep the next: no loop of starts
            self._resting_until = max(self._resting_until, self._clock() + _REST_S)
            raise


class _Worker:
    """One process. Methods raise OSError, of which TimeoutError is one, where it is of no more use and to be ended."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._asked = 0

    @classmethod
    async def start(cls) -> Self:
        """Start a process and wait until it is ready to compare."""
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        # it finds what this process finds, however that was told where to look
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        process = await asyncio.create_subprocess_exec(
            # not from its own folder, where modules are named as some of Python's are
            *(sys.executable, "-P", "-W", "ignore", algebra.__file__),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=environment,
            # an interrupt at the terminal is the server's to handle
            start_new_session=True,
        )
        worker = cls(process)
        ready = False
        try:
            ready = await worker._line(_START_S) == algebra.READY
        finally:
            if not ready:
                await worker.end()
        if not ready:
            raise ConnectionError("the worker does not start")
        return worker

    @property
    def spent(self) -> bool:
        """Whether it has ended by itself, or has compared so much that its caches have grown enough."""
        stdout = self._process.stdout
        return stdout is None or stdout.at_eof() or self._asked >= _LIFE

    async def ask(self, one: str, other: str, seconds: float) -> bool | None:
        """Whether two formulas are equal, within so many seconds."""
        stdin = self._process.stdin
        if stdin is None or stdin.is_closing():
            raise ConnectionError("the worker is gone")
        self._asked += 1
        stdin.write(json.dumps([one, other]).encode() + b"\n")
        line = await self._line(seconds)
        if line not in _TOLD:
            raise ConnectionError("the worker is gone")
        return _TOLD[line]

    async def end(self) -> None:
        """Kill the process and wait until it is gone."""
        with suppress(ProcessLookupError):
            self._process.kill()
        # it also closes the pipes
        await self._process.communicate()

    async def _line(self, seconds: float) -> bytes:
        stdout = self._process.stdout
        async with asyncio.timeout(seconds):
            return await stdout.readline() if stdout is not None else b""


def _tell(question: _Question, told: bool | None) -> None:
    if not question.told.done():
        question.told.set_result(told)
