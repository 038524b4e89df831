"""`tally eval`: strategies asked live on questions whose answers are known."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxy.calibration import read_calibrations
from proxy.cli import main
from proxy.evaluation.plot import can_plot
from proxy.evaluation.record import Record
from proxy.evaluation.report import Report, page
from proxy.evaluation.setup import Setup
from proxy.replay.pool import read_pool
from tests.fake_upstream import Call, FakeUpstream, Fault, Reply, Scripted
from tests.process import run as run_program
from tests.served import KEY, configuration
from tests.staged import Stage, staged, told

Evaluate = Callable[..., Result]
SAYS = {
    "6 x 7": ["It is \\boxed{42}", "\\boxed{41}", "\\boxed{42.0}", "no idea at all " * 20],
    "6 x 8": ["\\boxed{47}", "\\boxed{48}", "\\boxed{48}", "\\boxed{48}"],
    "6 x 9": ["\\boxed{54}"],
}
QUESTIONS = [{"id": str(n), "question": f"What is 6 x {n}?", "gold": str(6 * n), "level": 1} for n in (7, 8, 9)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("eval")) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, QUESTIONS)
    return tmp_path


@pytest.fixture
def evaluate(stage: Stage, folder: Path) -> Evaluate:
    """The command on the stage's proxy; `url` and `key` may be others."""

    def evaluate(*words: str, url: str | None = None, key: str = KEY) -> Result:
        whom = ["--base-url", url or stage.tally.url, "--api-key", key]
        files = ["--questions", str(folder / "questions.jsonl"), "--out", str(folder / "out")]
        return CliRunner().invoke(main, ["eval", "--model", "small", "--samples", "4", *files, *whom, *words])

    return evaluate


def write(folder: Path, questions: list[Any]) -> None:
    lines = [each if isinstance(each, str) else json.dumps(each) for each in questions]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")


def script() -> Scripted:
    return Scripted(SAYS)


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]


def cells(result: Result, strategy: str) -> list[str]:
    """The row of a strategy in the table."""
    return next(
        re.split(r"  +", line.strip()) for line in result.stdout.splitlines() if line.startswith(f" {strategy}")
    )


