"""The books under arbitrary use, beside a model that adds everything up in the plainest way."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from proxy.ledger import Amount, DrawRow, Reservation, Settlement
from proxy.ledger.books import Books
from proxy.ledger.checking import check
from proxy.ledger.counters import key_scope, scopes, tenant_scope
from proxy.ledger.postgres import PostgresBooks
from proxy.types import Account, Budget, Limits, Tenant
from tests.postgres import NewDatabase

START = 1_770_000_000.0
TENANTS = {
    "fixed": Tenant("fixed", max_nano=1000, max_tokens=300, duration="60s"),
    "daily": Tenant("daily", max_nano=700, duration="1d", budgets=(Budget("60s", 300), Budget(None, None, None, 40))),
    "tokens": Tenant("tokens", max_tokens=200),
    "free": Tenant("free"),
}
KEY_LIMITS = Limits(max_nano=400, duration="24h", budgets=(Budget("1mo", None, 150, 12),))

amounts = st.builds(Amount, st.integers(0, 120), st.integers(0, 60), st.integers(0, 2))


def draw(name: str, nano: int, tokens: int, samples: int = 0) -> DrawRow:
    return DrawRow(
        id=name,
        purpose="sample",
        round=1,
        index=0,
        status="ok",
        model="small",
        deployment="d",
        prompt_tokens=tokens // 2,
        cached_tokens=0,
        completion_tokens=tokens - tokens // 2,
        reasoning_tokens=0,
        cost_nano=nano,
        estimated=False,
        finish_reason="stop",
        latency_ms=1,
        samples=samples,
    )


@dataclass
class Held:
    account: Account
    amount: Amount
    lifetime: float
    expires: float


class LedgerMachine(RuleBasedStateMachine):
    attempts: Bundle[str] = Bundle("attempts")
    ended: Bundle[str] = Bundle("ended")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(mkdtemp())
        self.clock = SimpleNamespace(now=START)
        self.held: dict[str, Held] = {}
        self.charged: dict[str, Amount] = {}
        self.blocked: set[str] = set()
        self.overshot: set[str] = set()
        self.keys: dict[str, str] = {}
        self.made = 0
        self.books = self.opened()

    def opened(self) -> Books:
        return Books.open(
            self.directory / "tally.db",
            clock=lambda: float(self.clock.now),
            synchronous="OFF",
        )

    @initialize()
    def tenants(self) -> None:
        for tenant in TENANTS.values():
            self.books.add_tenant(tenant)
            limits = KEY_LIMITS if tenant.name != "free" else Limits()
            self.keys[tenant.name] = self.books.key_id(self.books.create_key(tenant.name, limits=limits))

    def teardown(self) -> None:
        self.books.close()
        shutil.rmtree(self.directory)

    def account(self, tenant: str, *, keyed: bool) -> Account:
        return Account(tenant, self.keys[tenant] if keyed else None, "r")

    def charge(self, account: Account, amount: Amount) -> None:
        for scope in scopes(account):
            self.charged[scope] = self.charged.get(scope, Amount()) + amount

    def lose(self, names: list[str]) -> int:
        for name in names:
            held = self.held.pop(name)
            self.charge(held.account, held.amount)
        return len(names)

    def expired(self, tenant: str | None = None) -> list[str]:
        return [
            name
            for name, held in self.held.items()
            if held.expires <= self.clock.now and tenant in (None, held.account.tenant)
        ]

    def fits(self, account: Account, wanted: Amount) -> bool:
        """Whether so much more is within every window of every scope, by the plainest sums."""
        for scope in scopes(account):
            standing = self.books.glance(scope)
            for window in standing.windows:
                used = window.spent + standing.reserved
                budget = window.budget
                for limit, more, before in (
                    (budget.max_nano, wanted.nano, used.nano),
                    (budget.max_tokens, wanted.tokens, used.tokens),
                    (budget.max_samples, wanted.samples, used.samples),
                ):
                    if limit is not None and more and before + more > limit:
                        return False
        return True

    def most(self, account: Account, base: Amount, each: Amount, choices: int) -> int:
        """By trying every number, the largest that fits."""
        if account.tenant in self.blocked or (account.key and key_scope(account.key) in self.blocked):
            return 0
        return max((k for k in range(1, choices + 1) if self.fits(account, base + each.times(k))), default=0)

    @rule(
        target=attempts,
        who=st.tuples(st.sampled_from(sorted(TENANTS)), st.booleans()),
        base=amounts,
        each=amounts,
        choices=st.integers(1, 8),
        lifetime=st.sampled_from([5.0, 50.0, 5000.0]),
    )
    def reserve(
        self, who: tuple[str, bool], base: Amount, each: Amount, choices: int, lifetime: float
    ) -> str | MultipleResults[str]:
        self.made += 1
        name = f"a{self.made}"
        account = self.account(who[0], keyed=who[1])
        most = self.most(account, base, each, choices)
        granted = self.books.reserve(Reservation(name, account, base, each, choices, lifetime))
        assert granted == most
        if not granted:
            self.lose(self.expired(account.tenant))
            return multiple()
        self.held[name] = Held(account, base + each.times(granted), lifetime, self.clock.now + lifetime)
        return name

    @rule(attempt=attempts, more=amounts)
    def extend(self, attempt: str, more: Amount) -> None:
        more = Amount(more.nano, more.tokens)
        held = self.held.get(attempt)
        if held is None:
            assert not self.books.extend(attempt, more)
            return
        held.expires = max(held.expires, self.clock.now + held.lifetime)
        fits = self.most(held.account, Amount(), more, 1)
        assert self.books.extend(attempt, more) == bool(fits)
        if fits:
            held.amount += more
        else:
            self.lose(self.expired(held.account.tenant))

    @rule(target=ended, attempt=consumes(attempts), share=st.sampled_from([0.0, 0.5, 1.0]), rows=st.integers(0, 3))
    def settle(self, attempt: str, share: float, rows: int) -> str:
        """Within the reservation, or late: after a sweep nothing more is charged."""
        held = self.held.pop(attempt, None)
        account = held.account if held is not None else self.account("free", keyed=False)
        amount = held.amount if held is not None else Amount(7, 7)
        nano, tokens = int(amount.nano * share), int(amount.tokens * share)
        each = [draw(f"{attempt}.{i}", nano // rows, tokens // rows, amount.samples // rows) for i in range(rows)]
        assert self.books.settle(Settlement(attempt, account, tuple(each))) is (held is not None)
        if held is not None:
            self.charge(account, sum((line.amount for line in each), Amount()))
        return attempt

    @rule(target=ended, attempt=consumes(attempts), beyond=st.integers(1, 500))
    def overshoot(self, attempt: str, beyond: int) -> str:
        held = self.held.pop(attempt, None)
        if held is not None:
            row = draw(attempt, held.amount.nano + beyond, held.amount.tokens + beyond, held.amount.samples)
            self.books.settle(Settlement(attempt, held.account, (row,)))
            self.charge(held.account, row.amount)
            self.overshot.update(scopes(held.account))
        return attempt

    @rule(attempt=ended)
    def settle_again(self, attempt: str) -> None:
        again = Settlement(attempt, self.account("free", keyed=True), (draw(attempt, 99, 99),))
        assert not self.books.settle(again)

    @rule()
    def sweep(self) -> None:
        assert self.books.sweep() == self.lose(self.expired())

    @rule(seconds=st.sampled_from([1, 6, 61, 3600, 100_000, -3, -90, -90_000]))
    def wait(self, seconds: int) -> None:
        """Time passes, or the clock is put right."""
        self.clock.now += seconds

    @rule(tenant=st.sampled_from(sorted(TENANTS)))
    def block_or_unblock(self, tenant: str) -> None:
        if tenant in self.blocked:
            self.books.unblock(tenant)
        else:
            self.books.block(tenant)
        self.blocked ^= {tenant}

    @rule(duration=st.sampled_from(["60s", "1d", "1mo", None]))
    def change_window(self, duration: str | None) -> None:
        """On the tenant without a limit, whose rows must still add up."""
        self.books.update_tenant("free", duration=duration)

    @rule(dead=st.booleans())
    def restart(self, dead: bool) -> None:
        self.books.close()
        self.books = self.opened()
        if dead:
            assert self.books.sweep_all() == self.lose(list(self.held))

    @rule(tenant=st.sampled_from(sorted(TENANTS)))
    def block_or_unblock_key(self, tenant: str) -> None:
        scope = key_scope(self.keys[tenant])
        self.books.block_key(self.keys[tenant], blocked=scope not in self.blocked)
        self.blocked ^= {scope}

    @invariant()
    def never_over_the_limit(self) -> None:
        for tenant, key in self.keys.items():
            for scope in scopes(Account(tenant, key, "r")):
                room = self.books.glance(scope).room
                assert scope in self.overshot or min(room.nano, room.tokens, room.samples) >= 0

    @invariant()
    def everything_adds_up(self) -> None:
        for row in check(self.books):
            assert row.ok
            scope = tenant_scope(row.tenant) if row.key is None else key_scope(row.key)
            mine = [held.amount for held in self.held.values() if scope in scopes(held.account)]
            assert row.reserved == sum(mine, Amount())
            assert row.spent == self.charged.get(scope, Amount())


class PostgresMachine(LedgerMachine):
    """The same on one Postgres database, emptied for every run."""

    url = ""

    def opened(self) -> Books:
        books = PostgresBooks.open_url(self.url, clock=lambda: float(self.clock.now))
        if not self.keys:
            for table in ("keys", "tenants", "budgets", "scopes", "meta", "reservations", "draws", "requests"):
                books.rows(f"DELETE FROM {table}")
        return books


def run(machine: type[LedgerMachine], examples: int) -> None:
    """So many runs of about 40 steps each."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_the_books_on_sqlite_hold_under_arbitrary_use() -> None:
    run(LedgerMachine, 160)


def test_the_books_on_postgres_hold_under_arbitrary_use(postgres: NewDatabase) -> None:
    run(type("OnPostgres", (PostgresMachine,), {"url": postgres()}), 110)
