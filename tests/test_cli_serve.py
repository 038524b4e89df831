"""`tally serve` and `tally config`, as an operator runs them."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import yaml
from click.testing import CliRunner

from proxy.cli import main
from tests.fake_upstream import FakeUpstream, Fault, Reply, Turns
from tests.process import Server, environment, run, serving
from tests.served import KEY, MASTER_KEY, configuration, deployment

ANSWER = "The answer is 777001."


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(ANSWER) as started:
        yield started


@pytest.fixture(scope="module")
def bare(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a configuration."""
    environ = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_API_KEY": "sk-from-environment"}
    with serving(upstream, tmp_path_factory.mktemp("bare"), environ=environ) as server:
        yield server


@pytest.mark.parametrize("model", ["openai/anything-at-all", "gpt-4o-mini", "openai/gpt-4o"])
def test_without_a_configuration_any_model_of_the_provider_is_served(
    bare: Server, upstream: FakeUpstream, model: str
) -> None:
    reply = bare.ask(model).json()
    assert reply["choices"][0]["message"]["content"] == ANSWER
    assert reply["tally"]["strategy"] == "adaptive"
    assert reply["tally"]["samples"] >= 2
    assert reply["model"] == model
    assert upstream.calls[-1].body["model"] == model.removeprefix("openai/")
    assert upstream.calls[-1].headers["authorization"] == "Bearer sk-from-environment"


def test_without_a_configuration_a_name_of_no_provider_is_404(bare: Server) -> None:
    response = bare.ask("no-such-model")
    assert response.status_code == 404
    assert "openai/gpt-4o-mini" in response.json()["error"]["message"]


def test_without_a_configuration_the_providers_models_are_listed(bare: Server) -> None:
    listed = {model["id"] for model in httpx.get(f"{bare.url}/v1/models").json()["data"]}
    assert "openai/gpt-4o-mini" in listed
    assert httpx.get(f"{bare.url}/v1/models/openai/gpt-4o-mini").status_code == 200


def test_a_stopped_server_answers_what_is_in_flight_and_logs_no_secret(tmp_path: Path) -> None:
    slow = Reply([ANSWER], latency=0.5)
    steps = Turns(ANSWER, Fault(401, "Bad key sk-upst...cret", code="invalid_api_key"), Fault(500), Fault(400), slow)
    with FakeUpstream(steps) as upstream:
        config = tmp_path / "tally.json"
        config.write_text(
            json.dumps(configuration(upstream.base_url, tmp_path, general_settings={"log_level": "debug"}))
        )
        with serving(upstream, tmp_path, "--config", "tally.json", environ={}) as server:
            assert server.ask("small", key=KEY, path="/off/v1").status_code == 200
            for _ in range(2):
                assert server.ask("small", key=KEY, path="/off/v1").status_code in {500, 502}
            assert server.ask("small", key="sk-unknown-key-1").status_code == 401
            assert server.ask("small", key=KEY, path="/off/v1").status_code == 400
            replies: list[httpx.Response] = []
            client = threading.Thread(
                target=lambda: replies.append(server.ask("small", "/off/v1", MASTER_KEY, max_tokens=9))
            )
            client.start()
            upstream.wait(lambda: upstream.in_flight == 1)
            server.process.send_signal(signal.SIGTERM)
            client.join(20)
            server.process.wait(20)
        (reply,) = replies
        assert reply.json()["choices"][0]["message"]["content"] == ANSWER
        written = server.output.read_text()
        for secret in ("the-word-of-the-prompt", "777001", KEY, MASTER_KEY, "sk-upstream-secret", "sk-unknown-key-1"):
            assert secret not in written
        assert "Traceback" not in written
        assert '"request"' in written


def test_every_line_of_a_server_is_json_also_those_of_the_web_server(bare: Server, upstream: FakeUpstream) -> None:
    host, port = httpx.URL(bare.url).host, httpx.URL(bare.url).port
    with socket.create_connection((host, port or 0)) as client:
        client.sendall(b"this is no HTTP\r\n\r\n")
        client.recv(100)
    upstream.wait(lambda: "Invalid HTTP request" in bare.output.read_text())
    for line in bare.output.read_text().splitlines():
        assert json.loads(line)["event"]


