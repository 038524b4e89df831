"""Embeddings, moderations and rerankings: passed through for the official client, and metered."""

import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import openai
import orjson
import pytest

from proxy.ledger.reports import RequestLine, draws, verdicts
from proxy.types import JSON
from proxy.upstream.usage import prompt_bound
from tests.fake_upstream import Call, Drop, Fault, Malformed, Plain, Reply, tokenize
from tests.served import KEY, RATES, deployment
from tests.staged import Stage, staged

VECTORS = [[0.5, -1.0], [2.0, 0.25]]
TEXTS = ["The first text.", "A second one"]
TOKENS = sum(len(tokenize(text)) for text in TEXTS)
OTHERS = "sk-others-0123456789"
WIDE = pytest.mark.parametrize("model", ["small", "wide"])


def encoded(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def embedding(call: Call) -> Plain:
    """As real servers: base64 where it is asked for."""
    wanted = call.body.get("encoding_format") == "base64"
    return Plain([{"embedding": encoded(vector) if wanted else vector} for vector in VECTORS[: len(call.texts)]])


def models(base_url: str) -> list[JSON]:
    wide = deployment(base_url, model_name="wide", litellm_params={"model": "mistral/small"})
    return [deployment(base_url), {**deployment(base_url), "model_name": "alias"}, wide]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tenants = [
        {"name": "acme", "keys": [KEY]},
        {"name": "others", "keys": [OTHERS], "models": ["alias"], "rpm_limit": 3, "max_cost_usd": 0.00002},
    ]
    with staged(tmp_path_factory.mktemp("passed"), models=models, tenants=tenants) as made:
        yield made


@pytest.fixture(autouse=True)
def _the_ledger_adds_up(stage: Stage) -> Iterator[None]:
    yield
    stage.upstream.wait(lambda: stage.tally.balance().reserved.nano == 0)
    assert stage.tally.balance().ok


def latest(stage: Stage) -> RequestLine | None:
    with stage.tally.books() as books:
        return next(iter(verdicts(books, limit=1)), None)


def recorded(stage: Stage, response: httpx.Response) -> RequestLine:
    """The ledger's line about a response."""
    identity = response.headers["x-request-id"].removeprefix("req_")

    def found() -> RequestLine | None:
        line = latest(stage)
        return line if line is not None and line.request == identity else None

    stage.upstream.wait(lambda: found() is not None)
    line = found()
    assert line is not None
    return line


def embed(stage: Stage, *, model: str = "small", key: str = KEY, **more: Any) -> httpx.Response:
    return stage.post({"model": model, "input": TEXTS, **more}, path="/v1/embeddings", key=key)


@WIDE
@pytest.mark.parametrize("wanted", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_the_official_client_gets_its_vectors(stage: Stage, model: str, wanted: dict[str, Any]) -> None:
    stage.says(embedding)
    reply = stage.client().embeddings.create(model=model, input=TEXTS, **wanted)
    found = [item.embedding for item in reply.data]
    if wanted.get("encoding_format") == "base64":
        # who asks for it by name gets it as it is
        found = [list(struct.unpack("<2f", base64.b64decode(str(item)))) for item in found]
    assert found == VECTORS
    assert reply.model == model
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (TOKENS, TOKENS)


@pytest.mark.parametrize("strategy", ["dynscaling", "off"])
def test_under_any_strategys_path_it_is_passed_through_all_the_same(stage: Stage, strategy: str) -> None:
    stage.says(embedding)
    assert len(stage.client(strategy).embeddings.create(model="small", input=TEXTS).data) == 2
    assert len(stage.calls) == 1


def test_the_upstreams_bytes_come_back_unchanged(stage: Stage) -> None:
    stage.says(Malformed('{ "data" :[1.50e0, {"odd": null}],\n "usage": {"prompt_tokens": 3} }'))
    assert embed(stage).text == '{ "data" :[1.50e0, {"odd": null}],\n "usage": {"prompt_tokens": 3} }'


def test_an_alias_is_the_name_in_the_reply_and_nothing_else_differs(stage: Stage) -> None:
    stage.says(embedding)
    plain, alias = embed(stage).json(), embed(stage, model="alias").json()
    assert (plain["model"], alias["model"]) == ("small", "alias")
    # the fake upstream numbers its calls
    assert plain | {"model": "alias", "id": alias["id"]} == alias


def test_every_field_but_tallys_own_reaches_the_upstream(stage: Stage) -> None:
    stage.says(embedding)
    sent: JSON = {"dimensions": 2, "user": "u", "truncate_prompt_tokens": 5}
    embed(stage, model="alias", **sent, tally={"max_cost_usd": 1})
    (call,) = stage.calls
    assert call.path == "/v1/embeddings"
    assert call.body == {"model": "small", "input": TEXTS, **sent}
    assert call.headers["authorization"] == "Bearer sk-upstream-secret"


def test_what_usage_tells_is_charged_and_the_request_recorded(stage: Stage) -> None:
    stage.says(embedding)
    before = stage.tally.balance().spent
    response = embed(stage)
    line = recorded(stage, response)
    cost = RATES.cost(TOKENS, 0)
    assert stage.tally.balance().spent.nano - before.nano == cost == line.cost_nano
    assert stage.tally.balance().spent.tokens - before.tokens == TOKENS
    assert (line.strategy, line.status, line.reason, line.samples) == ("off", 200, "embeddings", 0)
    assert (line.model, line.winner, line.answer, line.confidence) == ("small", None, None, None)
    with stage.tally.books() as books:
        row = next(row for row in draws(books) if row["request"] == line.request)
    assert (row["purpose"], row["prompt_tokens"], row["completion_tokens"]) == ("embeddings", TOKENS, 0)
    assert float(response.headers["x-tally-cost-usd"]) == pytest.approx(cost / 1e9)
    assert (response.headers["x-tally-strategy"], response.headers["x-tally-reason"]) == ("off", "embeddings")


def test_a_provider_that_tells_no_usage_is_charged_for_the_bound(stage: Stage) -> None:
    stage.says(Plain([{"embedding": [1.0]}], usage="none"))
    line = recorded(stage, embed(stage))
    assert line.cost_nano == RATES.cost(prompt_bound({"model": "small", "input": TEXTS}), 0)


def test_token_arrays_are_passed_through_and_bounded(stage: Stage) -> None:
    tokens = [[101, 102, 103], [104]]
    stage.says(Plain([{"embedding": [1.0]}] * 2, prompt_tokens=4))
    reply = stage.client().embeddings.create(model="small", input=tokens, encoding_format="float")
    assert reply.usage.prompt_tokens == 4
    assert stage.calls[0].body["input"] == tokens
    assert prompt_bound({"input": tokens}) >= 4


def test_moderations_go_to_the_upstream_and_come_back(stage: Stage) -> None:
    verdict = {"flagged": True, "categories": {"hate": True}, "category_scores": {"hate": 0.9}}
    stage.says(Plain(more={"results": [verdict]}))
    reply = stage.client().moderations.create(model="small", input="Something bad")
    assert reply.results[0].flagged
    assert reply.results[0].categories.hate
    assert stage.calls[0].path == "/v1/moderations"
    with pytest.raises(openai.NotFoundError, match="omni-moderation-latest"):
        stage.client().moderations.create(input="Something bad")


def test_a_reranking_is_bounded_by_the_query_once_a_document(stage: Stage) -> None:
    documents = ["one", "two", "three"] * 20
    query = "the query that is read sixty times over, beside each of the documents"
    results = [{"index": 2, "relevance_score": 0.9}]
    stage.says(Plain(more={"results": results}, usage="total"))
    response = stage.post({"model": "small", "query": query, "documents": documents}, path="/v1/rerank")
    assert response.json()["results"] == results
    (call,) = stage.calls
    assert recorded(stage, response).cost_nano == RATES.cost(call.prompt_tokens, 0)
    # what was reserved is never less than what is charged
    assert prompt_bound(call.body) >= call.prompt_tokens > prompt_bound({"input": documents})


@pytest.mark.parametrize("path", ["embeddings", "moderations", "rerank"])
def test_a_key_is_needed(stage: Stage, path: str) -> None:
    for key in (None, "sk-nope"):
        assert stage.post({"model": "small", "input": "x"}, path=f"/v1/{path}", key=key).status_code == 401


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "x"}, "model"),
        ({"model": 5}, "model"),
        ({"model": "small", "tally": {"samples": 0}}, "tally.samples"),
        ({"model": "small", "tally": 5}, "tally"),
        (b"{", None),
        (b"[]", None),
    ],
)
def test_a_bad_body_is_a_400_that_costs_nothing(stage: Stage, body: object, param: str | None) -> None:
    stage.says(embedding)
    response = stage.post(body, path="/v1/embeddings")
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert not stage.calls


