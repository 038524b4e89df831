"""OpenAI's shapes: what a reply looks like on the wire, whole and in chunks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from proxy.types import JSON
from tests.fake.call import Call
from tests.fake.script import Fault, Plain, Reply
from tests.fake.tokens import tokenize

_CREATED = 1_750_000_000
_TEXTS = ("reasoning_content", "content", "refusal")
_KNOWN = {*_TEXTS, "role", "tool_calls"}
_TAKES = {"function": "arguments", "custom": "input"}


@dataclass(frozen=True, slots=True)
class Made:
    """One choice: `deltas` hold a token each, `tokens` is what it counts for, `extras` are unknown message fields."""

    index: int
    deltas: Sequence[JSON]
    finish_reason: str
    tokens: int
    reasoning: int
    extras: JSON
    logprobs: Sequence[JSON] | None

    def message(self) -> JSON:
        """The whole message, as a client would join it from the deltas."""
        message: JSON = {"role": "assistant", "content": None, "refusal": None} | self.extras
        for delta in self.deltas:
            for key in _TEXTS:
                if key in delta:
                    message[key] = (message.get(key) or "") + delta[key]
            for piece in delta.get("tool_calls", ()):
                calls = message.setdefault("tool_calls", [])
                if "id" in piece:
                    calls.append({key: value for key, value in piece.items() if key != "index"})
                    calls[-1][piece["type"]] = dict(piece[piece["type"]])
                else:
                    form = calls[-1]["type"]
                    calls[-1][form][_TAKES[form]] += piece[form][_TAKES[form]]
        if message["content"] is None and not message["refusal"] and "tool_calls" not in message:
            message["content"] = ""
        return message


def make_choices(call: Call, reply: Reply) -> list[Made]:
    """The choices served for `call`; empty when its `n` is refused."""
    return [_make(call, reply, index) for index in range(reply.choices(call.n))]


def completion(call: Call, reply: Reply, choices: Sequence[Made]) -> JSON:
    """A whole chat completion."""
    body = _envelope(call, reply, "chat.completion")
    body["choices"] = [
        {
            "index": made.index,
            "message": made.message(),
            "logprobs": None if made.logprobs is None else {"content": list(made.logprobs), "refusal": None},
            "finish_reason": made.finish_reason,
        }
        for made in choices
    ]
    if reply.usage != "none":
        body["usage"] = _usage(call, reply, choices)
    return body


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a stream; `tokens` is what it adds to the bill; the first of a round `waits` for `per_token`."""

    body: JSON
    tokens: int = 0
    waits: bool = False


