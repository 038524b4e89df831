"""How samples are drawn: with `n` where it is taken, topped up, tried again, seeded, within what a deployment bears."""

import time
from collections.abc import Callable
from itertools import count

import anyio
import pytest

from proxy.conditioning import CRITICISE, GRADE
from proxy.errors import BudgetExceeded, UpstreamError
from proxy.types import JSON, Tenant
from proxy.upstream.usage import prompt_bound
from tests.fake.script import Script, Shorthand
from tests.fake_upstream import Call, Drop, FakeUpstream, Fault, InOrder, Malformed, Reply, Turns
from tests.one_piece import OnePiece
from tests.served import RATES
from tests.wired import QUESTION, Bench, bench

pytestmark = pytest.mark.anyio

BUSY = Fault(429, retry_after=0)
WRONG = Fault(400, "The messages make no sense.", "invalid_request_error", "nonsense", param="messages")
OVERFLOW = Fault(400, "The context is too long.", "invalid_request_error", "context_length_exceeded")


def asked(upstream: FakeUpstream, first: int = 0) -> list[int]:
    """The `n` of every call."""
    return [call.n for call in upstream.calls[first:]]


def seeds(calls: list[Call]) -> list[int]:
    """The effective seed of every choice that was served."""
    return sorted(call.body["seed"] + i for call in calls for i in range(call.n))


async def exact(made: Bench, upstream: FakeUpstream) -> None:
    """The account is what the upstream itself metered, and nothing is reserved."""
    standing = await made.standing()
    assert standing.ok
    assert standing.reserved.nano == standing.reserved.tokens == 0
    assert standing.spent.nano == upstream.meter.cost_nano(RATES)


@pytest.mark.parametrize("limits", [{}, {"max_tokens": 50}])
async def test_samples_are_one_call_with_n(limits: JSON) -> None:
    with FakeUpstream(["42", "41", "42", "42"]) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query(**limits))
            await exact(made, upstream)
    assert asked(upstream) == [4]
    assert upstream.calls[0].stream is not bool(limits)
    assert (found.answer, found.votes) == ("42", (("42", 3), ("41", 1)))


@pytest.mark.parametrize(("behaviour", "learned"), [("ignore", 1), ("refuse", 1), (3, 2), (5, 4), (4, 4), (8, None)])
async def test_the_largest_n_that_a_deployment_takes_is_learned(behaviour: str | int, learned: int | None) -> None:
    reply = Reply(n=behaviour)  # type: ignore[arg-type]  # any of its choices
    with FakeUpstream(InOrder(["42"], reply)) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query(parameters={"samples": 8}))
            assert (found.samples, made.deployment.max_n) == (8, learned)
            before = len(upstream.calls)
            found = await made.batcher.submit(made.query(parameters={"samples": 8}))
            assert found.samples == 8
            straight = learned or 8
            assert asked(upstream, before) == [straight] * (8 // straight)
            await exact(made, upstream)


async def test_a_remainder_that_goes_through_is_not_taken_for_the_largest_n() -> None:
    with FakeUpstream(InOrder(["42"], Reply(n=3))) as upstream:
        async with bench(upstream.base_url, max_n=3) as made:
            found = await made.batcher.submit(made.query(parameters={"samples": 7}))
            assert (found.samples, made.deployment.max_n) == (7, 3)
    assert sorted(asked(upstream)) == [1, 3, 3]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_deployment_that_gives_fewer_choices_is_topped_up_and_its_measure_kept(stream: bool) -> None:
    def script(call: Call) -> Reply | Fault:
        return Reply(n="ignore") if call.n > 3 else Reply()

    with FakeUpstream(script) as upstream:
        async with bench(upstream.base_url, streams=stream, max_output=50) as made:
            found = await made.batcher.submit(made.query(parameters={"samples": 4}))
            assert found.samples == 4
            assert made.deployment.max_n == 1
            await exact(made, upstream)


@pytest.mark.parametrize("samples", [1, 8])
async def test_a_wrong_request_costs_two_calls_at_most_and_its_error_is_kept(samples: int) -> None:
    with FakeUpstream(WRONG) as upstream:
        async with bench(upstream.base_url) as made:
            with pytest.raises(UpstreamError) as caught:
                await made.batcher.submit(made.query(parameters={"samples": samples}))
            await exact(made, upstream)
            assert made.deployment.max_n is None
    assert len(upstream.calls) <= 2
    error = caught.value
    assert (error.status, error.message, error.code, error.param) == (400, WRONG.message, "nonsense", "messages")


async def test_a_wrong_scored_request_costs_two_calls_at_most() -> None:
    with FakeUpstream(WRONG) as upstream:
        async with bench(upstream.base_url) as made:
            with pytest.raises(UpstreamError, match="no sense"):
                await made.batcher.submit(made.query("optscale", parameters={"max_samples": 16}))
            assert made.deployment.gives_logprobs
    assert len(upstream.calls) <= 2


@pytest.mark.parametrize("step", [BUSY, Fault(500, retry_after=0), Fault(503, retry_after=0.01)])
async def test_a_call_is_tried_again_after_an_error_that_may_pass(step: Fault) -> None:
    with FakeUpstream(Turns(step, step, "42")) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query())
            await exact(made, upstream)
    assert (found.samples, asked(upstream)) == (4, [4, 4, 4])