def refusal(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


def test_strategies_are_asked_graded_and_compared(stage: Stage, evaluate: Evaluate, folder: Path) -> None:
    stage.says(script())
    result = evaluate("--concurrency", "1")
    assert result.exit_code == 0, result.output
    off, voted = cells(result, "off"), cells(result, "self_consistency")
    assert off[1:4] == ["3", "66.7 %", "20.8-93.9"]
    assert voted[1:4] == ["3", "100.0 %", "43.9-100.0"]
    assert (off[6], voted[6]) == ("1.0", "4.0")
    assert re.search(r"self_consistency +3 +\+33\.3 points +1 +0 +1 *$", result.stdout, re.MULTILINE)
    lines = kept(folder)
    assert sum(line["cost_nano"] for line in lines) == stage.cost_nano
    assert f"these answers cost {stage.cost_nano / 1e9:.6f} USD in all" in result.stdout
    assert sum(line["completion_tokens"] for line in lines) == stage.completion_tokens
    assert all(line["latency_s"] > 0 for line in lines)


def test_every_sample_is_kept_as_a_pool_that_replays(stage: Stage, evaluate: Evaluate, folder: Path) -> None:
    stage.says(script())
    assert evaluate("--concurrency", "1", "--strategies", "self_consistency").exit_code == 0
    pool = read_pool(folder / "out" / "pool-self_consistency.jsonl.gz")
    assert [(question.id, question.gold) for question in pool.questions] == [("7", "42"), ("8", "48"), ("9", "54")]
    assert [[sample.label for sample in question.samples] for question in pool.questions] == [
        ["42", "41", "42", None],
        ["47", "48", "48", "48"],
        ["54"] * 4,
    ]
    assert sum(sample.tokens for question in pool.questions for sample in question.samples) == stage.completion_tokens


def test_what_algebra_finds_right_is_right_in_the_pool_too(stage: Stage, evaluate: Evaluate, folder: Path) -> None:
    write(folder, [{"id": "1", "question": "How long is it?", "gold": "11\\sqrt{5}+11"}])
    stage.says(["\\boxed{11(1+\\sqrt{5})}", "\\boxed{12}", "\\boxed{11(\\sqrt{5}+1)}", "\\boxed{11\\sqrt{5}+11}"])
    result = evaluate("--strategies", "self_consistency", "--answer", "math")
    assert cells(result, "self_consistency")[2] == "100.0 %"
    assert [draw["right"] for draw in kept(folder)[0]["draws"]] == [True, False, True, True]
    (question,) = read_pool(folder / "out" / "pool-self_consistency.jsonl.gz").questions
    assert [sample.label == question.gold for sample in question.samples] == [True, False, True, True]


def test_draws_kept_before_it_was_known_whether_they_are_right_are_compared_as_written(
    stage: Stage, evaluate: Evaluate, folder: Path
) -> None:
    stage.says(script())
    evaluate("--strategies", "self_consistency", "--concurrency", "1")
    pool = folder / "out" / "pool-self_consistency.jsonl.gz"
    before = read_pool(pool).questions
    old = kept(folder)
    for line in old:
        line["draws"] = [{name: value for name, value in draw.items() if name != "right"} for draw in line["draws"]]
    (folder / "out" / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    assert evaluate("--strategies", "self_consistency").exit_code == 0
    assert read_pool(pool).questions == before


def test_samples_that_saw_others_are_not_in_the_pool(stage: Stage, evaluate: Evaluate, folder: Path) -> None:
    stage.says(script())
    assert evaluate("--strategies", "dynscaling", "--limit", "1", "--max-samples", "8").exit_code == 0
    drawn = kept(folder)[0]["draws"]
    assert len(drawn) == 8
    (question,) = read_pool(folder / "out" / "pool-dynscaling.jsonl.gz").questions
    assert len(question.samples) == sum(not draw["conditioned"] for draw in drawn) == 4


def test_requests_say_what_was_wanted(stage: Stage, evaluate: Evaluate) -> None:
    stage.says(script())
    words = ["--temperature", "0.7", "--max-tokens", "99", "--seed", "5", "--instruction", "Be brief."]
    assert evaluate("--strategies", "off", "--limit", "1", *words).exit_code == 0
    body = stage.calls[0].body
    assert body["messages"] == [{"role": "user", "content": "What is 6 x 7?\n\nBe brief."}]
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.7, 99, 5)


def test_a_second_run_asks_only_what_is_missing(stage: Stage, evaluate: Evaluate, folder: Path) -> None:
    stage.says(script())
    evaluate("--strategies", "off", "--limit", "2")
    assert len(stage.calls) == 2
    result = evaluate("--strategies", "off,self_consistency")
    assert result.exit_code == 0, result.output
    assert len(stage.calls) == 2 + 1 + 3
    stage.says("never asked")
    again = evaluate("--strategies", "off,self_consistency")
    assert stage.calls == []
    assert again.stdout == result.stdout
    assert len(kept(folder)) == 6


def test_a_line_that_was_cut_while_it_was_written_is_asked_again(
    stage: Stage, evaluate: Evaluate, folder: Path
) -> None:
    stage.says(script())
    evaluate("--strategies", "off", "--concurrency", "1")
    path = folder / "out" / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    stage.says(script())
    assert evaluate("--strategies", "off").exit_code == 0
    assert [call.question.split("?")[0] for call in stage.calls] == ["What is 6 x 9"]
    assert [line["id"] for line in kept(folder)] == ["7", "8", "9"]


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["--model", "other"], "model was 'small' and is 'other'"),
        (["--temperature", "0.5"], "temperature was None and is 0.5"),
        (["--answer", "math"], "answer was 'auto' and is 'math'"),
    ],
)
def test_a_folder_takes_no_other_evaluation(
    stage: Stage, evaluate: Evaluate, words: list[str], difference: str
) -> None:
    stage.says(script())
    evaluate("--strategies", "off", "--limit", "1")
    said = refusal(evaluate("--strategies", "off", *words))
    assert f"belongs to another evaluation ({difference})" in said
    assert "--out" in said


def test_other_questions_are_another_evaluation(stage: Stage, evaluate: Evaluate, folder: Path) -> None:
    stage.says(script())
    evaluate("--strategies", "off", "--limit", "1")
    write(folder, QUESTIONS[:2])
    assert "belongs to another evaluation (the questions are others)" in refusal(evaluate("--strategies", "off"))


