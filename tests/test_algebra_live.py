"""Equal formulas vote together, and a formula that is made to do harm does not hold up an answer."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.types import JSON
from tests.fake_upstream import Call, InOrder, Reply
from tests.staged import Stage, staged, told

HOSTILE = [r"\boxed{9^{9^{9^9}}}", r"\boxed{" + "(" * 400 + "1" + ")" * 400 + "}", r"\boxed{" + "9" * 100_000 + "}"]
ROOT = [
    r"So the length is $\boxed{11\sqrt5+11}$.",
    r"\boxed{11(1+\sqrt5)}",
    r"It is $\boxed{11\sqrt{5} + 11}$.",
    r"\boxed{11 + 11\sqrt{5}}",
    r"The final answer is \boxed{11(\sqrt{5}+1)}.",
]
OTHER = r"\boxed{22\sqrt5}"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("algebra"), scaling={"max_samples": 64}) as made:
        yield made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Replies in one piece: many digits are not streamed four by four."""
    with staged(tmp_path_factory.mktemp("whole"), model={"model_info": {"stream": False}}) as made:
        yield made


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("hasty"), scaling={"deadline_s": 1.5}) as made:
        yield made


def vote(stage: Stage, replies: list[str], **tally: object) -> JSON:
    """What is told of one request whose samples are these."""
    stage.says(InOrder(replies))
    body = {"tally": {"samples": len(replies), **tally}}
    return told(stage.ask("self_consistency", extra_body=body))


@pytest.mark.parametrize("kind", ["math", "auto"])
def test_five_spellings_of_one_formula_beat_three_of_another(stage: Stage, kind: str) -> None:
    found = vote(stage, [OTHER, OTHER, OTHER, *ROOT], answer={"kind": kind})
    assert [each["count"] for each in found["votes"]] == [5, 3]
    assert "11" in found["answer"]


def test_equal_formulas_of_a_stream_of_draws_are_one_answer_to_a_strategy_that_stops_early(stage: Stage) -> None:
    stage.says(lambda call: Reply([ROOT[(stage.calls.index(call) + place) % 5] for place in range(call.n)]))
    found = told(stage.ask("adaptive", extra_body={"tally": {"answer": {"kind": "math"}, "max_samples": 16}}))
    assert len(found["votes"]) == 1
    assert found["samples"] < 16


def test_the_same_samples_in_another_order_give_the_same_counts(stage: Stage) -> None:
    orders = [[OTHER, *ROOT, OTHER], [*ROOT[::-1], OTHER, OTHER], [ROOT[2], OTHER, *ROOT[:2], OTHER, *ROOT[3:]]]
    counts = [[each["count"] for each in vote(stage, order, answer={"kind": "math"})["votes"]] for order in orders]
    assert counts == [[5, 2]] * 3


def test_hostile_formulas_among_good_ones_do_not_hold_up_the_answer(whole: Stage) -> None:
    began = time.monotonic()
    found = vote(whole, [*HOSTILE, *ROOT], answer={"kind": "math"})
    # what a query spends on algebra, and all the rest
    assert time.monotonic() - began < 15
    assert found["votes"][0]["count"] == 5
    assert found["samples"] == 8


def test_others_are_served_while_hostile_formulas_are_compared(stage: Stage) -> None:
    def says(call: Call) -> Reply:
        if "harm" not in call.question:
            return Reply(["The answer is 42."] * call.n)
        return Reply([f"\\boxed{{{base}^{{9^{{9^9}}}} - 1}}" for base in range(3, 3 + call.n)])

    stage.says(says)

    def ask(text: str) -> tuple[float, JSON]:
        began = time.monotonic()
        more = {"answer": {"kind": "math"}, "samples": 6}
        reply = stage.ask(messages=[{"role": "user", "content": text}], extra_body={"tally": more})
        return time.monotonic() - began, told(reply)

    with ThreadPoolExecutor(4) as pool:
        harmful = [pool.submit(ask, "harm") for _ in range(2)]
        time.sleep(0.3)
        good = [ask("fine") for _ in range(5)]
        assert not any(each.done() for each in harmful)
        slow = [each.result() for each in harmful]
    assert all(found["votes"] == [{"answer": "42", "count": 6}] for _, found in good)
    assert max(seconds for seconds, _ in good) < min(seconds for seconds, _ in slow)
    assert all(found["samples"] == 6 for _, found in slow)


def test_a_query_ends_at_its_deadline_also_when_algebra_does_not(hasty: Stage) -> None:
    hasty.says(InOrder([f"\\boxed{{{base}^{{9^{{9^9}}}} - 1}}" for base in range(3, 9)]))
    began = time.monotonic()
    found = told(hasty.ask(extra_body={"tally": {"samples": 6, "answer": {"kind": "math"}}}))
    assert time.monotonic() - began < 4.5
    assert [each["count"] for each in found["votes"]] == [1] * 6
