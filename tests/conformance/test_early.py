"""A decided answer is sent as soon as its winner is known; draws that are still out are cancelled, not waited for."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from math import log
from typing import Any

import httpx
import pytest

from tests.conformance.talk import Heard, heard
from tests.fake_upstream import Call, Reply
from tests.served import KEY
from tests.staged import ASK, JSON, Stage, staged

ANSWER = "The answer is 42."
NEVER = Reply([ANSWER], latency=30)
LONG_S = 10.0
"""What nobody waited for, in seconds, who was answered sooner; the machine may be slow, a straggler is slower."""


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Every draw is a call of its own."""
    with staged(tmp_path_factory.mktemp("early"), model={"model_info": {"max_n": 1}}) as made:
        yield made


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The draws of a wave are choices of one call."""
    with staged(tmp_path_factory.mktemp("together"), scaling={"batch_window_ms": 200}) as made:
        yield made


def first(quick: int, scores: tuple[float, ...] = ()) -> Callable[[Call], Reply]:
    """The first so many draws are answered soon, with these scores; the others never."""
    number = count()

    def step(_: Call) -> Reply:
        place = next(number)
        if place >= quick:
            return NEVER
        # late enough for all draws of a wave to have been sent
        return Reply([ANSWER], logprobs=[log(scores[place])] if scores else True, latency=0.2)

    return step


def ask(stage: Stage, strategy: str, wish: JSON, *, streamed: bool, question: str = "") -> tuple[Heard, float]:
    """The reply, and after how many seconds it was there to its end."""
    messages = [{"role": "user", "content": question}] if question else ASK
    body: dict[str, Any] = {"model": "small", "messages": messages, "extra_body": {"tally": wish}}
    started = time.monotonic()
    found = heard(stage.client(strategy), body | ({"stream": True} if streamed else {}))
    return found, time.monotonic() - started


@pytest.mark.parametrize(
    ("strategy", "wish", "quick", "scores", "draws", "reason"),
    [
        ("adaptive", {"samples": 32, "max_samples": 32}, 7, (), 8, "confident"),
        ("adaptive_consistency", {"max_samples": 32}, 4, (), 6, "confident"),
        ("optscale", {"max_samples": 8}, 6, (0.8, 0.85, 0.9, 0.97, 0.98, 0.99), 8, "quality reached"),
    ],
)
def test_stragglers_that_can_change_nothing_are_cancelled_and_not_waited_for(  # noqa: PLR0917 - a table
    apart: Stage,
    strategy: str,
    wish: JSON,
    quick: int,
    scores: tuple[float, ...],
    draws: int,
    reason: str,
    *,
    streamed: bool,
) -> None:
    apart.says(first(quick, scores))
    found, took = ask(apart, strategy, wish, streamed=streamed)
    assert (found.content, found.tally["reason"]) == (ANSWER, reason)
    assert found.tally["samples"] <= quick < len(apart.calls) == draws
    assert took < LONG_S
    apart.upstream.wait(lambda: all(call.finished is not None for call in apart.calls))
    assert sum(call.cancelled for call in apart.calls) >= draws - quick


def test_a_straggling_choice_of_one_call_is_cancelled_with_the_call(together: Stage, *, streamed: bool) -> None:
    together.says(Reply([*[ANSWER] * 7, "Let me think. " * 2000], per_token=0.02))
    found, took = ask(together, "adaptive", {"samples": 32, "max_samples": 32}, streamed=streamed)
    assert (found.content, found.tally["reason"]) == (ANSWER, "confident")
    assert took < LONG_S
    (made,) = together.calls
    assert made.n >= 8
    together.upstream.wait(lambda: made.cancelled)


@pytest.mark.parametrize("strategy", ["self_consistency", "dynscaling", "optscale", "adaptive"])
def test_a_straggler_of_one_question_holds_up_no_other_of_its_batch(
    together: Stage, strategy: str, *, streamed: bool
) -> None:
    together.says(lambda call: NEVER if "slow" in call.question else Reply([ANSWER]))
    before = len(together.calls)
    with waiting(together, strategy):
        together.upstream.wait(lambda: len(together.calls) > before)
        found, took = ask(together, strategy, {}, streamed=streamed, question="Six times seven?")
        assert (found.content, took < LONG_S) == (ANSWER, True)
        assert together.calls[before].finished is None
    together.upstream.wait(lambda: together.calls[before].cancelled)


@contextmanager
def waiting(stage: Stage, strategy: str) -> Iterator[None]:
    """A client that waits for what is never answered, until the end of the block."""
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "slow"}]}).encode()
    head = (
        f"POST /{strategy}/v1/chat/completions HTTP/1.1\r\nhost: tally\r\nauthorization: Bearer {KEY}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    url = httpx.URL(stage.tally.url)
    with socket.create_connection((url.host, url.port or 0), timeout=5) as wire:
        wire.sendall(head.encode() + body)
        yield


def test_a_filtered_sample_ends_the_wait_for_all_others(apart: Stage, *, streamed: bool) -> None:
    number = count()
    apart.says(lambda _: Reply([""], finish_reason="content_filter") if not next(number) else NEVER)
    found, took = ask(apart, "self_consistency", {}, streamed=streamed)
    assert (found.finish, found.tally["reason"]) == ("content_filter", "content filter")
    assert took < LONG_S
    apart.upstream.wait(lambda: all(call.finished is not None for call in apart.calls))


def test_the_deadline_ends_the_wait_with_the_votes_in_hand(
    tmp_path_factory: pytest.TempPathFactory, *, streamed: bool
) -> None:
    scaling = {"deadline_s": 1.0}
    with staged(tmp_path_factory.mktemp("late"), model={"model_info": {"max_n": 1}}, scaling=scaling) as stage:
        stage.says(first(3))
        found, took = ask(stage, "self_consistency", {}, streamed=streamed)
        assert (found.content, found.tally["reason"], found.tally["samples"]) == (ANSWER, "deadline", 3)
        assert took < LONG_S
        stage.upstream.wait(lambda: all(call.finished is not None for call in stage.calls))
