"""What the client of LiteLLM sees of tally."""

import os
from typing import Any

# its prices would be fetched from elsewhere
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from checks import ASK, MESSAGES, PIXEL, Place, Suite, is_42, refused, waits
from litellm.exceptions import APIError, BadRequestError, InternalServerError, NotFoundError
from pydantic import BaseModel

suite = Suite("litellm", "litellm")


class Product(BaseModel):
    """The product of two numbers."""

    left: int
    right: int


TOOL = {"type": "function", "function": {"name": "multiply", "parameters": Product.model_json_schema()}}
SIX = Product(left=6, right=6)


def told(at: Place, model: str, **more: Any) -> dict[str, Any]:
    return {"model": f"openai/{model}", "api_base": at.base_url, "api_key": at.key, "timeout": 20, **more}


def ask(at: Place, model: str, **more: Any) -> Any:
    return litellm.completion(**{"messages": MESSAGES, **told(at, model, **more)})


def joined(found: list[Any], field: str = "content") -> str:
    return "".join(getattr(c.delta, field, None) or "" for chunk in found for c in chunk.choices)


@suite.feature("text")
async def text(at: Place) -> None:
    is_42(ask(at, "text").choices[0].message.content)
    reply = await litellm.acompletion(messages=MESSAGES, **told(at, "text"))
    is_42(reply.choices[0].message.content)
    assert reply.usage.total_tokens > 0


@suite.feature("stream")
async def stream(at: Place) -> None:
    is_42(joined(list(ask(at, "text", stream=True))))
    chunks = await litellm.acompletion(messages=MESSAGES, stream=True, **told(at, "text"))
    is_42(joined([chunk async for chunk in chunks]))


@suite.feature("usage in stream")
def usage_in_stream(at: Place) -> None:
    *_, last = ask(at, "text", stream=True, stream_options={"include_usage": True})
    assert last.usage.completion_tokens > 0 < last.usage.prompt_tokens


@suite.feature("tools")
def tools(at: Place) -> None:
    [call] = ask(at, "tool", tools=[TOOL]).choices[0].message.tool_calls
    assert Product.model_validate_json(call.function.arguments) == SIX


@suite.feature("tools streamed")
def tools_streamed(at: Place) -> None:
    whole = litellm.stream_chunk_builder(list(ask(at, "tool", tools=[TOOL], stream=True)))
    [call] = whole.choices[0].message.tool_calls
    assert Product.model_validate_json(call.function.arguments) == SIX


@suite.feature("forced tool")
def forced_tool(at: Place) -> None:
    choice = {"type": "function", "function": {"name": "multiply"}}
    [call] = ask(at, "tool", tools=[TOOL], tool_choice=choice).choices[0].message.tool_calls
    assert Product.model_validate_json(call.function.arguments) == SIX


@suite.feature("tool loop")
def tool_loop(at: Place) -> None:
    called = ask(at, "tool", tools=[TOOL]).choices[0].message
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "42"}
    is_42(ask(at, "tool", messages=[*MESSAGES, called, result], tools=[TOOL]).choices[0].message.content)


@suite.feature("structured")
def structured(at: Place) -> None:
    made = ask(at, "json", response_format=Product).choices[0].message.content
    assert Product.model_validate_json(made) == SIX


@suite.feature("n")
def n(at: Place) -> None:
    reply = ask(at, "choices", n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    is_42(reply.choices[0].message.content)


@suite.feature("logprobs")
def logprobs(at: Place) -> None:
    choice = ask(at, "logprobs", logprobs=True, top_logprobs=2).choices[0]
    assert "".join(entry["token"] for entry in choice.logprobs["content"]) == choice.message.content


@suite.feature("seed and stop")
def seed_and_stop(at: Place) -> None:
    is_42(ask(at, "text", seed=7, stop=["\n"], max_tokens=50, temperature=0.8).choices[0].message.content)


@suite.feature("images")
def images(at: Place) -> None:
    parts = [{"type": "text", "text": ASK}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    is_42(ask(at, "image", messages=[{"role": "user", "content": parts}]).choices[0].message.content)


@suite.feature("reasoning")
def reasoning(at: Place) -> None:
    message = ask(at, "reasons").choices[0].message
    is_42(message.content)
    assert message.reasoning_content
    assert joined(list(ask(at, "reasons", stream=True)), "reasoning_content") == message.reasoning_content


@suite.feature("tally field")
def tally_field(at: Place) -> None:
    is_42(ask(at, "text", extra_body={"tally": {"max_samples": 4}}).choices[0].message.content)


@suite.feature("error 400")
def error_400(at: Place) -> None:
    with at.tries(400, 1), refused(BadRequestError, 400):
        ask(at, "rejects")


@suite.feature("error 402 not retried")
def error_402(at: Place) -> None:
    with at.tries(402, 1), refused(APIError, 402):
        ask(at, "text", api_key=at.poor_key)


@suite.feature("error 404")
def error_404(at: Place) -> None:
    with refused(NotFoundError, 404):
        ask(at, "no-such-model")


@suite.feature("retry after 429")
def retry_after_429(at: Place) -> None:
    messages = [{"role": "user", "content": at.asking("litellm")}]
    with waits():
        is_42(ask(at, "limited", messages=messages).choices[0].message.content)


@suite.feature("upstream 5xx")
def upstream_5xx(at: Place) -> None:
    with refused(InternalServerError, 500):
        ask(at, "broken", max_retries=0)


@suite.feature("completions")
def completions(at: Place) -> None:
    asked = {**told(at, "text"), "model": "text-completion-openai/text"}
    is_42(litellm.text_completion(prompt=ASK, max_tokens=20, **asked).choices[0].text)


@suite.feature("responses")
def responses(at: Place) -> None:
    reply = litellm.responses(input=ASK, store=False, **told(at, "text"))
    is_42(reply.output[-1].content[0].text)


@suite.feature("embeddings")
def embeddings(at: Place) -> None:
    data = litellm.embedding(input=["six", "seven"], **told(at, "embed")).data
    assert [item["embedding"] for item in data] == [[0.25, -0.5, 1.0]] * 2


@suite.feature("real text")
def real_text(at: Place) -> None:
    assert ask(at, at.real_model or "", max_tokens=8, temperature=0.8).choices[0].message.content.strip()


@suite.feature("real stream")
def real_stream(at: Place) -> None:
    assert joined(list(ask(at, at.real_model or "", max_tokens=8, temperature=0.8, stream=True))).strip()


suite.run()
