"""Which calibration a request's confidence is read by: its tenant's own feedback, else the file of an evaluation."""

from asyncio import Lock
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.core.calibration import Calibration, calibrate
from proxy.errors import ConfigError, Problem
from proxy.types import StrategyName

LAST = 500
"""How many judged answers of a tenant and model are looked at: enough, and recent."""

_KEPT_S = 60.0
_MOST_KEPT = 1024

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]

Read = Callable[[str, str, int], Awaitable[list[tuple[float, bool]]]]
"""The last judged answers of a tenant and model, at most so many: confidence, and whether it was right."""

Known = Mapping[tuple[str, str], Calibration]
"""Calibrations by model and strategy."""


class Calibrator:
    """Reads the ledger at most once a minute for each tenant and model. `known` is a file's; `clock` monotonic seconds.

    A tenant's feedback counts over all strategies together, and before the file as soon as it teaches anything.
    """

    def __init__(self, read: Read, known: Known, *, clock: Callable[[], float]) -> None:
        self._read = read
        self._known = known
        self._clock = clock
        # requests that come together would all read the same
        self._reading = Lock()
        self._learned: OrderedDict[tuple[str, str], tuple[float, Calibration | None]] = OrderedDict()

    async def of(self, tenant: str, model: str, strategy: StrategyName) -> Calibration | None:
        """The calibration for a request, None where nothing is known. Raises what reading the ledger raises."""
        key = tenant, model
        if not self._fresh(key):
            async with self._reading:
                if not self._fresh(key):
                    await self._learn(key)
        return self._learned[key][1] or self._known.get((model, strategy))

    def _fresh(self, key: tuple[str, str]) -> bool:
        return key in self._learned and self._clock() < self._learned[key][0] + _KEPT_S

    async def _learn(self, key: tuple[str, str]) -> None:
        now = self._clock()
        self._learned[key] = now, calibrate(await self._read(*key, LAST))
        self._learned.move_to_end(key)
        if len(self._learned) > _MOST_KEPT:
            self._learned.popitem(last=False)


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str
    strategy: StrategyName
    intercept: _Number
    slope: Annotated[_Number, Field(ge=0)]
    outcomes: Annotated[int, Field(ge=1)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    calibrations: list[_Line]


def read_calibrations(path: Path) -> Known:
    """The calibrations in a file of `tally eval`. Raises ConfigError that names what is wrong."""
    try:
        found = _File.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from error
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
        problems = [Problem(str(path), ".".join(map(str, each["loc"])), str(each["msg"])) for each in wrong]
        raise ConfigError(problems) from None
    return {
        (line.model, line.strategy): Calibration(line.intercept, line.slope, line.outcomes)
        for line in found.calibrations
    }


def calibration_file(known: Known) -> bytes:
    """The same as a file's bytes."""
    lines = [
        {
            "model": model,
            "strategy": strategy,
            "intercept": found.intercept,
            "slope": found.slope,
            "outcomes": found.outcomes,
        }
        for (model, strategy), found in known.items()
    ]
    return _File.model_validate({"calibrations": lines}).model_dump_json(indent=2).encode() + b"\n"
