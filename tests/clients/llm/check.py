"""What the command `llm` sees of tally; its models are in a file of its own folder."""

import tempfile
from pathlib import Path

from checks import ASK, Place, Suite, is_42
from click.testing import CliRunner
from llm.cli import cli

suite = Suite("llm", "llm")
MODELS = ("text", "tool", "json", "image", "rejects", "limited")
ENTRY = """
- model_id: {name}
  model_name: {name}
  api_base: {url}
  api_key_name: tally
  supports_tools: true
  supports_schema: true
  vision: true
"""
TOOL = "def multiply(left: int, right: int) -> int:\n    return left * right\n"
SCHEMA = '{"type": "object", "properties": {"left": {"type": "integer"}}, "required": ["left"]}'


def llm(at: Place, *words: str, key: str | None = None, fails: bool = False) -> str:
    """What the command prints, or why it fails; its models are read anew each time."""
    with tempfile.TemporaryDirectory() as folder:
        names = [*MODELS, *([at.real_model] if at.real_model else [])]
        entries = "".join(ENTRY.format(name=name, url=at.base_url) for name in names)
        (Path(folder) / "extra-openai-models.yaml").write_text(entries, encoding="utf-8")
        done = CliRunner().invoke(cli, [*words, "--no-log", "--key", key or at.key], env={"LLM_USER_PATH": folder})
    assert bool(done.exit_code) == fails, done.output
    return (done.stderr if fails else done.stdout).strip()


@suite.feature("text")
def text(at: Place) -> None:
    is_42(llm(at, "-m", "text", "--no-stream", ASK))


@suite.feature("stream")
def stream(at: Place) -> None:
    is_42(llm(at, "-m", "text", ASK))


@suite.feature("tool loop")
def tool_loop(at: Place) -> None:
    is_42(llm(at, "-m", "tool", "--no-stream", "--functions", TOOL, ASK))


@suite.feature("tools streamed")
def tools_streamed(at: Place) -> None:
    is_42(llm(at, "-m", "tool", "--functions", TOOL, ASK))


@suite.feature("structured")
def structured(at: Place) -> None:
    assert llm(at, "-m", "json", "--no-stream", "--schema", SCHEMA, ASK) == '{"left": 6}'


@suite.feature("structured streamed")
def structured_streamed(at: Place) -> None:
    assert llm(at, "-m", "json", "--schema", SCHEMA, ASK) == '{"left": 6}'


@suite.feature("seed and stop")
def seed_and_stop(at: Place) -> None:
    is_42(llm(at, "-m", "text", "-o", "seed", "7", "-o", "temperature", "0.8", "-o", "max_tokens", "50", ASK))


@suite.feature("error 400")
def error_400(at: Place) -> None:
    with at.tries(400, 1):
        assert "Unsupported value" in llm(at, "-m", "rejects", ASK, fails=True)


@suite.feature("error 402 not retried")
def error_402(at: Place) -> None:
    with at.tries(402, 1):
        llm(at, "-m", "text", ASK, key=at.poor_key, fails=True)


@suite.feature("retry after 429")
def retry_after_429(at: Place) -> None:
    is_42(llm(at, "-m", "limited", at.asking("llm")))


@suite.feature("real text")
def real_text(at: Place) -> None:
    assert llm(at, "-m", at.real_model or "", "--no-stream", "-o", "max_tokens", "8", ASK)


@suite.feature("real stream")
def real_stream(at: Place) -> None:
    assert llm(at, "-m", at.real_model or "", "-o", "max_tokens", "8", ASK)


suite.run()
