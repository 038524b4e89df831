"""Environments of their own for the other proxies; made once, and found again."""

import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_INSTALL_S = 900
_MADE = "made.txt"


class NotInstalled(Exception):
    """An environment could not be made; the message is what the installer said last."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A package, and the program that it brings."""

    name: str
    requirement: str
    program: str


LITELLM = Rival("litellm", f"litellm[proxy]=={metadata.version('litellm')}", "litellm")
ITS_HUB = Rival("its-hub", "its-hub[iaas]==1.2.0", "its-iaas")


def program(rival: Rival, folder: Path) -> Path:
    """Its program, installed below `folder`. Raises NotInstalled."""
    place = folder / rival.name
    found = place / "bin" / rival.program
    made = place / _MADE
    if made.is_file() and made.read_text() == rival.requirement:
        return found
    venv.create(place, with_pip=True, clear=True)
    words = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*map(str, words), rival.requirement],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"its installation took longer than {_INSTALL_S} s") from error
    if done.returncode:
        raise NotInstalled((done.stderr or done.stdout).strip().splitlines()[-1])
    made.write_text(rival.requirement)
    return found


def machine() -> str:
    """This machine and Python, in a few words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores ({names[0] if names else 'unknown'}), Python {sys.version.split()[0]}"
