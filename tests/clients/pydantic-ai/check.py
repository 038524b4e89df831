"""What pydantic-ai sees of tally."""

import base64
from typing import Any

from checks import ASK, PIXEL, Place, Suite, is_42, refused, waits
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, Embedder, ModelHTTPError, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

suite = Suite("pydantic-ai", "pydantic-ai-slim")


class Product(BaseModel):
    """The product of two numbers."""

    left: int
    right: int


def provider(at: Place, key: str | None = None) -> OpenAIProvider:
    return OpenAIProvider(base_url=at.base_url, api_key=key or at.key)


def agent(at: Place, name: str, key: str | None = None, **more: Any) -> Agent[None, Any]:
    return Agent(OpenAIChatModel(name, provider=provider(at, key)), **more)


@suite.feature("text")
async def text(at: Place) -> None:
    is_42((await agent(at, "text").run(ASK)).output)


@suite.feature("stream")
async def stream(at: Place) -> None:
    async with agent(at, "text").run_stream(ASK) as streamed:
        is_42("".join([piece async for piece in streamed.stream_text(delta=True)]))


@suite.feature("usage in stream")
async def usage_in_stream(at: Place) -> None:
    async with agent(at, "text").run_stream(ASK) as streamed:
        await streamed.get_output()
        assert streamed.usage.output_tokens > 0 < streamed.usage.input_tokens


@suite.feature("tool loop")
async def tool_loop(at: Place) -> None:
    calls = []

    def multiply(left: int, right: int) -> int:
        calls.append((left, right))
        return left * right

    is_42((await agent(at, "tool", tools=[multiply]).run(ASK)).output)
    assert calls == [(6, 6)], calls


@suite.feature("tools streamed")
async def tools_streamed(at: Place) -> None:
    def multiply(left: int, right: int) -> int:
        return left * right

    async with agent(at, "tool", tools=[multiply]).run_stream(ASK) as streamed:
        is_42(await streamed.get_output())


@suite.feature("forced tool")
async def forced_tool(at: Place) -> None:
    made = await agent(at, "tool", output_type=ToolOutput(Product)).run(ASK)
    assert made.output == Product(left=6, right=6), made.output


@suite.feature("structured")
async def structured(at: Place) -> None:
    made = await agent(at, "json", output_type=NativeOutput(Product)).run(ASK)
    assert made.output == Product(left=6, right=6), made.output
    prompted = await agent(at, "json", output_type=PromptedOutput(Product)).run("`left` and `right` of 6 x 7")
    assert prompted.output == Product(left=42, right=42), prompted.output


@suite.feature("structured streamed")
async def structured_streamed(at: Place) -> None:
    async with agent(at, "json", output_type=NativeOutput(Product)).run_stream(ASK) as streamed:
        assert await streamed.get_output() == Product(left=6, right=6)


@suite.feature("seed and stop")
async def seed_and_stop(at: Place) -> None:
    settings: Any = {"seed": 7, "stop_sequences": ["\n"], "max_tokens": 50, "temperature": 0.8}
    is_42((await agent(at, "text").run(ASK, model_settings=settings)).output)


@suite.feature("images")
async def images(at: Place) -> None:
    image = BinaryContent(base64.b64decode(PIXEL.partition(",")[2]), media_type="image/png")
    is_42((await agent(at, "image").run([ASK, image])).output)


@suite.feature("reasoning")
async def reasoning(at: Place) -> None:
    made = await agent(at, "reasons").run(ASK)
    is_42(made.output)
    assert any(isinstance(part, ThinkingPart) for message in made.all_messages() for part in message.parts)


@suite.feature("tally field")
async def tally_field(at: Place) -> None:
    settings: Any = {"extra_body": {"tally": {"max_samples": 4}}}
    is_42((await agent(at, "text").run(ASK, model_settings=settings)).output)


@suite.feature("error 400")
async def error_400(at: Place) -> None:
    with at.tries(400, 1), refused(ModelHTTPError, 400):
        await agent(at, "rejects").run(ASK)


@suite.feature("error 402 not retried")
async def error_402(at: Place) -> None:
    with at.tries(402, 1), refused(ModelHTTPError, 402):
        await agent(at, "text", at.poor_key).run(ASK)


@suite.feature("retry after 429")
async def retry_after_429(at: Place) -> None:
    with waits():
        is_42((await agent(at, "limited").run(at.asking("pydantic-ai"))).output)


@suite.feature("responses")
async def responses(at: Place) -> None:
    def multiply(left: int, right: int) -> int:
        return left * right

    model = OpenAIResponsesModel("any", provider=provider(at))
    is_42((await Agent(model).run(ASK)).output)
    is_42((await Agent(model, tools=[multiply]).run(ASK)).output)
    assert (await Agent(model, output_type=NativeOutput(Product)).run(ASK)).output == Product(left=6, right=6)


@suite.feature("responses streamed")
async def responses_streamed(at: Place) -> None:
    async with Agent(OpenAIResponsesModel("text", provider=provider(at))).run_stream(ASK) as streamed:
        is_42(await streamed.get_output())


@suite.feature("embeddings")
async def embeddings(at: Place) -> None:
    made = await Embedder(OpenAIEmbeddingModel("embed", provider=provider(at))).embed_documents(["six", "seven"])
    assert [list(vector) for vector in made.embeddings] == [[0.25, -0.5, 1.0]] * 2


@suite.feature("real text")
async def real_text(at: Place) -> None:
    settings: Any = {"max_tokens": 8, "temperature": 0.8}
    assert (await agent(at, at.real_model or "").run(ASK, model_settings=settings)).output.strip()


@suite.feature("real stream")
async def real_stream(at: Place) -> None:
    settings: Any = {"max_tokens": 8, "temperature": 0.8}
    async with agent(at, at.real_model or "").run_stream(ASK, model_settings=settings) as streamed:
        assert (await streamed.get_output()).strip()


suite.run()
