"""Several processes that serve as one: they are started, started again when they die, and stopped together.

The processes are forks of this one, which has neither threads nor an event loop, so that what it has imported is there
at once and in memory but once.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

import structlog

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_YOUNG_S = 1.0
"""A process that dies sooner than this after its start is not started again before it has passed."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a process is there for. `work` runs in it and returns its exit status; `last`: it stops after others."""

    name: str
    work: Callable[[], int]
    last: bool = False


class Supervisor:
    """Runs `roles`, each in a process of its own. `died` hears of each process that ended before it was told to."""

    def __init__(self, roles: Sequence[Role], *, clock: Callable[[], float], died: Callable[[Role, int], None]) -> None:
        self._roles = roles
        self._clock = clock
        self._died = died
        self._running: dict[int, tuple[Role, float]] = {}
        self._stopping: int | None = None
        self._lifeline = os.pipe()

    def run(self) -> None:
        """Return when SIGTERM or SIGINT has come, and all processes have ended."""
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        for role in self._roles:
            self._start(role)
        while self._running:
            self._reap()

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._stopping = number
        self._signal()

    def _signal(self) -> None:
        first = [pid for pid, (role, _) in self._running.items() if not role.last]
        for pid in first or list(self._running):
            os.kill(pid, self._stopping or signal.SIGTERM)

    def _reap(self) -> None:
        pid, status = os.waitpid(-1, 0)
        if pid not in self._running:
            return
        role, born = self._running.pop(pid)
        if self._stopping is not None:
            if all(left.last for left, _ in self._running.values()):
                self._signal()
            return
        code = os.waitstatus_to_exitcode(status)
        structlog.get_logger("tally").warning("process ended", process=role.name, pid=pid, status=code)
        self._died(role, pid)
        time.sleep(max(0.0, born + _YOUNG_S - self._clock()))
        if self._stopping is None:
            self._start(role)

    def _start(self, role: Role) -> None:
        # a signal between the fork and the next line would miss the new process
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            self._become(role)
        self._running[pid] = (role, self._clock())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _become(self, role: Role) -> None:
        """Be the process of a role, and never return."""
        status = 1
        try:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(self._lifeline[1])
            threading.Thread(target=_end_with, args=(self._lifeline[0],), name="lifeline", daemon=True).start()
            status = role.work()
        finally:
            if sys.exc_info()[0] not in (None, SystemExit):
                sys.excepthook(*sys.exc_info())
            os._exit(status)


def _end_with(lifeline: int) -> None:
    """Die when the supervisor does: the system then closes the other end of the pipe, whatever killed it."""
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGKILL)
