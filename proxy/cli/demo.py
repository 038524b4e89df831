"""`tally demo`: a real small model on this machine, the proxy in front of it, and what a vote makes of its answers."""

import contextlib
import io
import json
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
import httpx

from proxy.cli.books import clear_errors
from proxy.cli.model_server import MODEL_ALIAS, SLOT_TOKENS, SLOTS, ModelServer, cache_folder, fetch_model
from proxy.errors import TallyError
from proxy.money import NANO_PER_USD, Rates, nano_usd, pico_usd
from proxy.types import JSON

if TYPE_CHECKING:
    from openai import OpenAI
    from rich.console import Console
    from rich.table import Table

HOST = "127.0.0.1"
PORT = 8080
READY_SECONDS = 60.0
# what a small hosted model costs, so that the demo's cost column means something
INPUT_USD, OUTPUT_USD = "1.0e-7", "4.0e-7"
RATES = Rates(pico_usd(INPUT_USD), pico_usd(OUTPUT_USD))

SHOTS = (("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("India", "New Delhi"))
CAPITALS = (
    ("Canada", "Ottawa"),
    ("Peru", "Lima"),
    ("Kenya", "Nairobi"),
    ("Turkey", "Ankara"),
    ("Serbia", "Belgrade"),
    ("Vietnam", "Hanoi"),
    ("Belgium", "Brussels"),
    ("Ethiopia", "Addis Ababa"),
    ("Chile", "Santiago"),
    ("Australia", "Canberra"),
    ("Jordan", "Amman"),
    ("Finland", "Helsinki"),
    ("Ghana", "Accra"),
    ("Spain", "Madrid"),
    ("Bulgaria", "Sofia"),
    ("Iran", "Tehran"),
    ("Poland", "Warsaw"),
    ("Thailand", "Bangkok"),
    ("Ireland", "Dublin"),
    ("Iraq", "Baghdad"),
    ("Austria", "Vienna"),
    ("Cuba", "Havana"),
    ("Egypt", "Cairo"),
    ("Norway", "Oslo"),
)
_ANSWER = re.compile(r"\bis\s+(.+)$")
NOTE = (
    "A vote mends slips, not gaps: it finds what a model of 135 million parameters says most often. Over 44 capitals "
    "it was right in 56 % of single samples, 70 % of votes of 16, and 77 % at temperature 0."
)
# in a log or a pipe nobody resizes the window
_LOG_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer through the proxy. `tokens` are what was paid, `cost` is in nano-USD; `votes` are (answer, count)."""

    answer: str
    samples: int
    tokens: int
    cost: int
    seconds: float
    votes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One question: what one sample said, what the vote said, and what is right."""

    country: str
    capital: str
    single: Reply
    voted: Reply

    def right(self, reply: Reply) -> bool:
        """Whether an answer names the capital, accents and capitals aside."""
        return _plain(reply.answer) == _plain(self.capital)


@dataclass(slots=True)
class Running:
    """What the demo has started: the proxy's address and the demo tenant's key."""

    url: str
    key: str
    proxy: "subprocess.Popen[bytes]" = field(repr=False)


@click.command()
@click.option("--serve", is_flag=True, help="Leave the model and the proxy running until Ctrl-C.")
@click.option(
    "--model-file", type=click.Path(dir_okay=False, path_type=Path), help="A GGUF file instead of the demo's."
)
@click.option("--samples", default=16, show_default=True, type=click.IntRange(2, 64), help="Samples a voted answer.")
@click.option(
    "--questions",
    default=8,
    show_default=True,
    type=click.IntRange(0, len(CAPITALS)),
    help="How many questions to ask.",
)
@click.option("--port", type=click.IntRange(1, 65535), help=f"The proxy's port.  [default: {PORT}, or any free one]")
@clear_errors
def demo(serve: bool, model_file: Path | None, samples: int, questions: int, port: int | None) -> None:
    """Run a real small model here, put the proxy in front of it, and compare one sample with a vote."""
    from rich.console import Console

    if find_spec("openai") is None:
        raise TallyError("The demo asks through OpenAI's client: pip install 'tally-proxy[demo]'")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a terminal that cannot show a model's letters is no reason to stop
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)
    # ends as Ctrl-C does, so that the proxy is stopped on the way out
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.ExitStack() as stack:
        running = _start(console, stack, model_file, samples, port)
        if questions:
            _compare(console, running, samples, questions)
        if serve:
            _stay(console, running)


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal module's signature
    raise KeyboardInterrupt


def _start(
    console: "Console", stack: contextlib.ExitStack, model_file: Path | None, samples: int, port: int | None
) -> Running:
    if model_file is None:
        with _step(console, "Getting SmolLM2-135M-Instruct (93 MB, once)"):
            model_file = fetch_model(cache_folder())
    with _step(console, "Starting the model on llama.cpp's server"):
        server = stack.enter_context(ModelServer(model_file))
    with _step(console, "Starting tally in front of it"):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tally-demo-")))
        key = f"sk-demo-{secrets.token_hex(12)}"
        config = folder / "tally.json"
        config.write_text(json.dumps(configuration(server.base_url, key, folder, samples), indent=2))
        return stack.enter_context(_proxy(config, port or _free_port(), key))


def configuration(base_url: str, key: str, folder: Path, samples: int) -> JSON:
    """The demo's tally.json: the model at `base_url`, one tenant with one dollar, a database in `folder`."""
    return {
        "model_list": [
            {
                "model_name": MODEL_ALIAS,
                "litellm_params": {
                    "model": f"openai/{MODEL_ALIAS}",
                    "api_base": base_url,
                    "api_key": "none",
                    "input_cost_per_token": INPUT_USD,
                    "output_cost_per_token": OUTPUT_USD,
                },
                # llama.cpp takes no n above its slots, and counts the tokens of the first choice only
                "model_info": {"max_n": SLOTS, "usage": "per_choice", "max_output_tokens": SLOT_TOKENS},
            }
        ],
        "scaling": {"strategy": "self_consistency", "samples": samples, "max_samples": max(samples, 32)},
        "tenants": [{"name": "demo", "keys": [key], "max_budget": 1.0, "budget_duration": "1d"}],
        "general_settings": {"database_url": f"sqlite:///{folder / 'tally.db'}"},
    }


@contextlib.contextmanager
def _proxy(config: Path, port: int, key: str) -> Iterator[Running]:
    """`tally serve` as a process of its own, ready; it ends with the block."""
    command = [sys.executable, "-m", "proxy", "serve", "--config", str(config), "--host", HOST, "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603 - this very program
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            url = f"http://{HOST}:{port}"
            if not _ready(process, url):
                log.seek(0)
                said = log.read().decode(errors="replace").strip().splitlines()[-5:]
                raise TallyError("\n".join([f"tally did not start on port {port}:", *said]))
            yield Running(url, key, process)
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(process: "subprocess.Popen[bytes]", url: str) -> bool:
    give_up = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/readiness", timeout=2, trust_env=False).status_code == 200:
                return True
        time.sleep(0.05)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, PORT))
        except OSError:
            probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _compare(console: "Console", running: Running, samples: int, questions: int) -> None:
    from openai import OpenAI
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    rows: list[Row] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        OpenAI(base_url=f"{running.url}/off/v1", api_key=running.key) as plain,
        OpenAI(base_url=f"{running.url}/v1", api_key=running.key) as scaled,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("Asking", total=questions)
        for country, capital in CAPITALS[:questions]:
            progress.update(task, description=f"Asking for the capital of {country}")
            row = Row(country, capital, ask(plain, country), ask(scaled, country, samples))
            rows.append(row)
            progress.advance(task)
            progress.console.print(
                f"{country}: one sample {_marked(row, row.single)}, "
                f"vote {_marked(row, row.voted)} [dim]({_votes(row.voted)})[/]"
            )
    console.print()
    console.print(_table(rows))
    console.print(_summary(rows))
    console.print(NOTE, style="dim")


