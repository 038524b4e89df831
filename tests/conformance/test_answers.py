"""What a reply is: the choices, who they are from, their shape, and what was decided."""

import json
from itertools import pairwise
from typing import Any

import pytest

from tests.conformance.talk import Talk, scaled, streamed, whole
from tests.fake_upstream import Reply, count_prompt, tokenize
from tests.staged import ASK, Stage

RIGHT, WRONG = "So the answer is 42.", "So the answer is 41."


def test_the_answer_of_most_samples_is_returned_and_off_returns_its_only_one(talk: Talk) -> None:
    talk.outvoted(WRONG, RIGHT)
    assert talk.hear().content == (RIGHT if talk.scales else WRONG)


def test_n_is_refused_below_one(talk: Talk) -> None:
    assert (talk.refused(n=0).status_code, talk.refused(n=0).param) == (400, "n")


def test_n_choices_come_with_indices_from_nought(talk: Talk) -> None:
    talk.says(["The answer is 42."])
    found = talk.hear(n=3)
    assert [choice["index"] for choice in found.choices] == [0, 1, 2]
    assert all(choice["message"]["content"] == "The answer is 42." for choice in found.choices)
    assert all(choice["finish_reason"] == "stop" for choice in found.choices)


@scaled("off keeps the order of its provider")
def test_n_choices_are_ranked_by_the_vote_the_winner_first(talk: Talk) -> None:
    talk.outvoted(WRONG, RIGHT)
    found = talk.hear(n=3)
    assert [choice["message"]["content"] for choice in found.choices] == [RIGHT, WRONG, RIGHT]


def test_n_of_one_is_one_choice(talk: Talk) -> None:
    talk.says(RIGHT)
    assert len(talk.hear(n=1).choices) == 1


def test_a_message_has_a_role_its_content_and_a_refusal_that_is_null(talk: Talk) -> None:
    talk.says(RIGHT)
    assert talk.hear().message == {"role": "assistant", "content": RIGHT, "refusal": None}


def test_logprobs_are_there_and_null_where_nobody_asked(talk: Talk) -> None:
    talk.says(RIGHT)
    found = talk.hear()
    pieces = [piece for chunk in found.chunks for piece in chunk["choices"]] or found.choices
    assert all("logprobs" in piece and piece["logprobs"] is None for piece in pieces)


def test_a_reply_names_its_kind_and_the_model_as_it_was_asked_for(talk: Talk) -> None:
    talk.says(RIGHT)
    for model in ("small", "vendor/some/model"):
        found = talk.hear(model=model)
        kind = "chat.completion.chunk" if talk.streamed else "chat.completion"
        assert (found.head["object"], found.head["model"]) == (kind, model)
        assert all(chunk["model"] == model for chunk in found.chunks)


@scaled("off passes the upstream's id on")
def test_an_id_is_its_own_and_no_provider_s(talk: Talk) -> None:
    talk.says(RIGHT)
    first, second = talk.hear().head["id"], talk.hear().head["id"]
    assert first != second
    assert all(found.startswith("chatcmpl-") and "fake" not in found for found in (first, second))


@streamed("a whole reply has one id and one time anyhow")
def test_all_chunks_have_one_id_one_time_and_the_system_fingerprint(talk: Talk) -> None:
    talk.says(RIGHT)
    chunks = talk.hear().chunks
    assert len({(chunk["id"], chunk["created"], chunk["system_fingerprint"]) for chunk in chunks}) == 1
    assert type(chunks[0]["created"]) is int


def test_the_system_fingerprint_is_the_provider_s(talk: Talk) -> None:
    talk.says(Reply([RIGHT], system_fingerprint="fp_odd"))
    assert talk.hear().head["system_fingerprint"] == "fp_odd"


def test_a_refusal_is_a_ballot_of_its_own_and_comes_as_one(talk: Talk) -> None:
    talk.outvoted(RIGHT, {"refusal": "I will not."})
    found = talk.hear()
    expected = (None, "I will not.") if talk.scales else (RIGHT, None)
    assert (found.content or None, found.message["refusal"]) == expected


def test_seven_refusals_do_not_lose_to_one_compliance_in_words_of_their_own(talk: Talk) -> None:
    talk.says([{"refusal": f"No, {number} times no."} for number in range(199)])
    assert "times no" in talk.hear().message["refusal"]


def test_reasoning_is_kept_with_its_sample_and_left_out_of_the_vote(talk: Talk) -> None:
    talk.says([{"content": RIGHT, "reasoning_content": f"so I think, {number}"} for number in range(200)])
    found = talk.hear()
    assert found.message["reasoning_content"].startswith("so I think, ")
    assert found.content == RIGHT
    if talk.scales:
        assert [vote["answer"] for vote in found.tally["votes"]] == ["42"]


def test_unknown_fields_of_a_message_come_back_with_it(talk: Talk) -> None:
    talk.says(Reply([{"content": RIGHT, "annotations": [], "x_extra": {"deep": [1, None]}}]))
    message = talk.hear().message
    assert (message["annotations"], message["x_extra"]) == ([], {"deep": [1, None]})


def test_text_comes_back_byte_for_byte(talk: Talk) -> None:
    said = '  \tЖ é 七 🧮 \u2028 \x00 \\u0041 "quoted"\r\n\n**The answer is 42.**  \n'
    talk.says(said)
    assert talk.hear().content == said


def test_a_very_long_message_is_asked_and_answered_whole(talk: Talk) -> None:
    question, said = "Six times seven? " * 20_000, f"{'Well, let me see. ' * 200}The answer is 42."
    talk.says(said)
    assert talk.hear(messages=[{"role": "user", "content": question}]).content == said
    assert all(call.question.startswith(question) for call in talk.calls)


