"""Several processes that serve as one: they are started, started again when they die, and stopped together.

The processes are forks of this one, which has neither threads nor an event loop, so that what it has imported is there
at once and in memory but once.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from proxy.cli.bell import Bell

_STOP = (signal.SIGTERM, signal.SIGINT)
_HEARD = (*_STOP, signal.SIGCHLD)
_YOUNG_S = 1.0
"""A process that dies sooner than this after its start is not started again before it has passed."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a process is there for. `work` runs in it and returns its exit status; `last`: it stops after others."""

    name: str
    work: Callable[[], int]
    last: bool = False


class Supervisor:
    """Runs `roles`, each in a process of its own.

    `died` hears of each process that ended before it was told to; `stopping` is called when they are told to stop.
    """

    def __init__(
        self,
        roles: Sequence[Role],
        *,
        clock: Callable[[], float],
        died: Callable[[Role, int], None],
        stopping: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._died = died
        self._tell = stopping
        self._due = [(clock(), role) for role in roles]
        self._running: dict[int, tuple[Role, float]] = {}
        self._stopping = False
        self._lifeline = os.pipe()

    def run(self) -> None:
        """Return when SIGTERM or SIGINT has come, and all processes have ended."""
        with Bell(_HEARD) as bell:
            while self._running or self._due:
                self._start_due()
                for number in bell.wait(self._rest()):
                    if number in _STOP:
                        self._stop(number)
                self._bury()

    def _stop(self, number: int) -> None:
        """Tell the processes to stop; those that are to end last hear it once the others are gone."""
        # a terminal sends its SIGINT to all of them, and a second one breaks off what they have in hand
        self._signal(number if self._stopping else signal.SIGTERM)
        self._stopping = True
        self._tell()
        self._due = [(when, role) for when, role in self._due if role.last and self._first()]

    def _signal(self, number: int) -> None:
        for pid in self._first() or list(self._running):
            os.kill(pid, number)

    def _first(self) -> list[int]:
        return [pid for pid, (role, _) in self._running.items() if not role.last]

    def _rest(self) -> float | None:
        """Seconds until the next process is to be started; None where none is."""
        return max(0.0, min(when for when, _ in self._due) - self._clock()) if self._due else None

    def _bury(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in self._running:
                self._ended(pid, os.waitstatus_to_exitcode(status))

    def _ended(self, pid: int, status: int) -> None:
        role, born = self._running.pop(pid)
        if self._stopping and not self._first():
            self._due.clear()
            if not role.last:
                self._signal(signal.SIGTERM)
        elif role.last or not self._stopping:
            structlog.get_logger("tally").warning("process ended", process=role.name, pid=pid, status=status)
            self._died(role, pid)
            self._due.append((born + _YOUNG_S, role))

    def _start_due(self) -> None:
        now = self._clock()
        due, self._due = self._due, []
        for when, role in due:
            if when > now:
                self._due.append((when, role))
            elif not self._start(role):
                self._due.append((now + _YOUNG_S, role))

    def _start(self, role: Role) -> bool:
        # what comes for the new process before it listens for itself, stays until then
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        try:
            pid = os.fork()
            if pid == 0:
                self._become(role)
        except OSError as error:
            structlog.get_logger("tally").error("no process can be started", process=role.name, reason=str(error))
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
        self._running[pid] = (role, self._clock())
        return True

    def _become(self, role: Role) -> None:
        """Be the process of a role, and never return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _HEARD:
                signal.signal(number, signal.SIG_DFL)
            if role.last:
                # a terminal's interrupt is for those that it serves
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
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
