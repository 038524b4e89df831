"""Keys: who calls, for how long a key is believed, and how many requests a minute."""

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import openai
import pytest

from proxy.auth import CACHE_S, LOCAL, MASTER, Auth, Caller, SoftBudget
from proxy.errors import NotAllowed, NotAuthenticated
from proxy.ledger import Amount, Reservation, Settlement
from proxy.ledger.books import Books
from proxy.ledger.sqlite import SqliteLedger
from proxy.ledger.store import wall_clock
from proxy.types import Account, Limits, Tenant
from tests.fake_upstream import FakeUpstream
from tests.served import KEY, MASTER_KEY, ServedTally, deployment
from tests.staged import ASK, Stage, staged

pytestmark = pytest.mark.anyio

BUSY = "sk-busy-0123456789"


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def ledger() -> AsyncIterator[SqliteLedger]:
    opened = SqliteLedger.open("sqlite://", clock=wall_clock)
    await opened.run(lambda books: books.add_tenant(Tenant("acme", rpm_limit=2)))
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def auth(ledger: SqliteLedger, clock: Clock) -> Auth:
    return Auth(ledger, master_key=MASTER_KEY, open_to_all=False, clock=clock)


@pytest.fixture
async def key(ledger: SqliteLedger) -> str:
    return await ledger.run(lambda books: books.create_key("acme"))


async def test_a_key_is_its_tenants_whatever_the_case_of_its_scheme(auth: Auth, key: str) -> None:
    for header in (f"Bearer {key}", f"bearer {key}", f"BEARER   {key}  "):
        caller = await auth.caller(header)
        assert caller.tenant.name == "acme"
        assert caller.key is not None
        assert key not in repr(caller.key)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic {key}", "{key}", "Bearer x{key}", "Bearer é"])
async def test_anything_else_is_nobody(auth: Auth, key: str, header: str | None) -> None:
    with pytest.raises(NotAuthenticated):
        await auth.caller(header and header.format(key=key))


async def test_a_revoked_key_is_believed_for_a_second_at_most(
    auth: Auth, ledger: SqliteLedger, clock: Clock, key: str
) -> None:
    caller = await auth.caller(f"Bearer {key}")
    assert caller.key is not None
    await ledger.run(lambda books: books.revoke_key(str(caller.key_id)))
    clock.now += CACHE_S
    with pytest.raises(NotAuthenticated):
        await auth.caller(f"Bearer {key}")
    assert CACHE_S <= 1


async def test_a_key_is_not_looked_up_again_within_the_second(
    auth: Auth, ledger: SqliteLedger, clock: Clock, key: str
) -> None:
    caller = await auth.caller(f"Bearer {key}")
    await ledger.run(lambda books: books.revoke_key(str(caller.key_id)))
    clock.now += CACHE_S / 2
    assert await auth.caller(f"Bearer {key}") == caller


async def test_an_unknown_key_is_looked_up_each_time(auth: Auth, ledger: SqliteLedger) -> None:
    with pytest.raises(NotAuthenticated):
        await auth.caller("Bearer sk-later-0123")
    await ledger.run(lambda books: books.adopt([Tenant("later", managed=True)], {"later": ["sk-later-0123"]}))
    assert (await auth.caller("Bearer sk-later-0123")).tenant.name == "later"


async def test_a_tenant_blocked_meanwhile_is_blocked_within_the_second(
    auth: Auth, ledger: SqliteLedger, clock: Clock, key: str
) -> None:
    await auth.caller(f"Bearer {key}")
    await ledger.run(lambda books: books.block("acme"))
    clock.now += CACHE_S
    with pytest.raises(NotAllowed) as caught:
        await auth.caller(f"Bearer {key}")
    assert caught.value.code == "tenant_blocked"


async def test_the_master_key_is_a_tenant_of_its_own(auth: Auth, ledger: SqliteLedger) -> None:
    assert await auth.caller(f"Bearer {MASTER_KEY}") == Caller(MASTER, None)
    keyless = Auth(ledger, master_key=None, open_to_all=False, clock=Clock())
    with pytest.raises(NotAuthenticated):
        await keyless.caller(f"Bearer {MASTER_KEY}")


@pytest.mark.parametrize("header", [None, "Bearer anything", "Basic x"])
async def test_an_open_server_takes_everybody(ledger: SqliteLedger, header: str | None) -> None:
    auth = Auth(ledger, master_key=None, open_to_all=True, clock=Clock())
    assert await auth.caller(header) == Caller(LOCAL, None)


