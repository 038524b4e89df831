"""Several choices of a scaled request: ranked by the vote, each with its own message, none left out that can be had."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answers import Candidate
from proxy.answers.order import ranked
from proxy.conditioning import CRITICISE, GRADE
from proxy.ledger.reports import verdicts
from proxy.types import STRATEGIES
from proxy.upstream.assemble import Assembler
from tests.fake.script import InOrder
from tests.fake_upstream import Call, Fault, Reply, Turns, count_prompt, tokenize
from tests.served import KEY
from tests.staged import ASK, Stage, staged, told

POOR_KEY = "sk-poor-0123456789"
SCALED = [name for name in STRATEGIES if name != "off"]
PROSE = "It was a day like any other, and yet nobody in the village would ever forget what came of it. " * 12

labels = st.sampled_from(["a", "b", "c", None])
candidates = st.builds(
    Candidate, labels, truncated=st.booleans(), score=st.none() | st.floats(0, 1), length=st.integers(0, 9)
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    poor = {"name": "poor", "keys": [POOR_KEY], "token_budget": 300, "budget_duration": "1d"}
    tenants = [{"name": "acme", "keys": [KEY]}, poor]
    with staged(tmp_path_factory.mktemp("choices"), tenants=tenants) as made:
        yield made


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Stage]:
    """A stage of its own, for a test that teaches it that its upstream takes no `n`."""
    with staged(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def _the_ledger_adds_up(stage: Stage) -> Iterator[None]:
    yield
    stage.upstream.wait(lambda: stage.tally.balance().reserved.nano == 0)
    assert stage.tally.balance().ok


def says(*numbers: object) -> list[str]:
    return [f"The answer is {number}." for number in numbers]


def texts(reply: Any) -> list[str | None]:
    return [choice.message.content for choice in reply.choices]


@given(st.lists(candidates, min_size=1, max_size=12), st.data())
def test_every_sample_has_one_place_and_the_whole_come_before_the_cut(
    samples: list[Candidate], data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(samples) - 1))
    silent = data.draw(st.sets(st.integers(0, len(samples) - 1)).map(lambda places: places - {first}))
    order = ranked(samples, ["a", "b", "c"], first, len(samples), silent=silent)
    assert order[0] == first
    assert sorted(order) == [place for place in range(len(samples)) if place not in silent]
    cut = [samples[place].truncated for place in order[1:]]
    assert cut == sorted(cut)
    whole: Any = [samples[place].label for place in order[1:] if not samples[place].truncated]
    new = [label for label in ("a", "b", "c") if label in whole and label != samples[first].label]
    rest = whole[len(new) :]
    assert whole[: len(new)] == new
    assert rest == sorted(rest, key=["a", "b", "c", None].index)
    for count in range(1, len(order) + 1):
        assert ranked(samples, ["a", "b", "c"], first, count, silent=silent) == order[:count]


def test_the_winner_comes_first_then_each_other_answer_then_more_of_the_leading_ones(stage: Stage) -> None:
    stage.says(says(1, 2, 2, 3, 2, 1))
    reply = stage.ask(n=5, extra_body={"tally": {"samples": 6}})
    assert texts(reply) == says(2, 1, 3, 2, 2)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3, 4]
    tally = told(reply)
    assert tally["winners"][0] == tally["winner"]
    contents = says(1, 2, 2, 3, 2, 1)
    assert [contents[place] for place in tally["winners"]] == texts(reply)
    assert len(set(tally["winners"])) == 5
    assert (tally["samples"], tally["reason"]) == (6, None)


def test_one_choice_has_no_list_of_winners(stage: Stage) -> None:
    stage.says("The answer is 42.")
    assert "winners" not in told(stage.ask())


@pytest.mark.parametrize("strategy", SCALED)
def test_every_strategy_gives_as_many_choices_as_are_asked_for(stage: Stage, strategy: str) -> None:
    stage.says(InOrder(says(42), Reply(logprobs=[-0.01])))
    reply = stage.ask(strategy, n=11, extra_body={"tally": {"samples": 2}})
    assert [choice.index for choice in reply.choices] == list(range(11))
    assert set(texts(reply)) == set(says(42))
    assert told(reply)["strategy"] == strategy
    assert told(reply)["samples"] >= 11
    assert len(set(told(reply)["winners"])) == 11


def test_as_many_samples_are_drawn_as_choices_are_asked_for_and_no_more_for_that(stage: Stage) -> None:
    stage.says("The answer is 42.")
    assert told(stage.ask(n=10))["samples"] == 10
    assert told(stage.ask(n=2))["samples"] == 8
    assert told(stage.ask(n=40))["samples"] == 40


def test_more_choices_than_a_cap_are_refused(stage: Stage) -> None:
    stage.says("42")
    with pytest.raises(openai.BadRequestError, match="at most 3") as caught:
        stage.ask(n=4, extra_body={"tally": {"max_samples": 3}})
    assert caught.value.param == "n"
    assert not stage.calls
    assert len(stage.ask(n=3, extra_body={"tally": {"max_samples": 3}}).choices) == 3


def test_prose_has_one_sample_a_choice_and_says_that_it_is_prose(stage: Stage) -> None:
    stage.says(PROSE)
    reply = stage.ask(None, n=3)
    assert texts(reply) == [PROSE] * 3
    assert (told(reply)["samples"], told(reply)["reason"], told(reply)["confidence"]) == (3, "prose", None)
    assert sum(made.n for made in stage.calls) == 3


def test_a_cut_sample_is_returned_only_when_no_other_is_left(stage: Stage) -> None:
    stage.says(Reply(says(1, 1, 2, 3), finish_reason=["length", "length", "stop", "stop"]))
    reply = stage.ask(n=3, extra_body={"tally": {"samples": 4}})
    assert [choice.finish_reason for choice in reply.choices] == ["stop", "stop", "length"]
    assert texts(reply) == says(2, 3, 1)


def test_each_choice_has_its_own_log_probabilities_and_tools(stage: Stage) -> None:
    tool = {"type": "function", "function": {"name": "capital", "parameters": {"type": "object"}}}
    called = {"content": None, "tool_calls": [{"function": {"name": "capital", "arguments": '{"of":"Chile"}'}}]}
    stage.says(Reply([called, "It is Lima.", called]))
    reply = stage.ask(n=2, logprobs=True, tools=[tool], extra_body={"tally": {"samples": 3}})
    first, second = reply.choices
    assert first.message.tool_calls is not None
    assert (first.finish_reason, second.finish_reason) == ("tool_calls", "stop")
    assert second.message.content == "It is Lima."
    assert second.message.tool_calls is None
    assert second.logprobs is not None
    assert second.logprobs.content is not None
    assert "".join(entry.token for entry in second.logprobs.content) == "It is Lima."


def test_usage_has_the_prompt_once_and_every_sample(stage: Stage) -> None:
    stage.says(says(1, 2, 2, 3))
    usage = stage.ask(n=2, extra_body={"tally": {"samples": 4}}).usage
    assert usage is not None
    assert usage.prompt_tokens == count_prompt(ASK)
    assert usage.completion_tokens == sum(len(tokenize(text)) for text in says(1, 2, 2, 3))


def test_what_grades_or_criticises_is_no_choice(stage: Stage) -> None:
    def speaks(made: Call) -> str:
        return "Score: 70" if made.question.endswith((CRITICISE, GRADE)) else "The answer is 42."

    stage.says(speaks)
    reply = stage.ask("sp3", n=20)
    assert {speaks(made) for made in stage.calls} == {"Score: 70", *says(42)}
    assert texts(reply) == says(42) * 20


def test_a_stream_has_a_role_a_message_and_a_finish_for_each_choice(stage: Stage) -> None:
    stage.says(says(1, 2, 2, 3))
    *data, done = stage.events(n=3, tally={"samples": 4}, stream_options={"include_usage": True})
    assert done == "[DONE]"
    chunks = [json.loads(item) for item in data]
    assembler = Assembler()
    finished = [choice for chunk in chunks for choice in assembler.feed(chunk)]
    assert [(choice.index, choice.content, choice.finish_reason) for choice in finished] == [
        (index, text, "stop") for index, text in enumerate(says(2, 1, 3))
    ]
    told_of: dict[int, list[str]] = {}
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        told_of.setdefault(choice["index"], []).append(choice["delta"].get("role", ""))
    assert told_of == {index: ["assistant", "", ""] for index in range(3)}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["tally"]["winners"][0] == chunks[-1]["tally"]["winner"]


def test_the_official_client_reads_a_stream_of_several_choices(stage: Stage) -> None:
    stage.says(says(1, 2, 2, 3))
    stream = stage.client("self_consistency").chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": "?"}],
        stream=True,
        n=2,
        extra_body={"tally": {"samples": 4}},
    )
    joined = {0: "", 1: ""}
    for chunk in stream:
        for choice in chunk.choices:
            joined[choice.index] += choice.delta.content or ""
    assert list(joined.values()) == says(2, 1)


def test_off_passes_several_choices_through_in_their_own_order(stage: Stage) -> None:
    stage.says(says(1, 2, 2))
    reply = stage.ask("off", n=3, extra_body={"tally": {}})
    assert texts(reply) == says(1, 2, 2)
    (made,) = stage.calls
    assert made.n == 3
    assert "winners" not in told(reply)
    assert told(reply)["reason"] is None


def test_what_is_not_scaled_for_another_reason_is_passed_through_with_all_its_choices(stage: Stage) -> None:
    stage.says(says(1, 2))
    reply = stage.ask(n=2, temperature=0)
    assert (told(reply)["strategy"], told(reply)["reason"]) == ("off", "temperature 0")
    assert texts(reply) == says(1, 2)


def test_a_budget_too_small_for_all_choices_gives_those_it_holds_and_says_so(stage: Stage) -> None:
    stage.says("The answer is 42.")
    reply = stage.ask(key=POOR_KEY, n=12, max_tokens=50)
    assert 1 <= len(reply.choices) < 12
    assert told(reply)["reason"] == "budget"
    assert len(told(reply)["winners"]) == len(reply.choices) == told(reply)["samples"]
    assert stage.tally.balance("poor").ok


def test_lost_samples_are_made_up_for(fresh: Stage) -> None:
    fresh.says(Turns(Reply(says(42), n="ignore"), Fault(404, "Gone."), "The answer is 42."))
    reply = fresh.ask(n=4, extra_body={"tally": {"samples": 4}})
    assert len(reply.choices) == told(reply)["samples"] == 4


@pytest.mark.parametrize("wanted", [1, 4])
def test_choices_and_votes_that_cannot_be_had_are_left_out_and_the_reply_says_so(fresh: Stage, wanted: int) -> None:
    fresh.says(Turns(Reply(says(42), n="ignore"), Fault(404, "Gone.")))
    reply = fresh.ask(n=wanted, extra_body={"tally": {"samples": 4}})
    assert len(reply.choices) == told(reply)["samples"] == 1
    assert told(reply)["reason"] == "failed"


def test_a_content_filter_takes_no_choice_away(stage: Stage) -> None:
    stage.says(Reply(["", *says(42, 42)], finish_reason=["content_filter", "stop", "stop"]))
    reply = stage.ask(n=3, extra_body={"tally": {"samples": 3}})
    assert sorted(choice.finish_reason for choice in reply.choices) == ["content_filter", "stop", "stop"]


@pytest.mark.anyio
async def test_no_choice_is_drawn_for_a_client_that_went(stage: Stage) -> None:
    def slow(made: Any) -> Reply:
        return Reply(says(42), latency=0.0 if made.index == first else 30.0)

    first = len(stage.upstream.calls)
    stage.says(slow)
    body = {"model": "small", "messages": ASK, "n": 6, "tally": {"strategy": "adaptive", "samples": 2}}
    async with httpx.AsyncClient(base_url=stage.tally.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        with anyio.move_on_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: client.post("/v1/chat/completions", json=body))
                await stage.upstream.until(lambda: len(stage.calls) >= 2)
                tasks.cancel_scope.cancel()
    await stage.upstream.until(lambda: _last_status(stage) == 499)
    assert len(stage.calls) == 2


def _last_status(stage: Stage) -> int:
    with stage.tally.books() as books:
        return verdicts(books, limit=1)[0].status
