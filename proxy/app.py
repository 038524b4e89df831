"""The composition root: from a configuration to an ASGI application. The only wiring."""

import asyncio
import gc
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from proxy import __version__
from proxy.admission import Admission
from proxy.admission.states import States
from proxy.answers.workers import Workers
from proxy.api.admin import AdminEndpoint
from proxy.api.chat import ChatEndpoint
from proxy.api.completions import legacy
from proxy.api.entry import Door
from proxy.api.feedback import FeedbackEndpoint
from proxy.api.front import Front, Serve
from proxy.api.gate import Gate
from proxy.api.health import HealthEndpoints
from proxy.api.models import ModelsEndpoint
from proxy.api.openapi import OpenApiEndpoint
from proxy.api.passthrough import PATHS, PassthroughEndpoint
from proxy.api.paths import Unserved
from proxy.api.responses import Responses, Unstored
from proxy.api.services import Services
from proxy.auth import LOCAL, MASTER, Auth, SoftBudget
from proxy.batcher import Batcher
from proxy.calibration import Calibrator, Known, read_calibrations
from proxy.config import Config, KeyConfig
from proxy.core.bank import Banks
from proxy.core.batch import Batch
from proxy.core.strategies import batch_for, scored
from proxy.drawing import Drawer
from proxy.engine import Engine
from proxy.keeping import Keeper
from proxy.ledger import Ledger
from proxy.ledger.admin import OPERATIONS, administer
from proxy.ledger.admin.reporting import Reader, readable
from proxy.ledger.books import Books
from proxy.ledger.keys import NewKey
from proxy.ledger.opening import open_ledger, read_books
from proxy.ledger.store import wall_clock
from proxy.metering import Meter
from proxy.picking import Picker
from proxy.plan import Planner
from proxy.predictor import Predictor
from proxy.predictor.history import HistoryPredictor
from proxy.relay import Relay
from proxy.scoring import Scorer
from proxy.scoring.agreement import AgreementScorer
from proxy.scoring.embedding import Embedder
from proxy.scoring.judge import JudgeScorer
from proxy.scoring.logprobs import LogprobScorer
from proxy.scoring.reward import RewardScorer
from proxy.scoring.universal import Universal
from proxy.telemetry import Marks, Metrics, flush_logs
from proxy.trial import Shadows
from proxy.types import JSON, Plan, Strategy, Tenant
from proxy.upstream import Lane
from proxy.upstream.catalogue import Catalogue
from proxy.upstream.direct import DirectLane
from proxy.upstream.prices import PriceMap
from proxy.watchdog import Watchdog

if TYPE_CHECKING:
    import numpy as np
    from fastapi.telemetry import TelemetryConfig


_READY_S = 1.0
_GC = (10_000, 20, 20)
_HEAVY = {"dynscaling": "numpy", "pets": "numpy", "optscale": "scipy.special"}
"""What the core of some strategies imports when it is first used, as memory and start-up are for those who need it."""


@dataclass(frozen=True)
class Shared:
    """What one of several worker processes is given: the ledger, open, whose tenants are adopted already.

    `open_to_all`: nobody has a key. `states` are where all workers count who comes in, and `metrics` the folder in
    which they gather their metrics.
    """

    ledger: Ledger
    open_to_all: bool
    states: States
    metrics: Path


def adopt(config: Config, books: Books) -> bool:
    """Take over the configured tenants and keys; returns whether nobody has a key, so that everybody may come in."""
    keyed = config.general_settings.master_key is not None or any(key.revoked_at is None for key in books.keys())  # noqa: SIM118 - not a dict
    open_to_all = not config.tenants and not keyed
    tenants = [*(tenant.tenant() for tenant in config.tenants), keyless(config, open_to_all=open_to_all)]
    books.adopt(tenants, {tenant.name: [_new_key(key) for key in tenant.owned()] for tenant in config.tenants})
    return open_to_all


def keyless(config: Config, *, open_to_all: bool) -> Tenant:
    """Who comes without a key of a tenant, and what is stored of it."""
    settings = config.general_settings
    stored = {name: getattr(settings, name) for name in ("store_samples", "store_samples_days")}
    return replace(LOCAL if open_to_all else MASTER, **stored)


