"""Signals as something to wait for: nothing is done in a handler, so that none comes at a wrong moment."""

import os
import select
import signal
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Self


class Bell:
    """Hears `numbers` from the beginning of its block on, in the main thread; also those that came before `wait`.

    Afterwards they are ignored: who has heard one is on the way out.
    """

    def __init__(self, numbers: Sequence[signal.Signals]) -> None:
        self._numbers = numbers
        self._ear, self._mouth = os.pipe()
        os.set_blocking(self._ear, False)
        os.set_blocking(self._mouth, False)

    def __enter__(self) -> Self:
        # the system's own handler writes the signal's number here, whatever the program is doing
        signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, _heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self._ear)
        os.close(self._mouth)

    def wait(self, seconds: float | None = None) -> bytes:
        """The numbers of the signals that came, in order; none where `seconds` have passed without one."""
        ready, _, _ = select.select([self._ear], [], [], seconds)
        return os.read(self._ear, 4096) if ready else b""


def _heard(_number: int, _frame: FrameType | None) -> None:
    pass
