"""The prompts of draws that see earlier ones: in the last user turn, or as the conversation so far."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.conditioning import CRITICISE, GRADE, REFINE, WAIT, conditioned, prompt, said
from proxy.core.batch import Step
from proxy.types import JSON, Choice

ASK: JSON = {"model": "m", "messages": [{"role": "user", "content": "6 x 7?"}], "temperature": 0.7}


def test_the_attempts_follow_the_question_in_order() -> None:
    body = conditioned(ASK, ["It is 41.", "It is 42."])
    assert body is not None
    content = body["messages"][0]["content"]
    assert content.startswith("6 x 7?")
    assert 0 < content.index("Attempt 1:\nIt is 41.") < content.index("Attempt 2:\nIt is 42.")
    assert {key: body[key] for key in ("model", "temperature")} == {"model": "m", "temperature": 0.7}


def test_the_request_itself_is_left_as_it_was() -> None:
    before = {"messages": [{"role": "user", "content": [{"type": "text", "text": "6 x 7?"}]}]}
    conditioned(before, ["41"])
    assert before == {"messages": [{"role": "user", "content": [{"type": "text", "text": "6 x 7?"}]}]}


def test_content_in_parts_gets_one_more_text_part() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    body = conditioned({"messages": [{"role": "user", "content": [image]}]}, ["41"])
    assert body is not None
    first, added = body["messages"][0]["content"]
    assert first == image
    assert added["type"] == "text"
    assert "Attempt 1:\n41" in added["text"]


def test_only_the_last_user_turn_changes() -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user", "content": "two"},
        {"role": "tool", "content": "three"},
    ]
    body = conditioned({"messages": messages}, ["41"])
    assert body is not None
    assert [new == old for new, old in zip(body["messages"], messages, strict=True)] == [True, True, True, False, True]


def test_without_a_user_turn_or_anything_to_show_there_is_no_conditioned_prompt() -> None:
    assert conditioned({"messages": [{"role": "system", "content": "x"}]}, ["41"]) is None
    assert conditioned(ASK, []) is None
    assert conditioned(ASK, ["", " \n"]) is None


@given(st.integers(16_001, 40_000))
def test_a_long_attempt_keeps_its_end(length: int) -> None:
    body = conditioned(ASK, ["x" * length + " Answer: 42"])
    assert body is not None
    content = body["messages"][0]["content"]
    assert "Answer: 42" in content
    assert len(content) < 17_000


FORMED: JSON = {
    **ASK,
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "answer"}}],
    "tool_choice": "required",
    "logprobs": True,
    "stop": ["\n"],
    "guided_choice": ["41", "42"],
    "max_tokens": 500,
}


def turns(step: Step, *shown: str) -> list[tuple[str, str]]:
    """What a step adds to the request's own messages."""
    body = prompt(ASK, step, shown)
    assert body is not None
    assert body["messages"][0] == ASK["messages"][0]
    return [(message["role"], message["content"]) for message in body["messages"][1:]]


def test_an_answer_is_conditioned_on_the_attempts_it_is_shown() -> None:
    assert prompt(ASK, "answer", ["41", "42"]) == conditioned(ASK, ["41", "42"])
    assert prompt(ASK, "answer", []) is None


def test_to_continue_is_to_be_told_to_wait_after_every_turn_of_its_own() -> None:
    assert WAIT.startswith("Wait")
    assert turns("continue", "41") == [("assistant", "41"), ("user", WAIT)]
    assert turns("continue", "41", "42") == [("assistant", "41"), ("user", WAIT), ("assistant", "42"), ("user", WAIT)]


def test_feedback_is_asked_on_its_own_turn_and_refining_follows_it() -> None:
    assert turns("feedback", "41") == [("assistant", "41"), ("user", CRITICISE)]
    review = [("assistant", "41"), ("user", CRITICISE), ("assistant", "41 is odd."), ("user", REFINE)]
    assert turns("refine", "41", "41 is odd.") == review


def test_a_grade_is_asked_on_its_own_turn() -> None:
    assert turns("grade", "42") == [("assistant", "42"), ("user", GRADE)]


def test_to_rethink_is_to_be_shown_the_answer_in_the_question() -> None:
    body = prompt(ASK, "rethink", ["41"])
    assert body is not None
    (message,) = body["messages"]
    assert message["content"].startswith("6 x 7?\n\n")
    assert "<answer>41</answer>" in message["content"]
    bare = prompt({"messages": [{"role": "system", "content": "x"}]}, "rethink", ["{41}"])
    assert bare is not None
    assert [message["role"] for message in bare["messages"]] == ["system", "user"]
    assert "<answer>{41}</answer>" in bare["messages"][1]["content"]


@pytest.mark.parametrize("step", ["feedback", "grade"])
def test_feedback_and_grades_are_prose_within_the_requests_limits(step: Step) -> None:
    body = prompt(FORMED, step, ["42"])
    assert body is not None
    assert body.keys() == {"model", "messages", "temperature", "max_tokens"}


@pytest.mark.parametrize("step", ["answer", "continue", "refine", "rethink"])
def test_an_answer_keeps_the_form_that_the_request_asks_for(step: Step) -> None:
    body = prompt(FORMED, step, ["41", "42"])
    assert body is not None
    assert {**body, "messages": None} == {**FORMED, "messages": None}


@pytest.mark.parametrize("step", ["continue", "feedback", "refine", "grade", "rethink"])
def test_a_turn_is_never_empty_nor_longer_than_a_prompt_bears(step: Step) -> None:
    for text in ("", " \n", "x" * 50_000):
        body = prompt(ASK, step, [text, text])
        assert body is not None
        assert all(0 < len(message["content"].strip()) < 17_000 for message in body["messages"])


def test_what_a_choice_said_has_its_tool_calls_and_not_its_thinking() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}, "odd", {}]
    message = {"content": "<think>hm</think>I will add.", "tool_calls": calls}
    assert said(Choice(0, message, "tool_calls")) == 'I will add.\nadd({"a": 1})'
    assert said(Choice(0, {"content": None, "tool_calls": "none"}, "stop")) == ""
