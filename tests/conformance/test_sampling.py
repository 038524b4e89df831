"""Sampling: temperature, seeds, limits, stops and log-probabilities, each for every sample."""

from typing import Any

import pytest

from tests.conformance.talk import Talk, scaled, whole
from tests.fake.script import Step
from tests.fake_upstream import Call, Fault, Reply, tokenize

RIGHT, WRONG = "So the answer is 42.", "So the answer is 41."


@pytest.mark.parametrize("temperature", [0, 0.1])
def test_samples_that_would_be_alike_are_one_and_the_reply_says_why(talk: Talk, temperature: float) -> None:
    talk.says(RIGHT)
    found = talk.hear(temperature=temperature)
    assert (found.content, len(talk.calls), talk.calls[0].n) == (RIGHT, 1, 1)
    assert talk.calls[0].body["temperature"] == temperature
    assert found.headers["x-tally-strategy"] == "off"
    if talk.scales:
        assert found.headers["x-tally-reason"] == found.tally["reason"] == f"temperature {float(temperature):g}"


@scaled("off scales nothing")
def test_a_temperature_above_a_tenth_is_scaled(talk: Talk) -> None:
    talk.says(RIGHT)
    assert talk.hear(temperature=0.11).tally["samples"] > 1


def test_a_model_that_refuses_a_temperature_is_never_sent_one_that_the_client_did_not_send(talk: Talk) -> None:
    def picky(call: Call) -> Step:
        if {"temperature", "top_p", "presence_penalty", "frequency_penalty", "max_tokens"} & call.body.keys():
            return Fault(400, "Unsupported value: 'temperature'.", "invalid_request_error", "unsupported_value")
        return Reply([RIGHT])

    talk.says(picky)
    assert talk.hear().content == RIGHT
    assert all(call.status == 200 for call in talk.calls)


def test_a_refused_temperature_of_the_clients_own_is_the_clients_400(talk: Talk) -> None:
    talk.says(Fault(400, "Unsupported value.", "invalid_request_error", "unsupported_value", param="temperature"))
    error = talk.refused(temperature=0.7)
    assert (error.status_code, error.code, error.param) == (400, "unsupported_value", "temperature")


def test_every_sample_has_a_seed_of_its_own_and_the_first_has_the_clients(talk: Talk) -> None:
    talk.outvoted(WRONG, RIGHT)
    talk.hear(seed=100)
    seeds = [call.body["seed"] + choice for call in talk.calls for choice in range(call.n)]
    assert sorted(seeds) == list(range(100, 100 + len(seeds)))
    assert len(seeds) > 1 or not talk.scales


def test_without_a_seed_none_is_sent(talk: Talk) -> None:
    talk.says(RIGHT)
    talk.hear()
    assert not any("seed" in call.body for call in talk.calls)


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_a_limit_holds_for_each_sample_and_what_it_cut_says_so(talk: Talk, limit: str) -> None:
    talk.says(RIGHT)
    found = talk.hear(**{limit: 3})
    assert (found.content, found.finish) == ("".join(tokenize(RIGHT)[:3]), "length")
    assert all(call.body[limit] == 3 for call in talk.calls)


def test_a_whole_sample_comes_before_those_that_were_cut(talk: Talk) -> None:
    # a wave of several has one that was cut and then whole ones; a draw by itself is always cut
    talk.says(Reply([WRONG, *[RIGHT] * 9], finish_reason=["length", *["stop"] * 9]))
    found = talk.hear(n=2 if not talk.scales else None)
    if talk.scales:
        assert (found.content, found.finish) == (RIGHT, "stop")
    else:
        assert [choice["finish_reason"] for choice in found.choices] == ["length", "stop"]


@pytest.mark.parametrize("stop", ["END", ["END", "\n\n"]])
@whole("what is asked for does not depend on the form of the reply")
def test_stops_are_every_samples(talk: Talk, stop: str | list[str]) -> None:
    talk.says(RIGHT)
    talk.hear(stop=stop)
    assert all(call.body["stop"] == stop for call in talk.calls)


def test_log_probabilities_are_the_winners_own(talk: Talk) -> None:
    talk.outvoted(WRONG, RIGHT, Reply(logprobs=[-0.1, -0.2]))
    found = talk.hear(logprobs=True)
    entries = found.choices[0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == found.content == (RIGHT if talk.scales else WRONG)
    assert all(entry.keys() >= {"token", "logprob", "bytes"} for entry in entries)
    assert all(call.body["logprobs"] is True for call in talk.calls)


def test_alternatives_come_with_each_token_where_they_are_asked_for(talk: Talk) -> None:
    talk.says(Reply([RIGHT], top={"other": -3.0}))
    found = talk.hear(logprobs=True, top_logprobs=2)
    entries = found.choices[0]["logprobs"]["content"]
    assert all([other["token"] for other in entry["top_logprobs"]] == [entry["token"], "other"] for entry in entries)
    assert all(call.body["top_logprobs"] == 2 for call in talk.calls)


@pytest.mark.parametrize("asked", [{"logprobs": False}, {}])
def test_log_probabilities_that_nobody_asked_for_are_not_told_though_a_strategy_uses_them(
    talk: Talk, asked: dict[str, Any]
) -> None:
    talk.says(RIGHT)
    assert talk.hear(**asked).choices[0]["logprobs"] is None
