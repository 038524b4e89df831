"""The composition root: what it opens it closes, and it is ready only where it can write."""

import resource
from pathlib import Path

import pytest

from proxy.app import Tally
from proxy.config import parse_config
from proxy.ledger.sqlite import SqliteLedger
from proxy.ledger.store import wall_clock
from proxy.upstream.direct import DirectLane
from tests.fake_upstream import FakeUpstream
from tests.process import Server, ready, serving
from tests.served import ServedTally, configuration

NOWHERE = "http://127.0.0.1:9/v1"


class Stuck(DirectLane):
    """A lane whose connections cannot be let go of."""

    async def close(self) -> None:
        raise OSError("stuck")


@pytest.mark.anyio
async def test_the_ledger_is_closed_also_when_a_lane_cannot_be(tmp_path: Path) -> None:
    config = parse_config(configuration(NOWHERE, tmp_path), "test", {})
    app = Tally(config, environ={}, direct=Stuck()).application()
    with pytest.raises(OSError, match="stuck"):
        async with app.router.lifespan_context(app):
            pass
    again = SqliteLedger.open(config.general_settings.database_url, clock=wall_clock)
    await again.close()


def limit_files(server: Server, size: int) -> None:
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_server_whose_disk_is_full_is_not_ready_until_there_is_room_again(tmp_path: Path) -> None:
    with FakeUpstream() as upstream, serving(upstream, tmp_path, environ={}) as server:
        limit_files(server, 1)
        upstream.wait(lambda: not ready(server))
        limit_files(server, resource.RLIM_INFINITY)
        upstream.wait(lambda: ready(server))


def test_asking_often_whether_the_server_is_ready_writes_seldom(tmp_path: Path) -> None:
    with ServedTally(configuration(NOWHERE, tmp_path)) as tally:
        probes = set()
        for _ in range(20):
            assert tally.get("/health/readiness", key=None).status_code == 200
            with tally.books() as books:
                row = books.row("SELECT value FROM meta WHERE name = 'probed_at'")
            assert row is not None
            probes.add(row["value"])
        assert len(probes) < 20