async def test_a_key_narrows_what_its_tenant_may_do(auth: Auth, ledger: SqliteLedger) -> None:
    await ledger.run(lambda books: books.update_tenant("acme", models=("a", "b"), max_samples=8, max_nano=100))
    own = Limits(models=("b", "c"), max_samples=4, strategy="off", max_nano=50, rpm_limit=3)
    narrow = await ledger.run(lambda books: books.create_key("acme", limits=own))
    caller = await auth.caller(f"Bearer {narrow}")
    assert (caller.tenant.models, caller.tenant.max_samples, caller.tenant.strategy) == (("b",), 4, "off")
    assert [limits.rpm_limit for _, limits in caller.scopes] == [2, 3]
    assert (caller.left, caller.soft) == (1.0, False)


async def test_a_caller_knows_what_is_left_of_the_narrowest_budget(auth: Auth, ledger: SqliteLedger, key: str) -> None:
    await ledger.run(lambda books: books.update_tenant("acme", max_nano=100, soft_nano=60, max_tokens=1000))
    await ledger.reserve(Reservation("a", Account("acme", None, "r"), Amount(), Amount(75, 10), 1, 60.0))
    caller = await auth.caller(f"Bearer {key}")
    assert (caller.left, caller.soft) == (0.25, False)


class Heard:
    """Who asks, with what was heard of soft budgets: all of it, and only what had changed."""

    def __init__(self, ledger: SqliteLedger) -> None:
        self.clock = Clock()
        self.all: list[SoftBudget] = []
        self.auth = Auth(ledger, master_key=None, open_to_all=False, clock=self.clock, alert=self.all.append)

    @property
    def changes(self) -> list[tuple[str, str | None, bool]]:
        return [(soft.tenant, soft.key, soft.used) for soft in self.all if soft.changed]

    async def ask(self, key: str) -> Caller:
        self.clock.now += CACHE_S
        return await self.auth.caller(f"Bearer {key}")


def wish(attempt: str, nano: int, key: str | None = None) -> Reservation:
    return Reservation(attempt, Account("acme", key, "r"), Amount(), Amount(nano, 10), 1, 60.0)


async def test_a_soft_budget_alerts_once_when_it_is_used_and_once_when_it_has_room(ledger: SqliteLedger) -> None:
    heard = Heard(ledger)
    keys = [await ledger.run(lambda books: books.create_key("acme")) for _ in range(2)]
    await ledger.run(lambda books: books.update_tenant("acme", soft_nano=30))
    for key in keys:
        await heard.ask(key)
    assert heard.changes == []
    await ledger.reserve(wish("a", 30))
    for key in keys * 3:
        await heard.ask(key)
    assert heard.changes == [("acme", None, True)]
    ledger.settle(Settlement("a", Account("acme", None, "r"), ()))
    await ledger.flush()
    for key in keys:
        await heard.ask(key)
    assert heard.changes == [("acme", None, True), ("acme", None, False)]


async def test_the_soft_budget_of_a_key_is_its_own_and_its_neighbours_do_not_end_it(ledger: SqliteLedger) -> None:
    heard = Heard(ledger)
    poor = await ledger.run(lambda books: books.create_key("acme", limits=Limits(soft_nano=30)))
    rich = await ledger.run(lambda books: books.create_key("acme", limits=Limits(soft_nano=1000)))
    name = await ledger.run(lambda books: books.key_id(poor))
    await ledger.reserve(wish("a", 30, name))
    for key in (poor, rich, poor, rich):
        await heard.ask(key)
    assert heard.changes == [("acme", name, True)]
    # whoever tells how things stand is told each time, for several servers may have looked
    assert [soft.used for soft in heard.all] == [True, False, True, False]


async def test_a_soft_budget_that_is_taken_away_is_told_as_free(ledger: SqliteLedger) -> None:
    heard = Heard(ledger)
    key = await ledger.run(lambda books: books.create_key("acme"))
    await ledger.run(lambda books: books.update_tenant("acme", soft_nano=0))
    await heard.ask(key)
    await ledger.run(lambda books: books.update_tenant("acme", soft_nano=None))
    for _ in range(2):
        await heard.ask(key)
    assert [(soft.used, soft.changed) for soft in heard.all] == [(True, True), (False, True)]


@pytest.mark.parametrize(
    ("tenant", "key", "ends"),
    [
        (Limits(soft_nano=30, scale_until="soft"), Limits(), True),
        (Limits(soft_nano=30), Limits(soft_nano=500, scale_until="soft"), False),
        (Limits(soft_nano=500, scale_until="soft"), Limits(soft_nano=30), False),
        (Limits(soft_nano=500), Limits(soft_nano=30, scale_until="soft"), True),
        (Limits(soft_nano=30, scale_until="soft"), Limits(soft_nano=500, scale_until="soft"), True),
    ],
)
async def test_a_soft_budget_ends_scaling_only_where_its_own_scope_says_so(
    ledger: SqliteLedger, tenant: Limits, key: Limits, ends: bool
) -> None:
    await ledger.run(
        lambda books: books.update_tenant("acme", soft_nano=tenant.soft_nano, scale_until=tenant.scale_until)
    )
    made = await ledger.run(lambda books: books.create_key("acme", limits=key))
    name = await ledger.run(lambda books: books.key_id(made))
    await ledger.reserve(wish("a", 40, name))
    assert (await Heard(ledger).ask(made)).soft is ends


