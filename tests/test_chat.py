"""`POST /v1/chat/completions` for the official client, not streamed."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest

from tests.fake.script import InOrder
from tests.fake_upstream import Fault, Reply, Turns, count_prompt, tokenize
from tests.staged import ASK, Stage, staged, told

COUNTRIES = {"type": "function", "function": {"name": "capital", "parameters": {"type": "object"}}}
FORCED = {"type": "function", "function": {"name": "capital"}}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("chat")) as made:
        yield made


def settled(stage: Stage) -> None:
    stage.upstream.wait(lambda: stage.tally.balance().reserved.nano == 0)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Stage]:
    """A stage that has learned nothing of its upstream yet, nor keeps what a test teaches it."""
    with staged(tmp_path) as made:
        yield made
        settled(made)


@pytest.fixture(autouse=True)
def _no_reservation_is_left(stage: Stage) -> Iterator[None]:
    yield
    settled(stage)


def call(arguments: str, name: str = "capital") -> dict[str, Any]:
    return {"content": None, "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


def test_a_scaled_answer_is_the_majoritys_message_byte_for_byte(stage: Stage) -> None:
    said = "  Six 七 times\tseven:\n\n**The answer is 42.**\n"
    stage.says(Reply(["The answer is 41.", {"content": said, "reasoning_content": "6*7", "extra": {"a": [1]}}]))
    reply = stage.ask(extra_body={"tally": {"samples": 3}})
    assert reply.choices[0].message.content == "The answer is 41."
    stage.says(Reply(["The answer is 41.", *[{"content": said, "reasoning_content": "6*7", "extra": {"a": [1]}}] * 2]))
    message = stage.ask(extra_body={"tally": {"samples": 3}}).choices[0].message
    assert message.model_dump(exclude_unset=True) == {
        "role": "assistant",
        "content": said,
        "refusal": None,
        "reasoning_content": "6*7",
        "extra": {"a": [1]},
    }


def test_usage_has_the_prompt_once_and_every_completion(stage: Stage) -> None:
    contents = ["The answer is 42.", "It is 41", "42", "Answer: 42"]
    stage.says(contents)
    usage = stage.ask(extra_body={"tally": {"samples": 4}}).usage
    assert usage is not None
    assert usage.prompt_tokens == count_prompt(ASK)
    assert usage.completion_tokens == sum(len(tokenize(content)) for content in contents)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_the_tally_object_of_a_vote(stage: Stage) -> None:
    stage.says(["The answer is 41.", "The answer is 42.", "Answer: 42", "\\boxed{42}", "#### 41", "42", "42.0", "7"])
    reply = stage.ask()
    tally = told(reply)
    assert tally["strategy"] == "self_consistency"
    assert (tally["samples"], tally["abstained"], tally["rounds"]) == (8, 0, 1)
    assert [vote["count"] for vote in tally["votes"]] == [5, 2, 1]
    assert [vote["answer"] for vote in tally["votes"]] == ["42", "41", "7"]
    assert all(vote.keys() == {"answer", "count"} for vote in tally["votes"])
    assert (tally["answer"], tally["first_answer"]) == ("42", "41")
    # P(G6 > G3 and G6 > G2) of independent gammas of these shapes, by hand
    assert tally["confidence"] == pytest.approx(1373867 / 6**8)
    assert tally["chance_right"] is None
    assert tally["winner"] in {1, 2, 3, 5, 6}
    assert tally["cost_usd"] == pytest.approx(stage.cost_nano / 1e9)
    assert isinstance(tally["cost_usd"], float)
    assert tally["reason"] is None
    for name in ("samples", "abstained", "rounds", "winner"):
        assert type(tally[name]) is int


def test_the_winner_is_the_index_of_the_returned_sample(stage: Stage) -> None:
    contents = [f"{word}: the answer is 42." for word in ("a", "bb", "ccc", "dddd", "eeeee")]
    stage.says(["The answer is 41.", *contents])
    reply = stage.ask(extra_body={"tally": {"samples": 6}})
    assert reply.choices[0].message.content == ["", *contents][told(reply)["winner"]]


def test_the_headers_say_what_was_decided(stage: Stage) -> None:
    stage.says("The answer is 42.")
    raw = stage.raw("self_consistency", extra_body={"tally": {"samples": 4}})
    tally = told(raw.parse())
    assert raw.headers["x-tally-strategy"] == "self_consistency"
    assert raw.headers["x-tally-samples"] == "4"
    assert raw.headers["x-tally-confidence"] == f"{tally['confidence']:.4f}"
    assert float(raw.headers["x-tally-cost-usd"]) == pytest.approx(tally["cost_usd"])
    assert raw.headers["x-request-id"].startswith("req_")


def test_a_scaled_reply_has_an_id_of_its_own_and_the_model_as_it_was_asked_for(stage: Stage) -> None:
    stage.says("42")
    first, second = stage.ask(), stage.ask()
    assert first.id != second.id
    assert first.id.startswith("chatcmpl-")
    assert "fake" not in first.id
    assert (first.object, first.model, first.system_fingerprint) == ("chat.completion", "small", "fp_fake")


def test_off_is_the_upstreams_own_reply(stage: Stage) -> None:
    stage.says(Reply(["42"], cached_tokens=2))
    raw = stage.raw("off")
    reply = raw.parse()
    assert reply.id.startswith("chatcmpl-fake-")
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 2
    assert "tally" not in (reply.model_extra or {})
    assert (raw.headers["x-tally-strategy"], raw.headers["x-tally-samples"]) == ("off", "1")
    assert "x-tally-confidence" not in raw.headers
    assert float(raw.headers["x-tally-cost-usd"]) > 0
    assert len(stage.calls) == 1


def test_off_tells_of_itself_when_asked(stage: Stage) -> None:
    stage.says("The answer is 42.")
    reply = stage.ask("off", extra_body={"tally": {}})
    assert reply.id.startswith("chatcmpl-fake-")
    tally = told(reply)
    assert tally["strategy"] == "off"
    assert (tally["samples"], tally["abstained"], tally["rounds"], tally["winner"]) == (1, 0, 1, 0)
    assert tally["votes"] == [{"answer": "42", "count": 1}]
    assert tally["confidence"] is None
    assert tally["cost_usd"] == pytest.approx(stage.cost_nano / 1e9)


@pytest.mark.parametrize("strategy", ["off", "self_consistency", "dynscaling", "optscale"])
def test_fields_reach_the_upstream_untouched_in_every_draw_and_tally_never_does(stage: Stage, strategy: str) -> None:
    sent: dict[str, Any] = {
        "stop": ["\n\n", "END"],
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 50,
        "user": "u-1",
        "metadata": {"a": "b"},
        "logit_bias": {"42": -1},
        "service_tier": "flex",
        "reasoning_effort": "low",
    }
    unknown = {"x_unknown": {"deep": [1, None, "é"]}, "top_k": 5}
    stage.says("42")
    stage.ask(strategy, **sent, extra_body={**unknown, "tally": {"max_samples": 4}})
    assert stage.calls
    for made in stage.calls:
        assert made.body.items() >= {**sent, **unknown}.items()
        assert "tally" not in made.body


MESSAGES: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be terse."},
    {"role": "user", "content": [
        {"type": "text", "text": "What is on it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
    ]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{ "x":1 }'}},
    ]},
    {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
]  # fmt: skip


@pytest.mark.parametrize("strategy", ["off", "self_consistency"])
def test_turns_with_images_and_tool_results_reach_the_upstream_untouched(stage: Stage, strategy: str) -> None:
    stage.says("42")
    stage.ask(strategy, messages=MESSAGES)
    assert stage.calls
    assert all(made.messages == MESSAGES for made in stage.calls)


def test_a_conditioned_draw_keeps_every_turn_and_part_and_adds_to_the_last_of_the_user(stage: Stage) -> None:
    stage.says("42")
    stage.ask("dynscaling", messages=MESSAGES)
    conditioned = [made for made in stage.calls if made.messages != MESSAGES]
    assert conditioned
    for made in conditioned:
        assert [message for i, message in enumerate(made.messages) if i != 1] == [MESSAGES[0], *MESSAGES[2:]]
        assert made.messages[1]["content"][:2] == MESSAGES[1]["content"]
        assert "42" in made.messages[1]["content"][2]["text"]


def test_every_draw_has_a_seed_of_its_own(fresh: Stage) -> None:
    fresh.says(Reply(["42"], n="ignore"))
    fresh.ask("dynscaling", seed=100)
    # choice i of a call has seed + i
    assert sorted(made.body["seed"] for made in fresh.calls) == list(range(100, 108))


def test_without_a_seed_none_is_sent(stage: Stage) -> None:
    stage.says("42")
    stage.ask()
    assert all("seed" not in made.body for made in stage.calls)


def test_the_greatest_seed_leaves_room_for_all_draws(stage: Stage) -> None:
    stage.says("42")
    assert told(stage.ask("dynscaling", seed=2**63 - 1))["samples"] == 8


def test_log_probabilities_are_the_winners_own_and_only_when_asked_for(stage: Stage) -> None:
    stage.says(["The answer is 41.", "So the answer is 42.", "So the answer is 42."])
    choice = stage.ask(logprobs=True, extra_body={"tally": {"samples": 3}}).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content == "So the answer is 42."
    assert stage.ask("optscale").choices[0].logprobs is None
    assert any(made.body.get("logprobs") for made in stage.calls)


def test_forced_tools_vote_on_names_and_arguments(stage: Stage) -> None:
    stage.says(Reply([call('{"of": "Peru"}'), call('{"of":"Chile"}'), call('{ "of" : "Chile" }')]))
    reply = stage.ask(None, tools=[COUNTRIES], tool_choice=FORCED, extra_body={"tally": {"samples": 3}})
    assert told(reply)["strategy"] == "self_consistency"
    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    (made,) = calls
    assert made.type == "function"
    assert made.function.arguments in {'{"of":"Chile"}', '{ "of" : "Chile" }'}
    assert made.id.startswith("call_")
    assert reply.choices[0].finish_reason == "tool_calls"
    assert reply.choices[0].message.content is None
    assert [vote["count"] for vote in told(reply)["votes"]] == [2, 1]
    assert all(sent.body["tools"] == [COUNTRIES] and sent.body["tool_choice"] == FORCED for sent in stage.calls)


def test_text_and_calls_of_other_names_are_other_ballots(stage: Stage) -> None:
    stage.says(Reply(["42", call("{}", "a"), call("{}", "b"), call("{}", "b")]))
    reply = stage.ask(tools=[COUNTRIES], extra_body={"tally": {"samples": 4}})
    assert [vote["count"] for vote in told(reply)["votes"]] == [2, 1, 1]
    assert told(reply)["answer"].startswith("b(")


def test_json_votes_by_value_and_what_is_not_json_abstains(stage: Stage) -> None:
    texts = ['{"a":1,"b":2}', "not json", '{"b": 2, "a": 1}', '{"a":3}']
    stage.says(texts)
    wanted = {"type": "json_object"}
    reply = stage.ask(None, response_format=wanted, extra_body={"tally": {"samples": 4}})
    assert reply.choices[0].message.content in {texts[0], texts[2]}
    assert told(reply)["abstained"] == 1
    assert [vote["count"] for vote in told(reply)["votes"]] == [2, 1]
    assert all(made.body["response_format"] == wanted for made in stage.calls)


def test_a_schema_drops_what_breaks_it(stage: Stage) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    stage.says(['{"b":1}', '{"b":1}', '{"a":1}'])
    reply = stage.ask(response_format=wanted, extra_body={"tally": {"samples": 3}})
    assert json.loads(reply.choices[0].message.content or "") == {"a": 1}
    assert told(reply)["abstained"] == 2


@pytest.mark.parametrize("kind", [["json"], {}, 5, None])
def test_a_format_of_no_known_type_is_the_upstreams_to_judge(stage: Stage, kind: object) -> None:
    stage.says("42")
    for strategy in ("off", "self_consistency"):
        assert stage.ask(strategy, response_format={"type": kind}).choices[0].message.content == "42"


def test_refusals_have_one_ballot_of_their_own(stage: Stage) -> None:
    stage.says(Reply([{"refusal": "No."}, {"refusal": "I will not."}, "The answer is 42."]))
    reply = stage.ask(extra_body={"tally": {"samples": 3}})
    assert reply.choices[0].message.refusal in {"No.", "I will not."}
    assert [vote["count"] for vote in told(reply)["votes"]] == [2, 1]


def test_truncated_samples_abstain_while_any_other_sample_votes(stage: Stage) -> None:
    stage.says(
        Reply(["The answer is 41.", "The answer is 41.", "The answer is 42."], finish_reason=["length"] * 2 + ["stop"])
    )
    reply = stage.ask(extra_body={"tally": {"samples": 3}})
    assert reply.choices[0].message.content == "The answer is 42."
    assert (reply.choices[0].finish_reason, told(reply)["abstained"]) == ("stop", 2)


def test_an_answer_that_is_always_cut_is_returned_as_cut(stage: Stage) -> None:
    stage.says("one two three four")
    reply = stage.ask(max_tokens=2, extra_body={"tally": {"samples": 3}})
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content == "one two"


def test_a_content_filter_stops_further_draws(stage: Stage) -> None:
    stage.says(Reply([""], finish_reason="content_filter"))
    reply = stage.ask("dynscaling")
    assert reply.choices[0].finish_reason == "content_filter"
    assert told(reply)["reason"] == "content filter"
    assert sum(made.n for made in stage.calls) == 4


def test_dynscaling_ends_a_unit_that_agrees(stage: Stage) -> None:
    stage.says("The answer is 42.")
    tally = told(stage.ask("dynscaling"))
    assert (tally["strategy"], tally["samples"], tally["rounds"]) == ("dynscaling", 8, 2)
    assert tally["reason"] == "confident"
    assert tally["confidence"] > 0.95
    assert tally["votes"] == [{"answer": "42", "count": 8}]


def test_dynscaling_gives_a_doubtful_question_more_up_to_its_cap(stage: Stage) -> None:
    stage.says(InOrder(["The answer is 1.", "The answer is 2."]))
    tally = told(stage.ask("dynscaling", extra_body={"tally": {"max_samples": 16}}))
    assert (tally["samples"], tally["rounds"]) == (16, 4)
    assert {vote["count"] for vote in tally["votes"]} == {8}
    assert tally["reason"] == "sample cap"


def test_optscale_returns_the_sample_it_scores_highest(stage: Stage) -> None:
    stage.says(InOrder(["The answer is 42."], Reply(logprobs=[-0.01])))
    reply = stage.ask("optscale", extra_body={"tally": {"max_samples": 8}})
    tally = told(reply)
    assert (tally["strategy"], tally["answer"]) == ("optscale", "42")
    assert 3 <= tally["samples"] <= 8
    assert tally["reason"] == "quality reached"


def test_optscale_without_scores_says_so_and_votes(stage: Stage) -> None:
    stage.says(Reply(["The answer is 42."], logprobs=False))
    tally = told(stage.ask("optscale", extra_body={"tally": {"max_samples": 8}}))
    assert (tally["answer"], tally["reason"]) == ("42", "no scores")


def test_votes_come_most_first(stage: Stage) -> None:
    stage.says([f"The answer is {n}." for n in (1, 2, 2, 3, 3, 3, 4, 4)])
    counts = [vote["count"] for vote in told(stage.ask())["votes"]]
    assert all(more >= fewer for more, fewer in pairwise(counts))
    assert sum(counts) == 8


def test_an_upstreams_error_keeps_its_status_and_message(stage: Stage) -> None:
    stage.says(Fault(422, "Too odd.", "odd", "odd_code", param="messages"))
    for strategy in ("off", "self_consistency"):
        with pytest.raises(openai.UnprocessableEntityError, match="Too odd") as caught:
            stage.ask(strategy)
        assert (caught.value.type, caught.value.code, caught.value.param) == ("odd", "odd_code", "messages")
        assert caught.value.request_id


@pytest.mark.parametrize("status", [401, 403])
def test_an_upstream_that_refuses_our_key_is_502_and_quotes_nothing(stage: Stage, status: int) -> None:
    stage.says(Fault(status, "Incorrect API key provided: sk-upst***cret.", "invalid_request_error", "invalid_api_key"))
    for strategy in ("off", "self_consistency"):
        with pytest.raises(openai.InternalServerError) as caught:
            stage.ask(strategy)
        assert caught.value.status_code == 502
        assert "sk-" not in str(caught.value.response.text)


def test_a_lost_sample_takes_only_its_own_vote(fresh: Stage) -> None:
    fresh.says(Turns(Reply(["The answer is 42."], n="ignore"), Fault(404, "Gone."), "The answer is 42."))
    reply = fresh.ask(extra_body={"tally": {"samples": 4}})
    assert reply.choices[0].message.content == "The answer is 42."
    assert told(reply)["samples"] == 3


def test_the_ledger_agrees_with_the_upstreams_own_meter(stage: Stage) -> None:
    balance = stage.tally.balance()
    assert balance.reserved.nano == 0
    assert balance.spent.nano == balance.ledger.nano


@pytest.mark.anyio
async def test_many_questions_at_once_each_get_their_own_answer(stage: Stage) -> None:
    stage.says(lambda made: f"The answer is {made.question.split()[-1]}.")
    answers: dict[int, str | None] = {}
    async with stage.tally.async_client("self_consistency") as client:

        async def ask(number: int) -> None:
            reply = await client.chat.completions.create(
                model="small", messages=[{"role": "user", "content": f"Say {number}"}]
            )
            answers[number] = reply.choices[0].message.content

        async with anyio.create_task_group() as tasks:
            for number in range(16):
                tasks.start_soon(ask, number)
    assert answers == {number: f"The answer is {number}." for number in range(16)}
