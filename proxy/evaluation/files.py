"""Files that are there whole or not at all, and pools among them."""

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from proxy.errors import ConfigError, Problem
from proxy.types import JSON


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Write `path`: it changes at the end of the block, and not at all where that fails. Raises ConfigError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be written: {error.strerror}")]) from error
    finally:
        part.unlink(missing_ok=True)


def write_pool(path: Path, lines: Iterable[JSON]) -> None:
    """Write a pool, a JSON object a line, gzipped where the name ends in `.gz`. Raises ConfigError."""
    with whole(path) as file:
        if path.suffix != ".gz":
            file.writelines(map(_line, lines))
            return
        # no time and no name in it, so that equal pools are equal files
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
            packed.writelines(map(_line, lines))


def _line(line: JSON) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"
