"""The official Python client, whose two major versions are checked alike."""

import asyncio
import json
from typing import Any

import openai
from checks import MESSAGES, PIXEL, Place, Suite, is_42, refused, waits
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

WAIT_S = 20.0


class Product(BaseModel):
    """What the tool takes, and what a structured answer holds."""

    left: int
    right: int
    steps: list[str]


TOOL = {"type": "function", "function": {"name": "multiply", "parameters": Product.model_json_schema()}}
OTHER = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
TURN = {"role": "user", "content": "What is 6 x 7?"}


def client(at: Place, **more: Any) -> OpenAI:
    return OpenAI(**{"base_url": at.base_url, "api_key": at.key, "timeout": WAIT_S, **more})


def ask(at: Place, model: str, **more: Any) -> Any:
    with client(at) as api:
        return api.chat.completions.create(**{"model": model, "messages": MESSAGES, **more})


def chunks(at: Place, model: str, **more: Any) -> list[Any]:
    """A stream's chunks, checked as any reader may rely on them."""
    with client(at) as api:
        found = list(api.chat.completions.create(**{"model": model, "messages": MESSAGES, "stream": True, **more}))
    choices = [choice for chunk in found for choice in chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert sum(choice.finish_reason is not None for choice in choices) == 1
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in found}) == 1
    return found


def joined(found: list[Any], field: str = "content") -> str:
    return "".join(getattr(c.delta, field, None) or "" for chunk in found for c in chunk.choices)


def text(at: Place) -> None:
    with client(at) as api:
        raw = api.chat.completions.with_raw_response.create(model="text", messages=MESSAGES)
    reply = raw.parse()
    is_42(reply.choices[0].message.content)
    assert raw.headers["x-tally-strategy"] == at.strategy
    assert reply._request_id
    assert (reply.object, reply.model, reply.choices[0].finish_reason) == ("chat.completion", "text", "stop")
    assert reply.choices[0].message.refusal is None
    assert reply.choices[0].logprobs is None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0
    assert ask(at, "long").choices[0].finish_reason == "length"


def stream(at: Place) -> None:
    found = chunks(at, "text")
    is_42(joined(found))
    assert all(chunk.usage is None and chunk.choices for chunk in found)
    with client(at) as api, api.chat.completions.stream(model="text", messages=MESSAGES) as helper:
        is_42(helper.get_final_completion().choices[0].message.content)


def usage_in_stream(at: Place) -> None:
    *others, last = chunks(at, "text", stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage.prompt_tokens > 0 < last.usage.completion_tokens
    assert all(chunk.usage is None and chunk.choices for chunk in others)


def tools(at: Place) -> None:
    choice = ask(at, "tool", tools=[TOOL]).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert len(choice.message.tool_calls) == 1
    multiplied(choice.message.tool_calls[0])


def multiplied(call: Any) -> None:
    assert (call.type, call.function.name) == ("function", "multiply")
    assert call.id
    # the dissenting sample has 7
    assert Product.model_validate_json(call.function.arguments).left == 6


def tools_streamed(at: Place) -> None:
    found = chunks(at, "tool", tools=[TOOL])
    pieces = [p for chunk in found for choice in chunk.choices for p in choice.delta.tool_calls or ()]
    assert {piece.index for piece in pieces} == {0}
    assert sum(piece.id is not None for piece in pieces) == 1
    Product.model_validate_json("".join(piece.function.arguments or "" for piece in pieces))
    with client(at) as api, api.chat.completions.stream(model="tool", messages=MESSAGES, tools=[TOOL]) as helper:
        multiplied(helper.get_final_completion().choices[0].message.tool_calls[0])


def forced_tool(at: Place) -> None:
    choice = {"type": "function", "function": {"name": "multiply"}}
    multiplied(ask(at, "tool", tools=[OTHER, TOOL], tool_choice=choice).choices[0].message.tool_calls[0])
    multiplied(ask(at, "tool", tools=[TOOL], tool_choice="required").choices[0].message.tool_calls[0])
    is_42(ask(at, "tool", tools=[TOOL], tool_choice="none").choices[0].message.content)


def tool_loop(at: Place) -> None:
    called = ask(at, "tool", tools=[TOOL]).choices[0].message
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "42"}
    is_42(ask(at, "tool", messages=[*MESSAGES, called, result], tools=[TOOL]).choices[0].message.content)


def structured(at: Place) -> None:
    with client(at) as api:
        reply = api.chat.completions.parse(model="json", messages=MESSAGES, response_format=Product)
    assert reply.choices[0].message.parsed.left == 6
    free = ask(at, "json", response_format={"type": "json_object"}).choices[0].message.content
    assert json.loads(free) == {"answer": 6}


