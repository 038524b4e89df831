"""The admin API as its users call it, by LiteLLM's paths and fields, on both stores; and what a key may do live."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from structlog.testing import capture_logs

from proxy.ledger.admin import OPERATIONS
from tests.fake_upstream import FakeUpstream
from tests.postgres import NewDatabase
from tests.process import serving
from tests.served import KEY, MASTER_KEY, configuration
from tests.staged import ASK, Stage, staged

JSON = dict[str, Any]
FILED = "sk-filed-0123456789"
STATES = {"blocked": 403, "revoked": 401, "expired": 401}


class Admin:
    """Calls the admin API; with the master key unless another one is given."""

    def __init__(self, stage: Stage, http: httpx.Client) -> None:
        self.stage = stage
        self._http = http

    def get(self, path: str, key: str | None = MASTER_KEY, **params: Any) -> httpx.Response:
        return self._http.get(path, params=params, headers=_bearer(key))

    def post(self, path: str, body: JSON | None = None, key: str | None = MASTER_KEY) -> httpx.Response:
        return self._http.post(path, json=body, headers=_bearer(key))

    def call(self, path: str, asked: JSON, *, key: str, named: str = "sk-x-0123456789") -> httpx.Response:
        """An operation by its path; `named` is the key that stands in it."""
        url = path.format(key=named)
        if OPERATIONS[path].reads:
            return self._http.get(url, params=asked, headers=_bearer(key))
        return self._http.post(url, json=asked, headers=_bearer(key))

    def made(self, **fields: Any) -> JSON:
        """A new key as the API tells it."""
        told: JSON = good(self.post("/key/generate", fields))
        return told

    def named(self, key: str) -> httpx.Response:
        return self._http.get("/key/info", params={"key": key}, headers=_bearer(MASTER_KEY))

    def chat(self, key: str, strategy: str = "off", **more: Any) -> httpx.Response:
        return self.stage.post(
            {"model": "small", "messages": ASK, **more}, path=f"/{strategy}/v1/chat/completions", key=key
        )


def _bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


def good(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def refused(response: httpx.Response, status: int, kind: str = "invalid_request_error") -> str:
    """The message of an error, which has LiteLLM's form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (kind, str(status))
    assert response.headers["x-request-id"].startswith("req_")
    return str(error["message"])


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def admin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    folder = tmp_path_factory.mktemp("admin")
    settings = {}
    if request.param == "postgres":
        make: NewDatabase = request.getfixturevalue("postgres")
        settings["database_url"] = make()
    filed = {"key": FILED, "alias": "the filed one", "rpm_limit": 600, "models": ["small"]}
    tenants = [{"name": "acme", "keys": [KEY, filed], "alias": "Acme Inc."}]
    with (
        staged(folder, tenants=tenants, aliases=["big"], general_settings=settings) as stage,
        httpx.Client(base_url=stage.tally.url, timeout=30) as http,
    ):
        stage.says("42")
        yield Admin(stage, http)


@pytest.fixture
def team(admin: Admin) -> str:
    """A new team's id."""
    return str(good(admin.post("/team/new", {"team_alias": "the blue ones"}))["team_id"])


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_key_is_made_shown_once_and_works(admin: Admin, team: str) -> None:
    made = admin.made(team_id=team, key_alias="ci", metadata={"owner": "ann", "tags": [1]}, duration="30d")
    secret = made["key"]
    assert secret.startswith("sk-tally-")
    assert (made["key_alias"], made["team_id"], made["blocked"], made["spend"]) == ("ci", team, False, 0)
    assert made["metadata"] == {"owner": "ann", "tags": [1]}
    assert made["key_name"] == f"sk-...{secret[-4:]}"
    assert admin.chat(secret).status_code == 200
    for name in (secret, made["token"]):
        told = admin.named(name)
        assert secret not in told.text
        info = good(told)["info"]
        assert (info["token"], info["metadata"], info["expires"]) == (
            made["token"],
            made["metadata"],
            made["expires"],
        )


