"""What LlamaIndex sees of tally."""

from typing import Any

from checks import ASK, PIXEL, Place, Suite, is_42, refused, waits
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from openai import APIStatusError, BadRequestError
from pydantic import BaseModel

suite = Suite("llama-index", "llama-index-llms-openai-like")
CHAT = [ChatMessage(role="user", content=ASK)]


class Product(BaseModel):
    """The product of two numbers."""

    left: int
    right: int


def multiply(left: int, right: int) -> int:
    """The product of two numbers."""
    return left * right


TOOL = FunctionTool.from_defaults(multiply)


def model(at: Place, name: str, **more: Any) -> OpenAILike:
    # 0.1 is its default, and cold enough that nothing is scaled
    told = {"api_base": at.base_url, "api_key": at.key, "is_chat_model": True, "is_function_calling_model": True}
    return OpenAILike(**{"model": name, "temperature": 0.8, "timeout": 20, **told, **more})


@suite.feature("text")
def text(at: Place) -> None:
    is_42(model(at, "text").chat(CHAT).message.content)
    is_42(model(at, "text", temperature=0.1).complete(ASK).text)


@suite.feature("stream")
async def stream(at: Place) -> None:
    is_42("".join(piece.delta or "" for piece in model(at, "text").stream_chat(CHAT)))
    pieces = await model(at, "text").astream_chat(CHAT)
    is_42("".join([piece.delta or "" async for piece in pieces]))


@suite.feature("completions")
def completions(at: Place) -> None:
    legacy = model(at, "text", is_chat_model=False)
    is_42(legacy.complete(ASK).text)
    *_, last = legacy.stream_complete(ASK)
    is_42(last.text)


@suite.feature("tools")
def tools(at: Place) -> None:
    asked = model(at, "tool")
    [call] = asked.get_tool_calls_from_response(asked.chat_with_tools([TOOL], user_msg=ASK))
    assert (call.tool_name, call.tool_kwargs) == ("multiply", {"left": 6, "right": 6}), call


@suite.feature("tools streamed")
def tools_streamed(at: Place) -> None:
    asked = model(at, "tool")
    *_, last = asked.stream_chat_with_tools([TOOL], user_msg=ASK)
    [call] = asked.get_tool_calls_from_response(last)
    assert call.tool_kwargs == {"left": 6, "right": 6}, call


@suite.feature("tool loop")
def tool_loop(at: Place) -> None:
    made = model(at, "tool").predict_and_call([TOOL], user_msg=ASK)
    assert made.response == "36", made.response


@suite.feature("forced tool")
def forced_tool(at: Place) -> None:
    made = model(at, "tool").as_structured_llm(Product).chat(CHAT).raw
    assert made == Product(left=6, right=6), made


@suite.feature("structured")
def structured(at: Place) -> None:
    made = model(at, "json", should_use_structured_outputs=True).as_structured_llm(Product).chat(CHAT).raw
    assert made == Product(left=6, right=6), made


@suite.feature("structured streamed")
def structured_streamed(at: Place) -> None:
    *_, last = model(at, "tool").as_structured_llm(Product).stream_chat(CHAT)
    assert (last.raw.left, last.raw.right) == (6, 6), last.raw


@suite.feature("logprobs")
def logprobs(at: Place) -> None:
    made = model(at, "logprobs", logprobs=True, top_logprobs=2).chat(CHAT)
    assert "".join(entries[0].token for entries in made.logprobs) == made.message.content


@suite.feature("images")
def images(at: Place) -> None:
    blocks = [TextBlock(text=ASK), ImageBlock(url=PIXEL)]
    is_42(model(at, "image").chat([ChatMessage(role="user", blocks=blocks)]).message.content)


@suite.feature("tally field")
def tally_field(at: Place) -> None:
    extra = {"extra_body": {"tally": {"max_samples": 4}}}
    is_42(model(at, "text", additional_kwargs=extra).chat(CHAT).message.content)


@suite.feature("error 400")
def error_400(at: Place) -> None:
    with at.tries(400, 1), refused(BadRequestError):
        model(at, "rejects").chat(CHAT)


@suite.feature("error 402 not retried")
def error_402(at: Place) -> None:
    with at.tries(402, 1), refused(APIStatusError, 402):
        model(at, "text", api_key=at.poor_key).chat(CHAT)


@suite.feature("retry after 429")
def retry_after_429(at: Place) -> None:
    with waits():
        is_42(model(at, "limited").complete(at.asking("llama-index")).text)


@suite.feature("real text")
def real_text(at: Place) -> None:
    assert model(at, at.real_model or "", max_tokens=8).chat(CHAT).message.content.strip()


@suite.feature("real stream")
def real_stream(at: Place) -> None:
    *_, last = model(at, at.real_model or "", max_tokens=8).stream_chat(CHAT)
    assert last.message.content.strip()


suite.run()
