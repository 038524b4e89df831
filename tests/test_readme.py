"""What the README says is what the program does."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from click.testing import CliRunner

from proxy.cli import main
from proxy.config import parse_config
from proxy.types import STRATEGIES, AnswerKind
from tests.fake_upstream import FakeUpstream
from tests.served import ServedTally, configuration, deployment

README = Path(__file__).parent.parent / "README.md"
ANSWERS = README.parent / "docs" / "answers.md"
ENVIRONMENT = {name: f"sk-{name.lower()}-0123456789" for name in ("UPSTREAM_KEY", "ACME_KEY", "TALLY_MASTER_KEY")}


def block(name: str) -> str:
    """The fenced block after `<!-- name -->`."""
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, name
    return found[1]


def test_the_help_in_the_readme_is_the_programs() -> None:
    shown = CliRunner().invoke(main, ["--help"], prog_name="tally", terminal_width=80).output
    assert block("help") == shown


def test_the_configuration_in_the_readme_has_no_mistake() -> None:
    config = parse_config(yaml.safe_load(block("config")), "README.md", ENVIRONMENT)
    assert [tenant.name for tenant in config.tenants] == ["acme"]


def test_the_deployments_in_the_readme_have_no_mistake() -> None:
    config = parse_config(yaml.safe_load(block("deployments")), "README.md", ENVIRONMENT)
    assert config.router().ways() == {"small": ("large",)}
    assert [entry.litellm_params.weight for entry in config.model_list] == [3, 1, 1]


def test_the_client_in_the_readme_prints_the_winner_and_the_vote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeUpstream(["The answer is 391.", "The answer is 381.", "The answer is 391."]) as upstream:
        entry = {**deployment(upstream.base_url), "model_name": "openai/gpt-4o-mini"}
        config = configuration(upstream.base_url, tmp_path, model_list=[entry], tenants=[])
        del config["general_settings"]["master_key"]
        with ServedTally(config) as tally:
            exec(block("client").replace("http://127.0.0.1:8080", tally.url), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "The answer is 391."
    assert "'samples': 8" in printed[1]


def test_every_strategy_is_explained() -> None:
    text = README.read_text(encoding="utf-8")
    assert [name for name in STRATEGIES if f"| `{name}` |" not in text] == []


def test_every_kind_of_answer_is_explained_in_both_places() -> None:
    for file in (README, ANSWERS):
        text = file.read_text(encoding="utf-8")
        assert [kind for kind in get_args(AnswerKind) if f"| `{kind}` |" not in text] == [], file.name


def test_the_configurations_in_the_page_on_answers_have_no_mistake() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", ANSWERS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for each in blocks:
        parse_config(yaml.safe_load(each), "answers.md", ENVIRONMENT)


@pytest.mark.parametrize("name", ["demo", "tests"])
def test_the_two_commands_install_from_lock_files_that_exist(name: str) -> None:
    command = block(name)
    files = re.findall(r"-r (\S+)", command)
    assert files
    assert all((README.parent / file).is_file() for file in files)
    assert len(command.splitlines()) == 1
