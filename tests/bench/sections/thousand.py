"""A thousand scaled requests at once: whether all are answered, what memory they take, how long the loop stands."""

from tests.bench import measuring, serving
from tests.bench.client import Load
from tests.bench.findings import Fact, Found, Grid, number
from tests.bench.measuring import Run
from tests.bench.stage import MAX_TOKENS, Stage

_AT_ONCE = 1000
_CALLBACK = "tally_callback_seconds_max"
_MODELS = {
    "n=8 in one call": ("slowest", MAX_TOKENS),
    "no n": ("slowest-single", MAX_TOKENS),
    "sliced": ("slowest", None),
}


def measure(stage: Stage) -> Found:
    """Each in a server of its own, so that nothing is warm and idle memory is what it is at the start."""
    found = Found("thousand")
    rows = []
    for name, (model, most) in _MODELS.items():
        folder = stage.folder("thousand")
        config = serving.configuration(stage.entries([model]), folder)
        with serving.tally(config, folder) as tally:
            load = stage.load(tally, model, "self_consistency", clients=_AT_ONCE, requests=_AT_ONCE, max_tokens=most)
            own = _loaded(tally, load)
            callback = tally.metric(_CALLBACK)
            over = own.peak_mb - tally.idle_mb
        answered = own.outcome.requests - own.outcome.failed
        stalled = None if callback is None else 1e3 * callback
        found.facts += [
            Fact(f"{_AT_ONCE} at once, {name}: answered", float(answered), _AT_ONCE, least=True),
            Fact(f"{_AT_ONCE} at once, {name}: peak memory over idle", over, 150, " MB"),
            Fact(f"{_AT_ONCE} at once, {name}: longest callback", stalled, 50, " ms"),
        ]
        found.notes += measuring.failures({name: [own]})
        found.raw[name] = measuring.raw({name: [own]})
        outcome = own.outcome
        rows.append([name, *map(number, (outcome.p50, outcome.p99, outcome.most, own.cpu_ms, own.peak_mb))])
    columns = ["", "p50 ms", "p99 ms", "longest ms", "CPU ms a request", "peak MB"]
    found.grids.append(Grid(f"{_AT_ONCE} requests at once, 8 samples each, an upstream of 1 s", columns, rows))
    return found


def _loaded(tally: serving.Running, load: Load) -> Run:
    tally.metric(_CALLBACK)  # what start-up took is not asked here
    return measuring.run(tally, load)
