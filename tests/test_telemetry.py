"""Logs: one JSON object a line, whoever wrote it; text for people on a terminal."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxy.telemetry import Marks
from tests.process import environment

PROGRAM = """
import logging, sys
import structlog
from proxy.telemetry import configure_logging
configure_logging({level!r})
structlog.get_logger("tally").info("ours", request="r")
logging.getLogger("proxy.ledger.writer").info("told by %s", "the writer")
logging.getLogger("library").info("POST what-somebody-asked")
logging.getLogger("proxy.ledger.reserving").info("swept", extra={{"nano_usd": 7, "prompt": "what-somebody-asked"}})
logging.getLogger("library").warning("mind this")
try:
    secret = "a-local-variable"
    raise OSError("no room")
except OSError as error:
    logging.getLogger("proxy").error("it broke", exc_info=error)
"""


def written(level: str) -> list[dict[str, str]]:
    command = [sys.executable, "-c", PROGRAM.format(level=level)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("debug", ["ours", "told by the writer", "swept", "mind this", "it broke"]),
        ("info", ["ours", "told by the writer", "swept", "mind this", "it broke"]),
        ("warning", ["mind this", "it broke"]),
        ("error", ["it broke"]),
    ],
)
def test_every_line_is_json_of_the_level_asked_for_and_libraries_only_warn(level: str, events: list[str]) -> None:
    lines = written(level)
    assert [line["event"] for line in lines] == events
    assert all(line["timestamp"].endswith("Z") and line["level"] for line in lines)
    assert "OSError: no room" in lines[-1]["exception"]
    assert "a-local-variable" not in lines[-1]["exception"]


def test_what_a_line_says_beside_its_event_is_numbers_of_our_own() -> None:
    (swept,) = (line for line in written("info") if line["event"] == "swept")
    assert swept.keys() == {"event", "logger", "level", "timestamp", "nano_usd"}


def test_of_several_workers_one_tells_what_all_of_them_see(tmp_path: Path) -> None:
    now = SimpleNamespace(ahead=0.0)
    one, other = (Marks(tmp_path, lambda: time.time() + now.ahead) for _ in range(2))
    assert not one.turned("acme/", on=False)
    assert [each.turned("acme/", on=True) for each in (one, other, one)] == [True, False, False]
    # a look from just before
    assert not other.turned("acme/", on=False)
    assert other.turned("acme/key_1", on=True)
    now.ahead = 3.0
    assert [each.turned("acme/", on=False) for each in (one, other)] == [True, False]
    assert other.turned("acme/", on=True)


def test_on_a_terminal_lines_are_text_with_plain_tracebacks() -> None:
    terminal, shown = os.openpty()
    command = [sys.executable, "-c", PROGRAM.format(level="info")]
    try:
        subprocess.run(command, env=environment(), stderr=shown, timeout=60, check=True)
        text = os.read(terminal, 100_000).decode()
    finally:
        os.close(terminal)
        os.close(shown)
    assert "told by the writer" in text
    assert "Traceback (most recent call last)" in text
    assert '"event"' not in text
    assert "a-local-variable" not in text
