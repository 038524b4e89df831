"""What the sections share: the servers, each started when it is first asked for, and how much effort is made."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp

from proxy.types import JSON
from tests.bench import serving
from tests.bench.client import MARK, Load
from tests.bench.environments import ITS_HUB, LITELLM, NotInstalled, Rival, program
from tests.bench.serving import KEY, MASTER_KEY, NotStarted, Running, entry
from tests.bench.upstream import Manner

FAST, SINGLE = Manner(), Manner(most=1)
SLOW, SLOW_SINGLE = Manner(delay=200), Manner(delay=200, most=1)
SLOWEST, SLOWEST_SINGLE = Manner(delay=1000), Manner(delay=1000, most=1)
LONG = Manner(tokens=200)
PACED = Manner(delay=50, tokens=20, pace=5)

MODELS = {
    "fast": FAST,
    "single": SINGLE,
    "slow": SLOW,
    "slow-single": SLOW_SINGLE,
    "slowest": SLOWEST,
    "slowest-single": SLOWEST_SINGLE,
    "long": LONG,
    "paced": PACED,
}
MAX_TOKENS = 64
"""What a client says in most runs; without it a scaled call is streamed from the provider, a slice at a time."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a timed run takes in seconds, how often each is made, and up to how many rows the ledger grows."""

    seconds: float
    rounds: int
    rows: int
    quick: bool


def body(model: str, **more: object) -> JSON:
    """A chat, no two alike."""
    messages = [{"role": "user", "content": f"What is six times seven? Question {MARK}."}]
    return {"model": model, "messages": messages, "max_tokens": MAX_TOKENS, **more}


class Stage:
    """The servers, from `with` to the end of its block. `environments` is where other proxies are installed."""

    def __init__(self, effort: Effort, environments: Path) -> None:
        self.effort = effort
        self.notes: list[str] = []
        self._environments = environments
        self._stack = ExitStack()

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def folder(self, name: str) -> Path:
        """A new folder, gone at the end."""
        made = Path(mkdtemp(prefix=f"tally-bench-{name}-"))
        self._stack.callback(shutil.rmtree, made, ignore_errors=True)
        return made

    def load(self, server: Running, model: str, strategy: str = "", **more: object) -> Load:
        """A load on a server: of tally by a strategy, of the others as they are."""
        spoken: dict[str, object] = {"seconds": self.effort.seconds}
        spoken |= {name: more.pop(name) for name in list(more) if name in Load.__dataclass_fields__}
        if server is self.upstream:
            path = MODELS[model].base(0).removeprefix("http://127.0.0.1:0")
        else:
            path = f"/{strategy}/v1" if strategy else "/v1"
        key = KEY if server.name == "tally" else MASTER_KEY
        known: dict[str, object] = {"port": server.port, "path": f"{path}/chat/completions", "keys": (key,)}
        return Load(**{"body": body(model, **more), **known, **spoken})  # type: ignore[arg-type]  # names of fields

    @cached_property
    def upstream(self) -> Running:
        return self._stack.enter_context(serving.upstream())

    def entries(self, names: Sequence[str] = tuple(MODELS)) -> list[JSON]:
        """The `model_list`."""
        return [entry(name, self.upstream, MODELS[name]) for name in names]

    @cached_property
    def tally(self) -> Running:
        folder = self.folder("tally")
        return self._stack.enter_context(serving.tally(serving.configuration(self.entries(), folder), folder))

    @cached_property
    def relay(self) -> Running:
        return self._stack.enter_context(serving.relay(FAST.base(self.upstream.port), self.folder("relay")))

    @cached_property
    def litellm(self) -> Running | None:
        """None where it cannot be installed or started, and a note says why."""
        path = self._installed(LITELLM)
        if path is None:
            return None
        return self._try(lambda: serving.litellm(path, self.entries(), self.folder("litellm")))

    @cached_property
    def its_hub(self) -> Running | None:
        """None where it cannot be installed or started, and a note says why."""
        path = self._installed(ITS_HUB)
        if path is None:
            return None
        return self._try(lambda: serving.its_hub(path, FAST.base(self.upstream.port), self.folder("its-hub")))

    def _installed(self, rival: Rival) -> Path | None:
        try:
            return program(rival, self._environments)
        except NotInstalled as error:
            self.notes.append(f"{rival.name} is left out, it could not be installed: {error}")
            return None

    def _try(self, serve: Callable[[], AbstractContextManager[Running]]) -> Running | None:
        try:
            return self._stack.enter_context(serve())
        except NotStarted as error:
            self.notes.append(f"left out, it did not start: {error}")
            return None
