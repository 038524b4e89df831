"""What eight samples of a long prompt cost at a provider that caches prompts but takes no `n`.

The provider's own meter counts. The option draws once first, and the rest when the prompt is in the cache.
"""

from proxy.config.models import ScalingConfig
from tests.bench import measuring, serving
from tests.bench.client import MARK
from tests.bench.findings import Fact, Found, Grid, number
from tests.bench.serving import CACHED, INPUT, OUTPUT
from tests.bench.stage import Stage
from tests.bench.upstream import Manner

OPTION = "cache_first"
"""The option's name in `scaling`."""

_PROMPT_TOKENS = 20_000
_ASKED = 10
_MODEL = "caching"
_MANNER = Manner(delay=200, most=1)


def measure(stage: Stage) -> Found:
    """Dollars by the meter, without the option and with it."""
    there = OPTION in ScalingConfig.model_fields
    plain = _asked(stage, {})
    rows = [plain[0]]
    saved = None
    if there:
        first = _asked(stage, {OPTION: True})
        rows.append(first[0])
        saved = 100 * (1 - first[1] / plain[1])
    fact = Fact(f"money saved by {OPTION}, {_PROMPT_TOKENS:,} tokens of prompt", saved, unit=" %")
    columns = ["", "prompt tokens", "of them cached", "completion tokens", "dollars", "p50 ms"]
    return Found("cache", facts=[fact], grids=[Grid(f"{_ASKED} requests, 8 samples each, no n", columns, rows)])


def _asked(stage: Stage, scaling: dict[str, bool]) -> tuple[list[str], float]:
    folder = stage.folder("cache")
    entry = serving.entry(_MODEL, stage.upstream, _MANNER)
    config = serving.configuration([entry], folder, scaling=scaling)
    with serving.tally(config, folder, settle=False) as tally:
        # unlike from its first letter on; the four letters of a token are the provider's measure
        text = f"{MARK} {scaling} " + "word" * _PROMPT_TOKENS
        load = stage.load(
            tally,
            _MODEL,
            "self_consistency",
            clients=1,
            requests=_ASKED,
            messages=[{"role": "user", "content": text}],
        )
        before = stage.upstream.meter()
        run = measuring.run(tally, load)
        after = stage.upstream.meter()
    grown = {name: after[name] - before[name] for name in before}
    fresh = grown["prompt_tokens"] - grown["cached_tokens"]
    dollars = fresh * INPUT + grown["cached_tokens"] * CACHED + grown["completion_tokens"] * OUTPUT
    counts = [f"{grown[name]:,}" for name in ("prompt_tokens", "cached_tokens", "completion_tokens")]
    return [f"{OPTION}" if scaling else "as it is", *counts, f"{dollars:.4f}", number(run.outcome.p50)], dollars
