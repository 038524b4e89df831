"""Requests and tokens a minute, and requests at once."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admission import Admission, Entry, duration
from proxy.admission.shared import SharedStates, Table
from proxy.admission.states import Private
from proxy.core.rate import admit, charge
from proxy.errors import RateLimited
from proxy.ledger.counters import key_scope, tenant_scope
from proxy.types import Limits, Tenant
from tests.process import environment


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=1000.0)


@contextmanager
def table(workers: int, places: int = 1024) -> Iterator[Table]:
    with TemporaryDirectory() as folder, closing(Table(workers, Path(folder) / "rates", places)) as made:
        yield made


@pytest.fixture(params=["alone", "worker"])
def admission(request: pytest.FixtureRequest, clock: SimpleNamespace) -> Iterator[Admission]:
    with table(3) as shared:
        states = Private() if request.param == "alone" else SharedStates(shared, 1)
        yield Admission(lambda: float(clock.now), states)


def crew(clock: SimpleNamespace, shared: Table) -> list[Admission]:
    return [Admission(lambda: float(clock.now), SharedStates(shared, worker)) for worker in range(shared.workers)]


def test_requests_a_minute_are_counted_for_each_scope(admission: Admission, clock: SimpleNamespace) -> None:
    acme, other, free = [("acme", Tenant("acme", rpm_limit=2))], [("other", Limits(rpm_limit=2))], [("free", Limits())]
    admission.enter(acme).leave()
    admission.enter(acme).leave()
    with pytest.raises(RateLimited, match="2 requests a minute") as caught:
        admission.enter(acme)
    assert caught.value.retry_after == pytest.approx(30)
    admission.enter(other)
    for _ in range(100):
        assert not admission.enter(free).told
    clock.now += 30
    admission.enter(acme)


@pytest.mark.parametrize(
    ("limits", "may"),
    [
        (Limits(rpm_limit=1), "send 1 requests a minute"),
        (Limits(tpm_limit=1), "use 1 tokens a minute"),
        (Limits(max_parallel=1), "have 1 requests at once"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_refusal_names_whose_rate_it_is(admission: Admission, place: int, limits: Limits, may: str) -> None:
    scopes = [(tenant_scope("acme"), Limits(rpm_limit=9)), (key_scope("key_1"), Limits(rpm_limit=9))]
    scopes[place] = (scopes[place][0], limits)
    entry = admission.enter(scopes)
    if limits.max_parallel is None:
        entry.leave(60)
    whose = ("tenant 'acme'", "key 'key_1'")[place]
    with pytest.raises(RateLimited) as caught:
        admission.enter(scopes)
    assert caught.value.message == f"Rate limit reached: the {whose} may {may}."


def test_a_key_without_room_takes_nothing_from_its_tenant(admission: Admission) -> None:
    tenant, key = ("tenant:acme", Tenant("acme", rpm_limit=2)), ("key:k", Limits(rpm_limit=1))
    admission.enter([tenant, key])
    for _ in range(5):
        with pytest.raises(RateLimited, match="1 requests a minute"):
            admission.enter([tenant, key])
    admission.enter([tenant])
    with pytest.raises(RateLimited, match="2 requests a minute"):
        admission.enter([tenant])


def test_tokens_that_were_used_are_waited_for(admission: Admission, clock: SimpleNamespace) -> None:
    scopes = [("acme", Limits(tpm_limit=600))]
    admission.enter(scopes).leave(1200)
    with pytest.raises(RateLimited, match="600 tokens a minute") as caught:
        admission.enter(scopes)
    assert caught.value.retry_after == pytest.approx(60.1, abs=0.2)
    clock.now += (caught.value.retry_after or 0) + 0.01
    assert admission.enter(scopes).told["x-ratelimit-remaining-tokens"] == "0"


def test_requests_at_once_have_a_bound_and_leave_once(admission: Admission) -> None:
    scopes = [("acme", Limits(max_parallel=2))]
    first, _second = admission.enter(scopes), admission.enter(scopes)
    with pytest.raises(RateLimited, match="2 requests at once"):
        admission.enter(scopes)
    first.leave()
    first.leave()
    admission.enter(scopes)
    with pytest.raises(RateLimited):
        admission.enter(scopes)


def test_a_refusal_tells_what_is_left_and_takes_nothing(admission: Admission, clock: SimpleNamespace) -> None:
    tenant, key = ("tenant:acme", Tenant("acme", rpm_limit=3, tpm_limit=600)), ("key:k", Limits(rpm_limit=1))
    admission.enter([tenant, key])
    clock.now += 15
    for _ in range(2):
        with pytest.raises(RateLimited) as caught:
            admission.enter([tenant, key])
        assert caught.value.told == {
            "x-ratelimit-limit-requests": "1",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "45s",
            "x-ratelimit-limit-tokens": "600",
            "x-ratelimit-remaining-tokens": "600",
            "x-ratelimit-reset-tokens": "0ms",
        }


def test_a_block_that_fails_leaves(admission: Admission) -> None:
    scopes = [("acme", Limits(max_parallel=1))]
    with pytest.raises(ZeroDivisionError), admission.enter(scopes):
        raise ZeroDivisionError
    with admission.enter(scopes):
        pass
    with pytest.raises(RateLimited):
        admission.enter(scopes)


def test_the_headers_tell_of_the_scope_that_has_least_left(admission: Admission) -> None:
    tenant, key = ("tenant:acme", Tenant("acme", rpm_limit=60)), ("key:k", Limits(rpm_limit=10, tpm_limit=5))
    assert admission.enter([tenant, key]).told == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "6s",
        "x-ratelimit-limit-tokens": "5",
        "x-ratelimit-remaining-tokens": "4",
        "x-ratelimit-reset-tokens": "12s",
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.0171, "18ms"), (1, "1s"), (1.5, "1.5s"), (59.9999, "60s"), (360, "6m0s")]
)
def test_times_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.integers(1, 100_000), st.lists(st.tuples(st.floats(0, 5), st.integers(0, 5000)), max_size=30))
def test_no_minute_pays_for_more_tokens_than_its_rate_and_one_request(
    per_minute: int, uses: list[tuple[float, int]]
) -> None:
    """What is let in while a token is left may use any number; after it the debt is waited for."""
    tat, now, start = 0, 100.0, 100.0
    paid = []
    for gap, tokens in uses:
        now += gap
        if admit(tat, now, per_minute).allowed:
            tat = charge(tat, now, per_minute, tokens)
            paid.append(tokens)
    whole = sum(paid[:-1])
    assert whole <= per_minute + (now - start) / 60 * per_minute + max([0, *paid]) + 1


def test_workers_let_in_together_what_one_alone_would(clock: SimpleNamespace) -> None:
    scopes = [("acme", Limits(rpm_limit=5, tpm_limit=100))]
    with table(4) as shared:
        workers = crew(clock, shared)
        for number in range(5):
            entry = workers[number % 4].enter(scopes)
            assert entry.told["x-ratelimit-remaining-requests"] == str(4 - number)
            entry.leave(10)
        for worker in workers:
            with pytest.raises(RateLimited, match="5 requests a minute"):
                worker.enter(scopes)
        clock.now += 12
        assert workers[2].enter(scopes).told["x-ratelimit-remaining-tokens"] == "69"


def test_what_a_dead_worker_had_inside_is_free_again_and_no_one_else_s(clock: SimpleNamespace) -> None:
    scopes = [("acme", Limits(max_parallel=3))]
    with table(3) as shared:
        first, second, third = crew(clock, shared)
        first.enter(scopes)
        second.enter(scopes)
        second.enter(scopes)
        shared.clear(1)
        third.enter(scopes)
        third.enter(scopes)
        with pytest.raises(RateLimited, match="3 requests at once"):
            third.enter(scopes)


def test_an_idle_scope_makes_room_and_an_active_one_does_not(clock: SimpleNamespace) -> None:
    scopes = [[(f"tenant {number}", Limits(rpm_limit=1))] for number in range(100)]
    with table(1, places=4) as shared:
        (admission,) = crew(clock, shared)
        entries = []
        for scope in scopes:
            try:
                entries.append(admission.enter(scope))
            except RateLimited as error:
                assert "too many tenants" in error.message
        assert len(entries) == 4
        clock.now += 60
        with pytest.raises(RateLimited, match="too many tenants"):
            admission.enter(scopes[50])
        for entry in entries:
            entry.leave()
        admission.enter(scopes[50])
        with pytest.raises(RateLimited, match="1 requests a minute"):
            admission.enter(scopes[50])


FORKS = """
import os, sys
from pathlib import Path
from proxy.admission import Admission
from proxy.admission.shared import SharedStates, Table
from proxy.errors import RateLimited
from proxy.ledger.counters import key_scope, tenant_scope
from proxy.types import Limits

