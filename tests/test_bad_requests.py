"""Bad input gets a clear 4xx in OpenAI's shape, and nothing is spent on it."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from tests.served import KEY
from tests.staged import ASK, Stage, staged

BASE: dict[str, Any] = {"model": "small", "messages": ASK}
LIMIT = 100_000


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tenants = [
        {"name": "acme", "keys": [KEY]},
        {"name": "blocked", "keys": ["sk-blocked-key"], "blocked": True},
        {"name": "narrow", "keys": ["sk-narrow-key"], "models": ["other"]},
        {"name": "paying", "keys": ["sk-paying-key"], "max_budget": 1},
    ]
    unpriced = {"model_name": "unpriced", "litellm_params": {"model": "openai/none", "api_base": "http://127.0.0.1:9"}}
    small = {
        "litellm_params": {
            "model": "openai/small",
            "api_base": "http://127.0.0.1:9",
            "input_cost_per_token": 1e-7,
            "output_cost_per_token": 4e-7,
        }
    }
    models = [{"model_name": "small", **small}, {"model_name": "other", **small}, unpriced]
    settings = {"max_request_bytes": LIMIT, "max_messages": 20}
    with staged(tmp_path_factory.mktemp("bad"), model_list=models, tenants=tenants, general_settings=settings) as made:
        yield made


def refused(stage: Stage, response: httpx.Response, status: int) -> dict[str, Any]:
    """The error in a response, once it is sure that it cost nothing."""
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    error = body["error"]
    # which budget it was, and when it is free again, is told beside OpenAI's own fields
    beside = {"budget"} if error["code"] == "budget_exceeded" else set()
    assert error.keys() - beside == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert not stage.upstream.calls
    balance = stage.tally.balance()
    assert (balance.spent.nano, balance.reserved.nano, balance.ledger.nano) == (0, 0, 0)
    return dict(error)


def nested(depth: int) -> bytes:
    return b'{"model":"small","messages":[{"role":"user","content":"x"}],"x":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"model":',
        b"[]",
        b"null",
        b'"text"',
        b'{"model":"small","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"small","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"small","messages":[{"role":"user","content":"x"}],"x":NaN}',
        b'{"model":"small","messages":[{"role":"user","content":"x"}],"x":1e999}',
        nested(200),
        nested(300),
        nested(900),
        nested(20_000),
        b'{"a":' * 500 + b"1" + b"}" * 500,
    ],
)
def test_a_body_that_is_no_json_object_of_reasonable_depth_is_refused(stage: Stage, body: bytes) -> None:
    error = refused(stage, stage.post(body), 400)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_json", None)


def user(content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("messages", [], "messages"),
        ("messages", None, "messages"),
        ("messages", "x", "messages"),
        ("messages", {}, "messages"),
        ("messages", [5], "messages[0]"),
        ("messages", [{}], "messages[0].role"),
        ("messages", [{"role": 5}], "messages[0].role"),
        ("messages", [{"role": ""}], "messages[0].role"),
        ("messages", user(5), "messages[0].content"),
        ("messages", user({"a": 1}), "messages[0].content"),
        ("messages", user(["x"]), "messages[0].content"),
        ("messages", [*ASK, {"role": "user", "content": True}], "messages[1].content"),
        ("messages", ASK * 21, "messages"),
        ("model", 5, "model"),
        ("model", "", "model"),
        ("model", None, "model"),
        ("model", "x" * 600, "model"),
        ("stream", "yes", "stream"),
        ("stream", 1, "stream"),
        ("stream_options", 5, "stream_options"),
        ("stream_options", {"include_usage": "x"}, "stream_options.include_usage"),
        ("n", 0, "n"),
        ("n", 129, "n"),
        ("n", True, "n"),
        ("n", 1.5, "n"),
        ("temperature", -0.1, "temperature"),
        ("temperature", 2.1, "temperature"),
        ("temperature", "1", "temperature"),
        ("temperature", True, "temperature"),
        ("top_p", 1.1, "top_p"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", -1, "max_tokens"),
        ("max_tokens", 1.5, "max_tokens"),
        ("max_tokens", 2**31, "max_tokens"),
        ("max_tokens", 2**63, "max_tokens"),
        ("max_completion_tokens", 10**30, "max_completion_tokens"),
        ("seed", 2**63, "seed"),
        ("seed", -(2**63) - 1, "seed"),
        ("seed", 2**64, "seed"),
        ("seed", "1", "seed"),
        ("stop", 5, "stop"),
        ("stop", [5], "stop"),
        ("logprobs", "x", "logprobs"),
        ("tools", 5, "tools"),
        ("tools", [5], "tools[0]"),
        ("tool_choice", 5, "tool_choice"),
        ("response_format", "json", "response_format"),
        ("modalities", [["audio"]], "modalities[0]"),
        ("tally", 5, "tally"),
        ("tally", [], "tally"),
        ("tally", {"strategy": "best"}, "tally.strategy"),
        ("tally", {"strategy": ["off"]}, "tally.strategy"),
        ("tally", {"sample": 4}, "tally.sample"),
        ("tally", {"samples": 0}, "tally.samples"),
        ("tally", {"samples": -1}, "tally.samples"),
        ("tally", {"samples": 1025}, "tally.samples"),
        ("tally", {"samples": "8"}, "tally.samples"),
        ("tally", {"samples": True}, "tally.samples"),
        ("tally", {"max_samples": 0}, "tally.max_samples"),
        ("tally", {"max_samples": 10**30}, "tally.max_samples"),
        ("tally", {"max_cost_usd": 0}, "tally.max_cost_usd"),
        ("tally", {"max_cost_usd": -1}, "tally.max_cost_usd"),
        ("tally", {"max_cost_usd": 1e300}, "tally.max_cost_usd"),
        ("tally", {"max_cost_usd": "NaN"}, "tally.max_cost_usd"),
        ("tally", {"max_cost_usd": "Infinity"}, "tally.max_cost_usd"),
        ("tally", {"max_cost_usd": True}, "tally.max_cost_usd"),
        ("tally", {"max_cost_usd": "much"}, "tally.max_cost_usd"),
        ("tally", {"answer": 5}, "tally.answer"),
        ("tally", {"answer": {"kind": "poem"}}, "tally.answer.kind"),
        ("tally", {"answer": {"votable": True}}, "tally.answer.votable"),
    ],
)
def test_a_wrong_value_is_named_by_its_field(stage: Stage, field: str, value: object, param: str) -> None:
    # json, as httpx uses it, writes any whole number and reads it back
    error = refused(stage, stage.post(json.dumps({**BASE, field: value}).encode()), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"].startswith(f"{param}: ")


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_said_to_be_missing(stage: Stage, field: str) -> None:
    body = {name: value for name, value in BASE.items() if name != field}
    assert refused(stage, stage.post(body), 400)["message"] == f"{field}: is missing."


def test_the_official_client_raises_its_own_class_with_the_field(stage: Stage) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        stage.ask(max_tokens=-1)
    assert (caught.value.param, caught.value.code) == ("max_tokens", "invalid_value")


def test_a_cost_cap_too_small_for_one_sample_is_402_and_not_to_be_tried_again(stage: Stage) -> None:
    response = stage.post({**BASE, "tally": {"max_cost_usd": 1e-30}})
    assert refused(stage, response, 402)["type"] == "budget_exceeded"
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1", "/off/v1", "/dynscaling/v1"])
def test_an_unknown_model_is_404(stage: Stage, path: str, stream: bool) -> None:
    body = {**BASE, "model": "nope", "stream": stream}
    error = refused(stage, stage.post(body, path=f"{path}/chat/completions"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_an_unknown_strategy_in_header_or_path_is_400(stage: Stage) -> None:
    for response, param in [
        (stage.post(BASE, headers={"x-tally-strategy": "best"}), "x-tally-strategy"),
        (stage.post(BASE, headers={"x-tally-strategy": ""}), "x-tally-strategy"),
        (stage.post(BASE, path="/best/v1/chat/completions"), "path"),
        (stage.post(BASE, path="/%00%ff/v1/chat/completions"), "path"),
        (stage.get("/best/v1/models"), "path"),
    ]:
        error = refused(stage, response, 400)
        assert (error["code"], error["param"]) == ("unknown_strategy", param)


def test_a_body_over_the_limit_is_413_by_its_declared_length(stage: Stage) -> None:
    error = refused(stage, stage.post({**BASE, "user": "x" * LIMIT}), 413)
    assert error["code"] == "request_too_large"
    assert str(LIMIT) in error["message"]


def test_a_body_over_the_limit_is_413_though_it_comes_in_chunks_of_unknown_number(stage: Stage) -> None:
    response = httpx.post(
        f"{stage.tally.url}/v1/chat/completions",
        content=(b"x" * 1000 for _ in range(LIMIT // 1000 + 50)),
        headers={"authorization": f"Bearer {KEY}"},
    )
    assert refused(stage, response, 413)["code"] == "request_too_large"


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Basic c2s=", KEY, f"Token {KEY}", "Bearer sk-nope", f"Bearer {KEY} x", b"Bearer \xff\xe9"],
)
def test_a_missing_or_unknown_key_is_401(stage: Stage, authorization: str | bytes | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    error = refused(stage, stage.post(BASE, key=None, headers=headers), 401)
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")


def test_a_refusal_of_a_key_does_not_repeat_it(stage: Stage) -> None:
    assert "sk-secret" not in refused(stage, stage.post(BASE, key="sk-secret"), 401)["message"]


def test_a_key_is_asked_for_before_the_body_is_read(stage: Stage) -> None:
    refused(stage, stage.post(b"{", key=None), 401)


def test_a_blocked_tenant_is_403(stage: Stage) -> None:
    assert refused(stage, stage.post(BASE, key="sk-blocked-key"), 403)["code"] == "tenant_blocked"


def test_a_model_off_the_tenants_list_is_403(stage: Stage) -> None:
    error = refused(stage, stage.post(BASE, key="sk-narrow-key"), 403)
    assert (error["code"], error["param"]) == ("model_not_allowed", "model")


def test_a_model_without_a_price_is_refused_to_a_budget_in_money(stage: Stage) -> None:
    error = refused(stage, stage.post({**BASE, "model": "unpriced"}, key="sk-paying-key"), 400)
    assert error["code"] == "model_unpriced"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/images/generations", "/v1/chat/completions/", "/docs", "/v1/openapi.json"]
)
def test_an_unknown_path_is_404(stage: Stage, path: str) -> None:
    assert refused(stage, stage.post(BASE, path=path), 404)["code"] == "not_found"
    assert refused(stage, stage.get(path), 404)["code"] == "not_found"


def test_a_wrong_method_is_405_and_says_the_right_one(stage: Stage) -> None:
    response = stage.get("/v1/chat/completions")
    assert refused(stage, response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"
    assert refused(stage, stage.post({}, path="/v1/models"), 405)["code"] == "method_not_allowed"


def test_bad_streams_are_refused_with_their_status_too(stage: Stage) -> None:
    refused(stage, stage.post({**BASE, "stream": True, "n": 0}), 400)
    refused(stage, stage.post({**BASE, "stream": True}, key="sk-nope"), 401)


def test_a_client_that_goes_in_the_middle_of_its_body_harms_nothing(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    address = urlsplit(stage.tally.url)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 99\r\n\r\n"
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(head.encode() + b'{"model"')
    # the server's loop has seen the end of that connection by the time it accepts and answers a later one
    refused(stage, stage.post(b"{"), 400)
    assert not caplog.records
