"""Streams: what comes first, what comes last, and what never comes."""

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.conformance.talk import Talk, events, payloads, scaled, streamed, unscaled
from tests.fake_upstream import Drop, Fault, Reply, count_prompt
from tests.served import KEY
from tests.staged import ASK

ANSWER = "So the answer is 42."

pytestmark = streamed("these are about streams")


def pieces(talk: Talk, **more: Any) -> list[dict[str, Any]]:
    """The choices of all chunks, in order."""
    return [piece for chunk in talk.hear(**more).chunks for piece in chunk["choices"]]


def test_the_role_is_in_the_first_delta_and_in_no_other(talk: Talk) -> None:
    talk.says(ANSWER)
    first, *others = pieces(talk)
    assert first["delta"]["role"] == "assistant"
    assert all("role" not in piece["delta"] for piece in others)


def test_there_is_one_finish_and_it_is_the_last_of_its_choice(talk: Talk) -> None:
    talk.says(ANSWER)
    *others, last = pieces(talk)
    assert (last["finish_reason"], last["delta"].get("content")) == ("stop", None)
    assert all(piece["finish_reason"] is None for piece in others)


def test_every_choice_of_n_has_one_role_first_and_one_finish_last(talk: Talk) -> None:
    talk.says(ANSWER)
    found = pieces(talk, n=3)
    for index in range(3):
        own = [piece for piece in found if piece["index"] == index]
        assert [("role" in piece["delta"]) for piece in own] == [True, *[False] * (len(own) - 1)]
        assert [piece["finish_reason"] for piece in own] == [*[None] * (len(own) - 1), "stop"]


def test_no_chunk_tells_usage_or_is_without_choices_where_nobody_asked(talk: Talk) -> None:
    talk.says(ANSWER)
    for options in ({}, {"stream_options": {"include_usage": False}}, {"stream_options": None}):
        found = talk.hear(**options).chunks
        assert all(chunk["choices"] and not chunk.get("usage") for chunk in found)


def test_usage_comes_last_in_a_chunk_without_choices_where_it_is_asked_for(talk: Talk) -> None:
    talk.says(ANSWER)
    *others, last = talk.hear(stream_options={"include_usage": True}).chunks
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == count_prompt(ASK)
    assert all(chunk["choices"] and chunk["usage"] is None for chunk in others)


def test_the_upstream_is_asked_for_usage_whether_or_not_the_client_wants_it(talk: Talk) -> None:
    talk.says(ANSWER)
    talk.hear()
    assert all(call.body["stream_options"] == {"include_usage": True} for call in talk.calls if call.stream)


def test_done_comes_once_and_last(talk: Talk) -> None:
    talk.says(ANSWER)
    text = talk.post().text
    assert text.endswith("data: [DONE]\n\n")
    assert events(text).count("[DONE]") == 1


def test_every_line_is_data_a_comment_or_empty(talk: Talk) -> None:
    talk.says(ANSWER)
    text = talk.post({"tally": {"progress": True}}).text
    assert all(line.startswith(("data: ", ": ")) or not line for line in text.split("\n"))
    assert "\r" not in text