def test_every_limit_of_a_key_is_told_as_it_was_given(admin: Admin, team: str) -> None:
    limits = {
        "max_budget": 1.5,
        "soft_budget": 1.0,
        "budget_duration": "30d",
        "token_budget": 1000,
        "sample_budget": 50,
        "budgets": [{"budget_duration": "1d", "max_budget": 0.5, "token_budget": None, "sample_budget": 9}],
        "tpm_limit": 900,
        "rpm_limit": 60,
        "max_parallel_requests": 3,
        "models": ["small"],
        "strategies": ["adaptive", "off"],
        "strategy": "off",
        "max_samples": 8,
        "max_rounds": 2,
        "max_cost_usd": 0.05,
        "scale_until": "soft",
        "on_exhausted": "refuse",
        "blocked": True,
    }
    made = admin.made(team_id=team, **limits)
    assert {name: made[name] for name in limits} == limits
    assert [window["budget_duration"] for window in made["windows"]] == ["30d", "1d"]
    assert made["budget_reset_at"].endswith("T00:00:00.000Z")


def test_what_changes_of_a_key_is_what_is_said_and_null_takes_it_away(admin: Admin, team: str) -> None:
    secret = admin.made(team_id=team, max_budget=1, rpm_limit=5, key_alias="a", metadata={"x": 1})["key"]
    told = good(admin.post("/key/update", {"key": secret, "max_budget": None, "tpm_limit": 7, "duration": "1h"}))
    assert (told["max_budget"], told["rpm_limit"], told["tpm_limit"]) == (None, 5, 7)
    assert (told["key_alias"], told["metadata"]) == ("a", {"x": 1})
    assert told["expires"] is not None
    assert "key" not in told or told["key"] == told["token"]
    told = good(admin.post("/key/update", {"key": told["token"], "duration": "-1", "models": [], "metadata": None}))
    assert (told["expires"], told["models"], told["metadata"]) == (None, [], {})


def test_without_a_team_a_key_is_of_the_team_default(admin: Admin) -> None:
    assert admin.made()["team_id"] == admin.made()["team_id"] == "default"


def test_keys_are_listed_page_by_page(admin: Admin, team: str) -> None:
    made = [admin.made(team_id=team, key_alias=f"k{place}")["token"] for place in range(3)]
    page = good(admin.get("/key/list", team_id=team, size=2, page=2))
    assert page == {"keys": made[2:], "total_count": 3, "current_page": 2, "total_pages": 2}
    (found,) = good(admin.get("/key/list", team_id=team, key_alias="k1", return_full_object="true"))["keys"]
    assert (found["token"], found["key_alias"]) == (made[1], "k1")
    assert set(made) <= set(good(admin.get("/key/list", size=100))["keys"])


def test_a_blocked_key_is_refused_within_a_second_and_comes_back(admin: Admin, team: str) -> None:
    secret = admin.made(team_id=team)["key"]
    assert admin.chat(secret).status_code == 200
    assert good(admin.post("/key/block", {"key": secret}))["blocked"] is True
    until(lambda: admin.chat(secret).status_code == 403)
    assert good(admin.post("/key/unblock", {"key": secret}))["blocked"] is False
    until(lambda: admin.chat(secret).status_code == 200)


def test_a_deleted_key_is_worthless_and_its_rows_stay(admin: Admin, team: str) -> None:
    first, second = (admin.made(team_id=team, key_alias=f"gone-{team}") for _ in range(2))
    admin.chat(first["key"])
    until(lambda: bool(good(admin.get("/spend/logs", api_key=first["token"]))))
    gone = good(admin.post("/key/delete", {"key_aliases": [f"gone-{team}"], "keys": [first["key"]]}))
    assert gone == {"deleted_keys": [first["token"], second["token"]]}
    until(lambda: admin.chat(first["key"]).status_code == 401)
    assert good(admin.get("/key/list", team_id=team))["keys"] == []
    assert good(admin.get("/spend/logs", api_key=first["token"]))
    for path, body in (("update", {"key": first["token"]}), ("delete", {"keys": [first["token"]]})):
        refused(admin.post(f"/key/{path}", body), 404, "token_not_found_in_db")


