"""Logs: one JSON object a line, whoever wrote it; text for people on a terminal."""

import json
import os
import subprocess
import sys

import pytest

from tests.process import environment

PROGRAM = """
import logging, sys
import structlog
from proxy.telemetry import configure_logging
configure_logging({level!r})
structlog.get_logger("tally").info("ours", request="r")
logging.getLogger("proxy.ledger.writer").info("told by %s", "the writer")
logging.getLogger("library").info("POST what-somebody-asked")
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
        ("debug", ["ours", "told by the writer", "mind this", "it broke"]),
        ("info", ["ours", "told by the writer", "mind this", "it broke"]),
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
