"""The books under arbitrary use, beside a model that adds everything up in the plainest way."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import ClassVar

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

from proxy.ledger import Amount, DrawRow, Hot, Reservation, Settlement
from proxy.ledger.books import Books
from proxy.ledger.checking import check
from proxy.ledger.counters import key_scope, scopes, tenant_scope
from proxy.ledger.database import Row
from proxy.ledger.postgres import PostgresBooks
from proxy.types import Account, Budget, Limits, Tenant
from tests.postgres import NewDatabase

START = 1_770_000_000.0
TICK = 2.0**-20
"""What passes between two looks at the clock, in seconds; in a whole run it is far below a second."""
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


def fits(wanted: Amount, windows: Sequence[tuple[Budget, Amount]]) -> bool:
    """Whether so much more is within each budget of which so much is used."""
    return not any(
        limit is not None and asked and before + asked > limit
        for budget, used in windows
        for limit, asked, before in (
            (budget.max_nano, wanted.nano, used.nano),
            (budget.max_tokens, wanted.tokens, used.tokens),
            (budget.max_samples, wanted.samples, used.samples),
        )
    )


@dataclass
class Held:
    account: Account
    amount: Amount
    lifetime: float
    expires: float


class LedgerMachine(RuleBasedStateMachine):
    steps: ClassVar[list[int]] = []
    template: ClassVar[Path]
    attempts: Bundle[str] = Bundle("attempts")
    ended: Bundle[str] = Bundle("ended")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(mkdtemp())
        self.clock = SimpleNamespace(now=START)
        self.held: dict[str, Held] = {}
        self.charged: dict[str, Amount] = {}
        self.just_charged: dict[str, Amount] = {}
        self.blocked: set[str] = set()
        self.overshot: set[str] = set()
        self.put_back = False
        self.looks = 0
        self.keys: dict[str, str] = {}
        self.made = 0
        self.books = self.opened()

    def opened(self) -> Books:
        path = self.directory / "tally.db"
        if not path.exists():
            shutil.copy(self.template, path)
        return Books.open(path, clock=self.tick, synchronous="OFF")

    def tick(self) -> float:
        self.clock.now += TICK
        return float(self.clock.now)

    @initialize()
    def tenants(self) -> None:
        for tenant in TENANTS.values():
            self.books.add_tenant(tenant)
            limits = KEY_LIMITS if tenant.name != "free" else Limits()
            self.keys[tenant.name] = self.books.key_id(self.books.create_key(tenant.name, limits=limits))

    def teardown(self) -> None:
        # the first look comes before the first step
        self.steps.append(max(0, self.looks - 1))
        self.books.close()
        shutil.rmtree(self.directory)

    def account(self, tenant: str, *, keyed: bool) -> Account:
        return Account(tenant, self.keys[tenant] if keyed else None, "r")

    def over(self) -> set[str]:
        """The scopes that have passed a limit."""
        windows: dict[str, list[Row]] = {}
        for row in self.books.rows("SELECT * FROM budgets ORDER BY scope, place").fetchall():
            windows.setdefault(row["scope"], []).append(row)
        found = self.books.rows("SELECT * FROM scopes").fetchall()
        rooms = {row["id"]: self.books.glance_of(row, windows[row["id"]]).room for row in found}
        return {scope for scope, room in rooms.items() if min(room.nano, room.tokens, room.samples) < 0}

    def charge(self, account: Account, amount: Amount) -> None:
        for scope in scopes(account):
            for sums in (self.charged, self.just_charged):
                sums[scope] = sums.get(scope, Amount()) + amount

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

    def most(
        self, account: Account, base: Amount, each: Amount, choices: int, more: Mapping[str, Amount] | None = None
    ) -> int:
        """By trying every number, the largest that is within every window of every scope, by the plainest sums.

        `more` is what each scope has spent and reserved beyond what the books say.
        """
        if account.tenant in self.blocked or (account.key and key_scope(account.key) in self.blocked):
            return 0
        windows = [
            (window.budget, window.spent + standing.reserved + (more or {}).get(standing.scope, Amount()))
            for standing in map(self.books.glance, scopes(account))
            for window in standing.windows
        ]
        fitting = (k for k in range(1, choices + 1) if fits(base + each.times(k), windows))
        return max(fitting, default=0)

    def granted(self, wishes: Sequence[Reservation], ended: Mapping[str, Amount]) -> dict[str, int]:
        """What each would get, one after the other, once `ended` is freed (or charged) in each scope."""
        more, told = dict(ended), {}
        for wish in wishes:
            told[wish.attempt] = self.most(wish.account, wish.base, wish.each, wish.choices, more)
            if told[wish.attempt]:
                for scope in scopes(wish.account):
                    more[scope] = more.get(scope, Amount()) + wish.base + wish.each.times(told[wish.attempt])
        return told

    def keep(self, wish: Reservation, granted: int) -> None:
        if granted:
            amount = wish.base + wish.each.times(granted)
            self.held[wish.attempt] = Held(wish.account, amount, wish.lifetime, self.clock.now + wish.lifetime)

    def settlement(self, attempt: str, share: float, rows: int) -> Settlement:
        """Of what is held, a share in so many rows; of what is not, something that must not be charged."""
        held = self.held.get(attempt)
        account = held.account if held is not None else self.account("free", keyed=False)
        amount = held.amount if held is not None else Amount(7, 7)
        nano, tokens = int(amount.nano * share), int(amount.tokens * share)
        each = [draw(f"{attempt}.{i}", nano // rows, tokens // rows, amount.samples // rows) for i in range(rows)]
        return Settlement(attempt, account, tuple(each))

    def charged_for(self, settlement: Settlement) -> bool:
        """Add it up here, too, where it is held."""
        if self.held.pop(settlement.attempt, None) is None:
            return False
        self.charge(settlement.account, sum((line.amount for line in settlement.rows), Amount()))
        return True

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
        wish = Reservation(name, account, base, each, choices, lifetime)
        most = self.most(account, base, each, choices)
        assert self.books.reserve(wish) == most
        if not most:
            self.lose(self.expired(account.tenant))
            return multiple()
        self.keep(wish, most)
        return name

    @rule(
        target=attempts,
        ends=st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2)), max_size=4),
        wanted=st.lists(st.tuples(st.sampled_from(sorted(TENANTS)), st.booleans(), amounts, amounts), max_size=5),
        choices=st.integers(1, 4),
        lifetime=st.sampled_from([5.0, 5000.0]),
    )
    def together(
        self,
        ends: list[tuple[int, float, int]],
        wanted: list[tuple[str, bool, Amount, Amount]],
        choices: int,
        lifetime: float,
    ) -> MultipleResults[str]:
        """A group, whose outcome is that of one by one in some order: settlements first, then the wishes."""
        held = sorted(self.held)
        named = {held[place % len(held)]: how for place, *how in ends} if held else {}
        settles = [self.settlement(name, share, rows) for name, (share, rows) in named.items()]  # type: ignore[arg-type]  # as the tuples are
        wishes = []
        for tenant, keyed, base, each in wanted:
            self.made += 1
            account = self.account(tenant, keyed=keyed)
            wishes.append(Reservation(f"a{self.made}", account, base, each, choices, lifetime))
        ended: dict[str, Amount] = {}
        for settle in settles:
            freed = sum((line.amount for line in settle.rows), -self.held[settle.attempt].amount)
            for scope in scopes(settle.account):
                ended[scope] = ended.get(scope, Amount()) + freed
        # on Postgres what is wished for goes account by account
        accounts = list(dict.fromkeys(wish.account for wish in wishes))
        ways = [self.granted(each, ended) for each in (wishes, sorted(wishes, key=lambda w: accounts.index(w.account)))]
        asked: list[Hot] = [each for pair in zip_longest(wishes, settles) for each in pair if each is not None]
        told = self.books.together(asked, [None] * len(asked)) if asked else []
        if told is None:
            return self.singly(settles, wishes)
        granted = {
            each.attempt: int(one) for each, one in zip(asked, told, strict=True) if isinstance(each, Reservation)
        }
        assert granted in ways
        for settle in settles:
            assert self.charged_for(settle)
        for wish in wishes:
            self.keep(wish, granted[wish.attempt])
        for wish in wishes:
            if not granted[wish.attempt]:
                self.lose(self.expired(wish.account.tenant))
        return multiple(*(name for name, count in granted.items() if count and name in self.held))

    def singly(self, settles: list[Settlement], wishes: list[Reservation]) -> MultipleResults[str]:
        """What a group leaves undone, in a transaction of its own each."""
        for settle in settles:
            assert self.books.settle(settle) is self.charged_for(settle)
        for wish in wishes:
            most = self.most(wish.account, wish.base, wish.each, wish.choices)
            assert self.books.reserve(wish) == most
            self.keep(wish, most)
            if not most:
                self.lose(self.expired(wish.account.tenant))
        return multiple(*(wish.attempt for wish in wishes if wish.attempt in self.held))

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
        settlement = self.settlement(attempt, share, rows)
        assert self.books.settle(settlement) is self.charged_for(settlement)
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
        """Time passes, or the clock is put right.

        After it went back what was reserved since may meet a window, once more, of which much is spent already.
        """
        self.clock.now += seconds
        self.put_back |= seconds < 0
        if self.put_back:
            self.overshot |= self.over()

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
        over = self.over()
        assert over <= self.overshot
        # what is within its limit again must stay there
        self.overshot &= over

    @invariant()
    def what_was_just_charged_is_in_every_window_that_holds_now(self) -> None:
        for scope, amount in self.just_charged.items():
            for window in self.books.glance(scope).windows:
                left = window.spent + -amount
                assert self.put_back or min(left.nano, left.tokens, left.samples) >= 0
        self.just_charged.clear()

    @invariant()
    def everything_adds_up(self) -> None:
        self.looks += 1
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
        books = PostgresBooks.open_url(self.url, clock=self.tick)
        if not self.keys:
            for table in ("keys", "tenants", "budgets", "scopes", "meta", "reservations", "draws", "requests"):
                books.rows(f"DELETE FROM {table}")
        return books


def run(machine: type[LedgerMachine], folder: Path, wanted: int, **more: object) -> int:
    """Runs of at most 100 steps each, in `folder`, until there were so many steps; returns how many."""
    taken: list[int] = []
    # to make every table anew for each run would take most of the time
    template = folder / "empty.db"
    Books.open(template, clock=lambda: START).close()
    counted = type("Counted", (machine,), {"steps": taken, "template": template, **more})
    while sum(taken) < wanted:
        run_state_machine_as_test(
            counted,
            settings=settings(
                max_examples=25,
                stateful_step_count=100,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    return sum(taken)


SQLITE_STEPS, POSTGRES_STEPS = 6000, 4000


def test_in_all_there_are_ten_thousand_steps() -> None:
    assert SQLITE_STEPS + POSTGRES_STEPS >= 10_000


def test_the_books_on_sqlite_hold_under_arbitrary_use(tmp_path: Path) -> None:
    assert run(LedgerMachine, tmp_path, SQLITE_STEPS) >= SQLITE_STEPS


def test_the_books_on_postgres_hold_under_arbitrary_use(postgres: NewDatabase, tmp_path: Path) -> None:
    assert run(PostgresMachine, tmp_path, POSTGRES_STEPS, url=postgres()) >= POSTGRES_STEPS