def ask(client: "OpenAI", country: str, samples: int | None = None) -> Reply:
    """Ask for the capital of `country` at temperature 1: by a vote of `samples`, or plainly when that is None."""
    began = time.monotonic()
    extra: JSON = {} if samples is None else {"tally": {"strategy": "self_consistency", "samples": samples}}
    messages: Any = prompt(country)
    reply = client.chat.completions.create(
        model=MODEL_ALIAS, messages=messages, temperature=1, max_tokens=16, stop="\n", extra_body=extra
    )
    seconds = time.monotonic() - began
    text = (reply.choices[0].message.content or "").strip()
    usage, tally = reply.usage, (reply.model_extra or {}).get("tally")
    if not tally:
        prompt_tokens, tokens = (usage.prompt_tokens, usage.total_tokens) if usage else (0, 0)
        return Reply(_said(text), 1, tokens, RATES.cost(prompt_tokens, tokens - prompt_tokens), seconds)
    return Reply(
        answer=tally["answer"] or _said(text),
        samples=tally["samples"],
        tokens=tally["paid"]["prompt_tokens"] + tally["paid"]["completion_tokens"],
        cost=nano_usd(tally["cost_usd"]),
        seconds=seconds,
        votes=tuple((vote["answer"], vote["count"]) for vote in tally["votes"]),
    )


