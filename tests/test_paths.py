"""What is not served is told in OpenAI's words; what is served says so to whoever asks."""

from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.staged import Stage, staged

ODD = ["org/team/model-1", "a b", "100%", "what?", "c#", "größe", "x+y", "a:b@c", "model/", "%2F", "a//b", "../small"]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND"]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("paths"), aliases=ODD) as made:
        yield made


def envelope(response: httpx.Response, status: int) -> dict[str, object]:
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return dict(error)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "HEAD"])
@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/audio/speech", "/", "/off/v1", "/v1/chat", "/a/b/c/d"])
def test_an_unknown_path_is_a_404_for_every_method(stage: Stage, method: str, path: str) -> None:
    error = envelope(stage.send(method, path), 404)
    assert (error["type"], error["code"]) == ("invalid_request_error", "not_found")
    assert path in str(error["message"])


@pytest.mark.parametrize("key", [None, "sk-nope"])
def test_an_unknown_path_is_a_404_whoever_asks(stage: Stage, key: str | None) -> None:
    envelope(stage.send("POST", "/v1/images/generations", key), 404)


@pytest.mark.parametrize(
    "path", ["/%00", "/%ff%fe", "/%0d%0aset-cookie:%20x", "/v1/" + "x" * 5000, "//v1/models", "/?a=b"]
)
def test_odd_paths_are_a_404_that_repeats_little(stage: Stage, path: str) -> None:
    response = stage.send("GET", path)
    assert len(str(envelope(response, 404)["message"])) < 300
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings", "moderations", "rerank", "feedback"])
def test_a_strategy_that_nobody_knows_is_told_wherever_it_stands_in_a_path(stage: Stage, path: str) -> None:
    body = {"tally": {"strategy": "off"}}
    error = envelope(stage.post(body, path=f"/guess/v1/{path}"), 400)
    assert (error["code"], error["param"]) == ("unknown_strategy", "path")


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings", "moderations", "rerank", "feedback"])
@pytest.mark.parametrize("prefix", ["", "/off"])
def test_a_wrong_method_is_a_405_that_names_the_right_one(stage: Stage, prefix: str, path: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        response = stage.send(method, f"{prefix}/v1/{path}")
        assert envelope(response, 405)["code"] == "method_not_allowed"
        assert response.headers["allow"] == "POST"


def test_head_is_get_without_its_body_and_405_where_there_is_no_get(stage: Stage) -> None:
    response = stage.send("HEAD", "/v1/models")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "application/json"
    for path, status in (("/v1/chat/completions", 405), ("/v1/nothing", 404)):
        response = stage.send("HEAD", path)
        assert (response.status_code, response.content) == (status, b"")
        assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "allowed"), [("/v1/chat/completions", "POST"), ("/v1/embeddings", "POST"), ("/v1/models", "GET, HEAD")]
)
def test_options_tells_the_methods_and_lets_no_other_origin_in(stage: Stage, path: str, allowed: str) -> None:
    asked = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
    response = stage.send("OPTIONS", path, **asked)
    assert (response.status_code, response.content, response.headers["allow"]) == (204, b"", allowed)
    served = stage.send("GET", "/v1/models", **asked)
    for each in (response, served):
        assert not [name for name in each.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("name", [name for name in ODD if not name.startswith("..")])
def test_a_model_of_any_name_is_found_percent_encoded(stage: Stage, name: str) -> None:
    assert stage.client().models.retrieve(name).id == name
    for path in (f"/v1/models/{quote(name, safe='')}", f"/dynscaling/v1/models/{quote(name, safe='')}"):
        assert stage.get(path).json()["id"] == name


def test_slashes_of_a_models_name_need_no_encoding(stage: Stage) -> None:
    assert stage.get("/v1/models/org/team/model-1").json()["id"] == "org/team/model-1"
    # httpx and most clients take dots out of a path; encoded they stay
    assert stage.get("/v1/models/%2E%2E%2Fsmall").json().keys() == {"id", "object", "created", "owned_by"}


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/models/nope", "/v1/models/SMALL", "/v1/models/small/"])
def test_a_model_that_is_not_there_is_a_404_with_its_own_code(stage: Stage, path: str) -> None:
    error = envelope(stage.get(path), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


segments = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/"), max_size=4), max_size=4)


@given(st.sampled_from(METHODS), segments)
def test_any_path_and_method_has_an_answer_that_is_no_fault(stage: Stage, method: str, parts: list[str]) -> None:
    path = "/v1/" + "/".join(quote(part, safe="") for part in parts)
    response = stage.send(method, path)
    assert response.status_code in {200, 204, 400, 404, 405}
    assert response.headers["x-request-id"]
