"""What the tests of `/v1/responses` ask with, and how they read what comes back."""

import json
from typing import Any, get_args

from openai.types.responses import Response, ResponseStreamEvent

from proxy.api.response_events import Growing
from proxy.api.responses import Responses
from tests.fake_upstream import Malformed
from tests.staged import JSON, Stage

PROMPT = "What is six times seven?"
ASKED = [{"role": "user", "content": PROMPT}]
ANSWER = "The answer is 42."
STRATEGIES = ["off", "self_consistency", "adaptive", "dynscaling", "optscale"]
TWO = ["off", "self_consistency"]


WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


ROME, OSLO = '{"city":"Rome"}', '{"city":"Oslo"}'


EVENTS = {
    get_args(each.model_fields["type"].annotation)[0]: each for each in get_args(get_args(ResponseStreamEvent)[0])
}


responses = Responses(lambda: 1_750_000_000.0, max_messages=1000)


def create(stage: Stage, strategy: str | None = "self_consistency", **more: Any) -> Any:
    """A Response; what its items are, the tests know."""
    reply = stage.client(strategy).responses.create(**{"model": "small", "input": PROMPT, **more})
    assert isinstance(reply, Response)
    # the client itself takes any shape
    Response.model_validate(reply.to_dict())
    return reply


def streamed(stage: Stage, strategy: str | None = "self_consistency", **more: Any) -> list[Any]:
    fields = {"model": "small", "input": PROMPT, "stream": True, **more}
    found = list(stage.client(strategy).responses.create(**fields))
    for each in found:
        EVENTS[each.type].model_validate(each.to_dict())
    assert [each.sequence_number for each in found] == list(range(len(found)))
    return found


def refused(stage: Stage, **more: Any) -> JSON:
    before = len(stage.upstream.calls)
    response = stage.post({"model": "small", "input": PROMPT, **more}, path="/v1/responses")
    assert response.status_code == 400, response.text
    assert len(stage.upstream.calls) == before
    return dict(response.json()["error"])


def told(reply: Response) -> JSON:
    return dict((reply.model_extra or {})["tally"])


def items(reply: Response) -> list[JSON]:
    """What a response says, without ids."""
    return [{key: value for key, value in item.to_dict().items() if key != "id"} for item in reply.output]


def transcript(text: str) -> list[str]:
    """The events of a stream, a line each: ids and times left out, and of a response its status alone."""
    found = []
    for part in text.removesuffix("\n\n").split("\n\n"):
        if part.startswith(":"):
            found.append(part)
            continue
        name, data = part.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if "response" in event:
            event["response"] = event["response"]["status"]
        assert event.pop("sequence_number") == len([each for each in found if not each.startswith(":")])
        event.pop("item_id", None)
        event.get("item", {}).pop("id", None)
        event.get("item", {}).pop("call_id", None)
        kind = event.pop("type").removeprefix("response.")
        found.append(f"{kind} {json.dumps(event)}")
    return found


def grown(*chunks: JSON) -> list[JSON]:
    """The events that these chunks of a chat make."""
    head = {"model": "small", "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    growing = Growing(head, lambda: 5.0)
    return [*(event for chunk in chunks for event in growing.hear(chunk)), *growing.end()]


def piece(**delta: Any) -> JSON:
    return {"choices": [{"index": 0, "delta": delta}]}


def call(index: int, arguments: str, **more: Any) -> JSON:
    return {"index": index, "function": {"arguments": arguments, **more}}


def exactly(*chunks: JSON) -> Malformed:
    """A stream of these chunks and no others."""
    return Malformed("\n\ndata: ".join([*map(json.dumps, chunks), "[DONE]"]))
