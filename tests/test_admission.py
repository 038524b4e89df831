"""Requests and tokens a minute, and requests at once."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admission import Admission, duration
from proxy.core.rate import admit, charge
from proxy.errors import RateLimited
from proxy.types import Limits, Tenant


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def admission(clock: SimpleNamespace) -> Admission:
    return Admission(lambda: float(clock.now))


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