@pytest.mark.parametrize("step", [Drop(), Drop(after_chunks=3), Malformed("{oops")])
async def test_a_call_that_may_have_cost_is_tried_again_and_charged_at_least_what_it_cost(step: Script) -> None:
    with FakeUpstream(Turns(step, "42")) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query())
            standing = await made.standing()
            assert [row["status"] for row in await made.rows()] == ["lost"] * 4 + ["ok"] * 4
    assert found.samples == 4
    assert standing.ok
    assert standing.reserved.nano == 0
    assert standing.spent.nano > upstream.meter.cost_nano(RATES)


async def test_three_attempts_are_all() -> None:
    with FakeUpstream(BUSY) as upstream:
        async with bench(upstream.base_url) as made:
            with pytest.raises(UpstreamError) as caught:
                await made.batcher.submit(made.query())
    assert (caught.value.status, len(upstream.calls)) == (429, 3)


async def test_retry_after_is_waited_for() -> None:
    with FakeUpstream(Turns(Fault(429, retry_after=0.3), "42")) as upstream:
        async with bench(upstream.base_url) as made:
            await made.batcher.submit(made.query())
    first, second = upstream.calls
    assert second.started - first.started >= 0.3


@pytest.mark.parametrize(("retry_after", "deadline_s"), [(21, 60.0), (5, 2.0)])
async def test_a_long_retry_after_is_handed_on_and_not_waited_for(retry_after: float, deadline_s: float) -> None:
    with FakeUpstream(Turns(Fault(429, retry_after=retry_after), "42")) as upstream:
        async with bench(upstream.base_url) as made:
            with pytest.raises(UpstreamError) as caught:
                await made.batcher.submit(made.query(deadline_s=deadline_s))
    assert (caught.value.status, caught.value.retry_after, len(upstream.calls)) == (429, retry_after, 1)


@pytest.mark.parametrize("status", [404, 401, 418])
async def test_an_error_that_stays_is_not_tried_again(status: int) -> None:
    with FakeUpstream(Fault(status)) as upstream:
        async with bench(upstream.base_url) as made:
            with pytest.raises(UpstreamError):
                await made.batcher.submit(made.query())
    assert len(upstream.calls) == 1


async def test_a_call_longer_than_the_deployments_timeout_is_tried_again() -> None:
    with FakeUpstream(Turns(Reply(latency=30), "42")) as upstream:
        async with bench(upstream.base_url, timeout=0.2) as made:
            found = await made.batcher.submit(made.query())
    assert (found.samples, len(upstream.calls)) == (4, 2)


async def test_choices_that_came_before_a_break_are_kept_and_the_others_made_again() -> None:
    broken = Drop(after_chunks=7, reply=Reply(["1 2 3 4 5", "42", "1 2 3 4 5", "42"]))
    with FakeUpstream(Turns(broken, "43")) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query(seed=100))
    assert asked(upstream) == [4, 2]
    assert dict(found.votes) == {"42": 2, "43": 2}


async def test_every_choice_has_a_seed_of_its_own_also_when_those_between_others_are_made_again() -> None:
    broken = Drop(after_chunks=7, reply=Reply(["1 2 3 4 5", "42", "1 2 3 4 5", "42"]))
    with FakeUpstream(Turns(broken, "43")) as upstream:
        async with bench(upstream.base_url) as made:
            await made.batcher.submit(made.query(seed=100))
    kept, again = {101, 103}, {upstream.calls[1].body["seed"] + i for i in range(2)}
    assert not kept & again


