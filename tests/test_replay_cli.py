"""`tally replay` as it is typed."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main

KEYS = [
    "pool",
    "strategy",
    "budget",
    "unit",
    "tokens_x",
    "samples",
    "rounds",
    "accuracy",
    "accuracy_ci",
    "agreement",
    "agreement_ci",
]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    random = Random(0)
    questions = [
        {
            "id": f"q{place}",
            "gold": "a",
            "samples": [
                {
                    "answer": random.choice(["a", "a", "b", None]),
                    "tokens": random.randrange(20),
                    "score": random.random(),
                }
                for _ in range(20)
            ],
        }
        for place in range(12)
    ]
    file = tmp_path / "small.jsonl"
    file.write_text("".join(json.dumps(question) + "\n" for question in questions))
    return file


def run(pool: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["replay", str(pool), *options])


def test_json_is_a_list_of_points_with_the_published_keys(pool: Path) -> None:
    result = run(pool, "--strategy", "self_consistency,best_of_n", "--budget", "1,2.5", "--trials", "3", "--json")
    assert result.exit_code == 0, result.output
    points = json.loads(result.stdout)
    assert [list(point) for point in points] == [KEYS] * 4
    assert [(point["strategy"], point["budget"]) for point in points] == [
        ("self_consistency", 1),
        ("self_consistency", 2.5),
        ("best_of_n", 1),
        ("best_of_n", 2.5),
    ]
    assert {point["pool"] for point in points} == {"small"}
    assert all(point["agreement_ci"][0] <= point["agreement"] <= point["agreement_ci"][1] for point in points)
    assert result.stderr == ""


def test_people_see_a_table_with_intervals(pool: Path) -> None:
    result = run(pool, "--strategy", "self_consistency", "--budget", "4", "--unit", "samples", "--trials", "3")
    assert result.exit_code == 0, result.output
    header, row = (line.split() for line in result.stdout.splitlines() if "strategy" in line or "small" in line)
    assert " ".join(header) == "pool strategy budget tokens x samples rounds agreement % accuracy %"
    assert row[:3] == ["small", "self_consistency", "4"]
    assert row[4:6] == ["4.00", "1.00"]
    assert row.count("±") == 2


def test_the_same_seed_prints_the_same_and_another_does_not(pool: Path) -> None:
    def seeded(seed: str) -> str:
        return run(pool, "--strategy", "dynscaling", "--budget", "9", "--trials", "2", "--seed", seed, "--json").stdout

    assert seeded("1") == seeded("1") != seeded("2")


def test_dynscaling_says_that_it_is_replayed_without_conditioned_draws(pool: Path) -> None:
    result = run(pool, "--strategy", "dynscaling", "--budget", "9", "--trials", "1", "--json")
    assert result.stderr.startswith("note: dynscaling is replayed with independent draws alone")
    assert json.loads(result.stdout)[0]["agreement_ci"] is None


def test_durations_add_the_latency(pool: Path) -> None:
    options = ["--strategy", "early_stopping", "--budget", "8", "--trials", "2", "--durations"]
    assert json.loads(run(pool, *options, "--json").stdout)[0]["latency_x"] > 1
    assert "latency x" in run(pool, *options).stdout


def test_at_agreement_prints_what_each_strategy_costs_on_each_pool_and_in_the_mean(pool: Path) -> None:
    options = ["--strategy", "self_consistency,off", "--at-agreement", "0.9", "--trials", "2"]
    result = run(pool, *options, "--json")
    assert result.exit_code == 0, result.output
    uniform, off, mean, mean_off = json.loads(result.stdout)
    assert (uniform["pool"], uniform["reached"], uniform["ratio"]) == ("small", True, 1)
    assert (off["reached"], off["tokens_x"]) == (False, 64)
    assert (mean["pool"], mean["tokens_x"]) == ("mean", uniform["tokens_x"])
    assert mean_off["ratio"] == mean_off["mean_ratio"] == 64 / uniform["tokens_x"]
    table = run(pool, *options).stdout
    assert "64.00 (never)" in table
    assert "mean of ratios" in table


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_plot_is_written_in_the_format_of_its_name(pool: Path, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"curve.{ending}"
    result = run(pool, "--strategy", "off,self_consistency", "--budget", "1,4,8", "--trials", "2", "--plot", str(file))
    assert result.exit_code == 0, result.output
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert file.read_bytes().startswith(start)


def test_a_plot_names_its_strategies_its_pool_and_its_axes(pool: Path, tmp_path: Path) -> None:
    file = tmp_path / "curve.svg"
    run(pool, "--strategy", "off,early_stopping", "--budget", "1,4,8", "--trials", "2", "--plot", str(file))
    # letters are drawn as paths, with the text itself in a comment before them
    drawn = file.read_text()
    for text in ("off", "early_stopping", "small", "agreement, %", "accuracy, %", "multiples of one sample"):
        assert text in drawn


def test_a_plot_and_a_table_without_gold_answers_say_so(pool: Path, tmp_path: Path) -> None:
    pool.write_text(pool.read_text().replace('"gold": "a"', '"gold": null'))
    file = tmp_path / "curve.svg"
    result = run(pool, "--strategy", "off", "--budget", "1", "--trials", "1", "--plot", str(file))
    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().endswith(" -")
    assert "no gold answers, so no accuracy" in file.read_text()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--strategy", "sp1", "--budget", "1"], "sp1 cannot be replayed: its draws see earlier ones"),
        (["--strategy", "nonsense", "--budget", "1"], "'nonsense' is no strategy that can be replayed"),
        (["--strategy", "off"], "say either --budget or --at-agreement"),
        (["--strategy", "off", "--budget", "1", "--at-agreement", "0.9"], "say either --budget or --at-agreement"),
        (["--strategy", "off", "--budget", "1,x"], "'1,x' is no list of numbers"),
        (["--strategy", "off", "--budget", "0"], "a budget is above 0"),
        (["--strategy", "off", "--budget", "nan"], "a budget is above 0"),
        (["--strategy", "off", "--budget", "inf"], "a budget is above 0"),
        (["--strategy", "off", "--budget", "1", "--arrivals", "stream", "--batch-size", "8"], "one query at a time"),
        (["--strategy", "off", "--at-agreement", "0.9", "--plot", "a.png"], "--plot draws budgets"),
        (["--strategy", "off", "--budget", "1", "--plot", "a.txt"], "a plot ends in .pdf, .png, .svg"),
        (["--strategy", "off", "--budget", "1", "--plot", "no/such/a.png"], "there is no such folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_with_status_2(pool: Path, options: Sequence[str], why: str) -> None:
    result = run(pool, *options)
    assert result.exit_code == 2
    assert why in result.stderr
    assert "Traceback" not in result.output


def test_a_bad_pool_is_named_by_file_line_and_reason(pool: Path) -> None:
    with pool.open("a") as file:
        file.write('{"id": "x", "samples": [{"answer": "a", "tokens": -1}]}\n')
    result = run(pool, "--strategy", "off", "--budget", "1")
    assert result.exit_code == 2
    assert f"{pool}: line 13: samples[0].tokens is no whole number from 0" in result.stderr


def test_options_of_a_strategy_reach_it(pool: Path) -> None:
    def samples(window: str) -> float:
        result = run(pool, "--strategy", "early_stopping", "--budget", "20", "--window", window, "--json")
        found: float = json.loads(result.stdout)[0]["samples"]
        return found

    assert samples("2") < samples("6")


def test_equal_answers_written_in_other_ways_are_one_with_the_flag(tmp_path: Path) -> None:
    file = tmp_path / "pi.jsonl"
    answers = [r"\frac{\pi}{2}", "1", r"\pi/2", "1", r"\frac\pi2"]
    question = {"id": "q", "gold": r"\pi/2", "samples": [{"answer": answer, "tokens": 1} for answer in answers]}
    file.write_text(json.dumps(question))
    options = ["--strategy", "self_consistency", "--budget", "5", "--trials", "2", "--json"]
    (split,) = json.loads(run(file, *options).stdout)
    (whole,) = json.loads(run(file, *options, "--equivalent").stdout)
    assert (split["agreement"], split["accuracy"]) == (1, 0)
    assert (whole["agreement"], whole["accuracy"]) == (1, 1)
