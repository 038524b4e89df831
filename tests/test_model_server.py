"""The real small model behind llama.cpp's server, and what is said when it cannot run."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from proxy.cli.model_server import ModelServer, cache_folder, fetch_model
from proxy.errors import TallyError

PROMPT = "France: Paris\nItaly: Rome\nJapan: Tokyo\nSpain:"


def _refuses(url: str) -> bool:
    try:
        httpx.get(url + "/models")
    except httpx.TransportError:
        return True
    return False


@pytest.mark.model
def test_the_real_model_answers_as_an_openai_server_and_leaves_with_the_block() -> None:
    with ModelServer(fetch_model(cache_folder())) as server:
        client = OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
        reply = client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": PROMPT}], max_tokens=8, n=3, seed=1, logprobs=True
        )
        assert [choice.index for choice in reply.choices] == [0, 1, 2]
        assert all(choice.message.content and choice.logprobs for choice in reply.choices)
        assert reply.usage is not None
        assert reply.usage.prompt_tokens > 10
        client.close()
    assert _refuses(server.base_url)


@pytest.mark.model
def test_the_server_dies_with_the_process_that_started_it() -> None:
    code = (
        "import os, sys\n"
        "from proxy.cli.model_server import ModelServer, cache_folder, fetch_model\n"
        "server = ModelServer(fetch_model(cache_folder())).__enter__()\n"
        "print(server.base_url, flush=True)\n"
        "os._exit(1)\n"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    url = child.stdout.strip()
    assert url.startswith("http://127.0.0.1:")
    assert any(_refuses(url) for _ in range(500))


def test_a_file_that_is_no_model_is_named_with_what_llama_cpp_said(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF no more")
    with pytest.raises(TallyError, match="could not serve the model"), ModelServer(path):
        pass


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.gguf"
    with pytest.raises(TallyError, match=r"no model file .*absent\.gguf"), ModelServer(path):
        pass


def test_a_cache_that_cannot_be_written_says_how_to_go_on(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(TallyError, match="--model-file"):
        fetch_model(blocked / "tally")


@pytest.mark.model
def test_the_demo_asks_through_the_proxy_and_leaves_nothing_running() -> None:
    command = [sys.executable, "-m", "proxy", "demo", "--questions", "1", "--samples", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (asked,) = [line for line in lines if line.startswith("Canada: one sample ")]
    counts = [int(count) for count in re.findall(r" (\d+)(?=[,)])", asked)]
    assert 1 <= sum(counts) <= 3
    assert any(re.match(r"One sample: [01] of 1 right, \d+ tokens, \$0\.0000\d+", line) for line in lines)
    assert any(re.match(r"Voted: [01] of 1 right, \d+ tokens, \$0\.000\d+", line) for line in lines)
