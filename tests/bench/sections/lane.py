"""What a call through the LiteLLM lane costs beside a bare `litellm.acompletion`: CPU time of one process.

As a program (`python -m tests.bench.sections.lane PORT CALLS ROUNDS`) it makes the calls, and writes what they took
as JSON: importing LiteLLM must not touch the process that measures other things.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import uvloop

from proxy.types import JSON
from proxy.upstream import Endpoint
from tests.bench.findings import Fact, Found, Grid, number
from tests.bench.serving import ROOT
from tests.bench.stage import FAST, Stage
from tests.process import environment

DIRECT = ("deepseek", "mistral", "together_ai", "anthropic", "groq")
OTHERS = ("cerebras", "perplexity", "hosted_vllm")
"""Providers whose transforms can be driven directly, and those for which `acompletion` must be called."""

_AT_ONCE = 8
_TIMEOUT = 30.0

Call = Callable[[], Awaitable[object]]


def measure(stage: Stage) -> Found:
    """Both ways by turns, for each provider."""
    calls, rounds = (64, 1) if stage.effort.quick else (200, 5)
    words = [sys.executable, "-m", "tests.bench.sections.lane", str(stage.upstream.port), str(calls), str(rounds)]
    done = subprocess.run(words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, check=True)
    taken: dict[str, list[tuple[float, float]]] = json.loads(done.stdout)
    found = Found("lane", raw=dict(taken))
    rows = []
    for provider, pairs in taken.items():
        share = statistics.median(own / bare for own, bare in pairs)
        own, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows.append([provider, number(own), number(bare), f"{share:.2f} x"])
        aim = 0.5 if provider in DIRECT else 1.1
        found.facts.append(Fact(f"LiteLLM lane, {provider}: CPU in terms of acompletion's", share, aim, " x"))
    columns = ["provider", "lane, CPU ms a call", "acompletion, CPU ms a call", "lane in terms of it"]
    found.grids.append(Grid(f"the LiteLLM lane, {_AT_ONCE} calls at once", columns, rows))
    return found


async def compare(port: int, calls: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """CPU milliseconds a call, of the lane and of the bare call, by provider."""
    from proxy.upstream.litellm import LiteLLMLane

    lane = LiteLLMLane()
    body: JSON = {"messages": [{"role": "user", "content": "What is six times seven?"}], "max_tokens": 64}
    found: dict[str, list[tuple[float, float]]] = {}
    for provider in (*DIRECT, *OTHERS):
        base = FAST.base(port)
        endpoint = Endpoint(provider, "small", base, "sk-upstream", {})
        ours = partial(lane.complete, endpoint, body, _TIMEOUT)
        await ours()
        import litellm

        bare = partial(
            litellm.acompletion,
            model=f"{provider}/small",
            api_base=base,
            api_key="sk-upstream",
            timeout=_TIMEOUT,
            num_retries=0,
            **body,
        )
        await _taken(ours, _AT_ONCE), await _taken(bare, _AT_ONCE)
        found[provider] = [(await _taken(ours, calls), await _taken(bare, calls)) for _ in range(rounds)]
    await lane.close()
    return found


async def _taken(call: Call, calls: int) -> float:
    began = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(_some(call, calls // _AT_ONCE))
    return 1e3 * (time.process_time() - began) / (calls // _AT_ONCE * _AT_ONCE)


async def _some(call: Call, calls: int) -> None:
    for _ in range(calls):
        await call()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(uvloop.run(compare(*map(int, sys.argv[1:])))))