def test_an_alias_that_two_teams_have_is_deleted_only_of_a_team_that_is_named(admin: Admin, team: str) -> None:
    other = good(admin.post("/team/new", {}))["team_id"]
    mine, theirs, more = (admin.made(team_id=one, key_alias=f"both-{team}") for one in (team, other, other))
    by_alias = {"key_aliases": [f"both-{team}"]}
    reason = refused(admin.post("/key/delete", by_alias), 400)
    assert all(repr(one) in reason for one in (team, other))
    assert len(good(admin.get("/key/list", key_alias=f"both-{team}"))["keys"]) == 3
    gone = good(admin.post("/key/delete", {**by_alias, "team_id": other}))["deleted_keys"]
    assert gone == [theirs["token"], more["token"]]
    refused(admin.post("/key/delete", {**by_alias, "team_id": other}), 404, "token_not_found_in_db")
    assert good(admin.post("/key/delete", by_alias)) == {"deleted_keys": [mine["token"]]}


def test_keys_are_deleted_together_or_not_at_all(admin: Admin, team: str) -> None:
    secret = admin.made(team_id=team)["key"]
    refused(admin.post("/key/delete", {"keys": [secret, "sk-nobody-0123"]}), 404, "token_not_found_in_db")
    assert admin.chat(secret).status_code == 200


def test_a_rotated_key_leaves_the_old_one_good_for_its_grace(admin: Admin, team: str) -> None:
    old = admin.made(team_id=team, rpm_limit=5000, key_alias="r", metadata={"a": 1})
    new = good(admin.post(f"/key/{old['key']}/regenerate", {"grace_period": "2s"}))
    assert new["key"] != old["key"]
    assert new["key_name"] == f"sk-...{new['key'][-4:]}"
    assert (new["token"], new["rpm_limit"], new["key_alias"], new["metadata"]) == (old["token"], 5000, "r", {"a": 1})
    assert [admin.chat(each["key"]).status_code for each in (old, new)] == [200, 200]
    until(lambda: admin.chat(old["key"]).status_code == 401)
    assert admin.chat(new["key"]).status_code == 200
    at_once = good(admin.post(f"/key/{new['token']}/regenerate"))
    until(lambda: admin.chat(new["key"]).status_code == 401)
    assert admin.chat(at_once["key"]).status_code == 200


def test_a_rotated_key_spends_its_budget_once(admin: Admin, team: str) -> None:
    old = admin.made(team_id=team, token_budget=1000)
    assert admin.chat(old["key"], max_tokens=20).status_code == 200
    until(lambda: bool(good(admin.get("/spend/logs", api_key=old["token"]))))
    new = good(admin.post(f"/key/{old['token']}/regenerate", {"grace_period": "1h"}))
    spent = new["windows"][0]["tokens"]
    assert spent > 0
    for secret in (old["key"], new["key"]):
        assert admin.chat(secret, max_tokens=1000 - spent).status_code == 402
        assert admin.chat(secret, max_tokens=20).status_code == 200
    until(lambda: good(admin.named(old["key"]))["info"]["windows"][0]["tokens"] == 3 * spent)
    assert {line["api_key"] for line in good(admin.get("/spend/logs", team_id=team))} == {new["token"]}


def test_a_keys_limits_hold_live(admin: Admin, team: str) -> None:
    poor, slow, narrow = (
        admin.made(team_id=team, **limits)["key"]
        for limits in ({"max_budget": 0.000001}, {"rpm_limit": 1}, {"models": ["big"], "strategies": ["adaptive"]})
    )
    assert admin.chat(poor, max_tokens=100).status_code == 402
    assert [admin.chat(slow).status_code for _ in range(2)] == [200, 429]
    for path in ("chat/completions", "completions", "responses", "embeddings", "feedback"):
        late = admin.stage.post({}, path=f"/v1/{path}", key=slow)
        assert (late.status_code, late.headers["x-ratelimit-remaining-requests"]) == (429, "0"), path
        assert late.headers["x-ratelimit-limit-requests"] == "1"
    late = admin.stage.get("/key/info", key=slow)
    assert (late.status_code, late.headers["x-ratelimit-remaining-requests"]) == (429, "0")
    assert admin.chat(narrow).status_code == 403
    assert admin.chat(narrow, "self_consistency", model="big").status_code == 403
    assert admin.chat(narrow, model="big").status_code == 200


