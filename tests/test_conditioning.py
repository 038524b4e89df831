"""The prompt of a conditioned draw: earlier attempts stand in the last user turn."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.conditioning import conditioned
from proxy.types import JSON

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