def chunks(call: Call, reply: Reply, choices: Sequence[Made]) -> Iterator[Chunk]:
    """The stream of a reply: roles, tokens with the choices interleaved, a finish each, and the usage if asked for."""
    wants_usage = bool((call.body.get("stream_options") or {}).get("include_usage")) and reply.usage != "none"
    envelope = _envelope(call, reply, "chat.completion.chunk") | ({"usage": None} if wants_usage else {})

    def chunk(made: Made, delta: JSON, finish: str | None = None, logprobs: JSON | None = None) -> JSON:
        choice = {"index": made.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return envelope | {"choices": [choice]}

    for made in choices:
        yield Chunk(chunk(made, {"role": "assistant", "content": "", "refusal": None} | made.extras))
    for step in zip_longest(*(_events(made) for made in choices)):
        waits = True
        for made, event in zip(choices, step, strict=True):
            if event is not None:
                delta, logprobs, finish, tokens = event
                yield Chunk(chunk(made, delta, finish, logprobs), tokens, waits and finish is None)
                waits = False
    if wants_usage:
        yield Chunk(envelope | {"choices": [], "usage": _usage(call, reply, choices)})


def plain(call: Call, step: Plain) -> JSON:
    """A reply that generates nothing: embeddings, moderations, rewards."""
    data = [{"index": index, "object": "embedding", **item} for index, item in enumerate(step.data)]
    usage = {"total_tokens": call.prompt_tokens} | (
        {"prompt_tokens": call.prompt_tokens, "completion_tokens": 0} if step.usage == "all" else {}
    )
    body = {"id": f"plain-fake-{call.index}", "object": "list", "created": _CREATED, "model": call.body.get("model")}
    return body | {"data": data} | dict(step.more) | ({} if step.usage == "none" else {"usage": usage})


def error(fault: Fault) -> JSON:
    """OpenAI's error envelope."""
    return {"error": {"message": fault.message, "type": fault.type, "param": fault.param, "code": fault.code}}


def model_list(models: Sequence[str]) -> JSON:
    """The body of `GET /v1/models`."""
    data = [{"id": model, "object": "model", "created": _CREATED, "owned_by": "fake"} for model in models]
    return {"object": "list", "data": data}


Event = tuple[JSON, JSON | None, str | None, int]


def _events(made: Made) -> Iterator[Event]:
    """The tokens of one choice and its finish; tokens that no delta shows are billed with the finish."""
    logprobs = iter(made.logprobs or ())
    for delta in made.deltas:
        entry = next(logprobs, None) if "content" in delta else None
        yield delta, None if entry is None else {"content": [entry], "refusal": None}, None, 1
    yield {}, None, made.finish_reason, made.tokens - len(made.deltas)


def _make(call: Call, reply: Reply, index: int) -> Made:
    content = reply.contents[index % len(reply.contents)]
    message: JSON = {"content": content} if isinstance(content, str) else dict(content)
    if reply.tool_calls:
        message = {"content": None, "tool_calls": reply.tool_calls} | ({} if isinstance(content, str) else message)
    if reply.refusal is not None:
        message = {"refusal": reply.refusal}
    if reply.reasoning_content is not None:
        message.setdefault("reasoning_content", reply.reasoning_content)
    deltas = list(_deltas(message, f"call_{call.index}_{index}"))
    finish = _pick(reply.finish_reason, index) or ("tool_calls" if message.get("tool_calls") else "stop")
    if call.max_tokens is not None and len(deltas) > call.max_tokens:
        deltas, finish = deltas[: call.max_tokens], "length"
    return Made(
        index=index,
        deltas=deltas,
        finish_reason=finish,
        tokens=len(deltas) if reply.completion_tokens is None else reply.completion_tokens,
        reasoning=sum("reasoning_content" in delta for delta in deltas),
        extras={key: value for key, value in message.items() if key not in _KNOWN},
        logprobs=_logprobs(call, reply, [delta["content"] for delta in deltas if "content" in delta]),
    )


def _deltas(message: JSON, prefix: str) -> Iterator[JSON]:
    for key in _TEXTS:
        for token in tokenize(message.get(key) or ""):
            yield {key: token}
    for index, tool in enumerate(message.get("tool_calls") or ()):
        form = "custom" if "custom" in tool else "function"
        body, takes = tool.get(form, tool), _TAKES[form]
        head = {"index": index, "id": f"{prefix}_{index}", "type": form}
        yield {"tool_calls": [head | {form: {"name": body["name"], takes: ""}}]}
        for token in tokenize(body[takes]):
            yield {"tool_calls": [{"index": index, form: {takes: token}}]}


def _logprobs(call: Call, reply: Reply, tokens: Sequence[str]) -> list[JSON] | None:
    if not call.body.get("logprobs") or reply.logprobs is False:
        return None
    values = (-0.1, -0.2, -0.3) if reply.logprobs is True else reply.logprobs
    entries: list[JSON] = []
    for position, token in enumerate(tokens):
        entry: JSON = {"token": token, "logprob": values[position % len(values)], "bytes": list(token.encode())}
        others = [{"token": other, "logprob": value, "bytes": []} for other, value in reply.top.items()]
        entries.append(entry | {"top_logprobs": [dict(entry), *others] if call.body.get("top_logprobs") else []})
    return entries


def _usage(call: Call, reply: Reply, choices: Sequence[Made]) -> JSON:
    counted = choices[:1] if reply.usage == "first" else choices
    tokens = sum(made.tokens for made in counted)
    return {
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": call.prompt_tokens + tokens,
        "prompt_tokens_details": {"cached_tokens": call.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": sum(made.reasoning for made in counted)},
        **reply.kinds,
    }


def _envelope(call: Call, reply: Reply, kind: str) -> JSON:
    body = {"id": f"chatcmpl-fake-{call.index}", "object": kind, "created": _CREATED, "model": call.body.get("model")}
    served = {} if reply.service_tier is None else {"service_tier": reply.service_tier}
    return body | served | {"system_fingerprint": reply.system_fingerprint}


def _pick(value: str | Sequence[str] | None, index: int) -> str | None:
    return value if value is None or isinstance(value, str) else value[index % len(value)]