@pytest.mark.parametrize("behaviour", ["honour", "ignore", "refuse", 3])
@pytest.mark.parametrize("strategy", ["self_consistency", "dynscaling", "optscale"])
async def test_every_draw_of_a_seeded_request_has_a_distinct_seed(strategy: str, behaviour: str | int) -> None:
    answers = count()

    def script(call: Call) -> Reply:
        served = 1 if behaviour == "ignore" else call.n
        return Reply([f"Answer: {next(answers)}" for _ in range(served)], n=behaviour)  # type: ignore[arg-type]  # any

    with FakeUpstream(script) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(
                made.query(strategy, seed=5, parameters={"samples": 8, "max_samples": 16})
            )
    served = [call for call in upstream.calls if call.status == 200]
    used = [call.body["seed"] for call in served] if behaviour == "ignore" else seeds(served)
    assert len(used) == len(set(used)) == found.samples
    assert min(used) == 5


async def test_seeds_at_the_end_of_their_range_stay_distinct_numbers_of_64_bits() -> None:
    with FakeUpstream(Reply(n="ignore")) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query(seed=2**63 - 1))
    used = [call.body["seed"] for call in upstream.calls]
    assert found.samples == len(set(used)) == 4
    assert all(0 <= seed < 2**63 for seed in used)


async def test_a_request_without_a_seed_is_sent_without_one() -> None:
    with FakeUpstream() as upstream:
        async with bench(upstream.base_url) as made:
            await made.batcher.submit(made.query())
    assert "seed" not in upstream.calls[0].body


async def test_no_more_calls_run_at_once_than_a_deployment_bears() -> None:
    with FakeUpstream(Reply(latency=0.02)) as upstream:
        async with bench(upstream.base_url, limit=2, max_n=1) as made, anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(made.batcher.submit, made.query())
    assert len(upstream.calls) == 12
    assert upstream.max_in_flight == 2


def refusing(refused: Callable[[Call], bool], fault: Fault = OVERFLOW) -> Script:
    """Answers that never agree, save that some calls are refused."""
    answers = count()
    return lambda call: fault if refused(call) else Reply([f"Answer: {next(answers)}" for _ in range(call.n)])


async def test_conditioned_prompts_that_are_refused_fall_back_to_independent_ones() -> None:
    with FakeUpstream(refusing(lambda call: "Attempt 1" in call.question)) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query("dynscaling", parameters={"max_samples": 8}))
            await exact(made, upstream)
    assert found.samples == 8
    assert any(call.status == 400 for call in upstream.calls)


async def test_conditioned_prompts_show_earlier_answers() -> None:
    with FakeUpstream(refusing(lambda _: False)) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query("dynscaling", parameters={"max_samples": 8}))
            await exact(made, upstream)
    shown = [call for call in upstream.calls if "Attempt 4:\nAnswer:" in call.question]
    assert sum(call.n for call in shown) == 4
    assert found.samples == 8


@pytest.mark.parametrize("samples", [1, 8])
async def test_a_deployment_that_refuses_streams_is_asked_for_whole_replies_from_then_on(samples: int) -> None:
    no_streams = Fault(400, "stream is not supported", "invalid_request_error")
    with FakeUpstream(refusing(lambda call: call.stream, no_streams)) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query(parameters={"samples": samples}))
            assert (found.samples, made.deployment.streams, made.deployment.max_n) == (samples, False, None)
            before = len(upstream.calls)
            await made.batcher.submit(made.query(parameters={"samples": samples}))
            assert asked(upstream, before) == [samples]
            await exact(made, upstream)


async def test_a_stream_that_is_refused_is_not_taken_for_refused_logprobs() -> None:
    with FakeUpstream(refusing(lambda call: call.stream)) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query("optscale", parameters={"max_samples": 8}))
            assert found.samples >= 3
            assert (made.deployment.gives_logprobs, made.deployment.streams) == (True, False)


async def test_where_no_sample_votes_the_verdict_says_so() -> None:
    prose = "It was a dark and stormy night, and the rain fell in torrents, " * 5
    with FakeUpstream(prose) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query())
    assert (found.abstained, found.answer, found.reason) == (4, None, "no votes")


async def test_logprobs_that_are_refused_are_left_out_and_not_asked_for_again() -> None:
    refused = Fault(400, "logprobs is not supported", "invalid_request_error", "unsupported_parameter")
    with FakeUpstream(refusing(lambda call: "logprobs" in call.body, refused)) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query("optscale", parameters={"max_samples": 16}))
            assert (found.samples, found.reason) == (5, "no scores")
            assert not made.deployment.gives_logprobs
            before = len(upstream.calls)
            await made.batcher.submit(made.query("optscale", parameters={"max_samples": 16}))
            assert asked(upstream, before) == [5]