def structured_streamed(at: Place) -> None:
    asked = {"model": "json", "messages": MESSAGES, "response_format": Product}
    with client(at) as api, api.chat.completions.stream(**asked) as helper:
        assert helper.get_final_completion().choices[0].message.parsed.left == 6


def n(at: Place) -> None:
    reply = ask(at, "choices", n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    is_42(reply.choices[0].message.content)
    with client(at) as api, api.chat.completions.stream(model="choices", messages=MESSAGES, n=2) as helper:
        assert [choice.finish_reason for choice in helper.get_final_completion().choices] == ["stop"] * 2


def logprobs(at: Place) -> None:
    asked: Any = {"logprobs": True, "top_logprobs": 2}
    choice = ask(at, "logprobs", **asked).choices[0]
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content
    found = [c for chunk in chunks(at, "logprobs", **asked) for c in chunk.choices]
    tokens = [entry.token for c in found if c.logprobs for entry in c.logprobs.content or ()]
    assert "".join(tokens) == "".join(c.delta.content or "" for c in found)


def seed_and_stop(at: Place) -> None:
    asked = ask(at, "text", seed=7, stop=["\n"], max_completion_tokens=50, temperature=0.8)
    is_42(asked.choices[0].message.content)
    is_42(ask(at, "text", temperature=0, stop="\n").choices[0].message.content)


def images(at: Place) -> None:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    is_42(ask(at, "image", messages=[{"role": "user", "content": parts}]).choices[0].message.content)


def reasoning(at: Place) -> None:
    message = ask(at, "reasons", reasoning_effort="low").choices[0].message
    is_42(message.content)
    assert message.reasoning_content == "Six sevens are forty-two."
    found = chunks(at, "reasons")
    assert joined(found, "reasoning_content") == message.reasoning_content
    is_42(joined(found))


def refusal(at: Place) -> None:
    message = ask(at, "refuses").choices[0].message
    assert message.refusal
    assert message.content is None
    assert joined(chunks(at, "refuses"), "refusal") == message.refusal


def unknown_field(at: Place) -> None:
    is_42(ask(at, "text", extra_body={"some_new_field": {"deep": [1]}}).choices[0].message.content)


def tally_field(at: Place) -> None:
    told = ask(at, "text", extra_body={"tally": {"max_samples": 4, "detail": True}}).tally
    assert told["strategy"] == at.strategy
    assert len(told["draws"]) == told["samples"] <= 4
    last = chunks(at, "text", extra_body={"tally": {"progress": True}})[-1]
    assert last.tally["samples"] >= 1


def error_400(at: Place) -> None:
    for more in ({}, {"stream": True}):
        with at.tries(400, 1), refused(openai.BadRequestError) as caught:
            ask(at, "rejects", **more)
        error = caught[0]
        assert (error.code, error.param, error.type) == ("unsupported_value", "user", "invalid_request_error")
        assert error.request_id
    with refused(openai.BadRequestError) as caught:
        ask(at, "text", n=0)
    assert caught[0].param == "n"


def error_402(at: Place) -> None:
    for more in ({}, {"stream": True}):
        with client(at, api_key=at.poor_key) as api, at.tries(402, 1), refused(openai.APIStatusError, 402) as caught:
            api.chat.completions.create(model="text", messages=MESSAGES, **more)
        assert caught[0].code == "budget_exceeded"


def error_404(at: Place) -> None:
    with refused(openai.NotFoundError) as caught:
        ask(at, "no-such-model")
    assert caught[0].code == "model_not_found"
    with client(at) as api, refused(openai.NotFoundError):
        api.get("/no/such/path", cast_to=object)


def retry_after_429(at: Place) -> None:
    question = [{"role": "user", "content": at.asking(f"openai-python {openai.__version__}")}]
    with waits():
        is_42(ask(at, "limited", messages=question).choices[0].message.content)
    with client(at, max_retries=0) as api, refused(openai.RateLimitError) as caught:
        api.chat.completions.create(model="crowded", messages=MESSAGES)
    assert caught[0].response.headers["retry-after"] == "60"


def upstream_5xx(at: Place) -> None:
    with client(at, max_retries=1) as api, at.tries(500, 2), refused(openai.InternalServerError, 500) as caught:
        api.chat.completions.create(model="broken", messages=MESSAGES)
    assert isinstance(caught[0].body, dict)


async def cancel(at: Place) -> None:
    async with AsyncOpenAI(base_url=at.base_url, api_key=at.key) as api:
        for more in ({}, {"stream": True}):
            with refused(TimeoutError):
                async with asyncio.timeout(0.2):
                    await api.chat.completions.create(model="endless", messages=MESSAGES, **more)
    await asyncio.to_thread(at.is_idle)


def timeout(at: Place) -> None:
    with at.tries(499, 2):
        with client(at, timeout=0.1, max_retries=1) as api, refused(openai.APITimeoutError):
            api.chat.completions.create(model="endless", messages=MESSAGES)
        at.is_idle()


def models(at: Place) -> None:
    with client(at) as api:
        assert {"text", "embed"} <= {model.id for model in api.models.list()}
        assert api.models.retrieve("text").id == "text"
        with refused(openai.NotFoundError):
            api.models.retrieve("no-such-model")


def completions(at: Place) -> None:
    asked: Any = {"model": "text", "prompt": "What is 6 x 7?", "max_tokens": 20}
    with client(at) as api:
        reply = api.completions.create(**asked)
        is_42(reply.choices[0].text)
        assert reply.object == "text_completion"
        is_42("".join(chunk.choices[0].text for chunk in api.completions.create(**asked, stream=True)))


def responses(at: Place) -> None:
    function: Any = {"type": "function", "name": "multiply", "strict": False, "parameters": Product.model_json_schema()}
    with client(at) as api:
        reply = api.responses.create(model="text", input="What is 6 x 7?", instructions="Be short.", store=False)
        is_42(reply.output_text)
        assert reply.status == "completed"
        assert reply.usage.output_tokens > 0 < reply.usage.input_tokens
        called = api.responses.create(model="tool", input=[TURN], tools=[function], store=False)
        call = next(item for item in called.output if item.type == "function_call")
        assert Product.model_validate_json(call.arguments).left == 6
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
        given = [TURN, *called.output, result]
        is_42(api.responses.create(model="tool", input=given, tools=[function], store=False).output_text)
        made = api.responses.parse(model="json", input="What is 6 x 7?", text_format=Product, store=False)
        assert made.output_parsed.left == 6
        with refused(openai.BadRequestError):
            api.responses.create(model="text", input="And?", previous_response_id="resp_1")


def responses_streamed(at: Place) -> None:
    with client(at) as api:
        asked: Any = {"model": "text", "input": "What is 6 x 7?", "store": False}
        events = list(api.responses.create(**asked, stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
        is_42("".join(event.delta for event in events if event.type == "response.output_text.delta"))
        is_42(events[-1].response.output_text)
        with api.responses.stream(model="json", input="What is 6 x 7?", text_format=Product, store=False) as helper:
            assert helper.get_final_response().output_parsed.left == 6


def embeddings(at: Place) -> None:
    with client(at) as api:
        for more in ({}, {"encoding_format": "float"}):
            data = api.embeddings.create(model="embed", input=["six", "seven"], **more).data
            assert [(item.index, item.embedding) for item in data] == [(0, [0.25, -0.5, 1.0]), (1, [0.25, -0.5, 1.0])]


def real_text(at: Place) -> None:
    asked = {"max_completion_tokens": 8, "temperature": 0.8}
    assert ask(at, at.real_model or "", **asked).choices[0].message.content.strip()


def real_stream(at: Place) -> None:
    # its own chunks may differ in the second when they were made, which is its business
    with client(at) as api:
        asked: Any = {"model": at.real_model, "messages": MESSAGES, "max_completion_tokens": 8, "temperature": 0.8}
        assert joined(list(api.chat.completions.create(**asked, stream=True))).strip()


FEATURES = {
    "text": text,
    "stream": stream,
    "usage in stream": usage_in_stream,
    "tools": tools,
    "tools streamed": tools_streamed,
    "forced tool": forced_tool,
    "tool loop": tool_loop,
    "structured": structured,
    "structured streamed": structured_streamed,
    "n": n,
    "logprobs": logprobs,
    "seed and stop": seed_and_stop,
    "images": images,
    "reasoning": reasoning,
    "refusal": refusal,
    "unknown field": unknown_field,
    "tally field": tally_field,
    "error 400": error_400,
    "error 402 not retried": error_402,
    "error 404": error_404,
    "retry after 429": retry_after_429,
    "upstream 5xx": upstream_5xx,
    "cancel": cancel,
    "timeout": timeout,
    "models": models,
    "completions": completions,
    "responses": responses,
    "responses streamed": responses_streamed,
    "embeddings": embeddings,
    "real text": real_text,
    "real stream": real_stream,
}


def run(name: str) -> None:
    """Check the client that is installed, under a folder's name."""
    suite = Suite(name, "openai")
    for feature, check in FEATURES.items():
        suite.feature(feature)(check)
    suite.run()
