"""How long the event loop's callbacks keep all others waiting, in CPU time of its thread."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

_EVERY_S = 0.05
_LOOK_S = 0.005
_STOP_S = 1.0
_ASYNCIO = frozenset({"_run", "_run_once"})


class Watchdog:
    """A thread that asks the loop for a turn, every 50 ms, and looks at what keeps it from giving one.

    `tell` hears, in that thread, of the longest callback of such a wait: its CPU seconds, to about 10 ms; what is
    shorter than that is not told. Requests pay nothing for it. `start` in the loop's own thread.
    """

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell = tell
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._base: FrameType | None = None
        self._between = 0

    def start(self) -> None:
        """Begin to watch the running loop."""
        loop = asyncio.get_running_loop()
        ident = threading.get_ident()
        if not hasattr(time, "pthread_getcpuclockid"):
            # macOS tells nobody the time of another thread
            return
        clock = time.pthread_getcpuclockid(ident)
        loop.call_soon(self._begun)
        self._thread = threading.Thread(
            target=self._watch, args=(loop, ident, clock), name="tally-watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def _begun(self) -> None:
        # what is below every callback of the loop; asyncio's own puts two frames between, the upper one for each anew
        frame = sys._getframe().f_back
        while frame is not None and frame.f_code.co_name in _ASYNCIO:
            frame, self._between = frame.f_back, self._between + 1
        self._base = frame

    def _watch(self, loop: asyncio.AbstractEventLoop, ident: int, clock: int) -> None:
        while not self._over.wait(_EVERY_S):
            turn = threading.Event()
            began = time.clock_gettime(clock)
            try:
                loop.call_soon_threadsafe(turn.set)
            except RuntimeError:
                return  # the loop is closed
            longest = self._wait(turn, ident, clock, began)
            if longest:
                self._tell(longest)

    def _wait(self, turn: threading.Event, ident: int, clock: int, began: float) -> float:
        longest, before, running = 0.0, began, None
        while not turn.wait(_LOOK_S) and not self._over.is_set():
            now, found = time.clock_gettime(clock), self._callback(ident)
            if found is not running:
                # it may have begun at once after the last look
                running, began = found, before
            elif found is not None:
                longest = max(longest, now - began)
            before = now
        return longest

    def _callback(self, ident: int) -> FrameType | None:
        """The first frame of the callback that runs; while a turn is awaited no task has two."""
        frame, above = sys._current_frames().get(ident), list[FrameType]()
        while frame is not None and frame is not self._base:
            above.append(frame)
            frame = frame.f_back
        place = max(1, self._between)
        return above[-place] if len(above) >= place else None
