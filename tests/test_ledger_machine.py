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
)

from proxy.ledger import Amount, DrawRow, Reservation, Settlement
from proxy.ledger.books import Books
from proxy.ledger.reports import check, sheets
from proxy.types import Account, Tenant

START = 1_770_000_000.0
TENANTS = {
    "fixed": Tenant("fixed", max_nano=1000, max_tokens=300, duration="60s"),
    "daily": Tenant("daily", max_nano=700, duration="1d"),
    "tokens": Tenant("tokens", max_tokens=200),
    "free": Tenant("free"),
}

amounts = st.builds(Amount, st.integers(0, 120), st.integers(0, 60))


def draw(name: str, nano: int, tokens: int) -> DrawRow:
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
    )


@dataclass
class Held:
    tenant: str
    nano: int
    tokens: int
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
        self.charged: dict[str, Amount] = dict.fromkeys(TENANTS, Amount())
        self.blocked: set[str] = set()
        self.overshot: set[str] = set()
        self.made = 0
        self.books = self.opened()

    def opened(self) -> Books:
        return Books.open(
            self.directory / "tally.db",
            clock=lambda: float(self.clock.now),
            token=bytes,
            synchronous="OFF",
        )

    @initialize()
    def tenants(self) -> None:
        for tenant in TENANTS.values():
            self.books.add_tenant(tenant)

    def teardown(self) -> None:
        self.books.close()
        shutil.rmtree(self.directory)

    def charge(self, tenant: str, nano: int, tokens: int) -> None:
        before = self.charged[tenant]
        self.charged[tenant] = Amount(before.nano + nano, before.tokens + tokens)

    def lose(self, names: list[str]) -> int:
        for name in names:
            held = self.held.pop(name)
            self.charge(held.tenant, held.nano, held.tokens)
        return len(names)

    def expired(self, tenant: str | None = None) -> list[str]:
        return [
            name for name, held in self.held.items() if held.expires <= self.clock.now and tenant in (None, held.tenant)
        ]

    def most(self, tenant: str, base: Amount, each: Amount, choices: int) -> int:
        """By trying every number, the largest that fits."""
        if tenant in self.blocked:
            return 0
        sheet = next(sheet for sheet in sheets(self.books) if sheet.tenant.name == tenant)
        granted = 0
        for k in range(1, choices + 1):
            nano, tokens = base.nano + k * each.nano, base.tokens + k * each.tokens
            used = Amount(
                sheet.window_spent.nano + sheet.reserved.nano, sheet.window_spent.tokens + sheet.reserved.tokens
            )
            if (not nano or sheet.tenant.max_nano is None or used.nano + nano <= sheet.tenant.max_nano) and (
                not tokens or sheet.tenant.max_tokens is None or used.tokens + tokens <= sheet.tenant.max_tokens
            ):
                granted = k
        return granted

    @rule(
        target=attempts,
        tenant=st.sampled_from(sorted(TENANTS)),
        base=amounts,
        each=amounts,
        choices=st.integers(1, 8),
        lifetime=st.sampled_from([5.0, 50.0, 5000.0]),
    )
    def reserve(
        self, tenant: str, base: Amount, each: Amount, choices: int, lifetime: float
    ) -> str | MultipleResults[str]:
        self.made += 1
        name = f"a{self.made}"
        most = self.most(tenant, base, each, choices)
        granted = self.books.reserve(Reservation(name, Account(tenant, None, "r"), base, each, choices, lifetime))
        assert granted == most
        if not granted:
            self.lose(self.expired(tenant))
            return multiple()
        self.held[name] = Held(
            tenant,
            base.nano + granted * each.nano,
            base.tokens + granted * each.tokens,
            lifetime,
            self.clock.now + lifetime,
        )
        return name

    @rule(attempt=attempts, more=amounts)
    def extend(self, attempt: str, more: Amount) -> None:
        held = self.held.get(attempt)
        if held is None:
            assert not self.books.extend(attempt, more)
            return
        held.expires = max(held.expires, self.clock.now + held.lifetime)
        fits = self.most(held.tenant, Amount(), more, 1)
        assert self.books.extend(attempt, more) == bool(fits)
        if fits:
            held.nano, held.tokens = held.nano + more.nano, held.tokens + more.tokens
        else:
            self.lose(self.expired(held.tenant))

    @rule(target=ended, attempt=consumes(attempts), share=st.sampled_from([0.0, 0.5, 1.0]), rows=st.integers(0, 3))
    def settle(self, attempt: str, share: float, rows: int) -> str:
        """Within the reservation, or late: after a sweep nothing more is charged."""
        held = self.held.pop(attempt, None)
        tenant = held.tenant if held is not None else "free"
        nano, tokens = (int(held.nano * share), int(held.tokens * share)) if held is not None else (7, 7)
        each = [draw(f"{attempt}.{i}", nano // rows, tokens // rows) for i in range(rows)]
        assert self.books.settle(Settlement(attempt, Account(tenant, None, "r"), tuple(each))) is (held is not None)
        if held is not None and rows:
            self.charge(tenant, nano // rows * rows, tokens // rows * rows)
        return attempt

    @rule(target=ended, attempt=consumes(attempts), beyond=st.integers(1, 500))
    def overshoot(self, attempt: str, beyond: int) -> str:
        held = self.held.pop(attempt, None)
        if held is not None:
            row = draw(attempt, held.nano + beyond, held.tokens + beyond)
            self.books.settle(Settlement(attempt, Account(held.tenant, None, "r"), (row,)))
            self.charge(held.tenant, row.cost_nano, held.tokens + beyond)
            self.overshot.add(held.tenant)
        return attempt

    @rule(attempt=ended)
    def settle_again(self, attempt: str) -> None:
        again = Settlement(attempt, Account("free", None, "r"), (draw(attempt, 99, 99),))
        assert not self.books.settle(again)

    @rule()
    def sweep(self) -> None:
        assert self.books.sweep() == self.lose(self.expired())

    @rule(seconds=st.sampled_from([1, 6, 61, 3600, 100_000]))
    def wait(self, seconds: int) -> None:
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

    @invariant()
    def never_over_the_limit(self) -> None:
        for row in check(self.books):
            limit = TENANTS[row.tenant]
            if row.tenant in self.overshot:
                continue
            assert limit.max_nano is None or row.window_spent.nano + row.reserved.nano <= limit.max_nano
            assert limit.max_tokens is None or row.window_spent.tokens + row.reserved.tokens <= limit.max_tokens

    @invariant()
    def everything_adds_up(self) -> None:
        rows = check(self.books)
        assert all(row.ok for row in rows)
        for row in rows:
            mine = [held for held in self.held.values() if held.tenant == row.tenant]
            assert row.reserved == Amount(sum(held.nano for held in mine), sum(held.tokens for held in mine))
            assert row.spent == self.charged[row.tenant]


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
