"""One proxy before one scripted upstream for the whole suite, and the ten ways to ask it."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.conformance.talk import INPUT, STRATEGIES, Talk
from tests.served import KEY, deployment
from tests.staged import Stage, staged

POOR_KEY = "sk-poor-0123456789"
BLOCKED_KEY = "sk-blocked-0123456789"
NARROW_KEY = "sk-narrow-0123456789"
BUSY_KEY = "sk-busy-0123456789"
TRIAL_KEY = "sk-trial-0123456789"
BYTES = 1_000_000
READ_S = 0.5
TESTS = 1500


def named(strategy: str) -> str:
    """The key of the tenant whose strategy this is, for requests that name none."""
    return f"sk-by-{strategy}-0123456789"


def own(number: int) -> str:
    """The key of one test."""
    return f"sk-test-{number:05}-0123456789"


@pytest.fixture(scope="session")
def numbers() -> "count[int]":
    return count()


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tenants = [
        {"name": "acme", "keys": [KEY]},
        {"name": "poor", "keys": [POOR_KEY], "max_budget": 0},
        {"name": "blocked", "keys": [BLOCKED_KEY], "blocked": True},
        {"name": "busy", "keys": [BUSY_KEY], "rpm_limit": 1},
        {"name": "narrow", "keys": [NARROW_KEY], "models": ["small"]},
        {"name": "trial", "keys": [TRIAL_KEY], "scale_fraction": 0},
        *({"name": f"test-{number}", "keys": [own(number)]} for number in range(TESTS)),
        *({"name": f"by-{name}", "keys": [named(name)], "strategy": name} for name in STRATEGIES),
    ]
    with staged(
        tmp_path_factory.mktemp("conformance"),
        models=lambda url: [
            deployment(url, model_name=name, litellm_params={"input_cost_per_token": INPUT})
            for name in ("small", "vendor/some/model")
        ],
        scaling={"samples": 8, "max_samples": 8, "batch_window_ms": 2},
        tenants=tenants,
        general_settings={"max_request_bytes": BYTES, "read_s": READ_S},
    ) as made:
        yield made


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def streamed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def talk(stage: Stage, strategy: str, numbers: "count[int]", *, streamed: bool) -> Talk:
    # a tenant a test: what one test saves or spends of a bank must not reach another
    stage.says("42")
    return Talk(stage, strategy, own(next(numbers)), streamed=streamed)