def test_an_empty_answer_is_an_empty_text(talk: Talk) -> None:
    talk.says("")
    found = talk.hear()
    assert (found.content, found.finish) == ("", "stop")


def test_a_content_filter_is_told_and_ends_the_drawing(talk: Talk) -> None:
    talk.says(Reply([""], finish_reason="content_filter"))
    found = talk.hear()
    assert found.finish == "content_filter"
    if talk.scales:
        assert found.tally["reason"] == "content filter"


def test_the_usage_has_the_prompt_once_and_the_completions_of_all_samples(talk: Talk) -> None:
    talk.says(RIGHT)
    usage = talk.hear(**({"stream_options": {"include_usage": True}} if talk.streamed else {})).head["usage"]
    samples = sum(call.n for call in talk.calls)
    assert usage["prompt_tokens"] == count_prompt(ASK)
    assert usage["completion_tokens"] == samples * len(tokenize(RIGHT))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert samples > 1 or not talk.scales


@scaled("off tells of itself only when asked")
def test_the_tally_object_has_every_token_and_the_cost_that_was_really_paid(talk: Talk) -> None:
    talk.says(RIGHT)
    found = talk.hear().tally
    paid = found["paid"]
    assert paid["prompt_tokens"] == talk.stage.prompt_tokens
    assert paid["completion_tokens"] == talk.stage.completion_tokens
    assert found["cost_usd"] == pytest.approx(talk.cost_nano / 1e9)


@scaled("one sample has no votes")
def test_the_tally_object_tells_the_votes_most_first(talk: Talk) -> None:
    talk.outvoted(WRONG, RIGHT)
    found = talk.hear().tally
    assert found["strategy"] == talk.strategy
    assert [vote["answer"] for vote in found["votes"]] == ["42", "41"]
    assert all(more["count"] >= fewer["count"] for more, fewer in pairwise(found["votes"]))
    assert (found["answer"], found["first_answer"], found["abstained"]) == ("42", "41", 0)
    assert found["samples"] == sum(vote["count"] for vote in found["votes"])


@scaled("off draws one sample")
def test_what_has_no_answer_abstains(talk: Talk) -> None:
    talk.outvoted("", RIGHT)
    found = talk.hear()
    assert (found.content, found.tally["abstained"]) == (RIGHT, 1)


def test_equal_answers_in_other_words_are_one(talk: Talk) -> None:
    talk.says(["The answer is 42.", "\\boxed{42}", "**42**", "$42$", "42.0", "= 42", "#### 42", "Answer: 42"])
    found = talk.hear()
    assert "42" in (found.content or "")
    if talk.scales:
        assert len(found.tally["votes"]) == 1


@whole("a stream's headers are sent before there is anything to tell")
def test_the_headers_of_a_whole_reply_tell_what_was_decided(talk: Talk) -> None:
    talk.says(RIGHT)
    headers = talk.hear().headers
    assert headers["x-tally-strategy"] == talk.strategy
    assert int(headers["x-tally-samples"]) == sum(call.n for call in talk.calls)
    assert float(headers["x-tally-cost-usd"]) == pytest.approx(talk.cost_nano / 1e9)
    assert ("x-tally-confidence" in headers) == talk.scales
    assert headers["x-request-id"].startswith("req_")


@whole("one form is enough for a field of the request's own")
def test_off_tells_of_itself_only_when_asked(talk: Talk) -> None:
    talk.says(RIGHT)
    asked = talk.hear(extra_body={"tally": {}})
    assert asked.tally["strategy"] == talk.strategy
    assert ("tally" in talk.hear().head) == talk.scales


def test_a_name_of_a_strategy_in_the_body_is_as_good_as_in_the_path(
    stage: Stage, strategy: str, streamed: bool
) -> None:
    stage.says(RIGHT)
    body: dict[str, Any] = {"model": "small", "messages": ASK, "stream": streamed, "tally": {"strategy": strategy}}
    response = stage.post(body)
    assert response.headers["x-tally-strategy"] == strategy
    assert f'"strategy":"{strategy}"' in response.text


def test_a_null_where_a_field_may_be_left_out_is_as_if_it_were(talk: Talk) -> None:
    fields = (
        "n stream_options temperature top_p max_tokens max_completion_tokens seed stop logprobs tools tool_choice "
        "response_format modalities audio prediction web_search_options store metadata user service_tier logit_bias "
        "reasoning_effort parallel_tool_calls functions function_call top_logprobs verbosity tally"
    )
    talk.outvoted(WRONG, RIGHT)
    found = talk.read(talk.post({**({} if talk.streamed else {"stream": None}), **dict.fromkeys(fields.split())}))
    assert found.content == (RIGHT if talk.scales else WRONG)
    assert found.headers["x-tally-strategy"] == talk.strategy


def test_a_null_in_a_message_is_passed_on(talk: Talk) -> None:
    messages = [{"role": "assistant", "content": None, "refusal": None, "name": None}, *ASK]
    talk.says(RIGHT)
    talk.hear(messages=messages)
    assert talk.calls[0].messages == messages


@whole("what was asked does not depend on the form of the reply")
def test_a_half_character_is_refused_and_never_a_fault(talk: Talk) -> None:
    talk.says(RIGHT)
    half = json.dumps(talk.body({"messages": [{"role": "user", "content": "6 x 7 \ud83e"}]})).encode()
    response = talk.post(half)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")
    assert not talk.calls
