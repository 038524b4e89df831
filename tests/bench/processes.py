"""What a process and its children take: CPU time and memory, as the system counts them."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
_MEGA = 1024.0


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    ticks: int


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {int(entry.name): _stat(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdigit()}
    found, fresh = [pid], {pid}
    while fresh:
        fresh = {each for each, stat in parents.items() if stat is not None and stat.parent in fresh}
        found += sorted(fresh)
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of the process and its children, also of those that have ended and were waited for."""
    return sum(stat.ticks for each in tree(pid) if (stat := _stat(each)) is not None) / _TICKS


def memory_mb(pid: int) -> float:
    """Resident memory now, in MB of 2**20 bytes."""
    return sum(_status(each, "VmRSS") for each in tree(pid))


def peak_mb(pid: int) -> float:
    """The most resident memory since `forget_peak`, in MB."""
    return sum(_status(each, "VmHWM") for each in tree(pid))


def forget_peak(pid: int) -> None:
    """From here on the peak counts anew."""
    for each in tree(pid):
        (_PROC / str(each) / "clear_refs").write_text("5")


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # a program's name may hold spaces and brackets
    fields = text.rpartition(")")[2].split()
    return _Stat(int(fields[1]), sum(map(int, fields[11:15])))


def _status(pid: int, name: str) -> float:
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / _MEGA for line in lines if line.startswith(f"{name}:")), 0.0)
