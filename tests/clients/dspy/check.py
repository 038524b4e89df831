"""What DSPy sees of tally."""

import os
from typing import Any

# its prices would be fetched from elsewhere
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import dspy
from checks import ASK, MESSAGES, PIXEL, Place, Suite, is_42, refused, waits
from dspy.adapters import ChatAdapter, JSONAdapter

suite = Suite("dspy", "dspy")


class Multiply(dspy.Signature):
    """Multiply."""

    question: str = dspy.InputField()
    answer: int = dspy.OutputField()


class Model(dspy.LM):
    """A model that takes tools and schemas, which is known of models in a list only."""

    supports_function_calling = True
    supports_response_schema = True
    supported_params = frozenset({"temperature", "max_tokens", "n", "tools", "response_format", "stream"})


def lm(at: Place, model: str, **more: Any) -> Model:
    told = {"api_base": at.base_url, "api_key": at.key, "cache": False, "num_retries": 2, "timeout": 20}
    return Model(f"openai/{model}", **{**told, "temperature": 0.8, **more})


@suite.feature("text")
def text(at: Place) -> None:
    is_42(lm(at, "text")(messages=MESSAGES)[0])


@suite.feature("n")
def n(at: Place) -> None:
    found = lm(at, "choices")(messages=MESSAGES, n=3)
    assert len(found) == 3
    is_42(found[0])


@suite.feature("structured")
def structured(at: Place) -> None:
    with dspy.context(lm=lm(at, "json"), adapter=JSONAdapter()):
        assert dspy.Predict(Multiply)(question=ASK).answer == 6
    with dspy.context(lm=lm(at, "fields"), adapter=ChatAdapter()):
        assert dspy.ChainOfThought(Multiply)(question=ASK).answer == 42


@suite.feature("tool loop")
def tool_loop(at: Place) -> None:
    calls = []

    def multiply(left: int, right: int) -> int:
        """The product of two numbers."""
        calls.append((left, right))
        return left * right

    tool = dspy.Tool(multiply)
    predict = dspy.Predict(
        dspy.Signature(
            {
                "question": (str, dspy.InputField()),
                "tools": (list[dspy.Tool], dspy.InputField()),
                "outputs": (dspy.ToolCalls, dspy.OutputField()),
            }
        )
    )
    with dspy.context(lm=lm(at, "tool"), adapter=ChatAdapter(use_native_function_calling=True)):
        [call] = predict(question=ASK, tools=[tool]).outputs.tool_calls
    assert call.name == "multiply", call
    tool(**call.args)
    assert len(calls) == 1


@suite.feature("stream")
async def stream(at: Place) -> None:
    with dspy.context(lm=lm(at, "json"), adapter=JSONAdapter()):
        program = dspy.streamify(dspy.Predict(Multiply))
        found = [piece async for piece in program(question=ASK)]
    assert found[-1].answer == 6, found[-1]


@suite.feature("images")
def images(at: Place) -> None:
    parts = [{"type": "text", "text": ASK}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    is_42(lm(at, "image")(messages=[{"role": "user", "content": parts}])[0])


@suite.feature("tally field")
def tally_field(at: Place) -> None:
    is_42(lm(at, "text", extra_body={"tally": {"max_samples": 4}})(messages=MESSAGES)[0])


@suite.feature("error 400")
def error_400(at: Place) -> None:
    with at.tries(400, 1), refused(Exception, None):
        lm(at, "rejects")(messages=MESSAGES)


@suite.feature("error 402 not retried")
def error_402(at: Place) -> None:
    with at.tries(402, 1), refused(Exception, None):
        lm(at, "text", api_key=at.poor_key)(messages=MESSAGES)


@suite.feature("retry after 429")
def retry_after_429(at: Place) -> None:
    with waits():
        is_42(lm(at, "limited")(at.asking("dspy"))[0])


@suite.feature("embeddings")
def embeddings(at: Place) -> None:
    told = {"api_base": at.base_url, "api_key": at.key, "caching": False}
    assert dspy.Embedder("openai/embed", **told)(["six", "seven"]).tolist() == [[0.25, -0.5, 1.0]] * 2


@suite.feature("real text")
def real_text(at: Place) -> None:
    assert lm(at, at.real_model or "", max_tokens=8)(messages=MESSAGES)[0].strip()


suite.run()