async def test_logprobs_are_asked_for_again_where_n_was_what_was_refused() -> None:
    with FakeUpstream(refusing(lambda call: call.n > 1)) as upstream:
        async with bench(upstream.base_url) as made:
            for _ in range(2):
                found = await made.batcher.submit(made.query("optscale", parameters={"max_samples": 16}))
                assert found.samples >= 5
            assert (made.deployment.gives_logprobs, made.deployment.max_n) == (True, 1)
            before = len(upstream.calls)
            await made.batcher.submit(made.query("optscale", parameters={"max_samples": 16}))
            assert all(call.body["logprobs"] and call.status == 200 for call in upstream.calls[before:])


async def test_logprobs_that_the_client_wants_are_never_left_out() -> None:
    with FakeUpstream(refusing(lambda call: "logprobs" in call.body)) as upstream:
        async with bench(upstream.base_url) as made:
            with pytest.raises(UpstreamError) as caught:
                await made.batcher.submit(made.query("optscale", logprobs=True))
            assert made.deployment.gives_logprobs
    assert caught.value.status == 400


async def test_draws_that_the_budget_does_not_hold_are_denied_and_the_others_made() -> None:
    prompt = prompt_bound({"messages": [{"role": "user", "content": QUESTION}]})
    tenant = Tenant("acme", max_nano=RATES.cost(prompt, 0) + 3 * RATES.cost(0, 10) + 1)
    with FakeUpstream(["42", "42", "41"]) as upstream:
        async with bench(upstream.base_url, tenants=(tenant,)) as made:
            found = await made.batcher.submit(made.query(max_tokens=10))
            await exact(made, upstream)
    assert (asked(upstream), found.samples, found.reason) == ([3], 3, "budget")


async def test_where_not_one_draw_can_be_paid_nothing_is_sent() -> None:
    with FakeUpstream() as upstream:
        async with bench(upstream.base_url, tenants=(Tenant("acme", max_nano=10),)) as made:
            with pytest.raises(BudgetExceeded):
                await made.batcher.submit(made.query())
            assert (await made.requests())[0].status == 402
            await exact(made, upstream)
    assert upstream.calls == []


@pytest.mark.parametrize("body", [b'{"choices": ["x"]}', b'{"choices": []}', b"[]"])
async def test_replies_of_a_wrong_shape_are_the_trouble_of_their_own_call(body: bytes) -> None:
    with OnePiece(body) as server:
        async with bench(server.base_url) as made:
            with pytest.raises(UpstreamError) as caught:
                await made.batcher.submit(made.query(deadline_s=30))
            assert (await made.standing()).reserved.nano == 0
    assert caught.value.status == 502


async def test_an_error_inside_a_reply_of_status_200_is_the_providers_error() -> None:
    with OnePiece(b'{"error": {"message": "Out of credits.", "code": 402}}') as server:
        async with bench(server.base_url, streams=False, max_output=9) as made:
            with pytest.raises(UpstreamError, match="Out of credits") as caught:
                await made.batcher.submit(made.query(parameters={"samples": 1}))
    assert caught.value.status == 502


async def test_a_streamed_call_that_is_answered_in_one_piece_is_a_sample_like_any_other() -> None:
    message = b'{"role": "assistant", "content": "42"}'
    usage = b'{"prompt_tokens": 9, "completion_tokens": 1}'
    body = b'{"choices": [{"index": 0, "message": %s, "finish_reason": "stop"}], "usage": %s}' % (message, usage)
    with OnePiece(body) as server:
        async with bench(server.base_url) as made:
            found = await made.batcher.submit(made.query(parameters={"samples": 2}))
            standing = await made.standing()
    assert (found.samples, found.answer) == (2, "42")
    assert standing.spent.tokens == 20


async def test_usage_of_the_first_choice_only_is_charged_in_full_when_streamed() -> None:
    with FakeUpstream(Reply(["1 2 3 Answer: 42", "Answer: 42"], usage="first")) as upstream:
        async with bench(upstream.base_url) as made:
            await made.batcher.submit(made.query())
            await exact(made, upstream)
            assert made.deployment.usage_per_choice


async def test_cached_tokens_are_charged_at_their_own_rate() -> None:
    with FakeUpstream(Reply(prompt_tokens=50, cached_tokens=40)) as upstream:
        async with bench(upstream.base_url) as made:
            await made.batcher.submit(made.query())
            await exact(made, upstream)
            assert sum(row["cached_tokens"] for row in await made.rows()) == 40


async def test_a_call_without_usage_is_charged_no_less_than_it_served() -> None:
    with FakeUpstream(Reply(["one two 42"], usage="none")) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query())
            standing = await made.standing()
    assert found.purse.paid.estimated
    assert standing.spent.nano >= upstream.meter.cost_nano(RATES)


