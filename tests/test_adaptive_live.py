"""The adaptive strategy behind the official client: what a question takes, what stops it, and whose savings it uses."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError
from openai.types.chat import ChatCompletion

from tests.fake_upstream import Call, Fault, Reply
from tests.staged import JSON, Stage, staged, told

KEYS = [f"sk-tenant-{number}-0123456789" for number in range(40)]
PROSE = "It was a bright cold day in April, and the clocks were striking thirteen. " * 6


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tenants = [{"name": f"tenant-{number}", "keys": [key], "strategy": "adaptive"} for number, key in enumerate(KEYS)]
    # without n every draw pays for its prompt, so that waves cost nothing of their own
    model = {"model_info": {"max_n": 1}}
    with staged(tmp_path_factory.mktemp("adaptive"), tenants=tenants, model=model) as made:
        yield made


@pytest.fixture(scope="module")
def keys() -> Iterator[str]:
    return iter(KEYS)


@pytest.fixture
def key(keys: Iterator[str]) -> str:
    """The key of a tenant that has saved nothing yet."""
    return next(keys)


@pytest.fixture
def other(keys: Iterator[str]) -> str:
    """The key of another one."""
    return next(keys)


def said(answer: object) -> str:
    return f"The answer is {answer}."


def differing() -> Callable[[Call], Reply]:
    """Every sample has an answer of its own."""
    numbers = count(100)
    return lambda call: Reply([said(next(numbers)) for _ in range(call.n)])


def asked(stage: Stage, key: str, **wish: Any) -> ChatCompletion:
    return stage.ask("adaptive", key=key, extra_body={"tally": wish})


def test_a_question_on_which_samples_agree_takes_two(stage: Stage, key: str) -> None:
    stage.says(said(42))
    tally = told(asked(stage, key))
    assert (tally["strategy"], tally["answer"]) == ("adaptive", "42")
    assert (tally["samples"], tally["rounds"], tally["reason"]) == (2, 1, "not worth more")
    assert sum(made.n for made in stage.calls) == 2


def test_a_question_on_which_they_differ_takes_what_it_brings(stage: Stage, key: str) -> None:
    stage.says(differing())
    tally = told(asked(stage, key))
    assert tally["samples"] == sum(made.n for made in stage.calls) == 8
    assert 1 < tally["rounds"] <= 6
    assert tally["reason"] in {"share spent", "round cap"}


def test_a_question_that_is_settled_on_the_way_takes_something_between(stage: Stage, key: str) -> None:
    stage.says([said(answer) for answer in (41, 42, 42, 42, 42, 42, 42, 42)])
    tally = told(asked(stage, key))
    assert 2 < tally["samples"] < 8
    assert (tally["answer"], tally["reason"]) == ("42", "not worth more")


@pytest.mark.parametrize("samples", [3, 5, 12])
def test_the_samples_asked_for_are_what_a_question_brings(stage: Stage, key: str, samples: int) -> None:
    stage.says(differing())
    assert told(asked(stage, key, samples=samples))["samples"] == samples


def test_no_question_takes_more_than_its_most_samples(stage: Stage, key: str) -> None:
    stage.says(differing())
    tally = told(asked(stage, key, samples=8, max_samples=5))
    assert (tally["samples"], tally["reason"]) == (5, "sample cap")


def test_few_rounds_open_with_more_draws_and_are_kept(tmp_path: Path) -> None:
    with staged(tmp_path, scaling={"max_rounds": 2}, model={"model_info": {"max_n": 1}}) as stage:
        stage.says(differing())
        found = told(stage.ask("adaptive"))
        assert (found["samples"], found["rounds"], found["reason"]) == (8, 2, "round cap")


def test_a_confident_answer_cancels_the_draws_still_on_their_way(stage: Stage, key: str) -> None:
    slow = f"{'Let me think again. ' * 100}{said(7)}"
    number = count()
    stage.says(lambda _: Reply([said(42) if next(number) < 7 else slow], per_token=0.01))
    tally = told(asked(stage, key, samples=32))
    assert len(stage.calls) == 8
    made = stage.calls[-1]
    assert (tally["answer"], tally["reason"]) == ("42", "confident")
    assert 4 <= tally["samples"] < 8
    stage.upstream.wait(lambda: made.finished is not None)
    assert made.cancelled
    assert made.completion_tokens < 200
    # a cancelled call tells no usage, so what it took is counted here
    assert tally["paid"]["estimated"]


def test_where_a_wave_pays_for_a_long_prompt_a_question_opens_with_a_large_one(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        stage.says(lambda call: Reply([said(number) for number in range(call.n)]))
        message = {"role": "user", "content": "word " * 400}
        for _ in range(2):
            stage.ask("adaptive", messages=[message])
        # what an answer costs beside its prompt is known from the first question on
        assert [made.n for made in stage.calls[:2]] == [2, 7]


def test_savings_are_used_by_a_later_question_of_the_same_tenant_and_by_none_of_another(
    stage: Stage, key: str, other: str
) -> None:
    stage.says(said(42))
    for _ in range(3):
        assert told(asked(stage, key))["samples"] < 8
    stage.says(differing())
    assert told(asked(stage, key))["samples"] > 8
    assert told(asked(stage, other))["samples"] == 8


def test_savings_are_not_used_under_other_parameters(stage: Stage, key: str) -> None:
    stage.says(said(42))
    for _ in range(3):
        asked(stage, key, samples=8)
    stage.says(differing())
    assert told(asked(stage, key, samples=7))["samples"] == 7


def test_a_question_whose_samples_are_lost_leaves_what_it_brought(stage: Stage, key: str) -> None:
    stage.says(Fault(501))
    with pytest.raises(APIStatusError):
        asked(stage, key, samples=4)
    stage.says(differing())
    assert 4 < told(asked(stage, key, samples=4))["samples"] <= 4 + 4


@pytest.mark.parametrize("script", [lambda: said(42), differing, lambda: [said(41), said(42), said(42)]])
def test_usage_and_ledger_are_what_the_upstream_served(stage: Stage, key: str, script: Callable[[], Any]) -> None:
    stage.says(script())
    reply = asked(stage, key)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == stage.completion_tokens
    assert reply.usage.prompt_tokens == stage.calls[0].prompt_tokens
    tally = told(reply)
    assert tally["paid"] == {
        "prompt_tokens": stage.prompt_tokens,
        "completion_tokens": stage.completion_tokens,
        "estimated": False,
    }
    assert tally["cost_usd"] == pytest.approx(stage.cost_nano / 1e9)
    name = f"tenant-{KEYS.index(key)}"
    stage.upstream.wait(lambda: stage.tally.balance(name).reserved.nano == 0)
    balance = stage.tally.balance(name)
    assert balance.ok
    assert balance.spent.nano == balance.ledger.nano == stage.cost_nano


def test_without_a_strategy_named_one_draw_shows_first_whether_there_is_anything_to_vote_on(
    stage: Stage, key: str
) -> None:
    stage.says(PROSE)
    raw = stage.raw(None, key=key, extra_body={"tally": {}})
    assert raw.headers["x-tally-strategy"] == "adaptive"
    tally = told(raw.parse())
    assert (tally["samples"], tally["reason"]) == (1, "prose")
    stage.says(said(42))
    tally = told(stage.ask(None, key=key))
    assert (tally["samples"], tally["rounds"]) == (2, 2)
    assert [made.n for made in stage.calls] == [1, 1]


def test_questions_side_by_side_stop_each_by_itself(stage: Stage, key: str) -> None:
    hard = differing()
    stage.says(lambda call: hard(call) if "hard" in call.question else said(42))

    def ask(question: str) -> JSON:
        messages = [{"role": "user", "content": question}]
        return told(stage.ask("adaptive", key=key, messages=messages, extra_body={"tally": {}}))

    with ThreadPoolExecutor(4) as threads:
        doubtful, *easy = threads.map(ask, ["hard", "easy 1", "easy 2", "easy 3"])
    assert [tally["samples"] for tally in easy] == [2, 2, 2]
    assert {tally["reason"] for tally in easy} == {"not worth more"}
    # beside what it brings it has what the others leave
    assert doubtful["samples"] >= 8
    assert sum(made.n for made in stage.calls) == 6 + doubtful["samples"]
