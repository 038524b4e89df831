"""One server a ledger: what an earlier server left reserved may be swept only when it is dead."""

import fcntl
from pathlib import Path
from typing import IO

from proxy.errors import ConfigError, Problem


class ServerLock:
    """An exclusive lock on `<ledger>.lock`, which the system lets go of when the process ends."""

    def __init__(self, path: Path) -> None:
        self._file = _locked(path)

    def release(self) -> None:
        """Let another server in. The file stays: removing it would let two servers lock two files."""
        self._file.close()


def _locked(path: Path) -> IO[bytes]:
    name = path.with_name(path.name + ".lock")
    try:
        file = name.open("ab")
    except OSError as error:
        raise ConfigError([Problem(str(name), "", f"cannot be opened: {error.strerror}")]) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        reason = "another tally server uses this ledger: stop it, or give this one a database_url of its own"
        raise ConfigError([Problem(str(path), "", reason)]) from error
    return file