def test_an_unknown_strategy_or_model_is_refused(stage: Stage) -> None:
    assert stage.post({"model": "small"}, path="/best/v1/embeddings").json()["error"]["code"] == "unknown_strategy"
    assert embed(stage, model="nope").json()["error"]["code"] == "model_not_found"


def test_a_tenants_models_and_requests_a_minute_count_here_too(stage: Stage) -> None:
    stage.says(embedding)
    assert embed(stage, key=OTHERS).json()["error"]["code"] == "model_not_allowed"
    assert embed(stage, key=OTHERS, model="alias").status_code == 200
    assert embed(stage, key=OTHERS, model="alias", tally={"max_cost_usd": 1}, input="x" * 200).status_code == 402
    late = embed(stage, key=OTHERS, model="alias")
    assert (late.status_code, late.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert late.headers["retry-after"]


def test_a_request_over_its_own_cost_is_402_and_sends_nothing(stage: Stage) -> None:
    stage.says(embedding)
    response = embed(stage, tally={"max_cost_usd": 0.000001})
    assert (response.status_code, response.json()["error"]["code"]) == (402, "budget_exceeded")
    assert not stage.calls
    line = recorded(stage, response)
    assert (line.status, line.reason, line.cost_nano) == (402, "budget_exceeded", 0)


def test_a_spent_budget_is_402(tmp_path: Path) -> None:
    bound = RATES.cost(prompt_bound({"model": "small", "input": TEXTS}), 0)
    with staged(tmp_path, tenant={"max_budget": bound / 1e9}) as poor:
        poor.says(embedding)
        assert embed(poor).status_code == 200
        assert embed(poor).status_code == 402
        assert len(poor.calls) == 1


def test_an_embedding_model_is_priced_by_the_table_where_the_configuration_is_silent(tmp_path: Path) -> None:
    def listed(base_url: str) -> list[JSON]:
        params = {"model": "openai/text-embedding-3-small", "api_base": base_url, "api_key": "x"}
        return [{"model_name": "embedder", "litellm_params": params}]

    with staged(tmp_path, models=listed, tenant={"max_budget": 1}) as paying:
        paying.says(Plain([{"embedding": [1.0]}], prompt_tokens=1000))
        assert recorded(paying, embed(paying, model="embedder")).cost_nano == 20_000


@WIDE
@pytest.mark.parametrize(
    ("step", "status", "code"),
    [
        (Fault(422, "Too odd.", "odd", "odd_code"), 422, "odd_code"),
        (Fault(429, "Slow down.", code="slow", retry_after=7), 429, "slow"),
        (Fault(401, "Bad key sk-upst***cret."), 502, "upstream_auth"),
        (Fault(500, "Oops.", code=None), 500, None),
    ],
)
def test_an_upstreams_error_is_mapped_as_for_chats(
    stage: Stage, model: str, step: Fault, status: int, code: str | None
) -> None:
    stage.says(step)
    response = embed(stage, model=model)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert "sk-" not in response.text
    assert response.headers.get("retry-after") == ("7" if step.retry_after else None)
    assert len(stage.calls) == 1
    assert recorded(stage, response).status == step.status


@pytest.mark.parametrize(("step", "code"), [(Drop(), "upstream_unreachable"), (Malformed(), "upstream_malformed")])
def test_a_reply_that_is_none_is_502_and_paid_as_it_may_be_billed(stage: Stage, step: Any, code: str) -> None:
    stage.says(step)
    response = embed(stage)
    assert (response.status_code, response.json()["error"]["code"]) == (502, code)
    assert recorded(stage, response).cost_nano == RATES.cost(prompt_bound({"model": "small", "input": TEXTS}), 0)


def test_a_model_that_does_not_support_it_keeps_its_servers_404(stage: Stage) -> None:
    stage.says(Reply(["42"]))
    response = embed(stage)
    assert (response.status_code, response.json()["error"]["message"]) == (
        404,
        "The model does not support this API.",
    )


@pytest.mark.parametrize("path", ["moderations", "rerank"])
def test_the_wide_lane_has_embeddings_alone(stage: Stage, path: str) -> None:
    stage.says(embedding)
    response = stage.post({"model": "wide", "input": "x"}, path=f"/v1/{path}")
    assert response.status_code == 404
    assert path in response.json()["error"]["message"]
    assert not stage.calls
    assert recorded(stage, response).cost_nano == 0


@pytest.mark.parametrize("field", ["api_base", "api_key", "mock_response", "extra_headers", "custom_llm_provider"])
def test_a_client_cannot_steer_the_wide_lane(stage: Stage, field: str) -> None:
    stage.says(embedding)
    error = embed(stage, model="wide", **{field: "http://127.0.0.1:9"}).json()["error"]
    assert (error["param"], error["code"]) == (field, "unknown_parameter")
    assert not stage.calls


@pytest.mark.anyio
@WIDE
async def test_a_client_that_leaves_stops_the_call_and_owes_its_bound(stage: Stage, model: str) -> None:
    stage.says(Plain([{"embedding": [1.0]}], latency=30))
    body = {"model": model, "input": TEXTS}
    async with httpx.AsyncClient() as client, anyio.create_task_group() as tasks:
        headers = {"authorization": f"Bearer {KEY}"}
        tasks.start_soon(lambda: client.post(f"{stage.tally.url}/v1/embeddings", json=body, headers=headers))
        await stage.upstream.until(lambda: len(stage.calls) == 1)
        tasks.cancel_scope.cancel()
    await stage.upstream.until(lambda: stage.calls[0].cancelled, timeout=2)
    gone = (499, "client_gone", model, RATES.cost(prompt_bound(body), 0))

    def left() -> bool:
        line = latest(stage)
        return line is not None and (line.status, line.reason, line.model, line.cost_nano) == gone

    await stage.upstream.until(left)


def test_requests_are_counted_in_the_metrics_and_not_as_samples(stage: Stage) -> None:
    stage.says(embedding)
    embed(stage)
    stage.upstream.wait(lambda: "tally_requests_in_flight 0.0" in stage.get("/metrics", key=None).text)
    text = stage.get("/metrics", key=None).text
    assert 'tally_requests_total{model="small",status="200",strategy="off"}' in text
    assert 'tally_tokens_total{kind="prompt",model="small"}' in text
    assert "tally_request_samples_count{" not in text


def test_unusual_numbers_survive(stage: Stage) -> None:
    vector = [1e-45, -0.1234567890123456, 3.0e38]
    stage.says(Plain([{"embedding": vector}]))
    assert embed(stage, model="alias", input="x").json()["data"][0]["embedding"] == vector
    assert orjson.loads(embed(stage, input="x").content)["data"][0]["embedding"] == vector