async def test_hidden_reasoning_is_charged_as_told() -> None:
    with FakeUpstream(Reply(completion_tokens=500)) as upstream:
        async with bench(upstream.base_url, hidden_reasoning=True) as made:
            await made.batcher.submit(made.query())
            await exact(made, upstream)


async def test_latency_of_draws_is_on_the_clock_that_was_passed() -> None:
    started = time.monotonic()
    with FakeUpstream(Reply(latency=0.05)) as upstream:
        async with bench(upstream.base_url) as made:
            await made.batcher.submit(made.query())
            rows = await made.rows()
    assert all(50 <= row["latency_ms"] <= (time.monotonic() - started) * 1000 for row in rows)


def stepping(reviews: Shorthand = "It is right.") -> Callable[[Call], Shorthand]:
    """Answers that never agree; `reviews` is what feedback and grades are."""
    answers = count()

    def script(call: Call) -> Shorthand:
        if call.messages[-1]["content"] in {CRITICISE, GRADE}:
            return reviews
        return Reply([f"Answer: {next(answers)}" for _ in range(call.n)])

    return script


async def test_a_step_that_is_refused_is_lost_and_never_asked_as_the_bare_question() -> None:
    with FakeUpstream(stepping(OVERFLOW)) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query("sp2", parameters={"max_samples": 6}))
            await exact(made, upstream)
    assert (found.samples, found.votes) == (2, (("0", 1), ("1", 1)))
    assert asked(upstream) == [2, 1, 1]


async def test_a_draw_that_fell_back_to_an_independent_one_is_not_counted_as_conditioned() -> None:
    answers = count()

    def script(call: Call) -> Reply | Fault:
        if "Attempt 1" in call.question:
            return OVERFLOW
        return Reply([f"Answer: {min(next(answers), 4)}" for _ in range(call.n)])

    parameters = {"max_samples": 8, "votes": "conditioned"}
    with FakeUpstream(script) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query("dynscaling", parameters=parameters))
    assert (found.samples, found.abstained) == (8, 0)
    assert found.votes == (("4", 4), ("0", 1), ("1", 1), ("2", 1), ("3", 1))


async def test_feedback_and_grades_are_charged_like_any_draw_and_stand_apart_in_the_ledger() -> None:
    with FakeUpstream(stepping("60")) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query("sp3", parameters={"max_samples": 4}))
            await exact(made, upstream)
            rows = await made.rows()
    assert [row["purpose"] for row in rows] == ["draw", "feedback", "draw", "grade"]
    assert [row["round"] for row in rows] == [1, 2, 3, 4]
    assert found.usage["completion_tokens"] == upstream.meter.completion_tokens


@pytest.mark.parametrize(
    ("said", "score"), [("Grade: 60", 0.6), ("<think>Not 9.</think>75%", 0.75), ("good", None), ("0.9", None)]
)
async def test_a_grade_is_the_score_of_the_sample_it_was_given(said: str, score: float | None) -> None:
    with FakeUpstream(stepping(said)) as upstream:
        async with bench(upstream.base_url) as made:
            found = await made.batcher.submit(made.query("sp3", parameters={"max_samples": 4}))
    assert [ballot.score for ballot in found.ballots] == [None, None, score, None]
    assert found.answer == "1"


async def test_an_answer_that_is_shown_again_has_the_tools_it_called() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    reply = Reply([{"content": None}], tool_calls=[{"name": "add", "arguments": '{"a": 1}'}])
    with FakeUpstream(lambda call: "Fine." if call.messages[-1]["content"] == CRITICISE else reply) as upstream:
        async with bench(upstream.base_url) as made:
            await made.batcher.submit(made.query("sp2", parameters={"max_samples": 3}, tools=tools))
    _, feedback, refined = upstream.calls
    assert feedback.messages[1]["content"] == 'add({"a": 1})'
    assert "tools" not in feedback.body
    assert refined.body["tools"] == tools


@pytest.mark.parametrize("strategy", ["dynscaling", "optscale", "adaptive_consistency", "pets", "self_consistency"])
async def test_draws_that_may_be_cancelled_are_streamed_though_they_are_short(strategy: str) -> None:
    with FakeUpstream(refusing(lambda _: False)) as upstream:
        async with bench(upstream.base_url) as made:
            await made.batcher.submit(made.query(strategy, max_tokens=20, parameters={"max_samples": 8}))
    assert {call.stream for call in upstream.calls} == {strategy != "self_consistency"}
