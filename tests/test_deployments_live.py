"""Several deployments of one model, and fallbacks, as a client and the ledger see them."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from proxy.ledger.reports import draws
from proxy.money import Rates
from tests.fake_upstream import Call, Drop, FakeUpstream, Fault, InOrder, Malformed, Plain, Reply, Script, Turns
from tests.served import RATES, ServedTally, configuration, deployment
from tests.staged import ASK, events, told

JSON = dict[str, Any]

DEAR = Rates(1_000_000, 5_000_000)
PRICED = {"input_cost_per_token": 1e-6, "output_cost_per_token": 5e-6}
LONG = "one two three four five six"

PASSING = [
    pytest.param(Fault(429, retry_after=20), id="429"),
    pytest.param(Fault(500), id="500"),
    pytest.param(Fault(503, retry_after=20), id="503"),
    pytest.param(Fault(401), id="401"),
    pytest.param(Fault(403), id="403"),
    pytest.param(Drop(), id="drop"),
]
"""What goes wrong with a deployment and not with the request."""

STRATEGIES = pytest.mark.parametrize("strategy", ["off", "self_consistency", "adaptive"])
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@dataclass
class Two:
    """A proxy before two upstreams; `rates` are what the second one charges."""

    one: FakeUpstream
    other: FakeUpstream
    tally: ServedTally
    client: OpenAI
    rates: Rates

    def ask(self, strategy: str = "off", *, stream: bool = False, **more: Any) -> str:
        """The text of the first choice, and the model's name is that which was asked for."""
        request: JSON = {"model": "small", "messages": ASK, **more}
        completions = self.client.with_options(base_url=f"{self.tally.url}/{strategy}/v1").chat.completions
        if not stream:
            reply = completions.create(**request)
            assert reply.model == request["model"]
            return reply.choices[0].message.content or ""
        chunks = list(completions.create(stream=True, **request))
        assert {chunk.model for chunk in chunks} == {request["model"]}
        return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)

    def post(self, strategy: str = "off", **more: Any) -> httpx.Response:
        body = {"model": "small", "messages": ASK, **more}
        return self.tally.post(body, path=f"/{strategy}/v1/chat/completions")

    def rows(self) -> list[JSON]:
        """The ledger's draws, oldest first, once nothing is reserved any more."""
        self.one.wait(lambda: not self.tally.balance().reserved.nano)
        with self.tally.books() as books:
            return list(draws(books))

    def exact(self) -> None:
        """The ledger's account is the sum of the two providers' own meters."""
        self.one.wait(lambda: not self.tally.balance().reserved.nano)
        balance = self.tally.balance()
        assert balance.ok
        assert balance.spent.nano == self.one.meter.cost_nano(RATES) + self.other.meter.cost_nano(self.rates)


@contextmanager
def two(
    folder: Path,
    one: Script = "42",
    other: Script = "42",
    *,
    first: JSON | None = None,
    second: JSON | None = None,
    fallback: str | None = None,
    **config: Any,
) -> Iterator[Two]:
    """Two deployments of `small`, or one and a dearer `fallback`; `first` and `second` are more of their entries."""
    with ExitStack() as stack:
        servers = [stack.enter_context(FakeUpstream(script)) for script in (one, other)]
        second = dict(second or {})
        if fallback is not None:
            params = {"model": "openai/large", **PRICED, **second.pop("litellm_params", {})}
            second |= {"model_name": fallback, "litellm_params": params}
            config.setdefault("router_settings", {})["fallbacks"] = [{"small": [fallback]}]
        entries = [
            deployment(server.base_url, **more) for server, more in zip(servers, (first or {}, second), strict=True)
        ]
        config = configuration("", folder, model_list=entries, **config)
        tally = stack.enter_context(ServedTally(config))
        client = stack.enter_context(tally.client())
        yield Two(servers[0], servers[1], tally, client, RATES if fallback is None else DEAR)


def test_draws_of_one_query_come_from_both_and_vote_together(tmp_path: Path) -> None:
    alone = {"model_info": {"max_n": 1}}
    with two(tmp_path, "42", "41", first=alone, second=alone, scaling={"samples": 7}) as made:
        reply = made.client.chat.completions.create(model="small", messages=ASK, seed=100)  # type: ignore[arg-type]
        made.exact()
        seeds = [call.body["seed"] for server in (made.one, made.other) for call in server.calls]
        assert sorted([len(made.one.calls), len(made.other.calls)]) == [3, 4]
    votes = {vote["answer"]: vote["count"] for vote in told(reply)["votes"]}
    assert sorted(votes.values()) == [3, 4]
    assert sorted(seeds) == list(range(100, 107))


def test_requests_are_spread_by_weight(tmp_path: Path) -> None:
    with two(tmp_path, first={"litellm_params": {"weight": 3}}) as made:
        for _ in range(8):
            made.ask()
        assert (len(made.one.calls), len(made.other.calls)) == (6, 2)
        made.exact()


