"""One tally before one scripted provider, as every client meets it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.clients.upstream import Provider
from tests.fake_upstream import FakeUpstream
from tests.served import KEY, ServedTally, configuration, deployment

POOR_KEY = "sk-poor-0123456789"
REAL_MODEL = "real"
STRATEGIES = ("off", "self_consistency", "dynscaling", "optscale", "adaptive")
_LEFT_S = 1.0
_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Stage:
    """What a check program is told, and the provider that it never sees."""

    tally: ServedTally
    upstream: FakeUpstream
    real: bool

    def environment(self, strategies: Sequence[str]) -> dict[str, str]:
        """The variables that a check program reads."""
        told = {
            "TALLY_URL": self.tally.url,
            "TALLY_KEY": KEY,
            "TALLY_POOR_KEY": POOR_KEY,
            "TALLY_STRATEGIES": ",".join(strategies),
        }
        return told | ({"TALLY_REAL_MODEL": REAL_MODEL} if self.real else {})

    def left_over(self) -> int:
        """How many upstream calls still run a second after the client has gone."""
        try:
            self.upstream.wait(lambda: not self.upstream.in_flight, _LEFT_S)
        except TimeoutError:
            return self.upstream.in_flight
        return 0


@contextmanager
def serving(folder: Path, real_url: str | None = None) -> Iterator[Stage]:
    """The proxy with every model of the provider and, at `real_url`, the real small model; two tenants."""
    provider = Provider()
    with FakeUpstream(provider, models=provider.models) as upstream:
        entries = [_entry(upstream.base_url, name) for name in provider.models]
        if real_url is not None:
            real = _entry(real_url, REAL_MODEL, "small")
            entries.append({**real, "model_info": {"usage": "per_choice", "max_output_tokens": 64}})
        scaling = {"samples": _SAMPLES, "max_samples": 2 * _SAMPLES, "mean_samples": 8}
        tenants = [
            {"name": "acme", "keys": [KEY]},
            {"name": "poor", "keys": [POOR_KEY], "max_budget": 0, "budget_duration": "1d"},
        ]
        config = configuration(upstream.base_url, folder, model_list=entries, scaling=scaling, tenants=tenants)
        with ServedTally(config) as tally:
            yield Stage(tally, upstream, real_url is not None)


def _entry(base_url: str, name: str, model: str | None = None) -> dict[str, object]:
    return {**deployment(base_url, litellm_params={"model": f"openai/{model or name}"}), "model_name": name}