def test_what_fails_is_listed_and_asked_again_and_never_wrong(stage: Stage, evaluate: Evaluate, folder: Path) -> None:
    def faulty(call: Call) -> Any:
        return Fault(400, "Too [hard] for me.", code=None) if "6 x 8" in call.question else script()(call)

    stage.says(faulty)
    result = evaluate("--strategies", "off")
    assert result.exit_code == 1
    assert cells(result, "off")[1:3] == ["2 of 3", "100.0 %"]
    assert "failed: 1 x off: HTTP 400: Too [hard] for me." in result.stdout
    assert "Too [hard] for me." in (folder / "out" / "report.html").read_text()
    stage.says(script())
    mended = evaluate("--strategies", "off")
    assert mended.exit_code == 0
    assert len(stage.calls) == 1
    assert "failed" not in mended.stdout


def test_a_reply_that_cannot_be_unpacked_is_a_failure_like_others(stage: Stage, evaluate: Evaluate) -> None:
    stage.says(Fault(502, headers={"content-encoding": "gzip"}))
    result = evaluate("--strategies", "off", url=stage.upstream.base_url)
    assert result.exit_code == 1
    assert "failed: 3 x off: the reply cannot be unpacked" in result.stdout


def test_nothing_answered_is_told_as_such(evaluate: Evaluate, folder: Path) -> None:
    result = evaluate("--strategies", "off", url="http://127.0.0.1:9")
    assert result.exit_code == 1
    assert cells(result, "off")[1:3] == ["0 of 3", "-"]
    assert "failed: 3 x off: the proxy cannot be reached" in result.stdout
    assert not list((folder / "out").glob("pool-*"))
    assert "pool of samples" not in result.stdout
    assert "in all" not in result.stdout
    assert "nothing answered" in (folder / "out" / "report.html").read_text()


def test_a_wrong_key_ends_the_run_at_once(stage: Stage, evaluate: Evaluate) -> None:
    stage.says(script())
    said = refusal(evaluate(key="sk-wrong-0123456789"))
    assert "refuses this evaluation: HTTP 401: The API key is unknown" in said
    assert stage.calls == []


def test_a_server_that_is_no_tally_ends_the_run(stage: Stage, evaluate: Evaluate) -> None:
    stage.says("\\boxed{42}")
    said = refusal(evaluate("--concurrency", "1", url=stage.upstream.base_url))
    assert "this is not a tally proxy" in said
    assert len(stage.calls) == 1


def test_what_was_answered_by_another_strategy_is_told(stage: Stage, evaluate: Evaluate) -> None:
    stage.says(script())
    result = evaluate("--strategies", "self_consistency", "--temperature", "0")
    assert "self_consistency: 3 of 3 answered by off: temperature 0.0" in result.stdout


def test_only_one_run_at_a_time_writes_into_a_folder(evaluate: Evaluate, folder: Path) -> None:
    with Record.open(folder / "out", Setup(model="small", questions="")):
        assert "another evaluation is running here" in refusal(evaluate())


@pytest.mark.parametrize(
    ("questions", "reason"),
    [
        ([QUESTIONS[0], '{"id": x}'], "line 2: is not JSON: Expecting value at column 8"),
        (["[]"], "line 1: is not a JSON object"),
        (['{"id": 1, "gold": %s}' % ("1" * 5_000)], "line 1: cannot be read: Exceeds the limit"),
        ([{"id": "a", "question": "?"}], "line 1: gold is missing"),
        ([{"id": "a", "question": " ", "gold": 1}], "line 1: question is missing"),
        ([QUESTIONS[0], "", QUESTIONS[0]], "line 3: the id '7' stands twice"),
        ([], "holds no question"),
    ],
)
def test_a_wrong_line_of_the_questions_is_named(
    evaluate: Evaluate, folder: Path, questions: list[Any], reason: str
) -> None:
    write(folder, questions)
    assert reason in refusal(evaluate())
    assert not (folder / "out").exists()


def test_questions_that_cannot_be_read_are_named_with_the_reason_alone(evaluate: Evaluate, folder: Path) -> None:
    path = folder / "questions.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n')
    assert "questions.jsonl: cannot be read: it is not UTF-8 at byte 8" in refusal(evaluate())
    path.unlink()
    assert refusal(evaluate()).endswith("questions.jsonl: cannot be read: No such file or directory")


@pytest.mark.parametrize("words", [[], ["--base-url", "http://127.0.0.1:9", "--config", "tally.json"]])
def test_whom_to_ask_must_be_said_once(folder: Path, words: list[str]) -> None:
    result = CliRunner().invoke(
        main, ["eval", "--model", "small", "--questions", str(folder / "questions.jsonl"), *words]
    )
    assert result.exit_code == 2
    assert "Say whom to ask" in result.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "http://", "ftp://host", "http://host:port"])
