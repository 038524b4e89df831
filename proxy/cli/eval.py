"""`tally eval`: strategies on questions whose answers are known, live."""

import asyncio
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click
import httpx
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from proxy.answers.workers import Workers
from proxy.calibration import calibration_file
from proxy.cli.books import clear_errors
from proxy.config import Config, load_config
from proxy.core.calibration import FEWEST
from proxy.errors import TallyError
from proxy.evaluation.asking import Asker, Failed, Result
from proxy.evaluation.chart import chart
from proxy.evaluation.files import whole
from proxy.evaluation.plot import can_plot, write_png
from proxy.evaluation.questions import Question, read_questions
from proxy.evaluation.record import Record
from proxy.evaluation.reliability import Bin, Reliability, calibrations, reliability
from proxy.evaluation.report import Report, lost, write_page
from proxy.evaluation.setup import INSTRUCTION, Setup
from proxy.evaluation.summary import Paired, Summary, summarise
from proxy.types import JSON, STRATEGIES, AnswerKind

KINDS = tuple(kind for kind in get_args(AnswerKind) if kind not in ("text", "tool_calls", "regex", "json_path"))
"""The kinds of answers that a text beside the question can be compared with, and that need no more than a name."""

_PLAIN_WIDTH = 150
_MEASURES = ("strategy", "n", "right", "95 %", "tokens", "cost USD", "draws", "p50 s", "p95 s")
_BELIEVED = ("strategy", "confidence", "n", "mean", "right", "95 %", "off by")
_MOST_FAILURES = 5

CALIBRATION = "calibration.json"
"""Where what an evaluation teaches of confidences is kept."""