@STRATEGIES
@STREAMED
@pytest.mark.parametrize("step", PASSING)
def test_what_one_deployment_cannot_do_the_other_does_at_once(
    tmp_path: Path, strategy: str, step: Fault | Drop, *, stream: bool
) -> None:
    with two(tmp_path, step, scaling={"samples": 3}) as made:
        assert made.ask(strategy, stream=stream) == "42"
        assert made.one.calls
        assert made.other.calls
        if not isinstance(step, Drop):
            made.exact()
        assert {row["status"] for row in made.rows()} >= {"ok"}


@STRATEGIES
@STREAMED
def test_where_the_model_fails_its_fallback_answers_under_its_name_and_at_its_own_price(
    tmp_path: Path, strategy: str, *, stream: bool
) -> None:
    with two(tmp_path, Fault(503), fallback="large", tenant={"models": ["small"]}, scaling={"samples": 3}) as made:
        assert made.ask(strategy, stream=stream) == "42"
        rows = [row for row in made.rows() if row["status"] == "ok"]
        made.exact()
        assert {(row["model"], row["deployment"]) for row in rows} == {("openai/large", "large")}
        assert {call.body["model"] for call in made.other.calls} == {"large"}


def test_a_tenant_may_not_ask_for_a_fallback_itself_that_is_off_its_list(tmp_path: Path) -> None:
    with two(tmp_path, fallback="large", tenant={"models": ["small"]}) as made:
        assert made.post(model="large").status_code == 403


@STRATEGIES
def test_a_fallback_without_a_price_is_none_where_money_is_limited(tmp_path: Path, strategy: str) -> None:
    unpriced = {"model": "openai/unheard-of", "input_cost_per_token": None, "output_cost_per_token": None}
    with two(tmp_path, Fault(503, retry_after=30), fallback="large", second={"litellm_params": unpriced}) as made:
        assert made.post(strategy, tally={"max_cost_usd": 1}).status_code == 503
        assert made.other.calls == []
        assert made.ask(strategy) == "42"


@STRATEGIES
@pytest.mark.parametrize("status", [400, 404, 422])
def test_what_is_the_clients_own_fault_is_tried_nowhere_else(tmp_path: Path, strategy: str, status: int) -> None:
    refusing = Fault(status, "No.", "invalid_request_error", "bad")
    with two(tmp_path, refusing, fallback="large", scaling={"samples": 1}) as made:
        assert made.post(strategy).status_code == status
        assert made.other.calls == []


def test_a_deployment_that_said_429_rests_for_as_long_as_it_said(tmp_path: Path) -> None:
    with two(tmp_path, Turns(Fault(429, retry_after=30), "41")) as made:
        assert [made.ask() for _ in range(5)] == ["42"] * 5
        assert (len(made.one.calls), len(made.other.calls)) == (1, 5)
        made.exact()


def test_a_deployment_rests_after_more_failures_than_are_allowed_and_comes_back(tmp_path: Path) -> None:
    settings = {"allowed_fails": 1, "cooldown_time": 0.5}
    with two(tmp_path, Turns(Fault(500), Fault(500), "41"), router_settings=settings) as made:
        assert [made.ask() for _ in range(8)] == ["42"] * 8
        assert len(made.one.calls) == 2
        made.one.wait(lambda: made.ask() == "41")


def test_where_all_fail_the_client_hears_of_the_model_that_it_asked_for(tmp_path: Path) -> None:
    with two(tmp_path, Fault(429, "Slow down.", retry_after=30), Fault(401), fallback="large") as made:
        for strategy in ("off", "self_consistency"):
            response = made.post(strategy)
            assert (response.status_code, response.headers["retry-after"]) == (429, "30")
            assert response.json()["error"]["message"] == "Slow down."


def test_a_stream_that_has_begun_goes_nowhere_else(tmp_path: Path) -> None:
    with two(tmp_path, Drop(after_chunks=2, reply=Reply([LONG])), fallback="large") as made:
        *_, last = events(made.post(stream=True))
        assert json.loads(last)["error"]["code"] == "upstream_unreachable"
        with pytest.raises(openai.APIError):
            made.ask(stream=True)
        assert made.other.calls == []


