"""What a request says reaches every sample as it was said, whatever tally knows of it."""

from typing import Any

import pytest

from tests.conformance.talk import Talk, scaled, whole
from tests.fake_upstream import Reply
from tests.staged import ASK

ANSWER = "The answer is 42."
TEXT = {"type": "text", "text": "What is six times seven?"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}

once_is_enough = whole("what is asked for does not depend on the form of the reply")


@pytest.mark.parametrize(
    "field",
    [
        {"user": "u-1"},
        {"safety_identifier": "s-1"},
        {"prompt_cache_key": "k-1"},
        {"prompt_cache_retention": "24h"},
        {"service_tier": "flex"},
        {"metadata": {"a": "b"}},
        {"logit_bias": {"42": -100}},
        {"reasoning_effort": "low"},
        {"verbosity": "low"},
        {"top_p": 0.9},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -0.5},
        {"modalities": ["text"]},
        {"store": False},
        {"extra_body": {"x_unknown": {"deep": [1, None, "é", 1.5e300]}}},
        {"extra_body": {"top_k": 5, "min_p": 0.1, "chat_template_kwargs": {"enable_thinking": False}}},
    ],
    ids=lambda field: next(iter(field.get("extra_body", field))),
)
@once_is_enough
def test_a_field_reaches_every_sample_and_scaling_stays(talk: Talk, field: dict[str, Any]) -> None:
    talk.says(ANSWER)
    found = talk.hear(**field)
    sent = field.get("extra_body", field)
    assert found.headers["x-tally-strategy"] == talk.strategy
    assert all(call.body.items() >= sent.items() for call in talk.calls)
    assert sum(call.n for call in talk.calls) > 1 or not talk.scales


@once_is_enough
def test_tallys_own_field_reaches_no_provider(talk: Talk) -> None:
    talk.says(ANSWER)
    talk.hear(extra_body={"tally": {"detail": True}})
    assert not any("tally" in call.body for call in talk.calls)


@once_is_enough
def test_nothing_is_sent_that_the_client_did_not_say_but_what_drawing_takes(talk: Talk) -> None:
    talk.says(ANSWER)
    talk.hear()
    allowed = {"model", "messages", "n", "stream", "stream_options"}
    # scores are made of log-probabilities
    allowed |= {"logprobs"} if talk.strategy == "optscale" else set()
    assert all(call.body.keys() <= allowed for call in talk.calls)


@pytest.mark.parametrize(
    "content",
    [[TEXT], [TEXT, {"type": "text", "text": "Be brief."}], [TEXT, IMAGE], [IMAGE, TEXT], [TEXT, AUDIO], [TEXT, FILE]],
    ids=["text", "texts", "image", "image first", "audio", "file"],
)
def test_parts_reach_every_sample_untouched_and_texts_are_voted_on(talk: Talk, content: list[Any]) -> None:
    talk.outvoted("The answer is 41.", ANSWER)
    found = talk.hear(messages=[{"role": "user", "content": content}])
    assert found.content == (ANSWER if talk.scales else "The answer is 41.")
    assert talk.calls[0].messages == [{"role": "user", "content": content}]
    assert all(call.messages[0]["content"][: len(content)] == content for call in talk.calls)


@pytest.mark.parametrize("role", ["system", "developer"])
@once_is_enough
def test_instructions_keep_their_role_and_their_place(talk: Talk, role: str) -> None:
    messages = [{"role": role, "content": "Be terse."}, *ASK, {"role": "assistant", "content": "Well"}, *ASK]
    talk.says(ANSWER)
    talk.hear(messages=messages)
    assert talk.calls[0].messages == messages
    assert all(call.messages[0] == messages[0] and len(call.messages) == len(messages) for call in talk.calls)


@once_is_enough
def test_unknown_fields_of_messages_and_names_reach_every_sample(talk: Talk) -> None:
    message = {"role": "user", "content": "Six times seven?", "name": "Ann", "cache_control": {"type": "ephemeral"}}
    talk.says(ANSWER)
    talk.hear(messages=[message])
    assert all(call.messages[0].items() >= {key: message[key] for key in ("name", "cache_control")}.items()
               for call in talk.calls)  # fmt: skip


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ({"store": True}, "store"),
        ({"prediction": {"type": "content", "content": "42"}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"extra_body": {"tally": {"samples": 1, "max_samples": 1}}}, "one sample"),
        ({"extra_body": {"tally": {"answer": {"kind": "text"}}}}, "not votable"),
        ({"extra_body": {"tally": {"answer": {"votable": "never"}}}}, "not votable"),
        ({"temperature": 0}, "temperature 0"),
    ],
    ids=["store", "prediction", "web search", "audio", "one sample", "text", "never", "temperature"],
)
@scaled("off is what the client asked for")
def test_what_cannot_be_scaled_is_passed_through_and_says_why(talk: Talk, field: dict[str, Any], reason: str) -> None:
    talk.says(ANSWER)
    found = talk.hear(**field)
    assert (found.headers["x-tally-strategy"], found.headers["x-tally-reason"]) == ("off", reason)
    assert (found.tally["strategy"], found.tally["reason"], found.tally["samples"]) == ("off", reason, 1)
    (call,) = talk.calls
    assert call.body.items() >= {key: value for key, value in field.items() if key != "extra_body"}.items()


def test_an_audio_reply_is_passed_through_whole(talk: Talk) -> None:
    spoken = {"content": None, "audio": {"id": "audio_1", "data": "AAAA", "transcript": "42", "expires_at": 1}}
    talk.says(Reply([spoken]))
    found = talk.hear(modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})
    assert found.message["audio"] == spoken["audio"]
