"""What limits may be is one set of rules, wherever they are said: in the file, by the API, at the command line."""

import json
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from proxy.cli.tenants import tenant
from proxy.config import parse_config
from proxy.config.limits import FIELDS, MOST_SAMPLES, RANGES, LimitsConfig, mistakes
from proxy.errors import ConfigError, RequestInvalid
from proxy.ledger.admin import OPERATIONS, administer
from proxy.ledger.books import Books
from proxy.ledger.store import wall_clock
from proxy.types import Limits, Tenant

OPTIONS = {"max_cost_usd": "max-request-cost", "rpm_limit": "rpm", "tpm_limit": "tpm", "strategies": "allow-strategy"}
OPTIONS["max_parallel_requests"] = "max-parallel"

Say = Callable[[dict[str, Any], Path], str | None]
"""Says limits somewhere; returns why they were refused."""


def in_the_file(limits: dict[str, Any], _folder: Path) -> str | None:
    try:
        parse_config({"tenants": [{"name": "acme", **limits}]}, "file", {})
    except ConfigError as error:
        return str(error)
    return None


def by_the_admin_api(limits: dict[str, Any], folder: Path) -> str | None:
    with closing(Books.open(folder / "tally.db", clock=wall_clock)) as books:
        try:
            asked = OPERATIONS["/team/new"].asked.model_validate({"team_id": "acme", **limits})
            administer(books, "/team/new", asked.model_dump(exclude_unset=True))
        except (ValidationError, RequestInvalid) as error:
            return str(error)
    return None


def at_the_command_line(limits: dict[str, Any], folder: Path) -> str | None:
    config = folder / "tally.json"
    config.write_text(json.dumps({"general_settings": {"database_url": f"sqlite:///{folder / 'tally.db'}"}}))
    options: list[str] = []
    for name, value in limits.items():
        for each in value if isinstance(value, list) else [value]:
            options += [f"--{OPTIONS.get(name, name.replace('_', '-'))}", str(each)]
    found = CliRunner(env={"COLUMNS": "200"}).invoke(tenant, ["add", "acme", *options, "--config", str(config)])
    return None if found.exit_code == 0 else found.output


@pytest.mark.parametrize("say", [in_the_file, by_the_admin_api, at_the_command_line])
@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_samples": MOST_SAMPLES + 1}, "max_samples"),
        ({"max_rounds": MOST_SAMPLES + 1}, "max_rounds"),
        ({"max_samples": 0}, "max_samples"),
        ({"rpm_limit": 10**15 + 1}, "rpm_limit"),
        ({"token_budget": 10**15 + 1}, "token_budget"),
        ({"max_budget": 10**10}, "max_budget"),
        ({"max_budget": 5, "soft_budget": 6}, "soft_budget"),
        ({"scale_until": "soft"}, "scale_until"),
        ({"strategies": ["pets"], "strategy": "adaptive"}, "strategy"),
        ({"max_samples": MOST_SAMPLES, "max_rounds": MOST_SAMPLES}, None),
        ({"max_budget": 5, "soft_budget": 5, "scale_until": "soft"}, None),
        ({"max_budget": 10**9, "token_budget": 10**15, "rpm_limit": 10**15}, None),
    ],
)
def test_what_one_place_refuses_every_place_refuses(
    tmp_path: Path, say: Say, limits: dict[str, Any], named: str | None
) -> None:
    refused = say(limits, tmp_path)
    assert (refused is None) == (named is None), refused
    if refused is not None and named is not None:
        assert named in refused or OPTIONS.get(named, named.replace("_", "-")) in refused


@pytest.mark.parametrize("name", RANGES)
def test_each_number_has_one_range_in_the_file_and_in_the_ledger(name: str) -> None:
    least, most = RANGES[name]
    field = FIELDS[name]
    for value, good in ((least, True), (most, True), (least - 1, False), (most + 1, False)):
        limits: dict[str, Any] = {field: value}
        assert (name not in [wrong for wrong, _ in mistakes(Limits(**limits))]) == good
        written = Decimal(value).scaleb(-9) if field.endswith("nano") else value
        assert _taken({name: written}) == good


def _taken(said: dict[str, object]) -> bool:
    try:
        LimitsConfig.model_validate(said)
    except ValidationError:
        return False
    return True


def test_what_is_left_unsaid_breaks_no_rule() -> None:
    assert list(mistakes(Limits())) == []
    assert list(mistakes(Tenant("acme"))) == []