def test_an_address_that_is_none_is_refused(evaluate: Evaluate, url: str) -> None:
    assert "Invalid value for --base-url" in refusal(evaluate(url=url))


def test_an_unknown_strategy_is_refused(evaluate: Evaluate) -> None:
    assert "'best' is none of off," in refusal(evaluate("--strategies", "off,best"))


def test_a_private_proxy_needs_a_configuration_alone(folder: Path) -> None:
    with FakeUpstream(script()) as upstream:
        (folder / "tally.json").write_text(json.dumps(configuration(upstream.base_url, folder)))
        words = ["--model", "small", "--questions", "questions.jsonl", "--config", "tally.json", "--samples", "4"]
        result = run_program("eval", *words, folder=folder)
    assert result.returncode == 0, result.stderr
    assert re.search(r"self_consistency +3 +100\.0 %", result.stdout)
    assert result.stderr == ""
    # its ledger is in memory: the configured one is not touched
    assert {file.name for file in folder.iterdir()} == {"questions.jsonl", "tally.json", "eval-small"}
    kept = {file.name for file in (folder / "eval-small").iterdir()}
    pools = {"pool-off.jsonl.gz", "pool-self_consistency.jsonl.gz"}
    assert kept == pools | {"setup.json", "results.jsonl", "report.html"} | ({"accuracy.png"} if can_plot() else set())


def test_a_key_of_another_proxy_in_the_environment_keeps_nobody_out_of_a_private_one(folder: Path) -> None:
    with FakeUpstream(script()) as upstream:
        (folder / "tally.json").write_text(json.dumps(configuration(upstream.base_url, folder)))
        words = ["--model", "small", "--questions", "questions.jsonl", "--config", "tally.json", "--strategies", "off"]
        result = run_program("eval", *words, folder=folder, TALLY_API_KEY="sk-of-another-0123456789")
    assert result.returncode == 0, result.stderr


def test_the_chart_is_a_png_where_matplotlib_is_there(stage: Stage, evaluate: Evaluate, folder: Path) -> None:
    stage.says(script())
    result = evaluate("--strategies", "off")
    path = folder / "out" / "accuracy.png"
    if can_plot():
        assert path.read_bytes().startswith(b"\x89PNG")
    else:
        assert not path.exists()
        assert "pip install 'tally-proxy[plot]'" in result.stdout


