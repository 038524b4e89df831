"""What the endpoints work with."""

from collections.abc import Callable
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from proxy.answers import Algebra
from proxy.api.entry import Door
from proxy.api.refusing import Ask
from proxy.batcher import Batcher
from proxy.calibration import Calibrator
from proxy.config import GeneralSettings
from proxy.keeping import Keeper
from proxy.plan import Planner
from proxy.predictor import Predictor
from proxy.relay import Relay
from proxy.scoring import Scorer
from proxy.telemetry import Metrics
from proxy.trial import Shadows
from proxy.types import Plan
from proxy.upstream.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class Services:
    """All of it, wired in `proxy.app`.

    `clock` is monotonic seconds, `wall` seconds since 1970; `new_id` gives ids that are unique for ever, `number`
    numbers that are unique in this process. `shortage` asks the ledger why a budget holds no more.
    """

    settings: GeneralSettings
    door: Door
    planner: Planner
    catalogue: Catalogue
    batcher: Batcher
    keeper: Keeper
    shadows: Shadows
    relay: Relay
    scorer: Callable[[Plan], Scorer | None]
    predictor: Predictor | None
    calibrator: Calibrator
    algebra: Algebra | None
    metrics: Metrics
    log: FilteringBoundLogger
    clock: Callable[[], float]
    wall: Callable[[], float]
    new_id: Callable[[], str]
    number: Callable[[], int]
    shortage: Ask