def test_a_team_is_a_tenant_with_all_of_its_limits(admin: Admin, team: str) -> None:
    told = good(admin.post("/team/update", {"team_id": team, "max_budget": 0.000001, "rpm_limit": 30, "shadow": True}))
    assert told["team_id"] == team
    assert (told["data"]["max_budget"], told["data"]["rpm_limit"], told["data"]["shadow"]) == (0.000001, 30, True)
    assert told["data"]["team_alias"] == "the blue ones"
    secret = admin.made(team_id=team)["key"]
    assert admin.chat(secret, max_tokens=100).status_code == 402
    info = good(admin.get("/team/info", team_id=team))
    assert info["team_info"] == told["data"]
    assert [key["team_id"] for key in info["keys"]] == [team]
    assert told["data"] in good(admin.get("/team/list"))


def test_a_team_is_blocked_unblocked_and_deleted_with_its_keys(admin: Admin) -> None:
    name = good(admin.post("/team/new", {"team_id": "short-lived", "answer": {"kind": "number"}}))["team_id"]
    secret = admin.made(team_id=name)["key"]
    assert good(admin.post("/team/block", {"team_id": name}))["blocked"]
    until(lambda: admin.chat(secret).status_code == 403)
    assert not good(admin.post("/team/unblock", {"team_id": name}))["blocked"]
    until(lambda: admin.chat(secret).status_code == 200)
    assert good(admin.post("/team/delete", {"team_ids": [name]})) == {"deleted_teams": [name]}
    until(lambda: admin.chat(secret).status_code == 401)
    refused(admin.get("/team/info", team_id=name), 404)
    refused(admin.post("/team/new", {"team_id": name}), 400)


def test_the_team_default_and_tallys_own_names_stay(admin: Admin) -> None:
    admin.made()
    assert "block it" in refused(admin.post("/team/delete", {"team_ids": ["default"]}), 400)
    assert admin.made()["team_id"] == "default"
    for name in ("master", "local"):
        assert "tally's own" in refused(admin.post("/team/new", {"team_id": name}), 400)


def test_what_a_deleted_team_has_spent_is_still_told(admin: Admin) -> None:
    name = good(admin.post("/team/new", {}))["team_id"]
    assert admin.chat(admin.made(team_id=name)["key"]).status_code == 200
    until(lambda: bool(good(admin.get("/spend/logs", team_id=name))))
    good(admin.post("/team/delete", {"team_ids": [name]}))
    assert {line["team_id"] for line in good(admin.get("/spend/logs", team_id=name))} == {name}
    refused(admin.get("/spend/logs", team_id="nobody"), 404)


def test_what_the_file_manages_is_edited_there_alone(admin: Admin) -> None:
    assert admin.stage.get("/v1/models", key=FILED).json()["data"][0]["id"] == "small"
    filed = good(admin.named(FILED))["info"]
    assert (filed["key_alias"], filed["rpm_limit"], filed["managed"]) == ("the filed one", 600, True)
    for path, body in (
        ("/key/update", {"key": FILED, "rpm_limit": 1}),
        ("/key/delete", {"keys": [FILED]}),
        ("/key/block", {"key": FILED}),
        (f"/key/{FILED}/regenerate", {}),
        ("/team/update", {"team_id": "acme", "rpm_limit": 1}),
        ("/team/delete", {"team_ids": ["acme"]}),
        ("/team/block", {"team_id": "acme"}),
    ):
        assert "comes from the configuration file" in refused(admin.post(path, body), 400)
    assert "tally's own" in refused(admin.post("/key/generate", {"team_id": "master"}), 400)


def test_nobody_but_the_master_key_gets_in(admin: Admin) -> None:
    for path in ("/key/list", "/team/list", "/global/spend", "/key/info", "/spend/logs"):
        for key in (None, "sk-nobody-0123456789"):
            refused(admin.get(path, key=key), 401, "auth_error")
    for path in ("/key/list", "/team/list", "/global/spend"):
        refused(admin.get(path, key=KEY), 403, "auth_error")
    for path in ("/key/generate", "/team/new", "/key/block", "/team/delete"):
        refused(admin.post(path, {}, key=KEY), 403, "auth_error")


