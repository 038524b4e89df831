"""The operator's switch: `usage` as what was really paid."""

from collections.abc import Iterator

import pytest

from tests.conformance.talk import SCALED, heard
from tests.fake.script import InOrder
from tests.fake_upstream import Reply, count_prompt
from tests.staged import ASK, Stage, staged


@pytest.fixture(scope="module")
def paying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(
        tmp_path_factory.mktemp("paid"),
        model={"model_info": {"max_n": 1}},
        scaling={"samples": 8, "max_samples": 8, "batch_window_ms": 2},
        general_settings={"usage": "paid"},
    ) as made:
        yield made


@pytest.mark.parametrize("strategy", SCALED)
def test_usage_is_every_token_that_was_paid_for_where_the_operator_wants_it(
    paying: Stage, strategy: str, *, streamed: bool
) -> None:
    paying.says(InOrder(["41", {"content": "42", "reasoning_content": "six sevens"}], Reply(cached_tokens=3)))
    options = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    usage = heard(paying.client(strategy), {"model": "small", "messages": ASK, **options}).head["usage"]
    assert usage["prompt_tokens"] == paying.prompt_tokens
    assert usage["completion_tokens"] == paying.completion_tokens
    assert usage["total_tokens"] == paying.prompt_tokens + paying.completion_tokens
    assert usage["prompt_tokens"] >= len(paying.calls) * count_prompt(ASK) > count_prompt(ASK)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 3 * len(paying.calls)}
    assert usage["completion_tokens_details"]["reasoning_tokens"] > 0


def test_off_passes_its_provider_s_usage_on_which_is_what_was_paid(paying: Stage, *, streamed: bool) -> None:
    paying.says(Reply(["42"], cached_tokens=3))
    options = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    usage = heard(paying.client("off"), {"model": "small", "messages": ASK, **options}).head["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (paying.prompt_tokens, paying.completion_tokens)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 3}