class Tally:
    """One server: its ledger is open from construction on, everything else while its application runs.

    `wall` is seconds since 1970, by which budgets have their windows. `shared` is for one of several workers.
    `direct` is the lane to OpenAI-compatible servers. Raises ConfigError when the ledger, the predictor's file or the
    calibration cannot be opened.
    """

    def __init__(
        self,
        config: Config,
        *,
        environ: Mapping[str, str] = os.environ,
        seed: int | None = None,
        wall: Callable[[], float] = wall_clock,
        direct: Lane | None = None,
        shared: Shared | None = None,
    ) -> None:
        self.config = config
        self._seed = seed
        self._wall = wall
        self._closing = AsyncExitStack()
        self._ready_until = 0.0
        self._stop_by: float | None = None
        self._often: dict[str, Serve] = {}
        self._metrics = Metrics(shared.metrics if shared is not None else None)
        self._marks = Marks(shared.metrics, wall_clock) if shared is not None else None
        self._states = shared.states if shared is not None else None
        self._open_to_all = shared.open_to_all if shared is not None else False
        # a file that cannot be read is told before the ledger is locked
        self._predictor = self._predicting()
        calibration = config.scaling.calibration
        self._calibrations: Known = {} if calibration is None else read_calibrations(calibration)
        url = config.general_settings.database_url
        self._ledger = shared.ledger if shared is not None else open_ledger(url, clock=wall, prepare=self._adopt)
        # the last to close is the ledger, whatever becomes of the lanes: they may settle until then
        self._closing.push_async_callback(self._ledger.close)
        self._reader = Reader(partial(read_books, url, clock=wall)) if readable(url) else None
        if self._reader is not None:
            self._closing.push_async_callback(self._reader.close)
        self._environ = environ
        lane = self._kept(direct or DirectLane(environ))
        self._catalogue = Catalogue(
            config,
            direct=lane,
            litellm=cache(self._litellm),
            prices=cache(PriceMap),
            environ=environ,
            clock=time.monotonic,
        )

    @property
    def open_to_all(self) -> bool:
        """Whether nobody has a key, so that everybody may come in."""
        return self._open_to_all

    def stopping(self) -> None:
        """Take it that the server is told to stop: `shutdown_s` from now, at most, it has for all that still runs."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + self.config.general_settings.shutdown_s

    def application(self) -> FastAPI:
        """The ASGI application."""
        unserved = Unserved(_identity)
        app = FastAPI(
            title="tally",
            version=__version__,
            openapi_url=None,
            redirect_slashes=False,
            lifespan=self._lifespan,
            telemetry=_traced(self._environ),
        )
        app.add_exception_handler(HTTPException, unserved.http_error)
        app.add_exception_handler(Exception, unserved.fault)
        refused = self._metrics.requests.labels("", "", "503").inc
        app.add_middleware(Front, endpoints=self._often)
        app.add_middleware(Gate, most=self.config.general_settings.max_in_flight, new_id=_identity, refused=refused)
        return app

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        scaling = self.config.scaling
        meter = Meter(self._ledger, clock=time.monotonic, slice_tokens=scaling.slice_tokens)
        engine = Engine(
            Drawer(meter, clock=time.monotonic, cache_first=scaling.cache_first),
            self._ledger,
            clock=time.monotonic,
            picker=self._picker(meter),
        )
        batcher = Batcher(
            engine,
            self._batches(),
            window_s=scaling.batch_window_ms / 1000,
            max_queries=scaling.batch_max_queries,
        )
        shadows = Shadows(batcher.submit, patience=self._patience)
        auth = Auth(
            self._ledger,
            master_key=self.config.general_settings.master_key,
            open_to_all=self._open_to_all,
            clock=time.monotonic,
            keyless=keyless(self.config, open_to_all=self._open_to_all),
            alert=self._alert,
        )
        async with self._closing, auth, Workers(clock=time.monotonic) as algebra, batcher, shadows:
            self._closing.callback(flush_logs)
            self._route(app, auth, meter, batcher=batcher, shadows=shadows, algebra=algebra)
            await asyncio.to_thread(_import_ahead, self.config)
            # what stands after start-up is not garbage: collecting it again and again costs tail latency
            gc.collect()
            gc.freeze()
            # what a request leaves behind is little, and hardly ever in circles
            gc.set_threshold(*_GC)
            watchdog = Watchdog(self._metrics.callback)
            watchdog.start()
            try:
                yield
            finally:
                watchdog.stop()

    def _patience(self) -> float:
        """Seconds that are left for what no client waits for."""
        self.stopping()
        return max(0.0, (self._stop_by or 0.0) - time.monotonic())

    def _route(
        self, app: FastAPI, auth: Auth, meter: Meter, *, batcher: Batcher, shadows: Shadows, algebra: Workers
    ) -> None:
        settings = self.config.general_settings
        new_id = _identity
        door = Door(auth, Admission(time.monotonic, self._states), settings, new_id)
        services = Services(
            settings=settings,
            door=door,
            planner=Planner(self.config, self._catalogue),
            catalogue=self._catalogue,
            batcher=batcher,
            keeper=Keeper(clock=time.monotonic, seconds=settings.keep_samples_s),
            shadows=shadows,
            relay=Relay(meter, self._ledger, clock=time.monotonic),
            scorer=self._scorers(meter),
            predictor=self._predictor,
            calibrator=Calibrator(self._ledger.outcomes, self._calibrations, clock=time.monotonic),
            algebra=algebra,
            metrics=self._metrics,
            log=structlog.get_logger("tally"),
            clock=time.monotonic,
            wall=self._wall,
            new_id=new_id,
            number=count().__next__,
            shortage=self._ledger.shortage,
        )
        chat, completions = ChatEndpoint(services), ChatEndpoint(services, legacy)
        answered = Responses(self._wall, max_messages=settings.max_messages)
        responses, unstored = ChatEndpoint(services, answered), Unstored(door)
        passed = {path: PassthroughEndpoint(path, services, meter, self._ledger) for path in PATHS}
        feedback = FeedbackEndpoint(door, self._ledger.feedback)
        models = ModelsEndpoint(door, self._catalogue, created=int(self._wall()))
        health = HealthEndpoints(self._metrics, self._probe)
        self._often |= {
            "/v1/chat/completions": chat.serve,
            "/v1/completions": completions.serve,
            "/v1/responses": responses.serve,
        }
        for prefix in ("", "/{strategy}"):
            app.add_route(f"{prefix}/v1/chat/completions", chat.serve, methods=["POST"])
            app.add_route(f"{prefix}/v1/completions", completions.serve, methods=["POST"])
            app.add_route(f"{prefix}/v1/responses", responses.serve, methods=["POST"])
            app.add_route(f"{prefix}/v1/responses/{{rest:path}}", unstored.serve, methods=["GET", "POST", "DELETE"])
            for path, endpoint in passed.items():
                app.add_route(f"{prefix}/v1/{path}", endpoint.serve, methods=["POST"])
            app.add_route(f"{prefix}/v1/feedback", feedback.serve, methods=["POST"])
            app.add_route(f"{prefix}/v1/models", models.serve, methods=["GET"])
            app.add_route(f"{prefix}/v1/models/{{model:path}}", models.serve, methods=["GET"])
        app.add_route("/health/liveliness", health.liveliness, methods=["GET"])
        app.add_route("/health/liveness", health.liveliness, methods=["GET"])
        app.add_route("/health/readiness", health.readiness, methods=["GET"])
        app.add_route("/metrics", health.metrics, methods=["GET"])
        for path in OPERATIONS:
            admin = AdminEndpoint(path, door, self._administer, services.log)
            app.add_route(path, admin.serve, methods=admin.methods)
        described = OpenApiEndpoint(budget_status=settings.budget_exceeded_status_code)
        app.add_route("/openapi.json", described.serve, methods=["GET"])

    def _adopt(self, books: Books) -> None:
        self._open_to_all = adopt(self.config, books)

    def _litellm(self) -> Lane:
        from proxy.upstream.litellm import LiteLLMLane

        return self._kept(LiteLLMLane())

    def _kept(self, lane: Lane) -> Lane:
        self._closing.push_async_callback(lane.close)
        return lane

    def _generators(self) -> "Callable[[], np.random.Generator]":
        seeds = count(self._seed if self._seed is not None else uuid.uuid4().int)

        def generator() -> "np.random.Generator":
            import numpy as np

            return np.random.default_rng(next(seeds))

        return generator

    def _batches(self) -> Callable[[str, str, Strategy], Batch]:
        rng, banks = self._generators(), Banks()
        return lambda tenant, model, strategy: batch_for(strategy, rng, partial(banks.of, (tenant, model, strategy)))

    def _scorers(self, meter: Meter) -> Callable[[Plan], Scorer | None]:
        scorer = self._scorer(meter)
        return lambda plan: scorer if scored(plan.strategy) else None

    def _scorer(self, meter: Meter) -> Scorer:
        settings, clock = self.config.scaling.scorer, time.monotonic
        model = settings.model or self.config.scaling.judge_model
        find = partial(self._catalogue.find, model) if model else None
        if settings.kind == "agreement":
            return AgreementScorer()
        if settings.kind == "reward" and find is not None:
            return RewardScorer(
                meter,
                find,
                clock=clock,
                api=settings.api,
                reduce=settings.reduce,
                activation=settings.activation,
                separator=settings.separator,
            )
        judge = JudgeScorer(meter, find, clock=clock) if find is not None else None
        if settings.kind == "judge" and judge is not None:
            return judge
        return LogprobScorer(judge, confidence=settings.confidence, window=settings.window)

    def _picker(self, meter: Meter) -> Picker:
        scaling, find, clock = self.config.scaling, self._catalogue.find, time.monotonic
        named, meant = scaling.universal_model, scaling.embedding_model
        return Picker(
            Universal(meter, partial(find, named) if named else None, clock=clock),
            Embedder(meter, partial(find, meant), clock=clock) if meant else None,
            clock=clock,
        )

    def _predicting(self) -> Predictor | None:
        scaling = self.config.scaling
        if scaling.prior == "trained" and scaling.predictor is not None:
            from proxy.predictor.model import Model
            from proxy.predictor.trained import TrainedPredictor

            return TrainedPredictor(Model.load(scaling.predictor))
        return HistoryPredictor(self._recent_scores, clock=time.monotonic) if scaling.prior == "history" else None

    async def _administer(self, path: str, asked: JSON) -> Any:  # noqa: ANN401 - the answer's JSON
        # nobody's reservation waits for one who reads
        books = self._reader if OPERATIONS[path].reads and self._reader is not None else self._ledger
        return await books.run(lambda books: administer(books, path, asked))

    async def _recent_scores(self, tenant: str, model: str, limit: int) -> list[list[float]]:
        # the predictor is read before the ledger is opened
        return await self._ledger.scores(tenant, model, limit)

    def _alert(self, soft: SoftBudget) -> None:
        """Tell that a soft budget is used up, or has room again."""
        self._metrics.soft.labels(soft.tenant, soft.key or "").set(int(soft.used))
        name = f"{soft.tenant}/{soft.key or ''}"
        # each worker sees it, also one that took the place of the one that told of it
        changed = soft.changed if self._marks is None else self._marks.turned(name, on=soft.used)
        if not changed:
            return
        log = structlog.get_logger("tally")
        whose = {"tenant": soft.tenant, **({} if soft.key is None else {"key": soft.key})}
        if soft.used:
            log.warning("soft_budget_used", **whose)
        else:
            log.info("soft_budget_free", **whose)

    async def _probe(self) -> None:
        now = time.monotonic()
        # it is asked without a key, and a write costs an fsync
        if now >= self._ready_until:
            await self._ledger.probe()
            self._ready_until = now + _READY_S


def _import_ahead(config: Config) -> None:
    """Import what the first request to need it would hold up all others for."""
    configured = {config.scaling.strategy, *(entry.strategy for entry in config.model_list)}
    configured |= {tenant.strategy for tenant in config.tenants}
    for name in ("jsonpath", "jsonschema_rs", "re2", *(_HEAVY[name] for name in configured if name in _HEAVY)):
        import_module(name)


def _new_key(key: KeyConfig) -> NewKey:
    return NewKey(key.key, key.alias, key.expires_at, key.limits())


def _traced(environ: Mapping[str, str]) -> "TelemetryConfig":
    """What FastAPI tells OpenTelemetry: all it can where the environment sets that up, else nothing.

    Left to itself it asks the environment five times a request whether there is anybody to tell.
    """
    wanted = any(name.startswith(("OTEL_", "FASTAPI_OTEL_")) for name in environ)
    return {"tracing": wanted, "metrics": wanted, "logs": wanted}


def _identity() -> str:
    # by their time: what is written together stands together, whatever the ledger's size
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