def test_a_key_reads_itself_and_nothing_else(admin: Admin, team: str) -> None:
    mine, other = (admin.made(team_id=team) for _ in range(2))
    assert good(admin.get("/key/info", key=mine["key"]))["info"]["token"] == mine["token"]
    for name in (mine["key"], mine["token"]):
        own = httpx.get(f"{admin.stage.tally.url}/key/info", params={"key": name}, headers=_bearer(mine["key"]))
        assert good(own)["key"] == mine["token"]
    for name in (other["key"], other["token"], "sk-nobody-0123456789"):
        found = httpx.get(f"{admin.stage.tally.url}/key/info", params={"key": name}, headers=_bearer(mine["key"]))
        refused(found, 403, "auth_error")
    admin.chat(mine["key"])
    admin.chat(other["key"])
    until(lambda: len(good(admin.get("/spend/logs", team_id=team))) == 2)
    assert [line["api_key"] for line in good(admin.get("/spend/logs", key=mine["key"]))] == [mine["token"]]
    refused(admin.get("/spend/logs", key=mine["key"], team_id=team), 403, "auth_error")
    refused(admin.get("/spend/logs", key=mine["key"], api_key=other["token"]), 403, "auth_error")


@pytest.fixture(scope="module")
def strangers(admin: Admin) -> tuple[JSON, JSON]:
    """The keys of two teams."""
    mine, other = (admin.made(team_id=good(admin.post("/team/new", {}))["team_id"]) for _ in range(2))
    return mine, other


@pytest.fixture(scope="module")
def worthless(admin: Admin) -> dict[str, str]:
    """A key in each of the states."""
    made = {state: admin.made(duration="1s" if state == "expired" else None) for state in STATES}
    good(admin.post("/key/block", {"key": made["blocked"]["token"]}))
    good(admin.post("/key/delete", {"keys": [made["revoked"]["token"]]}))
    until(lambda: admin.chat(made["expired"]["key"]).status_code == 401)
    return {state: str(key["key"]) for state, key in made.items()}


@pytest.mark.parametrize("path", [path for path, each in OPERATIONS.items() if each.own is None])
def test_a_key_may_do_none_of_what_the_master_key_may(admin: Admin, strangers: tuple[JSON, JSON], path: str) -> None:
    for told in strangers:
        everything = {"key": told["key"], "keys": [told["token"]]}
        everything |= {"team_id": told["team_id"], "team_ids": [told["team_id"]]}
        asked = {name: value for name, value in everything.items() if name in OPERATIONS[path].asked.model_fields}
        refused(admin.call(path, asked, key=strangers[0]["key"], named=told["key"]), 403, "auth_error")
        info = good(admin.named(told["token"]))["info"]
        assert (info["revoked_at"], info["blocked"], info["key_name"]) == (None, False, told["key_name"])
        assert good(admin.get("/key/list", team_id=told["team_id"]))["keys"] == [told["token"]]


@pytest.mark.parametrize("path", [path for path, each in OPERATIONS.items() if each.own is not None])
def test_a_key_learns_nothing_of_another_whatever_its_team(
    admin: Admin, strangers: tuple[JSON, JSON], path: str
) -> None:
    mine, other = strangers
    beside = admin.made(team_id=mine["team_id"])
    field = str(OPERATIONS[path].own)
    for name in (mine["key"], mine["token"]):
        good(admin.call(path, {field: name}, key=mine["key"]))
    unknown = refused(admin.call(path, {field: "sk-x-0123456789"}, key=mine["key"]), 403, "auth_error")
    for told in (beside, other):
        for name in (told["key"], told["token"]):
            assert refused(admin.call(path, {field: name}, key=mine["key"]), 403, "auth_error") == unknown


@pytest.mark.parametrize("path", OPERATIONS)
def test_a_worthless_key_gets_nothing_at_all(admin: Admin, worthless: dict[str, str], path: str) -> None:
    for state, status in STATES.items():
        refused(admin.call(path, {}, key=worthless[state]), status, "auth_error")