def test_a_stopped_server_waits_no_longer_for_its_requests_than_it_was_told(tmp_path: Path) -> None:
    with FakeUpstream(Reply([ANSWER], latency=60)) as upstream:
        data = configuration(upstream.base_url, tmp_path, general_settings={"shutdown_s": 1})
        (tmp_path / "tally.json").write_text(json.dumps(data))
        with serving(upstream, tmp_path, "--config", "tally.json", environ={}) as server:
            assert seconds_to_stop(server, upstream) < 20


def seconds_to_stop(server: Server, upstream: FakeUpstream) -> float:
    """How long a server takes to stop while a request hangs at its provider."""

    def ask() -> None:
        with suppress(httpx.TransportError):
            server.ask("small", "/off/v1", KEY)

    client = threading.Thread(target=ask)
    client.start()
    upstream.wait(lambda: upstream.in_flight == 1)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(20)
    took = time.monotonic() - began
    client.join(20)
    return took


def test_what_nobody_waits_for_has_only_the_time_that_requests_left_of_it(tmp_path: Path) -> None:
    with FakeUpstream(lambda call: Reply([ANSWER], latency=60 if call.index else 1.5)) as upstream:
        tenants = [{"name": "acme", "keys": [KEY], "shadow": True}]
        data = configuration(upstream.base_url, tmp_path, tenants=tenants, general_settings={"shutdown_s": 2})
        (tmp_path / "tally.json").write_text(json.dumps(data))
        with serving(upstream, tmp_path, "--config", "tally.json", environ={}) as server:
            replies: list[httpx.Response] = []
            client = threading.Thread(target=lambda: replies.append(server.ask("small", "/v1", KEY)))
            client.start()
            upstream.wait(lambda: upstream.in_flight == 1)
            stopped = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(20)
            # a second beyond the two for the way down; each half alone would make it three and a half
            assert time.monotonic() - stopped < 3.2
            client.join(20)
    assert replies[0].status_code == 200
    assert len(upstream.calls) > 1


def test_an_address_that_is_taken_ends_the_server_with_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("serve", "--port", str(taken.getsockname()[1]), folder=tmp_path)
    assert done.returncode == 3
    assert "address already in use" in done.stdout + done.stderr


def test_a_host_beyond_loopback_needs_keys(tmp_path: Path) -> None:
    done = run("serve", "--host", "0.0.0.0", "--port", "0", folder=tmp_path)
    assert done.returncode == 2
    assert "--host: 0.0.0.0 is reachable from other machines, and nobody has a key" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_weak_master_key_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    done = run("serve", "--port", "0", folder=tmp_path, TALLY_MASTER_KEY="sk-1234")
    assert done.returncode == 2
    assert "environment: general_settings.master_key: is too weak" in done.stderr
    assert "sk-1234" not in done.stderr


