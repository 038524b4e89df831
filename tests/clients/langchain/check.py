"""What LangChain sees of tally: the integration tests that it has for chat models, and a few checks more."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from checks import ASK, PIXEL, Place, Suite, is_42, refused, waits
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import APIStatusError, BadRequestError
from pydantic import BaseModel

suite = Suite("langchain", "langchain-openai")


class Product(BaseModel):
    """The product of two numbers."""

    left: int
    right: int


def its_own(place: Place) -> None:
    """Run LangChain's tests for one strategy; those that are skipped are not told."""
    file = Path(__file__).with_name("integration.py")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        pytest = [sys.executable, "-m", "pytest"]
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:warnings", "--noconftest", "-c", os.devnull]
        # its clients keep connections, which belong to one event loop
        options += ["--asyncio-mode=auto", "-o", "asyncio_default_test_loop_scope=session"]
        subprocess.run(
            [*pytest, *options, f"--rootdir={folder}", f"--junitxml={results}", str(file)],
            env={**os.environ, "TALLY_STRATEGIES": place.strategy},
            stdout=subprocess.DEVNULL,
            check=False,
        )
        for case in ElementTree.parse(results).iter("testcase"):
            why = next((part.get("message") for part in case if part.tag in {"failure", "error"}), None)
            if case.find("skipped") is None:
                suite.told(place, f"langchain: {case.get('name', '').removeprefix('test_')}", why)


def model(at: Place, name: str, **more: object) -> ChatOpenAI:
    return ChatOpenAI(**{"model": name, "base_url": at.base_url, "api_key": at.key, "timeout": 20, **more})


@suite.feature("text")
def text(at: Place) -> None:
    reply = model(at, "text").invoke(ASK)
    is_42(reply.content)
    assert reply.response_metadata["finish_reason"] == "stop"


@suite.feature("stream")
def stream(at: Place) -> None:
    is_42("".join(chunk.content for chunk in model(at, "text").stream(ASK)))


@suite.feature("structured")
def structured(at: Place) -> None:
    for method in ("function_calling", "json_schema"):
        made = model(at, "any").with_structured_output(Product, method=method).invoke(ASK)
        assert made == Product(left=6, right=6), made


@suite.feature("structured streamed")
def structured_streamed(at: Place) -> None:
    *_, last = model(at, "any").with_structured_output(Product, method="json_schema").stream(ASK)
    assert last == Product(left=6, right=6), last


@suite.feature("forced tool")
def forced_tool(at: Place) -> None:
    [call] = model(at, "tool").bind_tools([Product], tool_choice="Product").invoke(ASK).tool_calls
    assert (call["name"], call["args"]) == ("Product", {"left": 6, "right": 6})


@suite.feature("n")
def n(at: Place) -> None:
    replies = model(at, "choices", n=3).generate([[HumanMessage(ASK)]]).generations[0]
    assert len(replies) == 3
    is_42(replies[0].text)


@suite.feature("logprobs")
def logprobs(at: Place) -> None:
    reply = model(at, "logprobs", logprobs=True, top_logprobs=2).invoke(ASK)
    assert "".join(entry["token"] for entry in reply.response_metadata["logprobs"]["content"]) == reply.content


@suite.feature("images")
def images(at: Place) -> None:
    parts = [{"type": "text", "text": ASK}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    is_42(model(at, "image").invoke([("user", parts)]).content)


@suite.feature("refusal")
def refusal(at: Place) -> None:
    assert model(at, "refuses").invoke(ASK).additional_kwargs["refusal"]


@suite.feature("tally field")
def tally_field(at: Place) -> None:
    is_42(model(at, "text", extra_body={"tally": {"max_samples": 4}}).invoke(ASK).content)


@suite.feature("error 400")
def error_400(at: Place) -> None:
    with at.tries(400, 1), refused(BadRequestError):
        model(at, "rejects").invoke(ASK)


@suite.feature("error 402 not retried")
def error_402(at: Place) -> None:
    with at.tries(402, 1), refused(APIStatusError, 402):
        model(at, "text", api_key=at.poor_key).invoke(ASK)


@suite.feature("retry after 429")
def retry_after_429(at: Place) -> None:
    with waits():
        is_42(model(at, "limited").invoke(at.asking("langchain")).content)


@suite.feature("embeddings")
def embeddings(at: Place) -> None:
    maker = OpenAIEmbeddings(
        model="embed", base_url=at.base_url, api_key=at.key, check_embedding_ctx_length=False, tiktoken_enabled=False
    )
    assert maker.embed_documents(["six", "seven"]) == [[0.25, -0.5, 1.0]] * 2


@suite.feature("real text")
def real_text(at: Place) -> None:
    assert model(at, at.real_model or "", max_tokens=8, temperature=0.8).invoke(ASK).content.strip()


@suite.feature("real stream")
def real_stream(at: Place) -> None:
    real = model(at, at.real_model or "", max_tokens=8, temperature=0.8)
    assert "".join(chunk.content for chunk in real.stream(ASK)).strip()


suite.run(its_own)
