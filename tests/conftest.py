"""What all tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from tests.postgres import NewDatabase, databases

# machines that run tests are shared: how long an example takes says nothing
settings.register_profile("tally", deadline=None)
settings.load_profile("tally")


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _quiet_logs() -> None:
    """The program's own logs are looked at where it runs as a process; here they go nowhere, whoever ran before."""
    structlog.reset_defaults()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.ReturnLoggerFactory()
    )


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new ledger, on each of the stores: `tally.db` in the test's folder, or a new database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tally.db'}"
    made: str = request.getfixturevalue("postgres")()
    return made


@pytest.fixture(scope="session")
def postgres() -> Iterator[NewDatabase]:
    """A real Postgres, started when the first test asks for it."""
    with databases() as make:
        yield make
