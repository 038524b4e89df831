from typing import Any

import pytest

from proxy.answers import question
from proxy.answers.question import LONGEST

USER = {"role": "user", "content": "What is 6 x 7?"}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([USER], "What is 6 x 7?"),
        ([{"role": "system", "content": "Be exact."}, {"role": "user", "content": "Hi"}, USER], "What is 6 x 7?"),
        ([USER, {"role": "assistant", "content": "41"}, {"role": "tool", "content": "x"}], "What is 6 x 7?"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"text": "b"}]}], "a\nb"),
        ([{"role": "user", "content": None}], ""),
        ([{"role": "system", "content": "Be exact."}], ""),
        ([], ""),
    ],
)
def test_the_question_is_the_text_of_the_last_user_turn(messages: list[Any], text: str) -> None:
    assert question({"messages": messages}) == text


def test_a_long_question_is_its_beginning() -> None:
    text = "".join(chr(97 + place % 26) for place in range(LONGEST + 100))
    assert question({"messages": [{"role": "user", "content": text}]}) == text[:8_000]