table = Table(4, Path("rates"))
told, tell = os.pipe()
for worker in range(4):
    if os.fork() == 0:
        admission, inside = Admission(lambda: 1000.0, SharedStates(table, worker)), 0
        for _ in range(1000):
            try:
                admission.enter([("acme", Limits(rpm_limit=1500))])
                inside += 1
            except RateLimited:
                pass
        os.write(tell, b"%d\\n" % inside)
        os._exit(0)
for _ in range(4):
    os.wait()
print(sum(map(int, os.read(told, 100).split())))
"""


def test_processes_that_ask_at_once_are_let_in_to_the_last_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1500"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from("abc"), st.floats(0, 20), st.sampled_from([None, 0, 7]), st.booleans()
        ),
        max_size=60,
    )
)
def test_workers_that_share_say_what_one_alone_would(
    steps: list[tuple[int, str, float, int | None, bool]],
) -> None:
    clock = SimpleNamespace(now=1000.0)
    bounds = {"a": Limits(rpm_limit=4, max_parallel=3), "b": Limits(tpm_limit=20), "c": Limits(rpm_limit=2)}
    alone = Admission(lambda: float(clock.now))
    with table(3, places=8) as shared:
        workers = crew(clock, shared)
        inside: list[tuple[Entry, Entry]] = []
        for worker, name, gap, tokens, both in steps:
            clock.now += gap
            if tokens is not None and inside:
                for entry in inside.pop(0):
                    entry.leave(tokens)
            scopes = [(name, bounds[name]), *([("key", Limits(rpm_limit=9))] if both else [])]
            said = [_said(admission, scopes) for admission in (alone, workers[worker])]
            assert said[0][1:] == said[1][1:]
            if isinstance(said[0][0], Entry) and isinstance(said[1][0], Entry):
                inside.append((said[0][0], said[1][0]))


def _said(admission: Admission, scopes: list[tuple[str, Limits]]) -> tuple[Entry | None, str, dict[str, str]]:
    try:
        entry = admission.enter(scopes)
    except RateLimited as error:
        return None, f"{error.message} {error.retry_after}", dict(error.told)
    return entry, "", entry.told
