"""Formulas that are equal, formulas that only look so, and formulas that were made to do harm."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.answers import algebra
from proxy.answers.workers import Workers
from proxy.cli import main as cli
from proxy.evaluation.questions import grade, graded
from proxy.types import Choice

EQUAL = [
    (r"11\sqrt5+11", r"11(1+\sqrt5)"),
    (r"11\sqrt{5} + 11", "11√5 + 11"),
    ("sqrt(5)", r"\sqrt{5}"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"\frac{9a+11}{20}", r"\frac{9}{20}a + \frac{11}{20}"),
    (r"\frac{9a+11}{20}", "(9a+11)/20"),
    (r"1\pm\sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"1 \pm \sqrt{19}", "1 ± √19"),
    (r"\pm 3", "3, -3"),
    ("x=5", "5"),
    (r"x=\frac{3}{2}", "1.5"),
    ("y = 2x+1", "2x + 1"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("1, 2", "2, 1"),
    ("(1,2), (3,4)", "(3,4), (1,2)"),
    (r"x=1\text{ or }x=2", "1, 2"),
    (r"\left(\frac12, 3\right)", "(0.5, 3)"),
    (r"0.5\pi", r"\frac{\pi}{2}"),
    (r"\dfrac{\pi}{2}", "π/2"),
    ("2^{0.5}", r"\sqrt2"),
    ("1.5x", r"\frac{3x}{2}"),
    ("3 1/2", r"\frac72"),
    ("1,234.5", "1234.5"),
    ("2 * 10^3", "2000"),
    (r"12\,345", "12345"),
    ("1 000", "1000"),
    ("x < 3", "3 > x"),
    ("1 < x < 2", "(1,2)"),
    (r"x \le 2", r"(-\infty, 2]"),
    (r"x \in (1,2)", "(1,2)"),
    ("cos(x)", r"\cos x"),
    (r"\sin^2 x + \cos^2 x", "1"),
    ("x²-1", "(x-1)(x+1)"),
    (r"10\text{ cm}", "10"),
    ("2516_8", "2516_{8}"),
    ("2516_8", "2516"),
    ("1+2i", "2i+1"),
    (r"$\frac12 \text{ and } 3$.", "3, 1/2"),
]
DIFFERENT = [
    ("1/3", "0.333333"),
    (r"\pi", "3.141593"),
    (r"\frac{\sqrt2}{2}", "0.707107"),
    (r"\sqrt2", "1.41421356237309504880"),
    ("(1,2)", "[1,2]"),
    ("[1,2)", "(1,2]"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "1,2"),
    (r"\{1,2\}", "(1,2)"),
    ("(1,2,3)", "(3,2,1)"),
    ("2516_8", "2516_7"),
    (r"50\%", "0.5"),
    (r"50\%", "50"),
    ("3:4", "3/4"),
    (r"10\text{ cm}", r"10\text{ m}"),
    (r"2\cdot10^{-20}", r"3\cdot10^{-20}"),
    ("2^{100}", "2^{100}+1"),
    (r"1\pm\sqrt{19}", r"1\pm\sqrt{20}"),
    (r"1\pm\sqrt{19}", r"1+\sqrt{19}"),
    ("x=1", "y=1"),
    ("x+1", "y+1"),
    ("p-q", "q-p"),
    ("1/0", "2/0"),
    (r"\infty", r"-\infty"),
    ("x < 3", r"x \le 3"),
    (r"\frac12 x", r"\frac{1}{2x}"),
    ("(1,234)", "1234"),
    ("|x|", "x"),
    ("n!", "n"),
]
UNTOLD = [
    (r"\pi(R^2-r^2)", "0"),
    ("11√5 apples", "11√7 apples"),
    ("cat+1", "act+1"),
    ("1e5", "5e"),
    ("0.(3)", "1/3"),
    ("y'", "y"),
    (r"y^{\prime}", "y"),
    ("x^2 +", "x^2"),
    ("", ""),
    ("1" * 201, "1"),
    ("(" * 13 + "1" + ")" * 13, "1"),
]
HOSTILE = [
    (r"9^{9^{9^9}}", "1"),
    ("(3^{10^9})!", "x+1"),
    (r"\sum_{i=1}^{10^{12}} \sin(i)", "1"),
    ("(x+y+z+1)^{999}", "(x+y+z)^{999}+1"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_formulas_are_equal_however_they_are_written(one: str, other: str) -> None:
    assert (algebra.same(one, other), algebra.same(other, one)) == (True, True)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_only_looks_equal_is_not(one: str, other: str) -> None:
    assert (algebra.same(one, other), algebra.same(other, one)) == (False, False)


@pytest.mark.parametrize(("one", "other"), UNTOLD)
def test_what_cannot_be_read_whole_is_not_compared(one: str, other: str) -> None:
    assert (algebra.same(one, other), algebra.same(other, one)) == (None, None)


@pytest.mark.anyio
async def test_a_worker_is_used_again_and_gone_after_the_end() -> None:
    async with Workers(clock=time.monotonic) as workers:
        assert children() == []
        assert await workers.same(r"11\sqrt5+11", r"11(1+\sqrt5)") is True
        (first,) = children()
        assert await workers.same("x+1", "x+2") is False
        assert children() == [first]
    assert children() == []


@pytest.mark.anyio
async def test_there_are_never_more_than_two_workers_and_all_questions_are_answered() -> None:
    async with Workers(clock=time.monotonic) as workers:
        told = await asyncio.gather(*(workers.same(f"x+{i}", f"{i}+x") for i in range(60)))
        assert told == [True] * 60
        assert len(children()) == 2


@pytest.mark.anyio
async def test_a_question_too_many_is_not_told_at_once() -> None:
    async with Workers(clock=time.monotonic) as workers, asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(workers.same(f"x+{i}", f"{i}+x")) for i in range(64)]
        await asyncio.sleep(0)
        began = time.monotonic()
        assert await workers.same("x+1", "1+x") is None
        assert time.monotonic() - began < 0.1
        for task in waiting:
            task.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize(("one", "other"), HOSTILE)
async def test_a_hostile_formula_costs_its_own_comparison_and_no_other(one: str, other: str) -> None:
    async with Workers(clock=time.monotonic, comparison_s=20) as workers:
        assert await workers.same("2x", "x+x") is True
        before = os.times()
        assert await workers.same(one, other) in (None, False)
        assert await workers.same("2x", "x+x") is True
    after = os.times()
    # of all workers until now: two seconds or, where nothing interrupts it, four; and two starts
    assert after.children_user - before.children_user < 9


@pytest.mark.anyio
async def test_a_hostile_formula_costs_its_limit_once_and_not_once_with_each_other() -> None:
    async with Workers(clock=time.monotonic) as workers:
        assert await workers.same(HOSTILE[0][0], "x+1") is None
        before = children_cpu_s()
        for place in range(20):
            assert await workers.same(HOSTILE[0][0], f"x+{place}") is None
        assert children_cpu_s() - before < 0.9
        assert await workers.same("2x", "x+x") is True


@pytest.mark.anyio
async def test_a_worker_that_is_killed_is_replaced() -> None:
    async with Workers(clock=time.monotonic) as workers:
        assert await workers.same("2x", "x+x") is True
        (first,) = children()
        os.kill(first, signal.SIGKILL)
        await until(lambda: first not in children())
        assert await workers.same("2x", "x+x") is True
        assert first not in children()


@pytest.mark.anyio
async def test_a_worker_that_is_too_slow_by_the_clock_is_killed_and_not_waited_for() -> None:
    async with Workers(clock=time.monotonic, comparison_s=0.3) as workers:
        assert await workers.same("2x", "x+x") is True
        (first,) = children()
        os.kill(first, signal.SIGSTOP)
        began = time.monotonic()
        assert await workers.same("3x", "x+x+x") is None
        assert time.monotonic() - began < 5
        assert children() == []


@pytest.mark.anyio
async def test_who_gives_up_leaves_the_worker_to_the_next() -> None:
    async with Workers(clock=time.monotonic) as workers:
        assert await workers.same("2x", "x+x") is True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await workers.same(*HOSTILE[0])
        assert await workers.same("2x", "x+x") is True


@pytest.mark.anyio
async def test_closing_answers_those_who_wait_and_what_is_asked_later_is_not_told() -> None:
    async with Workers(clock=time.monotonic) as workers, asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(workers.same(f"x+{i}", f"{i}+x")) for i in range(5)]
        await asyncio.sleep(0)
        workers.close()
        assert [await task for task in waiting] == [None] * 5
        assert await workers.same("2x", "x+x") is None


@pytest.mark.anyio
async def test_a_right_answer_that_is_written_otherwise_is_graded_right() -> None:
    def reply(answer: str) -> Choice:
        return Choice(0, {"content": f"So it is $\\boxed{{{answer}}}$."}, "stop")

    gold = r"11\sqrt{5}+11"
    async with Workers(clock=time.monotonic) as workers:
        assert grade(reply("11(1+\\sqrt5)"), gold, "math")[1] is False
        assert (await graded(reply("11(1+\\sqrt5)"), gold, "math", workers))[1] is True
        assert (await graded(reply("11(2+\\sqrt5)"), gold, "math", workers))[1] is False
        assert (await graded(reply("42"), "42.0", "math", workers))[1] is True
        assert await graded(Choice(0, {"content": ""}, "stop"), gold, "math", workers) == (None, False)


def test_replay_takes_formulas_that_are_equal_by_algebra_as_one_where_it_is_asked(tmp_path: Path) -> None:
    said = [r"22\sqrt5"] * 3 + [r"11\sqrt5+11"] * 2 + [r"11(1+\sqrt5)"] * 2
    samples = [{"answer": text, "tokens": 1} for text in said]
    question = {"id": "q", "gold": r"11(\sqrt{5} + 1)", "samples": samples}
    file = tmp_path / "roots.jsonl"
    file.write_text(json.dumps(question) + "\n")
    options = [str(file), "--strategy", "self_consistency", "--budget", "7", "--trials", "1", "--json"]
    for flags, accuracy in ([], 0), (["--equivalent"], 1):
        result = CliRunner().invoke(cli, ["replay", *options, *flags])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)[0]["accuracy"] == accuracy


@pytest.mark.anyio
async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    async def fail() -> None:
        async with Workers(clock=time.monotonic) as workers:
            assert await workers.same("2x", "x+x") is True
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert children() == []


def test_a_worker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = """
import asyncio, os, time
from pathlib import Path
from proxy.answers.workers import Workers
async def main():
    async with Workers(clock=time.monotonic) as workers:
        await workers.same("2x", "x+x")
        print(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(), flush=True)
        await workers.same("(x+y+z+1)^{999}", "(x+y+z)^{999}+1")
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        (worker,) = map(int, server.stdout.readline().split())
        server.kill()
    give_up = time.monotonic() + 20
    while running(worker):
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_the_server_does_not_import_sympy_and_a_worker_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
import asyncio, json, os, sys, time
from pathlib import Path
import proxy.app
from proxy.answers.workers import Workers
async def main():
    async with Workers(clock=time.monotonic) as workers:
        told = await workers.same("2x", "x+x")
        (child,) = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        environment = Path(f"/proc/{child}/environ").read_text()
    print(json.dumps([told, environment, [name for name in ("sympy", "math_verify") if name in sys.modules]]))
asyncio.run(main())
"""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    told, environment, imported = json.loads(done.stdout)
    assert (told, imported, done.stderr) == (True, [], "")
    assert "PYTHONPATH" in environment
    assert "sk-secret" not in environment


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the event loop itself has to hear of first."""
    async with asyncio.timeout(10):
        await asyncio.sleep(0.05)
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


def children() -> list[int]:
    """The workers that this process has started and not waited for; a server of other tests may live beside them."""
    gc.collect()
    tasks = Path("/proc/self/task").glob("*/children")
    started = [int(child) for file in tasks for child in file.read_text().split()]
    return [child for child in started if a_worker(child)]


def a_worker(process: int) -> bool:
    called = Path(f"/proc/{process}/cmdline").read_bytes()
    # one that has ended and was not waited for has no command any more
    return not called or algebra.__file__.encode() in called


def children_cpu_s() -> float:
    """Seconds of the processor that the processes started by this one have had."""
    taken = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13] for child in children()]
    return sum(int(ticks) for user in taken for ticks in user) / os.sysconf("SC_CLK_TCK")


def running(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
