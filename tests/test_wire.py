"""What a request must look like on the wire, and how an error looks."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.wire import check_chat, envelope, error_response, parse_body, scrubbed, wish
from proxy.errors import BudgetExceeded, NotFound, RateLimited, RequestInvalid, TallyError, UpstreamError
from proxy.types import AnswerSpec

GOOD = {"model": "small", "messages": [{"role": "user", "content": "x"}]}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        "model",
        "messages",
        "stream",
        "stream_options",
        "n",
        "temperature",
        "max_tokens",
        "seed",
        "stop",
        "tools",
        "tally",
    ]
)


@given(st.binary() | st.text().map(str.encode) | json_values.map(lambda value: repr(value).encode()))
def test_any_bytes_are_an_object_or_a_clear_refusal(raw: bytes) -> None:
    try:
        assert isinstance(parse_body(raw), dict)
    except RequestInvalid as error:
        assert error.message


@given(fields, json_values)
def test_any_value_of_a_field_is_taken_or_named(field: str, value: object) -> None:
    try:
        check_chat({**GOOD, field: value}, 10)
    except RequestInvalid as error:
        assert error.param is not None
        assert error.param.startswith(field)


@given(json_values)
def test_what_is_read_can_be_written_to_the_upstream(value: object) -> None:
    try:
        body = parse_body(orjson.dumps({**GOOD, "x": value}))
    except (RequestInvalid, orjson.JSONEncodeError):
        return
    assert orjson.loads(orjson.dumps(body)) == body


@pytest.mark.parametrize("depth", [100, 126])
def test_a_deep_body_is_read_up_to_its_limit(depth: int) -> None:
    raw = b'{"a":' * depth + b"1" + b"}" * depth
    assert orjson.dumps(parse_body(raw)) == raw


def test_the_wish_is_the_bodys_then_the_headers_then_the_paths() -> None:
    body = check_chat({**GOOD, "tally": {"strategy": "off", "samples": 3, "answer": {"kind": "math"}}}, 10)
    found = wish(body, "dynscaling", "optscale")
    assert (found.strategy, found.samples, found.answer, found.show) == ("off", 3, AnswerSpec("math"), True)
    plain = check_chat(dict(GOOD), 10)
    assert wish(plain, "dynscaling", "optscale").strategy == "dynscaling"
    assert wish(plain, None, "optscale").strategy == "optscale"
    assert wish(plain, None, None).strategy is None
    assert not wish(plain, None, None).show


def test_a_cost_cap_keeps_its_digits() -> None:
    cap = wish(check_chat({**GOOD, "tally": {"max_cost_usd": 0.05}}, 10), None, None).max_cost_usd
    assert str(cap) == "0.05"


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (NotFound("x"), 404, {}),
        (BudgetExceeded("x"), 402, {"x-should-retry": "false"}),
        (RateLimited("x", retry_after=0.25), 429, {"retry-after": "1"}),
        (RateLimited("x", retry_after=61.0), 429, {"retry-after": "61"}),
        (UpstreamError("x", status=429, retry_after=1.5), 429, {"retry-after": "2"}),
        (UpstreamError("x", status=503), 503, {}),
    ],
)
def test_an_error_has_its_status_and_headers(error: TallyError, status: int, headers: dict[str, str]) -> None:
    response = error_response(error, {"x-request-id": "req_1"})
    assert response.status_code == status
    assert response.headers["x-request-id"] == "req_1"
    found = {name: response.headers[name] for name in ("retry-after", "x-should-retry") if name in response.headers}
    assert found == headers
    assert orjson.loads(bytes(response.body)) == envelope(error)


def test_the_status_of_a_spent_budget_can_be_configured() -> None:
    assert error_response(BudgetExceeded("x"), {}, 429).status_code == 429
    limited = error_response(RateLimited("x", retry_after=1.5, told={"x-ratelimit-limit-requests": "1"}), {})
    assert (limited.headers["retry-after"], limited.headers["x-ratelimit-limit-requests"]) == ("2", "1")
    assert error_response(NotFound("x"), {}, 429).status_code == 404


@pytest.mark.parametrize("status", [401, 403])
def test_a_providers_refusal_of_our_key_is_not_passed_on(status: int) -> None:
    shown = scrubbed(UpstreamError("bad key sk-upstream", status=status, code="invalid_api_key"))
    assert (shown.status, shown.code) == (502, "upstream_auth")
    assert "sk-" not in shown.message
