"""Start-up and idle memory of `tally serve` on the direct lane, beside LiteLLM's proxy."""

import statistics

from tests.bench import serving
from tests.bench.findings import Fact, Found, Grid, number
from tests.bench.stage import Stage

_STARTS = 5


def measure(stage: Stage) -> Found:
    """Medians over several starts; the first one, which also makes the ledger, is one of them."""
    starts = []
    folder = stage.folder("idle")
    config = serving.configuration(stage.entries(["fast"]), folder)
    for _ in range(3 if stage.effort.quick else _STARTS):
        with serving.tally(config, folder) as tally:
            starts.append((tally.ready_s, tally.idle_mb))
    ready, idle = (statistics.median(column) for column in zip(*starts, strict=True))
    rows = [["tally", number(ready), number(idle)]]
    rows += [
        [server.name, number(server.ready_s), number(server.idle_mb)]
        for server in (stage.litellm, stage.its_hub)
        if server is not None
    ]
    return Found(
        "idle",
        facts=[
            Fact("idle memory", idle, 110, " MB"),
            Fact("start-up until ready", ready, 1.0, " s"),
        ],
        grids=[Grid("at idle", ["", "ready after s", "memory MB"], rows)],
        raw={"starts": starts},
    )
