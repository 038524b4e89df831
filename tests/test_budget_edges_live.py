"""Budgets at their edges, over HTTP and on both stores: clocks that step, windows that end, limits that change."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion
from structlog.testing import capture_logs

from proxy.ledger import Amount
from proxy.ledger.checking import check
from proxy.ledger.counters import tenant_scope
from tests.fake_upstream import FakeUpstream, Reply
from tests.served import MASTER_KEY, RATES, ServedTally, configuration, deployment

NOON = 1_773_835_200.0
"""18 March 2026, 12:00 UTC."""

DAY = 86_400.0
MIDNIGHT = NOON + DAY / 2
ASK: Any = [{"role": "user", "content": "What is 6 x 7?"}]
ONE = RATES.cost(10, 20)
"""What one sample costs."""


@dataclass
class Clock:
    """The wall clock of a test, which steps when the test says so."""

    now: float = NOON

    def __call__(self) -> float:
        return self.now


@dataclass
class Edge:
    """A served tally whose tenants are made by its admin API, before an upstream that takes `latency` seconds."""

    tally: ServedTally
    upstream: FakeUpstream
    clock: Clock
    waits: dict[str, float]
    keys: dict[str, str] = field(default_factory=dict)

    def admin(self, path: str, **body: Any) -> Any:
        reply = self.tally.post(body, path=path, key=MASTER_KEY)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def team(self, name: str, **limits: Any) -> None:
        self.admin("/team/new", team_id=name, **limits)
        self.keys[name] = self.key(name)

    def key(self, team: str, **limits: Any) -> str:
        return str(self.admin("/key/generate", team_id=team, **limits)["key"])

    def ask(self, strategy: str = "off", key: str | None = None, **more: Any) -> ChatCompletion:
        with self.tally.client(strategy, key or self.keys["acme"]) as client:
            asked = {"model": "small", "messages": ASK, "max_tokens": 20, **more}
            reply: ChatCompletion = client.chat.completions.create(**asked)
        return reply

    def refused(self, strategy: str = "off", key: str | None = None, **more: Any) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as caught:
            self.ask(strategy, key, **more)
        return caught.value

    def spent(self, name: str, start: float, end: float = float("inf")) -> Amount:
        """What the rows of a time add up to."""
        with self.tally.books() as books:
            return books.window_sum(tenant_scope(name), start, end)

    def in_window(self, name: str = "acme") -> Amount:
        """What is spent in the window that holds now."""
        with self.tally.books() as books:
            return books.glance(tenant_scope(name)).windows[0].spent

    def settled(self) -> None:
        """Wait for what is still on its way to the store, and see that all of it adds up."""
        with self.tally.books() as books:
            self.upstream.wait(lambda: all(row.reserved == Amount() for row in check(books)))
            rows = check(books)
        assert all(row.ok for row in rows)
        assert sum(row.spent.nano for row in rows if row.key is None) == self.upstream.meter.cost_nano(RATES)

    @contextmanager
    def running(self, count: int, strategy: str = "off", **more: Any) -> Iterator[list["Future[ChatCompletion]"]]:
        """So many requests on their way, held at the upstream while the block runs."""
        self.waits["latency"] = 0.7
        before = len(self.upstream.calls)
        with ThreadPoolExecutor(count) as threads:
            sent = [threads.submit(self.ask, strategy, **more) for _ in range(count)]
            self.upstream.wait(lambda: len(self.upstream.calls) == before + count)
            self.waits["latency"] = 0.0
            yield sent


@pytest.fixture
def edge(url: str, tmp_path: Path) -> Iterator[Edge]:
    with served(url, tmp_path) as made:
        yield made


@contextmanager
def served(
    ledger: str, folder: Path, models: Callable[[str], list[dict[str, Any]]] = lambda url: [deployment(url)]
) -> Iterator[Edge]:
    clock, waits = Clock(), {"latency": 0.0}
    reply = Reply(("42",), prompt_tokens=10, completion_tokens=20)
    with FakeUpstream(lambda _: Reply(**{**_fields(reply), **waits})) as upstream:
        more = {"general_settings": {"database_url": ledger}, "tenants": [], "model_list": models(upstream.base_url)}
        with ServedTally(configuration(upstream.base_url, folder, **more), wall=clock) as tally:
            yield Edge(tally, upstream, clock, waits)


def _fields(reply: Reply) -> dict[str, Any]:
    return {name: getattr(reply, name) for name in Reply.__dataclass_fields__}


def budget(error: openai.APIStatusError) -> Any:
    """What a 402 tells of the limit that was reached."""
    assert error.status_code == 402
    assert isinstance(error.body, dict)
    assert (error.type, error.code, error.param) == ("budget_exceeded", "budget_exceeded", None)
    return error.body["budget"]


def test_a_clock_that_steps_over_a_windows_edge_and_back_finds_each_window_as_it_was(edge: Edge) -> None:
    edge.team("acme", sample_budget=4, budget_duration="1d")
    told = []
    for day, wanted in ((0, 3), (1, 2), (0, 2), (1, 3), (0, 1), (2, 1)):
        edge.clock.now = NOON + day * DAY
        for _ in range(wanted):
            try:
                edge.ask()
                told.append((day, 200))
            except openai.APIStatusError as error:
                told.append((day, error.status_code))
        edge.settled()
    first, second, third = (edge.spent("acme", NOON + (day - 0.5) * DAY, NOON + (day + 0.5) * DAY) for day in range(3))
    assert [amount.samples for amount in (first, second, third)] == [4, 4, 1]
    assert told == [
        *[(0, 200)] * 3,
        *[(1, 200)] * 2,
        *[(0, 200), (0, 402)],
        *[(1, 200), (1, 200), (1, 402)],
        (0, 402),
        (2, 200),
    ]
    assert edge.in_window() == third


def test_under_load_no_window_holds_more_than_its_limit_when_its_edge_passes(edge: Edge) -> None:
    edge.clock.now = MIDNIGHT - 1
    edge.team("acme", sample_budget=40, budget_duration="1d")
    edge.waits["latency"] = 0.1

    async def ask(client: openai.AsyncOpenAI) -> None:
        """Again and again, until there is nothing left of the second window either."""
        while True:
            passed = edge.clock.now > MIDNIGHT
            try:
                await client.chat.completions.create(model="small", messages=ASK, max_tokens=20)
            except openai.APIStatusError as error:
                assert error.status_code == 402
                if passed:
                    return
                await anyio.sleep(0.02)

    async def pass_the_edge() -> None:
        while (await anyio.to_thread.run_sync(edge.spent, "acme", 0)).samples < 5:  # noqa: ASYNC110 - the server is in another thread
            await anyio.sleep(0.01)
        edge.clock.now = MIDNIGHT + 1

    async def load() -> None:
        single, scaled = (edge.tally.async_client(name, edge.keys["acme"]) for name in ("off", "self_consistency"))
        async with single, scaled, anyio.create_task_group() as group:
            group.start_soon(pass_the_edge)
            for client in (*[single] * 8, scaled, scaled):
                group.start_soon(ask, client)

    anyio.run(load)
    edge.settled()
    before, after = edge.spent("acme", 0, MIDNIGHT), edge.spent("acme", MIDNIGHT)
    assert 5 <= before.samples <= 40
    # what was reserved before the edge, and is settled after it, is the new window's
    assert after.samples == 40
    assert edge.in_window() == after


def test_a_request_across_the_reset_is_held_in_the_old_window_and_charged_to_the_new_one(edge: Edge) -> None:
    edge.clock.now = MIDNIGHT - 1
    edge.team("acme", sample_budget=1, budget_duration="1d")
    with edge.running(1) as sent:
        assert budget(edge.refused())["left"] == "0"
        edge.clock.now = MIDNIGHT + 1
        # what it has reserved counts in the new window, too, for it is there that it will be charged
        assert budget(edge.refused())["resets_at"] == "2026-03-20T00:00:00Z"
    assert sent[0].result().choices[0].message.content == "42"
    edge.settled()
    assert edge.spent("acme", 0, MIDNIGHT) == Amount()
    assert edge.in_window() == Amount(ONE, 30, 1)
    assert budget(edge.refused())["left"] == "0"
    edge.clock.now += DAY
    edge.ask()


def test_a_limit_lowered_below_what_is_spent_ends_what_comes_and_not_what_runs(edge: Edge) -> None:
    edge.team("acme", max_budget=100 * ONE / 1e9, budget_duration="1d")
    with edge.running(4) as sent:
        edge.admin("/team/update", team_id="acme", max_budget=2 * ONE / 1e9)
        assert budget(edge.refused())["left"] == "0"
    assert [one.result().choices[0].message.content for one in sent] == ["42"] * 4
    edge.settled()
    assert edge.in_window() == Amount(4 * ONE, 120, 4)
    told = budget(edge.refused("self_consistency"))
    assert (told["limited"], told["left"]) == ("money", "0")
    info = httpx.get(
        f"{edge.tally.url}/team/info", params={"team_id": "acme"}, headers={"authorization": f"Bearer {MASTER_KEY}"}
    ).json()["team_info"]
    assert info["spend"] == 4 * ONE / 1e9 > info["max_budget"]


def test_a_tenant_deleted_with_requests_in_flight_pays_for_them_and_then_is_nobody(edge: Edge) -> None:
    edge.team("acme")
    with edge.running(3) as sent:
        edge.admin("/team/delete", team_ids=["acme"])
    assert [one.result().choices[0].message.content for one in sent] == ["42"] * 3
    # what a key stands for is believed for a second, and until then nothing more is spent
    edge.upstream.wait(lambda: edge.refused().status_code == 401)
    assert len(edge.upstream.calls) == 3
    edge.upstream.wait(lambda: edge.spent("acme", 0).samples == 3)
    with edge.tally.books() as books:
        assert all(row.ok for row in check(books))
    assert edge.spent("acme", 0) == Amount(3 * ONE, 90, 3)


def test_two_tenants_of_one_alias_spend_apart_and_are_told_apart_by_their_names(edge: Edge) -> None:
    for name, samples in (("acme", 1), ("apex", 2)):
        edge.team(name, team_alias="Blue", sample_budget=samples)
    # an alias is no name: nothing is looked up by it
    headers = {"authorization": f"Bearer {MASTER_KEY}"}
    found = httpx.get(f"{edge.tally.url}/team/info", params={"team_id": "Blue"}, headers=headers)
    assert (found.status_code, "no tenant 'Blue'" in found.text) == (404, True)
    teams = httpx.get(f"{edge.tally.url}/team/list", headers=headers).json()
    assert {each["team_id"] for each in teams if each["team_alias"] == "Blue"} == {"acme", "apex"}
    edge.ask()
    message = str(edge.refused())
    assert "The tenant 'acme' may draw 1 samples" in message
    assert "apex" not in message
    for _ in range(2):
        edge.ask(key=edge.keys["apex"])
    assert budget(edge.refused(key=edge.keys["apex"]))["tenant"] == "apex"
    edge.settled()
    assert [edge.in_window(name).samples for name in ("acme", "apex")] == [1, 2]


def _free_and_unpriced(url: str) -> list[dict[str, Any]]:
    free = {"input_cost_per_token": 0, "output_cost_per_token": 0}
    unpriced = deployment(url, litellm_params={"model": "openai/unheard-of"})
    for name in free:
        del unpriced["litellm_params"][name]
    return [
        deployment(url),
        {**deployment(url, litellm_params=free), "model_name": "gift"},
        {**unpriced, "model_name": "x"},
    ]


def test_a_budget_of_money_that_is_used_up_takes_nothing_from_a_free_model(url: str, tmp_path: Path) -> None:
    with served(url, tmp_path, _free_and_unpriced) as edge:
        edge.team("acme", max_budget=0, soft_budget=0, scale_until="soft", on_exhausted="refuse")
        assert budget(edge.refused())["limit"] == "0"
        reply = edge.ask("self_consistency", model="gift")
        assert (reply.model_extra or {})["tally"]["samples"] == 8
        unknown = edge.refused(model="x")
        assert (unknown.status_code, unknown.code) == (400, "model_unpriced")
        # tokens are another matter
        edge.team("apex", max_budget=0, token_budget=300, on_exhausted="refuse")
        for _ in range(6):
            edge.ask(model="gift", key=edge.keys["apex"])
        assert budget(edge.refused(model="gift", key=edge.keys["apex"]))["limited"] == "tokens"


def test_a_refusal_names_whose_limit_it_is_and_when_to_come_back(edge: Edge) -> None:
    edge.team("acme", max_budget=1, budget_duration="1mo")
    key = edge.key("acme", key_alias="ci", max_budget=0.0000297, budget_duration="1d")
    for _ in range(2):
        edge.ask(key=key)
    for strategy, stream in (("off", False), ("off", True), ("self_consistency", False), ("self_consistency", True)):
        error = edge.refused(strategy, key=key, stream=stream)
        told = budget(error)
        assert (told["tenant"], told["key"], told["limited"]) == ("acme", told["key"], "money")
        assert f"The key '{told['key']}' may spend 0.0000297 USD in each window of 1d" in str(error)
        assert "0.0000117 USD of it is left" in str(error)
        assert (told["limit"], told["left"]) == ("0.0000297", "0.0000117")
        assert told["resets_at"] == "2026-03-19T00:00:00Z"
        assert error.response.headers["retry-after"] == "43200"
        assert error.response.headers["x-should-retry"] == "false"
    edge.ask()


def test_a_client_that_comes_back_when_its_short_window_has_ended_is_served(edge: Edge) -> None:
    edge.team("acme", sample_budget=1, budget_duration="30s")
    edge.ask()
    edge.clock.now += 28.5
    error = edge.refused()
    headers = error.response.headers
    assert (headers["retry-after"], headers["x-should-retry"]) == ("2", "true")
    edge.clock.now += float(headers["retry-after"])
    edge.ask()


def test_who_wants_no_single_sample_is_told_which_budget_holds_no_vote(edge: Edge) -> None:
    edge.team("acme", sample_budget=100, budget_duration="1d", on_exhausted="refuse")
    key = edge.key("acme", soft_budget=ONE / 1e9, scale_until="soft")
    with edge.tally.books() as books:
        public = books.key_id(key)
    edge.ask("self_consistency", key=key, extra_body={"tally": {"samples": 2}})
    edge.upstream.wait(lambda: edge.in_window().samples == 2)
    edge.upstream.wait(lambda: "tally_soft_budget_used{" in edge.tally.get("/metrics").text)
    told = budget(edge.refused("self_consistency", key=key))
    assert (told["key"], told["limited"], told["limit"]) == (public, "soft budget", "0.000009")
    # the tenant's own budget holds votes, and another key has them
    assert (edge.ask("self_consistency").model_extra or {})["tally"]["samples"] == 8


def test_the_request_that_uses_up_a_soft_budget_tells_so_itself_and_each_scope_has_its_own(edge: Edge) -> None:
    edge.team("acme", soft_budget=2.5 * ONE / 1e9, budget_duration="1d")
    key = edge.key("acme", soft_budget=ONE / 1e9, budget_duration="1d")
    with edge.tally.books() as books:
        public = books.key_id(key)

    def gauges() -> dict[str, float]:
        lines = edge.tally.get("/metrics").text.splitlines()
        found = (
            line.removeprefix("tally_soft_budget_used").rsplit(" ", 1) for line in lines if "soft_budget_used{" in line
        )
        return {labels: float(value) for labels, value in found}

    def looked(asking: str, seen: dict[str, int]) -> bool:
        return edge.tally.get("/v1/models", asking).is_success and gauges() == seen

    whole, own = '{key="",tenant="acme"}', f'{{key="{public}",tenant="acme"}}'
    with capture_logs() as logs:
        edge.ask(key=key)
        edge.upstream.wait(lambda: gauges() == {whole: 0, own: 1})
        edge.ask()
        edge.ask()
        edge.upstream.wait(lambda: gauges() == {whole: 1, own: 1})
        edge.clock.now += DAY
        # in a new window both have room again, and whoever looks next tells so
        for asking, seen in ((edge.keys["acme"], {whole: 0, own: 1}), (key, {whole: 0, own: 0})):
            edge.upstream.wait(partial(looked, asking, seen))
    told = [{**line, "log_level": ""} for line in logs if str(line["event"]).startswith("soft_budget")]
    acme = {"tenant": "acme", "log_level": ""}
    assert told == [
        {**acme, "event": "soft_budget_used", "key": public},
        {**acme, "event": "soft_budget_used"},
        {**acme, "event": "soft_budget_free"},
        {**acme, "event": "soft_budget_free", "key": public},
    ]