def test_the_log_says_who_did_what_to_whom_and_never_a_secret(admin: Admin, team: str) -> None:
    secrets = [MASTER_KEY]
    with capture_logs() as lines:
        made = admin.made(team_id=team, key_alias="logged", metadata={"pin": "1234-secret"})
        secrets += [made["key"], "1234-secret"]
        good(admin.post("/key/update", {"key": made["key"], "rpm_limit": 900}))
        new = good(admin.post(f"/key/{made['key']}/regenerate", {"grace_period": "1h"}))
        secrets.append(new["key"])
        good(admin.named(new["key"]))
        good(admin.get("/spend/logs", key=new["key"]))
        refused(admin.get("/key/list", key=new["key"]), 403, "auth_error")
        good(admin.post("/key/delete", {"keys": [new["key"]]}))
        good(admin.post("/team/delete", {"team_ids": [team]}))
    found = [line for line in lines if line["event"] == "admin"]
    key, teams = [made["token"]], [team]
    assert [(line["by"], line["path"], line.get("keys"), line.get("teams")) for line in found] == [
        ("master", "/key/generate", key, teams),
        ("master", "/key/update", key, teams),
        ("master", "/key/{key}/regenerate", key, teams),
        ("master", "/key/info", key, None),
        (made["token"], "/spend/logs", key, None),
        ("master", "/key/delete", key, None),
        ("master", "/team/delete", None, teams),
    ]
    assert {line["log_level"] for line in found} == {"info"}
    assert all(line["request"].startswith("req_") for line in found)
    for secret in secrets:
        assert secret not in str(lines)


def test_the_lines_of_spend_add_up_to_what_was_spent(admin: Admin, team: str) -> None:
    made = admin.made(team_id=team)
    admin.stage.says("42")
    assert admin.chat(made["key"], "self_consistency", tally={"samples": 3}).status_code == 200
    until(
        lambda: [each["model_group"] for each in good(admin.get("/spend/logs", api_key=made["key"]))] == ["small"] * 3
    )
    lines = good(admin.get("/spend/logs", api_key=made["key"]))
    assert sum(round(line["spend"] * 1e9) for line in lines) == admin.stage.cost_nano
    assert sum(line["prompt_tokens"] + line["completion_tokens"] for line in lines) == sum(
        line["total_tokens"] for line in lines
    )
    (request,) = {line["request_id"] for line in lines}
    assert {line["startTime"] <= line["endTime"] for line in lines} == {True}
    assert good(admin.get("/spend/logs", request_id=request)) == lines
    assert len(good(admin.get("/spend/logs", api_key=made["key"], limit=2))) == 2
    day = lines[0]["endTime"][:10]
    (summed,) = good(admin.get("/spend/logs", api_key=made["token"], start_date=day, end_date=day))
    total = pytest.approx(sum(line["spend"] for line in lines), abs=1e-12)
    assert (summed["startTime"], summed["spend"]) == (day, total)
    assert (summed["teams"], summed["api_keys"]) == ({team: total}, {made["token"]: total})
    assert len(good(admin.get("/spend/logs", api_key=made["token"], start_date=day))) == 3
    assert good(admin.get("/spend/logs", api_key=made["token"], start_date="2999-01-01")) == []
    assert good(admin.named(made["token"]))["info"]["spend"] == total


