"""The models on offer, and how the server fares."""

from collections.abc import Iterator

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.served import KEY, MASTER_KEY
from tests.staged import Stage, staged

NARROW = "sk-narrow-0123456789"
SECRET = "the-word-of-the-prompt"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tenants = [
        {"name": "acme", "keys": [KEY]},
        {"name": "narrow", "keys": [NARROW], "models": ["big/model-1"]},
    ]
    with staged(tmp_path_factory.mktemp("models"), tenants=tenants, aliases=["big/model-1"]) as made:
        yield made


def value(stage: Stage, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    families = text_string_to_metric_families(stage.get("/metrics", key=None).text)
    found = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and sample.labels.items() >= labels.items()
    ]
    return sum(found)


@pytest.mark.parametrize("strategy", [None, "off", "dynscaling"])
def test_the_models_on_offer_are_listed_once_each(stage: Stage, strategy: str | None) -> None:
    page = stage.client(strategy).models.list()
    assert [model.id for model in page.data] == ["small", "big/model-1"]
    assert page.object == "list"
    assert all((model.object, model.owned_by) == ("model", "tally") for model in page.data)


@pytest.mark.parametrize("strategy", [None, "dynscaling"])
def test_a_model_is_told_of_by_its_name_also_with_a_slash(stage: Stage, strategy: str | None) -> None:
    for name in ("small", "big/model-1"):
        assert stage.client(strategy).models.retrieve(name).id == name
    assert stage.get("/v1/models/big/model-1").json()["id"] == "big/model-1"


def test_an_unknown_model_is_404(stage: Stage) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        stage.client().models.retrieve("nope")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id


def test_a_tenant_sees_the_models_on_its_list_alone(stage: Stage) -> None:
    assert [model.id for model in stage.client(key=NARROW).models.list().data] == ["big/model-1"]
    with pytest.raises(openai.NotFoundError):
        stage.client(key=NARROW).models.retrieve("small")
    assert len(stage.client(key=MASTER_KEY).models.list().data) == 2


def test_the_list_needs_a_key(stage: Stage) -> None:
    for path in ("/v1/models", "/v1/models/small", "/off/v1/models"):
        assert stage.get(path, key=None).status_code == 401
        assert stage.get(path, key="sk-nope").json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/health/liveliness", "/health/liveness", "/health/readiness"])
def test_health_is_told_without_a_key(stage: Stage, path: str) -> None:
    response = stage.get(path, key=None)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json()


def test_metrics_count_requests_samples_tokens_and_money(stage: Stage) -> None:
    stage.says("42")
    labels = {"model": "small", "strategy": "self_consistency"}
    before = {
        "tally_requests_total": value(stage, "tally_requests_total", **labels, status="200"),
        "tally_request_samples_sum": value(stage, "tally_request_samples_sum", **labels),
        "tally_tokens_total": value(stage, "tally_tokens_total", model="small"),
        "tally_cost_usd_total": value(stage, "tally_cost_usd_total", model="small"),
    }
    stage.ask()
    # the request is counted when its last byte is sent, so perhaps a moment after the client has read it
    stage.upstream.wait(lambda: value(stage, "tally_requests_in_flight") == 0)
    grown = {name: value(stage, name, **({"model": "small"} if "request" not in name else labels)) - had
             for name, had in before.items()}  # fmt: skip
    assert grown["tally_requests_total"] == 1
    assert grown["tally_request_samples_sum"] == 8
    assert grown["tally_tokens_total"] == stage.prompt_tokens + stage.completion_tokens
    assert grown["tally_cost_usd_total"] == pytest.approx(stage.cost_nano / 1e9)


def test_metrics_carry_no_prompt_no_answer_and_no_key(stage: Stage) -> None:
    stage.says("the-word-of-the-answer")
    stage.ask(messages=[{"role": "user", "content": SECRET}])
    stage.post({"model": f"{SECRET}-as-model", "messages": [{"role": "user", "content": SECRET}]})
    stage.post({"model": "small", "messages": []}, key="sk-unknown-9876")
    text = stage.get("/metrics", key=None).text
    assert "tally_requests_total" in text
    for secret in (SECRET, "the-word-of-the-answer", KEY, "sk-unknown-9876", "sk-upstream-secret"):
        assert secret not in text


def test_refused_requests_are_counted_by_status_alone(stage: Stage) -> None:
    before = value(stage, "tally_requests_total", status="404")
    for number in range(3):
        stage.post({"model": f"nope-{number}", "messages": [{"role": "user", "content": "x"}]})
    assert value(stage, "tally_requests_total", status="404") == before + 3
    assert value(stage, "tally_requests_total", status="404", model="") == before + 3


def test_a_head_request_is_answered_without_a_body(stage: Stage) -> None:
    response = httpx.head(f"{stage.tally.url}/health/liveliness")
    assert (response.status_code, response.content) == (200, b"")