def test_a_wrong_file_is_not_served_and_every_mistake_is_named(tmp_path: Path) -> None:
    (tmp_path / "tally.yaml").write_text("scaling: {sample: 3}\ngeneral_settings: {master_key: os.environ/NONE}")
    done = run("serve", "--config", "tally.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert "tally.yaml: scaling.sample: is not a known key; did you mean samples?" in done.stderr
    assert "tally.yaml: general_settings.master_key: the environment variable NONE is not set" in done.stderr
    assert not (tmp_path / "tally.db").exists()


def test_the_module_is_the_same_program(tmp_path: Path) -> None:
    done = run("--help", folder=tmp_path)
    assert done.returncode == 0
    for command in ("serve", "demo", "config", "tenant", "key", "ledger"):
        assert command in done.stdout


def test_litellm_is_not_imported_where_the_direct_lane_serves(tmp_path: Path) -> None:
    config = tmp_path / "tally.json"
    config.write_text(json.dumps(configuration("http://127.0.0.1:9/v1", tmp_path)))
    program = (
        "import sys; from pathlib import Path; from proxy.app import Tally; from proxy.config import load_config;"
        f"Tally(load_config(Path({str(config)!r}))).application();"
        "print([name for name in ('litellm', 'scipy', 'openai') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_list_of_commands_imports_none_of_them() -> None:
    program = (
        "import sys; from proxy.cli import main; main(['--help'], standalone_mode=False);"
        "print([name for name in sys.modules if name.split('.')[0] in ('httpx', 'pydantic')"
        " or name.startswith('proxy.') and name != 'proxy.cli.uncollected'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert "serve" in done.stdout
    assert done.stdout.splitlines()[-1] == "['proxy.cli']"


def check(path: Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["config", "check", str(path)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("name", ["tally.yaml", "tally.json"])
def test_a_good_file_is_said_to_be_good(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = configuration("http://127.0.0.1:9/v1", tmp_path)
    path.write_text(json.dumps(data) if name.endswith("json") else yaml.safe_dump(data))
    code, said, _ = check(path)
    assert (code, said) == (0, f"{path}: good: 1 deployments, 1 tenants\n")


def test_a_check_names_file_key_and_reason_and_serves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tally.yaml"
    path.write_text("tenants: [{name: a, keys: [short]}]")
    code, said, error = check(path)
    assert (code, said) == (2, "")
    assert f"{path}: tenants[0].keys[0]: " in error
    assert check(tmp_path / "none.yaml")[0] == 2


def test_a_check_reads_the_calibration(tmp_path: Path) -> None:
    path = tmp_path / "tally.json"
    scaling = {"calibration": str(tmp_path / "calibration.json")}
    path.write_text(json.dumps(configuration("http://127.0.0.1:9/v1", tmp_path, scaling=scaling)))
    code, _, error = check(path)
    assert code == 2
    assert "calibration.json: cannot be read" in " ".join(error.split())


def test_a_check_notes_what_is_accepted_and_not_honoured(tmp_path: Path) -> None:
    path = tmp_path / "tally.json"
    entry = deployment("http://127.0.0.1:9/v1", litellm_params={"rpm": 5, "num_retries": 2, "top_k": 3})
    path.write_text(json.dumps(configuration("", tmp_path, model_list=[entry])))
    code, said, _ = check(path)
    assert code == 0
    assert said.splitlines() == [
        f"note: {path}: model_list[0].litellm_params.num_retries: is not honoured: num_retries of router_settings "
        "holds for every model",
        f"{path}: good: 1 deployments, 1 tenants",
    ]


def test_a_server_warns_once_of_what_it_does_not_honour(tmp_path: Path) -> None:
    with FakeUpstream(ANSWER) as upstream:
        entry = deployment(upstream.base_url, litellm_params={"max_retries": 2})
        (tmp_path / "tally.json").write_text(json.dumps(configuration("", tmp_path, model_list=[entry])))
        with serving(upstream, tmp_path, "--config", "tally.json", environ={}) as server:
            assert server.ask("small", "/off/v1", KEY).status_code == 200
    lines = [json.loads(line) for line in server.output.read_text().splitlines()]
    (warning,) = [line for line in lines if line["level"] == "warning"]
    assert (warning["file"], warning["reason"]) == (
        "tally.json",
        "is not honoured: num_retries of router_settings holds for every model",
    )
    assert warning["key"] == "model_list[0].litellm_params.max_retries"


@pytest.mark.parametrize("words", [["serve", "--config"], ["config", "check"]])
def test_a_model_that_is_served_nowhere_is_a_mistake_of_the_file(tmp_path: Path, words: list[str]) -> None:
    entry = {"model_name": "m", "litellm_params": {"model": "hosted_vllm/m"}}
    (tmp_path / "tally.json").write_text(json.dumps(configuration("", tmp_path, model_list=[entry])))
    done = run(*words, "tally.json", folder=tmp_path)
    assert done.returncode == 2
    assert "tally.json: model_list[0].litellm_params.api_base: is missing: nothing says where" in done.stderr
    assert "HOSTED_VLLM_API_BASE" in done.stderr
    assert not (tmp_path / "tally.db").exists()


def test_the_schema_is_json_schema() -> None:
    result = CliRunner().invoke(main, ["config", "schema"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["properties"]["scaling"]