async def test_a_request_that_uses_up_a_soft_budget_tells_so_when_it_is_over(ledger: SqliteLedger) -> None:
    heard = Heard(ledger)
    key = await ledger.run(lambda books: books.create_key("acme"))
    await ledger.run(lambda books: books.update_tenant("acme", soft_nano=30))
    async with heard.auth:
        caller = await heard.ask(key)
        await ledger.reserve(wish("a", 30))
        heard.auth.over(caller)
        heard.auth.over(caller)
    # leaving waits for what is due
    assert heard.changes == [("acme", None, True)]
    assert len(heard.all) == 2


async def test_a_look_at_a_soft_budget_that_fails_ends_nothing(ledger: SqliteLedger) -> None:
    heard = Heard(ledger)
    key = await ledger.run(lambda books: books.create_key("acme", limits=Limits(soft_nano=30)))
    async with heard.auth:
        caller = await heard.ask(key)
        await ledger.run(lambda books: books.revoke_key(str(caller.key_id)))
        heard.auth.over(caller)
    assert heard.changes == []


async def test_a_blocked_key_is_told_so(auth: Auth, ledger: SqliteLedger, key: str) -> None:
    await ledger.run(lambda books: books.block_key(books.key_id(key)))
    with pytest.raises(NotAllowed) as caught:
        await auth.caller(f"Bearer {key}")
    assert caught.value.code == "key_blocked"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tenants = [{"name": "acme", "keys": [KEY]}, {"name": "busy", "keys": [BUSY], "rpm_limit": 1}]
    with staged(tmp_path_factory.mktemp("auth"), tenants=tenants) as made:
        yield made


def test_too_many_requests_are_429_with_the_seconds_to_wait_and_cost_nothing(stage: Stage) -> None:
    stage.says("42")
    stage.ask("off", key=BUSY)
    with pytest.raises(openai.RateLimitError) as caught:
        stage.ask("off", key=BUSY)
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    assert (caught.value.type, caught.value.code) == ("rate_limit_error", "rate_limit_exceeded")
    assert len(stage.calls) == 1
    stage.upstream.wait(lambda: stage.tally.balance("busy").spent.nano == stage.cost_nano)
    assert stage.tally.balance("busy").ledger.nano == stage.cost_nano
    stage.ask("off")


@pytest.mark.parametrize("path", ["chat/completions", "embeddings"])
def test_a_model_that_the_key_may_not_use_is_refused_in_the_key_s_name(stage: Stage, path: str) -> None:
    store = Path(stage.tally.config.general_settings.database_url.removeprefix("sqlite:///"))
    with closing(Books.open(store, clock=wall_clock)) as books:
        key = books.create_key("acme", limits=Limits(models=("other",)))
        public = books.key_id(key)
    body = {"model": "small", "messages": ASK, "input": "x"}
    told = httpx.post(f"{stage.tally.url}/v1/{path}", json=body, headers={"authorization": f"Bearer {key}"})
    assert told.status_code == 403
    assert told.json()["error"]["message"] == f"The key {public!r} may not use the model 'small'."


def test_a_key_made_and_revoked_beside_the_server_works_in_between(stage: Stage, tmp_path: Path) -> None:
    path = Path(stage.tally.config.general_settings.database_url.removeprefix("sqlite:///"))
    books = Books.open(path, clock=wall_clock)
    try:
        books.add_tenant(Tenant("late"))
        key = books.create_key("late")
        assert stage.get("/v1/models", key=key).status_code == 200
        (made,) = books.keys("late")
        books.revoke_key(made.id)
    finally:
        books.close()
    stage.upstream.wait(lambda: stage.get("/v1/models", key=key).status_code == 401)


def test_the_master_key_asks_on_its_own_account(stage: Stage) -> None:
    stage.says("42")
    stage.ask("off", key=MASTER_KEY)
    stage.upstream.wait(lambda: stage.tally.balance("master").spent.nano == stage.cost_nano)


def test_a_server_without_keys_is_open(tmp_path: Path) -> None:
    with FakeUpstream("42") as upstream:
        config = {
            "model_list": [deployment(upstream.base_url)],
            "general_settings": {"database_url": f"sqlite:///{tmp_path / 'tally.db'}"},
        }
        with ServedTally(config) as tally:
            body = {"model": "small", "messages": ASK}
            for key in (None, "sk-anything"):
                assert tally.post(body, path="/off/v1/chat/completions", key=key).status_code == 200
            upstream.wait(lambda: tally.balance("local").spent.nano > 0)
            assert httpx.get(f"{tally.url}/v1/models").status_code == 200
