"""What the OpenAI Agents SDK sees of tally."""

from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from checks import ASK, PIXEL, Place, Suite, is_42, refused, waits
from openai import APIStatusError, AsyncOpenAI, BadRequestError
from pydantic import BaseModel

suite = Suite("openai-agents", "openai-agents")
# its traces go elsewhere
set_tracing_disabled(disabled=True)


class Product(BaseModel):
    """The product of two numbers."""

    left: int
    right: int


@function_tool
def multiply(left: int, right: int) -> int:
    """The product of two numbers."""
    return left * right


def client(at: Place, key: str | None = None) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=at.base_url, api_key=key or at.key, timeout=20)


def agent(at: Place, model: str, key: str | None = None, **more: Any) -> Agent[None]:
    return Agent(name="one", model=OpenAIChatCompletionsModel(model, openai_client=client(at, key)), **more)


async def answer(made: Agent[None], asked: Any = ASK) -> Any:
    return (await Runner.run(made, asked, max_turns=3)).final_output


async def streamed(made: Agent[None]) -> Any:
    running = Runner.run_streamed(made, ASK, max_turns=3)
    async for _ in running.stream_events():
        pass
    return running.final_output


@suite.feature("text")
async def text(at: Place) -> None:
    is_42(await answer(agent(at, "text")))


@suite.feature("stream")
async def stream(at: Place) -> None:
    is_42(await streamed(agent(at, "text")))


@suite.feature("usage in stream")
async def usage_in_stream(at: Place) -> None:
    running = Runner.run_streamed(agent(at, "text", model_settings=ModelSettings(include_usage=True)), ASK)
    async for _ in running.stream_events():
        pass
    assert running.context_wrapper.usage.total_tokens > 0


@suite.feature("tool loop")
async def tool_loop(at: Place) -> None:
    is_42(await answer(agent(at, "tool", tools=[multiply])))


@suite.feature("tools streamed")
async def tools_streamed(at: Place) -> None:
    is_42(await streamed(agent(at, "tool", tools=[multiply])))


@suite.feature("forced tool")
async def forced_tool(at: Place) -> None:
    is_42(await answer(agent(at, "tool", tools=[multiply], model_settings=ModelSettings(tool_choice="multiply"))))


@suite.feature("structured")
async def structured(at: Place) -> None:
    made = await answer(agent(at, "json", output_type=Product))
    assert made == Product(left=6, right=6), made


@suite.feature("structured streamed")
async def structured_streamed(at: Place) -> None:
    made = await streamed(agent(at, "json", output_type=Product))
    assert made == Product(left=6, right=6), made


@suite.feature("images")
async def images(at: Place) -> None:
    content = [{"type": "input_text", "text": ASK}, {"type": "input_image", "image_url": PIXEL, "detail": "low"}]
    is_42(await answer(agent(at, "image"), [{"role": "user", "content": content}]))


@suite.feature("tally field")
async def tally_field(at: Place) -> None:
    settings = ModelSettings(extra_body={"tally": {"max_samples": 4}})
    is_42(await answer(agent(at, "text", model_settings=settings)))


@suite.feature("error 400")
async def error_400(at: Place) -> None:
    with at.tries(400, 1), refused(BadRequestError):
        await answer(agent(at, "rejects"))


@suite.feature("error 402 not retried")
async def error_402(at: Place) -> None:
    with at.tries(402, 1), refused(APIStatusError, 402):
        await answer(agent(at, "text", at.poor_key))


@suite.feature("retry after 429")
async def retry_after_429(at: Place) -> None:
    with waits():
        is_42(await answer(agent(at, "limited"), at.asking("openai-agents")))


@suite.feature("responses")
async def responses(at: Place) -> None:
    model = OpenAIResponsesModel("any", openai_client=client(at))
    is_42(await answer(Agent(name="one", model=model)))
    is_42(await answer(Agent(name="one", model=model, tools=[multiply])))
    made = await answer(Agent(name="one", model=model, output_type=Product))
    assert made == Product(left=6, right=6), made


@suite.feature("responses streamed")
async def responses_streamed(at: Place) -> None:
    model = OpenAIResponsesModel("any", openai_client=client(at))
    is_42(await streamed(Agent(name="one", model=model, tools=[multiply])))


@suite.feature("real text")
async def real_text(at: Place) -> None:
    settings = ModelSettings(max_tokens=8, temperature=0.8)
    assert (await answer(agent(at, at.real_model or "", model_settings=settings))).strip()


suite.run()