def _names(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
    """Names of strategies with commas between them; each once, in the order given."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in STRATEGIES:
            raise click.BadParameter(f"{name!r} is none of {', '.join(STRATEGIES)}")
    return names


@dataclass(frozen=True, slots=True)
class Run:
    """What one run asks, of whom, and where it keeps the answers. `config` None: of a running proxy."""

    setup: Setup
    strategies: tuple[str, ...]
    questions: tuple[Question, ...]
    folder: Path
    concurrency: int
    timeout: float
    base_url: str | None
    api_key: str | None
    config: Config | None


@click.command("eval")
@click.option(
    "--questions",
    "questions_path",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help='JSON lines of {"id", "question", "gold"}.',
)
@click.option("--model", required=True, help="The model to ask.")
@click.option(
    "--strategies",
    callback=_names,
    default="off,self_consistency",
    show_default=True,
    help="The strategies to compare.",
)
@click.option("--limit", type=click.IntRange(min=1), default=None, help="Only the first so many questions.")
@click.option("--base-url", default=None, metavar="URL", help="A running proxy.")
@click.option(
    "--api-key", envvar="TALLY_API_KEY", default=None, metavar="KEY", help="A key of it.  [env: TALLY_API_KEY]"
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE",
    help="A configuration for a private proxy, which is gone after the run.",
)
@click.option("--instruction", default=INSTRUCTION, show_default=True, help="Put after each question.")
@click.option("--answer", type=click.Choice(KINDS), default="auto", show_default=True, help="How answers are found.")
@click.option("--samples", type=click.IntRange(1, 1024), default=None, help="N of the fixed-N strategies.")
@click.option("--max-samples", type=click.IntRange(1, 1024), default=None, help="Most samples a question.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=None, help="Else the provider's own.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=None, help="Most tokens a sample.")
@click.option("--seed", type=int, default=None, help="Sent with every request.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=8, show_default=True, help="Requests at a time.")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=900.0, show_default=True, help="Seconds for one answer."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    metavar="DIR",
    help="Where everything is kept.  [default: ./eval-MODEL]",
)
@clear_errors
def evaluate(
    *,
    questions_path: Path,
    strategies: tuple[str, ...],
    limit: int | None,
    base_url: str | None,
    api_key: str | None,
    config_path: Path | None,
    concurrency: int,
    timeout: float,
    out: Path | None,
    **asked: object,
) -> None:
    """Ask questions whose answers are known, by several strategies, and compare accuracy, cost and time.

    Every answer is kept as it comes: the same command goes on where the last run stopped, and asks again what failed.
    DIR holds results.jsonl, a pool-STRATEGY.jsonl.gz for `tally replay`, report.html, accuracy.png and, where there
    are answers enough, calibration.json for `scaling.calibration`.
    """
    if (base_url is None) == (config_path is None):
        raise click.UsageError("Say whom to ask: a running proxy (--base-url URL --api-key KEY), or --config FILE.")
    if base_url is not None:
        _check_url(base_url)
    questions = read_questions(questions_path)
    config = None if config_path is None else load_config(config_path)
    setup = Setup.model_validate({**asked, "questions": questions.digest, "scaling": config and _scaling(config)})
    run = Run(
        setup=setup,
        strategies=strategies,
        questions=questions.items[:limit],
        folder=out or Path(f"eval-{re.sub(r'[^A-Za-z0-9._-]+', '-', setup.model)}"),
        concurrency=concurrency,
        timeout=timeout,
        base_url=base_url,
        api_key=api_key,
        config=config,
    )
    with Record.open(run.folder, setup) as record:
        failures = _asked(run, record)
        summaries = _kept(run, record, failures)
    if any(summary.answered < summary.asked for summary in summaries):
        raise click.exceptions.Exit(1)


def _check_url(url: str) -> None:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise click.BadParameter(f"{url!r}: {error}", param_hint="--base-url") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise click.BadParameter(f"{url!r} does not begin with http://HOST or https://HOST", param_hint="--base-url")


def _scaling(config: Config) -> JSON:
    # what later versions add to the defaults does not make another evaluation of this one
    # and what confidences are read by changes no answer
    return config.scaling.model_dump(mode="json", exclude_defaults=True, exclude={"calibration"})


def _asked(run: Run, record: Record) -> list[Failed]:
    """Ask what is missing; what failed."""
    failures: list[Failed] = []
    todo = record.missing(run.strategies, run.questions)
    if not todo:
        return failures
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        _proxy(run) as (url, key),
        Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        ) as progress,
    ):
        count = len(run.strategies) * len(run.questions)
        bar = progress.add_task("Asking", total=count, completed=count - len(todo))

        def heard(outcome: Result | Failed) -> None:
            if isinstance(outcome, Failed):
                failures.append(outcome)
            else:
                record.add(outcome)
            failed = f", {len(failures)} failed" if failures else ""
            progress.update(bar, advance=1, description=f"{outcome.strategy}{failed}")

        async def ask() -> None:
            # a proxy of the machine's own stands between us and others, not between us and this process
            async with (
                Workers(clock=time.monotonic) as algebra,
                httpx.AsyncClient(
                    base_url=url,
                    headers={"authorization": f"Bearer {key}"},
                    timeout=run.timeout,
                    limits=httpx.Limits(max_connections=run.concurrency),
                    trust_env=run.config is None,
                ) as client,
            ):
                asker = Asker(client, run.setup, clock=time.monotonic, algebra=algebra)
                await asker.ask_all(todo, run.concurrency, heard)

        try:
            asyncio.run(ask())
        except KeyboardInterrupt:
            raise TallyError(f"Stopped. {run.folder} holds what was answered: the same command goes on.") from None
    return failures


@contextmanager
def _proxy(run: Run) -> Iterator[tuple[str, str]]:
    """The base URL and the key of whom to ask."""
    if run.config is not None:
        # the whole server, which those who ask a running one need not import
        from proxy.cli.private import private_proxy

        with private_proxy(run.config, run.setup.seed) as (url, key):
            # a key in the environment is one of another proxy
            yield url, key
    else:
        url = str(run.base_url).rstrip("/")
        yield url if url.endswith("/v1") else f"{url}/v1", run.api_key or "any"


def _kept(run: Run, record: Record, failures: Sequence[Failed]) -> tuple[Summary, ...]:
    """Write pools, chart and page, and print the table."""
    results = {strategy: record.of(strategy, run.questions) for strategy in run.strategies}
    summaries = summarise(len(run.questions), results, failures)
    for strategy in run.strategies:
        if results[strategy]:
            record.write_pool(run.folder / f"pool-{strategy}.jsonl.gz", strategy, run.questions, run.setup)
    drawn = chart(summaries)
    reasons = lost(failures)
    found = (reliability(strategy, answers) for strategy, answers in results.items())
    reliabilities = [each for each in found if each is not None]
    report = Report(run.setup, len(run.questions), summaries, reasons, drawn, reliabilities)
    write_page(run.folder / "report.html", report)
    _write_calibrations(run, record)
    if drawn is not None and can_plot():
        title = f"{run.setup.model}, {len(run.questions)} questions"
        write_png(run.folder / "accuracy.png", drawn, title)
    _show(run, report)
    return summaries


def _write_calibrations(run: Run, record: Record) -> None:
    """Write what all answers in the folder teach, of this run or not, where they teach anything."""
    learned = calibrations(run.setup.model, record.results.values())
    if learned:
        with whole(run.folder / CALIBRATION) as file:
            file.write(calibration_file(learned))


def _show(run: Run, report: Report) -> None:
    """Print the tables and the notes."""
    summaries = report.summaries
    found = Console()
    console = found if found.is_terminal else Console(width=_PLAIN_WIDTH)
    console.print(_table(_MEASURES, map(_cells, summaries)))
    pairs = [(summary.strategy, summary.paired) for summary in summaries if summary.paired]
    if pairs:
        columns = ("strategy", "n", f"against {pairs[0][1].versus}", "better", "worse", "p")
        console.print(_table(columns, (_versus(*pair) for pair in pairs)))
    if report.reliabilities:
        console.print(_table(_BELIEVED, (row for each in report.reliabilities for row in _believed(each))))
    console.print("\n".join(_notes(run, report)), highlight=False)


def _table(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _cells(summary: Summary) -> Iterable[str]:
    yield summary.strategy
    missing = summary.answered < summary.asked
    yield f"{summary.answered} of {summary.asked}" if missing else str(summary.answered)
    if not summary.answered:
        yield from ["-"] * 7
        return
    low, high = summary.interval
    yield f"{100 * summary.accuracy:.1f} %"
    yield f"{100 * low:.1f}-{100 * high:.1f}"
    yield f"{summary.tokens:,.0f}"
    yield f"{summary.cost_usd:.6f}"
    yield f"{summary.samples:.1f}"
    yield f"{summary.p50_s:.2f}"
    yield f"{summary.p95_s:.2f}"


def _versus(strategy: str, paired: Paired) -> tuple[str, ...]:
    difference = f"{100 * paired.difference:+.1f} points" if paired.questions else "-"
    return strategy, str(paired.questions), difference, str(paired.better), str(paired.worse), f"{paired.p:.2g}"


def _believed(found: Reliability) -> Iterable[tuple[str, ...]]:
    for place, each in enumerate(found.bins):
        bounds = f"{100 * each.low:g}-{100 * each.high:g} %"
        yield found.strategy if place == 0 else "", bounds, *_told(each), f"{100 * each.gap:+.1f} points"
    yield "", "all", *_told(found.whole), f"{100 * found.error:.1f} points"


def _told(each: Bin) -> tuple[str, ...]:
    low, high = each.interval
    confidence, share = f"{100 * each.confidence:.1f} %", f"{100 * each.share:.1f} %"
    return str(each.questions), confidence, share, f"{100 * low:.1f}-{100 * high:.1f}"


def _calibration_notes(run: Run) -> Iterable[str]:
    yield "Off by: right less confidence; of all, the expected calibration error: the bins' mean distance."
    if (run.folder / CALIBRATION).exists():
        yield f"{CALIBRATION}: name it as scaling.calibration, and replies tell their chance of being right."
    else:
        yield f"No {CALIBRATION}: it takes {FEWEST} answers of a strategy that were voted on, right and wrong ones."


def _notes(run: Run, report: Report) -> Iterable[str]:
    summaries, reasons = report.summaries, report.lost
    for summary in summaries:
        for served, count in summary.unscaled:
            yield f"[yellow]{summary.strategy}: {count} of {summary.answered} answered by {escape(served)}[/]"
    for why, count in reasons[:_MOST_FAILURES]:
        yield f"[red]failed: {count} x {escape(why)}[/]"
    if len(reasons) > _MOST_FAILURES:
        yield f"[red]and {len(reasons) - _MOST_FAILURES} other reasons, in the report[/]"
    if reasons:
        yield "What failed counts for nothing here, though it may have cost money; the same command asks it again."
    if any(summary.answered for summary in summaries):
        total = sum(summary.cost_usd * summary.answered for summary in summaries)
        yield f"Tokens, cost and draws are means a question; these answers cost {total:.6f} USD in all."
    if report.reliabilities:
        yield from _calibration_notes(run)
    if not can_plot():
        yield "No accuracy.png: it is drawn by matplotlib (pip install 'tally-proxy\\[plot]')."
    pools = " and a pool of samples a strategy" if any(summary.answered for summary in summaries) else ""
    yield f"{escape(str(run.folder))}: report.html, results.jsonl{pools}"