def test_without_matplotlib_all_but_the_png_is_made(
    stage: Stage, evaluate: Evaluate, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None in this place is how the import system itself says that a module is not there
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    stage.says(script())
    result = evaluate("--strategies", "off")
    assert result.exit_code == 0, result.output
    assert "pip install 'tally-proxy[plot]'" in result.stdout
    assert not (folder / "out" / "accuracy.png").exists()
    assert "<svg" in (folder / "out" / "report.html").read_text()


class Page(HTMLParser):
    """Collects what a page would load, and its texts."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "data", "xlink:href")]


def test_the_page_loads_nothing_and_draws_every_strategy(stage: Stage, evaluate: Evaluate, folder: Path) -> None:
    stage.says(script())
    evaluate()
    text = (folder / "out" / "report.html").read_text()
    seen = Page()
    seen.feed(text)
    assert seen.loads == []
    assert not {"script", "link", "iframe", "img"} & set(seen.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert seen.tags.count("g") == 2
    assert "<td>+33.3 points</td>" in text


def test_what_a_page_quotes_is_escaped() -> None:
    evil = "<script>alert('1')</script>"
    text = page(Report(Setup(model=evil, questions="", instruction=evil), 1, [], [(evil, 2)], None))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 5


def forty(folder: Path) -> Scripted:
    """Forty questions whose answer is 1: twenty are answered by 3 to 1, half of them right, twenty by all, 15 right."""
    write(folder, [{"id": str(n), "question": f"Item {n:02}?", "gold": "1"} for n in range(40)])
    right, wrong = "\\boxed{1}", "\\boxed{2}"
    says = {0: [right] * 4, 1: [right, right, wrong, right], 2: [wrong, right, wrong, wrong], 3: [wrong] * 4}
    return Scripted({f"Item {n:02}": says[0] if n % 8 == 3 else says[n % 4] for n in range(40)})


def test_confidences_are_told_beside_what_was_right_and_teach_a_calibration(
    stage: Stage, evaluate: Evaluate, folder: Path
) -> None:
    stage.says(forty(folder))
    result = evaluate("--strategies", "off,self_consistency")
    assert result.exit_code == 0, result.output
    assert [line["confidence"] for line in kept(folder) if line["strategy"] == "off"] == [None] * 40
    assert re.search(
        r"self_consistency +80-90 % +20 +81\.2 % +50\.0 % +29\.9-70\.1 +-31\.2 points *\n"
        r" +95-99 % +20 +96\.9 % +75\.0 % +53\.1-88\.8 +-21\.9 points *\n"
        r" +all +40 +89\.1 % +62\.5 % +47\.0-75\.8 +26\.6 points",
        result.stdout,
    ), result.stdout
    page = (folder / "out" / "report.html").read_text()
    assert "<td>-31.2 points</td>" in page
    assert "<td>26.6 points</td>" in page
    known = read_calibrations(folder / "out" / "calibration.json")
    assert list(known) == [("small", "self_consistency")]
    found = known["small", "self_consistency"]
    assert found.outcomes == 40
    assert 0.5 < found.chance(0.8125) < found.chance(0.96875) < 0.75
    # fewer questions tell less, and take nothing back
    assert "calibration.json: name it" in evaluate("--strategies", "self_consistency", "--limit", "3").stdout
    assert read_calibrations(folder / "out" / "calibration.json") == known


def test_a_calibration_of_its_own_makes_no_other_evaluation(folder: Path) -> None:
    with FakeUpstream(forty(folder)) as upstream:
        words = ["eval", "--model", "small", "--questions", str(folder / "questions.jsonl"), "--samples", "4"]
        words += ["--strategies", "self_consistency", "--out", str(folder / "out"), "--config"]
        first, second = folder / "first.json", folder / "second.json"
        first.write_text(json.dumps(configuration(upstream.base_url, folder)))
        calibrated = {"calibration": str(folder / "out" / "calibration.json")}
        second.write_text(json.dumps(configuration(upstream.base_url, folder, scaling=calibrated)))
        assert CliRunner().invoke(main, [*words, str(first)]).exit_code == 0
        assert len(upstream.calls) == 40
        again = CliRunner().invoke(main, [*words, str(second)])
        assert again.exit_code == 0, again.output
        assert len(upstream.calls) == 40


def test_answers_kept_before_confidences_were_still_count(stage: Stage, evaluate: Evaluate, folder: Path) -> None:
    stage.says(script())
    shown = evaluate("--strategies", "self_consistency").stdout
    assert "No calibration.json: it takes 30 answers" in shown
    path = folder / "out" / "results.jsonl"
    old = [{name: value for name, value in line.items() if name != "confidence"} for line in kept(folder)]
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    stage.says("never asked")
    again = evaluate("--strategies", "self_consistency")
    assert again.exit_code == 0, again.output
    assert stage.calls == []
    assert cells(again, "self_consistency")[1] == "3"
    assert "off by" not in again.stdout
    assert "calibration.json" not in again.stdout
    assert "Reliability" not in (folder / "out" / "report.html").read_text()


def test_a_reply_tells_its_draws_only_where_it_is_asked(stage: Stage) -> None:
    stage.says(Reply(("\\boxed{42}", "\\boxed{41} and", "\\boxed{42}"), finish_reason=("stop", "length", "stop")))
    asked = {"samples": 3, "detail": True}
    draws = told(stage.ask(extra_body={"tally": asked}))["draws"]
    assert [(draw["answer"], draw["finish_reason"]) for draw in draws] == [
        ("42", "stop"),
        (None, "length"),
        ("42", "stop"),
    ]
    assert all(set(draw) == {"answer", "tokens", "score", "finish_reason", "conditioned"} for draw in draws)
    assert all(draw["tokens"] > 0 for draw in draws)
    assert "draws" not in told(stage.ask(extra_body={"tally": {"samples": 3}}))
    assert len(told(stage.ask("off", extra_body={"tally": asked}))["draws"]) == 1
    streamed = json.loads(stage.events(tally=asked)[-2])
    assert len(streamed["tally"]["draws"]) == 3


def test_detail_must_be_true_or_false(stage: Stage) -> None:
    stage.says("42")
    refused = stage.post({"model": "small", "messages": [{"role": "user", "content": "?"}], "tally": {"detail": "yes"}})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "tally.detail"
