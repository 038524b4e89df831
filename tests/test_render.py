"""A verdict in OpenAI's shapes: a completion, and the chunks that join to the same."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.api.render import chunks, completion, tally_headers
from proxy.purse import Purse
from proxy.types import Account, Choice, Plan, Strategy, Tenant, Usage
from proxy.upstream.assemble import Assembler
from proxy.verdict import Verdict

HEAD = {"id": "chatcmpl-1", "created": 5, "model": "small"}
TENANT = Tenant("acme")

texts = st.text(max_size=30)
calls = st.builds(
    lambda name, arguments: {
        "id": "call_1",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    },
    texts,
    texts,
)
messages = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": texts | st.none()},
    optional={
        "refusal": texts.filter(bool) | st.none(),
        "reasoning_content": texts.filter(bool),
        "tool_calls": st.lists(calls, min_size=1, max_size=3),
    },
)


def found(message: dict[str, Any], **more: Any) -> Verdict:
    purse = Purse(TENANT, Account("acme", None, "1"))
    purse.pay(Usage(10, 6), 1234, drawn=True, bound=20)
    given: dict[str, Any] = {
        "strategy": "self_consistency",
        "choice": Choice(0, message, "stop", {"content": [], "refusal": None}),
        "winner": 1,
        "samples": 3,
        "abstained": 1,
        "rounds": 1,
        "votes": (("42", 2),),
        "confidence": 0.875,
        "first_answer": "42",
        "reason": None,
        "purse": purse,
        "head": {"system_fingerprint": "fp", "service_tier": "flex"},
        "ballots": (),
    }
    return Verdict(**{**given, **more})


def plan(**more: Any) -> Plan:
    return Plan(TENANT, "small", Strategy("self_consistency"), **more)


def streamed(verdict: Verdict, wanted: Plan, request: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    *events, done = chunks(verdict, wanted, request or {}, HEAD)
    assert done == b"data: [DONE]\n\n"
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in events)
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


@given(messages)
def test_the_chunks_of_a_message_join_to_the_message(message: dict[str, Any]) -> None:
    verdict = found(message)
    whole = completion(verdict, plan(), {}, HEAD)["choices"][0]
    assembler = Assembler()
    (joined,) = [choice for payload in streamed(verdict, plan()) for choice in assembler.feed(payload)]
    told = {"refusal": None, **whole["message"]}
    if joined.message.get("content") is None and not told["content"]:
        told["content"] = None
    assert joined.message == told
    assert joined.finish_reason == whole["finish_reason"] == "stop"


def test_refusal_and_logprobs_are_there_as_null() -> None:
    choice = completion(found({"role": "assistant", "content": "42"}), plan(), {}, HEAD)["choices"][0]
    assert choice["message"]["refusal"] is None
    assert choice["logprobs"] is None


def test_log_probabilities_are_shown_to_who_asked_for_them() -> None:
    verdict = found({"role": "assistant", "content": "42"})
    assert completion(verdict, plan(), {"logprobs": True}, HEAD)["choices"][0]["logprobs"] is not None
    assert any(chunk["choices"][0]["logprobs"] for chunk in streamed(verdict, plan(), {"logprobs": True}))


def test_fingerprint_and_tier_are_the_providers() -> None:
    body = completion(found({"role": "assistant", "content": "42"}), plan(), {}, HEAD)
    assert (body["system_fingerprint"], body["service_tier"]) == ("fp", "flex")
    assert body.items() >= HEAD.items()


def test_the_last_chunk_is_of_usage_when_asked_for_and_carries_the_tally_object() -> None:
    *others, last = streamed(found({"content": "42"}), plan(include_usage=True, show_tally=True))
    assert (last["choices"], last["usage"]) == (
        [],
        {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16},
    )
    assert last["tally"]["paid"] == {"prompt_tokens": 10, "completion_tokens": 6, "estimated": False}
    assert all(chunk["usage"] is None and "tally" not in chunk for chunk in others)


def test_headers_have_a_confidence_only_after_a_vote() -> None:
    message = {"content": "42"}
    assert tally_headers(found(message)) == {
        "x-tally-strategy": "self_consistency",
        "x-tally-samples": "3",
        "x-tally-cost-usd": "0.000001234",
        "x-tally-confidence": "0.8750",
    }
    assert "x-tally-confidence" not in tally_headers(found(message, confidence=None))


def test_calls_are_numbered_whatever_index_their_provider_gave_them() -> None:
    calls = [{"index": 0, "id": name, "type": "function", "function": {"name": name}} for name in "ab"]
    plan = Plan(TENANT, "small", Strategy("off"), stream=True)
    told = b"".join(chunks(found({"role": "assistant", "tool_calls": calls}), plan, {}, HEAD)).decode()
    deltas = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: {")]
    numbered = [
        (call["index"], call["id"])
        for chunk in deltas
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    assert numbered == [(0, "a"), (1, "b")]
