"""A process that may be looked for later: whether it is surely gone."""

import os
import socket
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One process: `host` stands for the machine, its boot and its numbering of processes; empty where unknown.

    `born` tells it from a later one with the same number; empty where the system does not say.
    """

    host: str
    pid: int
    born: str

    @property
    def gone(self) -> bool:
        """Whether it ended for sure; false for a process of another host."""
        if not self.host or self.host != _host():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        state, born = _stat(self.pid)
        # what nobody has waited for has let go of everything all the same
        return state in ("Z", "X") or bool(self.born and born and born != self.born)


def this_process() -> Process:
    """The one that asks."""
    return Process(_host(), os.getpid(), _stat(os.getpid())[1])


def _host() -> str:
    if sys.platform != "linux":
        # machines may share a name, and nothing else tells them apart
        return ""
    # two containers may have one name, and processes of the same numbers
    try:
        boot, numbering = (_PROC / "sys/kernel/random/boot_id").read_text(), str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return ""
    parts = [socket.gethostname(), boot, numbering]
    return sha256("\n".join(parts).encode()).hexdigest()[:16]


def _stat(pid: int) -> tuple[str, str]:
    """State and time of birth, as Linux tells them; empty elsewhere."""
    try:
        # the name before them may hold blanks and brackets
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]