def test_the_socket_is_closed_right_after_done_where_the_client_keeps_no_connection(talk: Talk) -> None:
    talk.says(ANSWER)
    with httpx.Client() as client:
        body = client.build_request("POST", talk.stage.tally.url, json=talk.body({})).content
    url = httpx.URL(talk.stage.tally.url)
    head = (
        f"POST {talk.path} HTTP/1.1\r\nhost: tally\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port or 0), timeout=5) as wire:
        wire.sendall(head.encode() + body)
        *_, last = _received(wire)
    assert last.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def _received(wire: socket.socket) -> Iterator[bytes]:
    data = b""
    while part := wire.recv(65536):
        data += part
        yield data


def test_the_headers_are_those_of_an_event_stream_of_unknown_length(talk: Talk) -> None:
    talk.says(ANSWER)
    headers = talk.post().headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-tally-strategy"] == talk.strategy
    assert headers["x-request-id"].startswith("req_")
    assert "content-length" not in headers


@unscaled("a scaled answer is known before its first word is sent")
def test_the_headers_tell_nothing_that_is_not_known_at_the_start(talk: Talk) -> None:
    talk.says(ANSWER)
    headers = talk.post({"tally": {}}).headers
    assert not {"x-tally-samples", "x-tally-cost-usd", "x-tally-confidence"} & set(headers)


@scaled("off has no votes")
def test_a_stream_that_opens_before_the_vote_ends_has_the_early_headers_alone(talk: Talk) -> None:
    talk.says(ANSWER)
    headers = talk.post({"tally": {"progress": True}}).headers
    assert not {"x-tally-samples", "x-tally-cost-usd", "x-tally-confidence"} & set(headers)


def test_the_tally_object_is_in_the_last_chunk_alone(talk: Talk) -> None:
    talk.says(ANSWER)
    for usage in (False, True):
        *others, last = talk.hear(extra_body={"tally": {}}, stream_options={"include_usage": usage}).chunks
        assert last["tally"]["strategy"] == talk.strategy
        assert all("tally" not in chunk for chunk in others)


@scaled("off has no votes to tell of")
def test_progress_is_told_in_comments_that_the_official_client_passes_over(talk: Talk) -> None:
    talk.says(ANSWER)
    assert ': tally {"votes":[' in talk.post({"tally": {"progress": True}}).text
    assert talk.hear(extra_body={"tally": {"progress": True}}).content == ANSWER


def test_an_error_before_the_first_word_keeps_its_status_and_is_no_stream(talk: Talk) -> None:
    talk.says(Fault(422, "Too odd.", "odd", "odd_code"))
    response = talk.post()
    assert (response.status_code, response.headers["content-type"]) == (422, "application/json")


@pytest.mark.parametrize("step", [Fault(500, "Broke.", after_chunks=3), Drop(after_chunks=3)], ids=["error", "drop"])
@unscaled("a lost sample costs a vote nothing but its ballot, and is drawn anew")
def test_an_error_after_the_first_word_is_an_event_with_an_object_and_there_is_no_done(talk: Talk, step: Fault) -> None:
    talk.says(step)
    text = talk.post().text
    *_, last = payloads(text)
    assert last["error"].keys() == {"message", "type", "param", "code"}
    assert "[DONE]" not in text
    with pytest.raises(openai.APIError):
        talk.hear()


@scaled("off has no samples to tell of before its first word")
def test_an_error_after_the_stream_was_opened_is_an_event_with_an_object(talk: Talk) -> None:
    talk.says(Fault(422, "Too odd.", "odd", "odd_code", latency=0.02))
    response = talk.post({"tally": {"progress": True}})
    assert response.status_code == 200
    (told,) = payloads(response.text)
    assert told == {"error": {"message": "Too odd.", "type": "odd", "param": None, "code": "odd_code"}}
    with pytest.raises(openai.APIError, match="Too odd"):
        talk.hear(extra_body={"tally": {"progress": True}})


def test_the_official_clients_own_collector_reads_it(talk: Talk) -> None:
    talk.says(Reply([{"content": ANSWER, "reasoning_content": "six sevens"}]))
    with talk.client.chat.completions.stream(**{k: v for k, v in talk.body({}).items() if k != "stream"}) as stream:
        found = stream.get_final_completion()
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == (ANSWER, "stop")


@unscaled("a vote has its words when it has been counted")
def test_words_come_as_the_upstream_says_them(talk: Talk) -> None:
    talk.says(Reply(["token " * 400], per_token=0.02))
    stream: Any = talk.client.chat.completions.create(**talk.body({}))
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    assert talk.calls[0].finished is None
    stream.close()
    talk.stage.upstream.wait(lambda: talk.calls[0].cancelled)
