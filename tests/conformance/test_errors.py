"""Errors: OpenAI's envelope, slugs and statuses, whole and streamed alike."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.conformance.conftest import BLOCKED_KEY, BUSY_KEY, BYTES, NARROW_KEY, POOR_KEY, READ_S
from tests.conformance.talk import Talk, once, whole
from tests.fake_upstream import Fault, Malformed, Reply
from tests.staged import ASK, Stage, staged


def told(response: Any) -> dict[str, Any]:
    """The error in a reply, whose shape is always the same."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    body = response.json()
    assert body.keys() == {"error"}
    error = body["error"]
    # which budget it was, and when it is free again, is told beside OpenAI's own fields
    beside = {"budget"} if error["code"] == "budget_exceeded" else set()
    assert error.keys() - beside == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"]
    assert isinstance(error, dict)
    return error


def test_a_missing_or_unknown_key_is_401_invalid_api_key(talk: Talk) -> None:
    for key in (None, "sk-nobody"):
        response = talk.post(key=key)
        assert (response.status_code, told(response)["code"]) == (401, "invalid_api_key")
    assert not talk.calls


def test_a_blocked_tenant_is_403(talk: Talk) -> None:
    response = talk.post(key=BLOCKED_KEY)
    assert (response.status_code, told(response)["code"]) == (403, "tenant_blocked")


def test_an_unknown_model_is_404_model_not_found(talk: Talk) -> None:
    error = talk.refused(model="no-such")
    assert isinstance(error, openai.NotFoundError)
    assert (error.code, error.param, error.type) == ("model_not_found", "model", "invalid_request_error")
    told(error.response)


def test_a_model_off_the_tenants_list_is_403(talk: Talk) -> None:
    response = talk.post({"model": "vendor/some/model"}, key=NARROW_KEY)
    assert (response.status_code, told(response)["code"]) == (403, "model_not_allowed")
    assert not talk.calls


def test_a_spent_budget_is_402_which_no_client_tries_again(talk: Talk) -> None:
    talk.says("42")
    response = talk.post(key=POOR_KEY)
    assert (response.status_code, told(response)["code"]) == (402, "budget_exceeded")
    assert response.headers["x-should-retry"] == "false"
    assert not talk.calls


def test_a_cost_cap_below_one_sample_is_402(talk: Talk) -> None:
    error = talk.refused(extra_body={"tally": {"max_cost_usd": 1e-9}})
    assert (error.status_code, error.code) == (402, "budget_exceeded")


def test_too_many_requests_are_429_and_say_when_to_come_back(talk: Talk) -> None:
    talk.says("42")
    for _ in range(2):
        response = talk.post(key=BUSY_KEY)
    assert (response.status_code, told(response)["code"]) == (429, "rate_limit_exceeded")
    assert told(response)["type"] == "rate_limit_error"
    assert 0 < int(response.headers["retry-after"]) <= 60


@once("a tenant's status is told before anything is drawn")
def test_the_status_of_a_spent_budget_is_the_operators_to_choose(
    talk: Talk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = {"budget_exceeded_status_code": 429}
    folder = tmp_path_factory.mktemp("status")
    with staged(folder, general_settings=settings, tenant={"max_budget": 0}) as other:
        response = other.post({**talk.body({})}, path=talk.path)
    assert (response.status_code, told(response)["code"]) == (429, "budget_exceeded")
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'"x"', "invalid_json"),
        (b"\xff\xfe{}", "invalid_json"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "invalid_json"),
        (b"{}", "invalid_value"),
    ],
)
@whole("a body that cannot be read asks for no stream")
def test_a_body_that_is_none_is_400(talk: Talk, body: bytes, code: str) -> None:
    response = talk.post(body)
    assert (response.status_code, told(response)["code"]) == (400, code)