def prompt(country: str) -> list[JSON]:
    """The question after four answered ones, which is how so small a model learns what is wanted."""
    messages: list[JSON] = []
    for place, capital in SHOTS:
        messages.append({"role": "user", "content": f"What is the capital of {place}?"})
        messages.append({"role": "assistant", "content": f"The answer is {capital}."})
    return [*messages, {"role": "user", "content": f"What is the capital of {country}?"}]


def _table(rows: list[Row]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("Capital of", "Single answer", "Voted answer", "Votes"):
        table.add_column(name)
    for name in ("Samples", "Tokens", "Cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        voted = row.voted
        table.add_row(
            f"{row.country} [dim]({row.capital})[/]",
            _marked(row, row.single),
            _marked(row, voted),
            _votes(voted),
            str(voted.samples),
            str(voted.tokens),
            _dollars(voted.cost),
        )
    return table


def _summary(rows: list[Row]) -> str:
    def line(name: str, replies: list[Reply]) -> str:
        right = sum(row.right(reply) for row, reply in zip(rows, replies, strict=True))
        cost, tokens = sum(reply.cost for reply in replies), sum(reply.tokens for reply in replies)
        seconds = sum(reply.seconds for reply in replies)
        return f"[bold]{name}: {right} of {len(rows)} right[/], {tokens:,} tokens, {_dollars(cost)}, {seconds:.1f} s"

    return "\n".join([line("One sample", [row.single for row in rows]), line("Voted", [row.voted for row in rows])])


def _stay(console: "Console", running: Running) -> None:
    base = f"{running.url}/v1"
    body = {"model": MODEL_ALIAS, "messages": prompt("Cuba"), "max_tokens": 16, "stop": "\n"}
    console.print(f"\n[bold]Base URL[/]  {base}\n[bold]Key[/]       {running.key}\n")
    # these are to be copied: no wrapping, no markup
    print(
        f"curl {base}/chat/completions -H 'Authorization: Bearer {running.key}' "
        f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'\n\n"
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{base}", api_key="{running.key}")\n'
        f'reply = client.chat.completions.create(model="{MODEL_ALIAS}", max_tokens=16, stop="\\n", messages=[\n'
        + "".join(f"    {message},\n" for message in prompt("Kenya"))
        + '], extra_body={"tally": {"strategy": "self_consistency", "samples": 8}})\n'
        'print(reply.choices[0].message.content, reply.model_extra["tally"]["votes"])\n',
        flush=True,
    )
    console.print("Serving until Ctrl-C.")
    try:
        status = running.proxy.wait()
    except KeyboardInterrupt:
        console.print("Stopped.")
    else:
        raise TallyError(f"tally ended with status {status}.")


@contextlib.contextmanager
def _step(console: "Console", doing: str) -> Iterator[None]:
    """A spinner while it lasts and the time it took; where nobody watches, one line at its begin."""
    began = time.monotonic()
    if not console.is_terminal:
        console.print(f"{doing} ...")
        yield
        return
    with console.status(f"{doing} ..."):
        yield
    console.print(f"[green]done[/] {doing} [dim]{time.monotonic() - began:.1f} s[/]")


def _marked(row: Row, reply: Reply) -> str:
    from rich.markup import escape

    mark, colour = ("✓", "green") if row.right(reply) else ("✗", "red")
    return f"[{colour}]{mark} {escape(_short(reply.answer))}[/]"


def _votes(reply: Reply, most: int = 2) -> str:
    from rich.markup import escape

    shown = [f"{escape(_short(answer))} {count}" for answer, count in reply.votes[:most]]
    rest = sum(count for _, count in reply.votes[most:])
    return ", ".join([*shown, f"others {rest}"] if rest else shown)


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _dollars(nano: int) -> str:
    return f"${nano / NANO_PER_USD:.6f}"


def _said(text: str) -> str:
    found = _ANSWER.search(text)
    return (found[1] if found else text).strip().rstrip(".") or "(nothing)"


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.strip().rstrip(".").casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))