def test_a_server_that_cannot_be_reached_is_passed_by(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        with two(tmp_path, first={"litellm_params": {"api_base": nowhere}}) as made:
            assert made.ask() == made.ask("self_consistency") == made.ask(stream=True) == "42"
            made.exact()


@pytest.mark.parametrize("step", [Malformed("{oops"), Reply(latency=30)], ids=["malformed", "timeout"])
def test_a_reply_that_is_none_or_never_comes_is_asked_of_the_other(tmp_path: Path, step: Malformed | Reply) -> None:
    with two(tmp_path, step, first={"litellm_params": {"timeout": 0.3}}) as made:
        assert made.ask() == made.ask("self_consistency") == "42"
        made.one.wait(lambda: not made.tally.balance().reserved.nano)
        assert made.tally.balance().ok


@pytest.mark.parametrize("strategy", ["off", "self_consistency"])
def test_limits_of_a_minute_send_calls_elsewhere_and_then_the_client_away(tmp_path: Path, strategy: str) -> None:
    limited = {"litellm_params": {"rpm": 1, "timeout": 2}}
    with two(tmp_path, first=limited, second=limited, scaling={"deadline_s": 2}) as made:
        assert [made.ask(strategy) for _ in range(2)] == ["42", "42"]
        response = made.post(strategy)
        assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 50 <= int(response.headers["retry-after"]) <= 60
        assert (len(made.one.calls), len(made.other.calls)) == (1, 1)
        made.exact()


def test_limits_of_tokens_count_what_was_billed(tmp_path: Path) -> None:
    limited = {"litellm_params": {"tpm": 400}}
    reply = Reply(prompt_tokens=20, completion_tokens=30)
    with two(tmp_path, reply, reply, first=limited, scaling={"samples": 1}) as made:
        for _ in range(24):
            made.ask(max_tokens=100)
        # 50 a call: a new one needs room for the 100 that it may write, and its prompt
        assert 4 <= len(made.one.calls) <= 7
        made.exact()


def test_what_one_deployment_refuses_is_not_taken_for_the_others_measure(tmp_path: Path) -> None:
    with two(tmp_path, InOrder(["42"], Reply(n="refuse")), scaling={"samples": 4}) as made:
        for _ in range(4):
            made.ask("self_consistency")
        made.exact()
        assert {call.n for call in made.one.calls if call.status == 200} == {1}
        assert max(call.n for call in made.other.calls) > 1


def test_log_probabilities_that_one_deployment_refuses_are_still_asked_of_the_other(tmp_path: Path) -> None:
    def refusing(call: Call) -> Reply | Fault:
        return Fault(400, "no logprobs", "invalid_request_error") if "logprobs" in call.body else Reply()

    with two(tmp_path, refusing, scaling={"samples": 4}) as made:
        for _ in range(4):
            made.ask("optscale")
        made.exact()
        assert made.one.calls[-1].status == 200
        assert "logprobs" not in made.one.calls[-1].body
        assert all("logprobs" in call.body for call in made.other.calls)


def test_embeddings_go_to_the_other_deployment_and_to_fallbacks_as_well(tmp_path: Path) -> None:
    vectors = Plain([{"index": 0, "embedding": [0.0, 1.0]}], more={"model": "large"})
    with two(tmp_path, Fault(500), vectors, fallback="large") as made:
        reply = made.client.embeddings.create(model="small", input="hello", encoding_format="float")
        assert (reply.data[0].embedding, reply.model) == ([0.0, 1.0], "small")
        made.exact()


def test_a_call_is_tried_again_as_often_as_the_configuration_says(tmp_path: Path) -> None:
    for retries in (0, 1):
        folder = tmp_path / str(retries)
        folder.mkdir()
        settings = {"num_retries": retries}
        with two(folder, Fault(500), Fault(500), scaling={"samples": 1}, litellm_settings=settings) as made:
            assert made.post("self_consistency", tally={"samples": 2}).status_code == 500
            assert len(made.one.calls) + len(made.other.calls) == 2 * (retries + 1)


REFUSING = Fault(400, "large-internal takes no such thing", "invalid_request_error", "bad")


@pytest.mark.parametrize("strategy", ["off", "self_consistency", "optscale"])
def test_a_fallback_that_refuses_is_told_to_nobody_and_the_next_one_asked(tmp_path: Path, strategy: str) -> None:
    with two(tmp_path, Fault(503, "Down."), REFUSING, fallback="large", scaling={"samples": 3}) as made:
        response = made.post(strategy)
        assert (response.status_code, response.json()["error"]["message"]) == (503, "Down.")
        assert made.other.calls
    with FakeUpstream("42") as third:
        last = deployment(third.base_url, model_name="last")
        config = configuration("", tmp_path, scaling={"samples": 3})
        with FakeUpstream(Fault(503)) as one, FakeUpstream(REFUSING) as other:
            entries = [deployment(one.base_url), deployment(other.base_url, model_name="large"), last]
            config |= {"model_list": entries, "router_settings": {"fallbacks": [{"small": ["large", "last"]}]}}
            with ServedTally(config) as tally, tally.client(strategy) as client:
                reply = client.chat.completions.create(model="small", messages=ASK)  # type: ignore[arg-type]
                assert reply.choices[0].message.content == "42"


def test_a_model_that_is_back_is_asked_again_though_its_fallback_refuses(tmp_path: Path) -> None:
    with two(tmp_path, Turns(Fault(503), "42"), REFUSING, fallback="large") as made:
        assert made.post("self_consistency", tally={"samples": 2}).status_code == 200


def test_a_fallback_that_refuses_what_tally_puts_in_is_asked_without_it(tmp_path: Path) -> None:
    def refusing(call: Call) -> Reply | Fault:
        return Fault(400, "no logprobs", "invalid_request_error") if "logprobs" in call.body else Reply()

    with two(tmp_path, Fault(503), refusing, fallback="large", scaling={"samples": 3}) as made:
        assert made.ask("optscale") == "42"
        made.exact()
        assert any("logprobs" not in call.body and call.status == 200 for call in made.other.calls)


def test_a_fallback_that_is_too_dear_makes_the_model_no_worse(tmp_path: Path) -> None:
    cap: JSON = {"max_tokens": 500, "tally": {"max_cost_usd": 0.0008}}
    with two(tmp_path, Turns(Fault(503), "42"), fallback="large", scaling={"samples": 3}) as made:
        assert made.post("self_consistency", **cap).status_code == 200
        assert made.other.calls == []
        made.exact()
    folder = tmp_path / "off"
    folder.mkdir()
    with two(folder, Fault(503, "Down.", retry_after=9), fallback="large") as made:
        response = made.post("off", **cap)
        assert (response.status_code, response.json()["error"]["message"]) == (503, "Down.")
        embedded = {"model": "small", "input": "x" * 2000, "tally": {"max_cost_usd": 0.0005}}
        response = made.tally.post(embedded, path="/v1/embeddings")
        assert (response.status_code, response.json()["error"]["message"]) == (503, "Down.")
        assert made.other.calls == []
        made.exact()


@pytest.mark.parametrize("strategy", ["off", "self_consistency"])
def test_a_request_that_one_deployment_is_too_dear_for_goes_to_a_cheaper_one(tmp_path: Path, strategy: str) -> None:
    dear = {"litellm_params": {"input_cost_per_token": 1e-5, "output_cost_per_token": 1e-3}}
    with two(tmp_path, first=dear, scaling={"samples": 3}) as made:
        for _ in range(4):
            assert made.post(strategy, max_tokens=500, tally={"max_cost_usd": 0.01}).status_code == 200
        assert made.one.calls == []
        made.exact()


def test_a_deployment_that_never_answers_rests_though_it_is_the_deadline_that_ends_its_calls(tmp_path: Path) -> None:
    settings = {"allowed_fails": 0, "cooldown_time": 30}
    with two(tmp_path, Reply(latency=30), scaling={"samples": 3, "deadline_s": 0.5}, router_settings=settings) as made:
        found = [made.post("self_consistency").status_code for _ in range(5)]
        assert found == [504, 200, 200, 200, 200]
        assert len(made.one.calls) == 1


def test_a_tenant_that_cannot_pay_takes_no_part_of_the_minute_from_others(tmp_path: Path) -> None:
    limited = {"litellm_params": {"rpm": 1, "timeout": 1}}
    with two(tmp_path, first=limited, second=limited) as made:
        for _ in range(3):
            assert made.post(n=4, max_tokens=1000, tally={"max_cost_usd": 0.0006}).status_code == 402
        assert [made.ask() for _ in range(2)] == ["42", "42"]


def test_errors_now_and_then_reach_no_client_while_the_other_one_is_well(tmp_path: Path) -> None:
    turns = count()

    def shaky(call: Call) -> Reply | Fault:
        return Fault(500) if next(turns) % 3 == 0 else Reply()

    with two(tmp_path, shaky, shaky) as made:
        assert {made.post().status_code for _ in range(30)} == {200}
        assert sum(call.status == 500 for call in made.one.calls + made.other.calls) > 8


def test_the_ledger_tells_entries_of_one_model_apart(tmp_path: Path) -> None:
    with two(tmp_path, second={"model_info": {"id": "berlin"}}) as made:
        for _ in range(2):
            made.ask()
        assert [row["deployment"] for row in made.rows()] == ["small#1", "berlin"]


def test_among_many_faults_the_account_stays_exact(tmp_path: Path) -> None:
    steps = count()

    def shaky(call: Call) -> Reply | Fault:
        return Fault(503, retry_after=0) if next(steps) % 3 == 0 else Reply(["42", "41"])

    alone = {"model_info": {"max_n": 2}}
    settings = {"cooldown_time": 0.05}
    with two(tmp_path, shaky, shaky, first=alone, second=alone, router_settings=settings) as made:
        for _ in range(6):
            for strategy in ("off", "self_consistency", "dynscaling"):
                assert made.post(strategy).status_code == 200
        made.exact()
