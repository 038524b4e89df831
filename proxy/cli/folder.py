"""The folder that the processes of one server share while they run."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp

_PREFIX = "tally-"
_LOCK = "lock"


@contextmanager
def private_folder() -> Iterator[Path]:
    """An empty folder, for this process and its forks alone, until the end of the block.

    A server that is killed leaves its own behind, which the next one here removes.
    """
    for left in Path(gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        _remove_left(left)
    folder = Path(mkdtemp(prefix=_PREFIX))
    try:
        # it has its name only once it is locked, so that nobody takes it for one that was left
        with (folder / "new").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            (folder / "new").rename(folder / _LOCK)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left(lock: Path) -> None:
    """Remove a folder of this user's server of which no process lives: each of its forks would hold the lock."""
    with suppress(OSError):
        if lock.parent.is_symlink() or lock.parent.stat().st_uid != os.getuid():
            return
        with lock.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
