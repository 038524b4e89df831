"""One client's run: its environment, a proxy and a provider of its own, and what its check program tells."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.environments import Client, Environments, NotInstalled, Program
from tests.clients.serving import STRATEGIES, Stage, serving

LIMIT_S = 600.0
_KEPT = ("LANG", "LC_ALL", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")
_TOLD = 300


@dataclass(frozen=True, slots=True)
class Told:
    """One check as its program told it; `told` is why it is not `ok`."""

    client: str
    version: str
    strategy: str
    feature: str
    ok: bool
    told: str = ""


def check(
    client: Client, environments: Environments, real_url: str | None = None, strategies: Sequence[str] = STRATEGIES
) -> list[Told]:
    """What became of every check of a client; what went wrong with the run itself is told as one more."""
    try:
        program = environments.program(client)
    except NotInstalled as error:
        return [_wrong(client, "installs", str(error))]
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), real_url) as stage:
        return [*_run(client, program, stage, Path(folder), strategies), *_left_over(client, stage)]


def _run(client: Client, program: Program, stage: Stage, home: Path, strategies: Sequence[str]) -> list[Told]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environ = {**kept, "HOME": str(home), **program.environ, **stage.environment(strategies)}
    try:
        done = subprocess.run(
            program.words,
            cwd=program.folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return [*_lines(late.stdout or b""), _wrong(client, "finishes", f"not within {LIMIT_S:g} s")]
    told = _lines(done.stdout)
    if done.returncode or not told:
        why = f"exit status {done.returncode}: {done.stderr.decode(errors='replace').strip()[-_TOLD:]}"
        told.append(_wrong(client, "finishes", why))
    return told


def _left_over(client: Client, stage: Stage) -> list[Told]:
    left = stage.left_over()
    return [_wrong(client, "leaves nothing running", f"{left} upstream calls")] if left else []


def _lines(output: bytes) -> list[Told]:
    return [Told(**_fields(json.loads(line))) for line in output.splitlines() if line.strip().startswith(b"{")]


def _fields(line: dict[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in Told.__slots__ if name in line}


def _wrong(client: Client, feature: str, why: str) -> Told:
    return Told(client.name, "?", "-", feature, ok=False, told=why)