def test_the_spend_of_all_is_that_of_every_team(admin: Admin, team: str) -> None:
    before = good(admin.get("/global/spend"))["spend"]
    admin.chat(admin.made(team_id=team)["key"])
    until(lambda: len(good(admin.get("/spend/logs", team_id=team))) == 1)
    spent = good(admin.get("/team/info", team_id=team))["team_info"]["total_spend"]
    assert spent > 0
    assert good(admin.get("/global/spend"))["spend"] == pytest.approx(before + spent, abs=1e-12)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/key/generate", {"user_id": "ann"}, "user_id"),
        ("/key/generate", {"max_budget": -1}, "max_budget"),
        ("/key/generate", {"budget_duration": "1y"}, "budget_duration"),
        ("/key/generate", {"duration": "soon"}, "duration"),
        ("/key/generate", {"expires": "2001-01-01"}, "expires"),
        ("/team/new", {"team_id": "acme"}, "team_id"),
        ("/key/generate", {"max_budget": 1e-12}, "max_budget"),
        ("/key/generate", {"budgets": [{"max_budget": 1}, {"max_budget": 2}]}, "budgets"),
        ("/key/generate", {"strategy": "off", "strategies": ["adaptive"]}, "strategy"),
        ("/key/generate", {"metadata": {"x": "y" * 20_000}}, "metadata"),
        ("/key/update", {"rpm_limit": 1}, "key"),
        ("/key/delete", {}, None),
        ("/key/delete", {"keys": ["a"], "team_id": "b"}, None),
        ("/key/some/regenerate", {"grace_period": "-1"}, "grace_period"),
        ("/key/some/regenerate", {"key": "other"}, "key"),
        ("/team/new", {"members_with_roles": []}, "members_with_roles"),
        ("/key/generate", {"key_alias": "a\0b"}, "key_alias"),
        ("/key/generate", {"duration": "999999mo"}, "duration"),
        ("/key/generate", {"max_budget": 1, "budget_duration": "999999mo"}, "budget_duration"),
        ("/key/block", {"key": "a\0b"}, "key"),
        ("/team/new", {"team_alias": "a\nb"}, "team_alias"),
        ("/team/delete", {"team_ids": []}, "team_ids"),
    ],
)
def test_a_wrong_field_is_named(admin: Admin, path: str, body: JSON, param: str | None) -> None:
    response = admin.post(path, body)
    refused(response, 400)
    assert (response.json()["error"]["param"] or None) == param


def test_a_wrong_type_is_told_in_the_words_of_json(admin: Admin) -> None:
    told = admin.post("/team/delete", {"team_ids": "a"}).json()["error"]["message"]
    assert told == "team_ids: must be a list."
    told = admin.post("/key/generate", {"metadata": 5}).json()["error"]["message"]
    assert told == "metadata: must be an object."


def test_days_of_spend_that_end_before_they_start_are_refused(admin: Admin) -> None:
    response = admin.get("/spend/logs", start_date="2026-11-02", end_date="2026-11-01")
    refused(response, 400)
    assert response.json()["error"]["param"] == "end_date"


def test_an_unknown_team_is_not_found(admin: Admin) -> None:
    refused(admin.post("/key/generate", {"team_id": "nobody"}), 404)
    refused(admin.get("/spend/logs", team_id="nobody"), 404)
    refused(admin.get("/key/info"), 400)


def test_a_key_that_was_shown_once_is_nowhere_else(tmp_path: Path) -> None:
    with FakeUpstream("42") as upstream:
        config = configuration(upstream.base_url, tmp_path, tenants=[{"name": "acme", "keys": [KEY]}])
        (tmp_path / "tally.yaml").write_text(yaml.safe_dump(config))
        with serving(upstream, tmp_path, "--config", "tally.yaml", environ={}) as server:
            http = httpx.Client(base_url=server.url, headers=_bearer(MASTER_KEY))
            first = good(http.post("/key/generate", json={"team_id": "acme", "models": ["small"], "rpm_limit": 3}))
            assert server.ask("small", key=first["key"]).status_code == 200
            second = good(http.post(f"/key/{first['key']}/regenerate"))
            secrets = [first["key"], second["key"], KEY, MASTER_KEY]
            own = _bearer(second["key"])
            told = [
                http.get("/key/info", params={"key": second["key"]}),
                http.get("/key/info", params={"key": f"{second['key']}x"}),
                http.post("/key/update", json={"key": second["key"], "x": 1}),
                http.post("/key/update", json={"keys": second["key"]}),
                http.get("/key/list", params={"return_full_object": True}),
                http.get("/team/info", params={"team_id": "acme"}),
                http.get("/spend/logs", params={"api_key": second["key"]}),
                http.get("/key/list", headers=own),
                http.get("/key/info", params={"key": KEY}, headers=own),
                http.post("/key/block", json={"key": second["key"]}),
                server.ask("small", key=second["key"]),
                server.ask("other", key=second["key"]),
                http.get("/metrics"),
            ]
            http.close()
    seen = {"replies": "".join(each.text for each in told).encode()}
    seen |= {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "tally.yaml"}
    assert {"tally.db", "output.txt"} <= seen.keys()
    assert second["token"].encode() in seen["replies"]
    for name, data in seen.items():
        for secret in secrets:
            assert secret.encode() not in data, name
