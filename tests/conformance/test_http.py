"""The wire below the API: connections, headers, methods, paths and models."""

import http.client
import json

import httpx
import openai
import pytest

from tests.conformance.talk import Talk, unscaled, whole
from tests.fake_upstream import Reply, count_prompt
from tests.served import KEY
from tests.staged import ASK, Stage

ANSWER = "The answer is 42."


def test_a_connection_is_kept_and_used_again(talk: Talk) -> None:
    talk.says(ANSWER)
    url = httpx.URL(talk.stage.tally.url)
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    connection = http.client.HTTPConnection(url.host, url.port, timeout=10)
    try:
        for _ in range(3):
            connection.request("POST", talk.path, json.dumps(talk.body({})), headers)
            reply = connection.getresponse()
            assert (reply.status, reply.version) == (200, 11)
            assert "42" in reply.read().decode()
            # a connection that is not kept would have lost its socket here
            assert connection.sock is not None
    finally:
        connection.close()


def test_a_client_that_takes_compressed_replies_can_read_the_reply(talk: Talk) -> None:
    talk.says(ANSWER)
    assert talk.read(talk.post(Accept_Encoding="gzip, deflate, br, zstd")).content == ANSWER


def test_headers_of_the_official_client_are_taken_and_stay_here(talk: Talk) -> None:
    talk.says(ANSWER)
    client = talk.client.with_options(
        default_headers={"x-mine": "1"}, default_query={"api-version": "1"}, max_retries=0
    ).copy(organization="org-1", project="proj-1")
    body = {**talk.body({}), "extra_headers": {"X-Stainless-Retry-Count": "0", "x-client-request-id": "abc"}}
    with client.chat.completions.with_streaming_response.create(**body) as reply:
        assert reply.status_code == 200
        assert "42" in reply.text() if talk.streamed else ANSWER in reply.text()
    sent = talk.calls[0].headers
    assert not [name for name in sent if name.startswith(("x-stainless", "openai-", "x-mine", "x-client"))]
    assert "api-version" not in talk.calls[0].path


def test_the_clients_key_stays_here_and_the_operators_goes_on(talk: Talk) -> None:
    talk.says(ANSWER)
    talk.hear()
    assert all(call.headers["authorization"] == "Bearer sk-upstream-secret" for call in talk.calls)


def test_a_bearer_is_one_in_any_case_and_a_body_is_json_whatever_its_type_says(talk: Talk) -> None:
    talk.says(ANSWER)
    reply = talk.post(authorization=f"bearer {KEY}", content_type="text/plain")
    assert talk.read(reply).content == ANSWER


@unscaled("a vote has an answer of its own")
@whole("a stream's bytes stand below")
def test_off_passes_the_upstreams_bytes_and_its_id_on(talk: Talk) -> None:
    talk.says(Reply([ANSWER], cached_tokens=3))
    reply = talk.post()
    # the upstream writes spaces after colons, which tally would not
    assert reply.text == json.dumps(reply.json())
    assert reply.json()["id"] == f"chatcmpl-fake-{talk.calls[0].index}"
    assert reply.json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}


@unscaled("a vote has an answer of its own")
def test_off_passes_the_bytes_of_an_upstreams_stream_on_less_the_usage_that_nobody_asked_for(
    stage: Stage, strategy: str
) -> None:
    stage.says(ANSWER)
    body = {"model": "small", "messages": ASK, "stream": True, "stream_options": {"include_usage": True}}
    text = stage.post(body, path=f"/{strategy}/v1/chat/completions").text
    own = httpx.post(f"{stage.upstream.base_url}/chat/completions", json=body).text
    first, second = stage.calls
    assert text.replace(f"fake-{first.index}", "") == own.replace(f"fake-{second.index}", "")
    assert f'"prompt_tokens": {count_prompt(ASK)}' in text
    unasked = stage.post({**body, "stream_options": {}}, path=f"/{strategy}/v1/chat/completions").text
    assert "usage" not in unasked


@unscaled("a vote has headers and a field of its own")
@whole("a stream tells no cost before its end")
def test_off_tells_its_cost_in_a_header(talk: Talk) -> None:
    talk.says(ANSWER)
    assert float(talk.post().headers["x-tally-cost-usd"]) == pytest.approx(talk.cost_nano / 1e9)


@pytest.mark.parametrize(
    "path", ["/v1/assistants", "/v1/chat", "/v2/chat/completions", "/nowhere", "/v1/chat/completions/"]
)
def test_an_unknown_path_is_404_in_json(stage: Stage, path: str) -> None:
    for method in ("GET", "POST"):
        response = stage.send(method, path)
        assert response.status_code == 404
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}
        assert response.headers["x-request-id"].startswith("req_")


def test_a_wrong_method_is_405_in_json(stage: Stage, strategy: str) -> None:
    response = stage.send("GET", f"/{strategy}/v1/chat/completions")
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_models_are_listed_under_every_strategy(stage: Stage, strategy: str) -> None:
    models = list(stage.client(strategy).models.list())
    assert [model.id for model in models] == ["small", "vendor/some/model"]
    assert {model.object for model in models} == {"model"}
    assert all(type(model.created) is int and model.owned_by for model in models)


@pytest.mark.parametrize("name", ["small", "vendor/some/model"])
def test_a_model_is_told_of_by_its_name_also_with_slashes(stage: Stage, strategy: str, name: str) -> None:
    assert stage.client(strategy).models.retrieve(name).id == name
    assert stage.get(f"/{strategy}/v1/models/{name}").json()["id"] == name


def test_an_unknown_model_cannot_be_told_of(stage: Stage, strategy: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        stage.client(strategy).models.retrieve("no/such")
    assert caught.value.code == "model_not_found"
