"""`POST /v1/chat/completions` for the official client."""

from pathlib import Path

import pytest
from openai import OpenAI

from tests.fake_upstream import FakeUpstream, Scripted
from tests.served import KEY, ServedTally, configuration

ASK = [{"role": "user", "content": "What is six times seven?"}]


def test_a_scaled_answer_is_the_majoritys(tmp_path: Path) -> None:
    with FakeUpstream(Scripted({"six": ["The answer is 41.", "The answer is 42.", "Answer: 42"]})) as upstream, ServedTally(configuration(upstream.base_url, tmp_path)) as tally:
        reply = tally.client("self_consistency").chat.completions.create(model="small", messages=ASK)
        assert reply.choices[0].message.content == "The answer is 42."
