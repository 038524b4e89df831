"""A real tally on a loopback socket, for tests that are its clients."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import uvicorn
from openai import AsyncOpenAI, OpenAI

from proxy.app import Tally
from proxy.config import parse_config
from proxy.ledger.books import Books
from proxy.ledger.checking import TenantCheck, check
from proxy.ledger.opening import read_books
from proxy.ledger.store import wall_clock
from proxy.money import Rates

KEY = "sk-acme-0123456789"
MASTER_KEY = "sk-master-0123456789abcdef"
INPUT, OUTPUT = 1.0e-7, 4.0e-7
RATES = Rates(100_000, 400_000)

JSON = dict[str, Any]


def deployment(base_url: str, **more: Any) -> JSON:
    """One entry of `model_list`: the model `small`, priced, at `base_url`."""
    params = {"model": "openai/small", "api_base": base_url, "api_key": "sk-upstream-secret"}
    prices = {"input_cost_per_token": INPUT, "output_cost_per_token": OUTPUT}
    params_more = more.pop("litellm_params", {})
    return {"model_name": "small", "litellm_params": {**params, **prices, **params_more}, **more}


def configuration(base_url: str, folder: Path, **more: Any) -> JSON:
    """A configuration with one model and the tenant `acme`; `more` adds or replaces sections."""
    return {
        "model_list": more.pop("model_list", [deployment(base_url)]),
        "scaling": {"strategy": "self_consistency", "batch_window_ms": 10, **more.pop("scaling", {})},
        "tenants": more.pop("tenants", [{"name": "acme", "keys": [KEY], **more.pop("tenant", {})}]),
        "general_settings": {
            "master_key": MASTER_KEY,
            "database_url": f"sqlite:///{folder / 'tally.db'}",
            **more.pop("general_settings", {}),
        },
        **more,
    }


class ServedTally:
    """The proxy in a thread of this process, from `with` to the end of its block. `wall` is its clock."""

    def __init__(
        self, config: JSON, environ: Mapping[str, str] | None = None, *, wall: Callable[[], float] = wall_clock
    ) -> None:
        self.config = parse_config(config, "test", environ or {})
        self._environ = environ or {}
        self._wall = wall

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self._port}"

    def client(self, strategy: str | None = None, key: str = KEY) -> OpenAI:
        """The official client on this proxy, with no retries of its own."""
        return OpenAI(base_url=self._base(strategy), api_key=key, max_retries=0, timeout=30)

    def async_client(self, strategy: str | None = None, key: str = KEY) -> AsyncOpenAI:
        """The same for an event loop."""
        return AsyncOpenAI(base_url=self._base(strategy), api_key=key, max_retries=0, timeout=60)

    def post(
        self, body: object, *, path: str = "/v1/chat/completions", key: str | None = KEY, **more: Any
    ) -> httpx.Response:
        """A bare POST: `body` is JSON, or the bytes to send."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        headers |= more.pop("headers", {})
        sent = {"content": body} if isinstance(body, bytes) else {"json": body}
        return httpx.post(f"{self.url}{path}", headers=headers, timeout=30, **sent, **more)

    def get(self, path: str, key: str | None = KEY) -> httpx.Response:
        """A bare GET."""
        return httpx.get(f"{self.url}{path}", headers={"authorization": f"Bearer {key}"} if key else {})

    def balance(self, tenant: str = "acme") -> TenantCheck:
        """What the ledger's check says of a tenant, read beside the server."""
        with self.books() as books:
            return next(found for found in check(books) if found.tenant == tenant)

    def books(self) -> "_Books":
        """The ledger, read beside the server."""
        return _Books(self.config.general_settings.database_url, self._wall)

    def __enter__(self) -> Self:
        self._server = _Server(Tally(self.config, environ=self._environ, seed=7, wall=self._wall))
        self._thread = threading.Thread(target=self._server.run, name="tally")
        self._thread.start()
        self._port = self._server.port(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(15)
        if self._thread.is_alive():
            raise TimeoutError("tally did not stop")

    def _base(self, strategy: str | None) -> str:
        return f"{self.url}/{strategy}/v1" if strategy else f"{self.url}/v1"


class _Books:
    def __init__(self, url: str, wall: Callable[[], float]) -> None:
        self._url = url
        self._wall = wall

    def __enter__(self) -> Books:
        self._books = read_books(self._url, clock=self._wall)
        return self._books

    def __exit__(self, *_: object) -> None:
        self._books.close()


class _Server(uvicorn.Server):
    def __init__(self, tally: Tally) -> None:
        super().__init__(
            uvicorn.Config(
                tally.application(),
                host="127.0.0.1",
                port=0,
                loop="uvloop",
                http="httptools",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=5,
            )
        )
        self._ready = threading.Event()

    async def startup(self, sockets: Sequence[Any] | None = None) -> None:
        await super().startup(list(sockets) if sockets else None)
        self._ready.set()

    def port(self, timeout: float) -> int:
        if not self._ready.wait(timeout) or not self.servers:
            raise TimeoutError("tally did not start")
        return int(self.servers[0].sockets[0].getsockname()[1])