@pytest.mark.parametrize(
    ("field", "value"),
    [("messages", []), ("temperature", 3), ("n", 0), ("top_p", "x"), ("stop", 7), ("max_tokens", 0), ("seed", 0.5)],
)
@whole("what is wrong is told before the form of the reply matters, as other checks show")
def test_a_wrong_value_is_400_and_named(talk: Talk, field: str, value: object) -> None:
    error = talk.refused(**{field: value})
    assert isinstance(error, openai.BadRequestError)
    assert (error.param, error.code, error.type) == (field, "invalid_value", "invalid_request_error")
    assert not talk.calls


def test_a_body_over_the_limit_is_413(talk: Talk) -> None:
    response = talk.post({"messages": [{"role": "user", "content": "a" * BYTES}]})
    assert (response.status_code, told(response)["code"]) == (413, "request_too_large")


@once("no strategy is known before the body is read")
def test_a_body_that_does_not_come_is_408_and_the_end_of_its_connection(talk: Talk) -> None:
    def drip() -> Iterator[bytes]:
        yield b'{"model": "small"'
        time.sleep(2 * READ_S)
        yield b"}"

    headers = {"authorization": f"Bearer {talk.key}"}
    response = httpx.post(f"{talk.stage.tally.url}{talk.path}", content=drip(), headers=headers)
    assert (response.status_code, told(response)["code"]) == (408, "request_timeout")
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("status", [400, 404, 422])
def test_an_upstreams_error_keeps_its_status_type_code_param_and_message(talk: Talk, status: int) -> None:
    talk.says(Fault(status, "Too odd.", "odd", "odd_code", param="messages"))
    error = talk.refused()
    assert error.status_code == status
    assert told(error.response) == {"message": "Too odd.", "type": "odd", "param": "messages", "code": "odd_code"}


def test_an_upstreams_rate_limit_keeps_its_retry_after(talk: Talk) -> None:
    talk.says(Fault(429, retry_after=90))
    error = talk.refused()
    assert isinstance(error, openai.RateLimitError)
    assert error.response.headers["retry-after"] == "90"


@pytest.mark.parametrize("status", [401, 403])
def test_an_upstream_that_refuses_the_proxys_key_is_502_and_quotes_nothing(talk: Talk, status: int) -> None:
    talk.says(Fault(status, "Incorrect API key provided: sk-upst***cret.", "invalid_request_error", "invalid_api_key"))
    error = talk.refused()
    assert (error.status_code, error.code) == (502, "upstream_auth")
    assert "sk-" not in error.response.text


def test_an_upstream_that_breaks_for_good_is_its_own_5xx(talk: Talk) -> None:
    talk.says(Fault(501, "Not here.", "server_error", None))
    error = talk.refused()
    assert (error.status_code, told(error.response)["message"]) == (501, "Not here.")


@once("one try in three is enough to see what the last one said")
def test_a_reply_that_is_none_is_502(talk: Talk) -> None:
    talk.says(Malformed())
    assert talk.refused().status_code == 502


def test_an_unknown_strategy_is_400(stage: Stage, *, streamed: bool) -> None:
    body = {"model": "small", "messages": ASK, "stream": streamed}
    in_path = stage.post(body, path="/magic/v1/chat/completions")
    in_header = stage.post(body, headers={"x-tally-strategy": "magic"})
    in_body = stage.post({**body, "tally": {"strategy": "magic"}})
    assert [response.status_code for response in (in_path, in_header, in_body)] == [400] * 3
    assert [told(response)["code"] for response in (in_path, in_header)] == ["unknown_strategy"] * 2
    assert told(in_body)["param"] == "tally.strategy"


def test_an_answer_that_is_less_sure_than_asked_for_is_422_where_it_is_to_be_refused(talk: Talk) -> None:
    talk.says(Reply(["41", "42"]))
    error = talk.refused(extra_body={"tally": {"min_confidence": 1, "low_confidence": "refuse"}})
    if talk.scales:
        assert (error.status_code, error.code) == (422, "low_confidence")
        assert error.response.headers["x-should-retry"] == "false"
    else:
        assert (error.status_code, error.code) == (400, "no_confidence")
