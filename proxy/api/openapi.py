"""`GET /openapi.json`: what is served here, in OpenAPI 3.1. Anybody may read it: it tells nothing of the tenants."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from proxy import __version__
from proxy.api import replies
from proxy.api.completions import CompletionRequest
from proxy.api.feedback import Feedback
from proxy.api.passthrough import PATHS, PassedRequest
from proxy.api.responses import ResponsesRequest
from proxy.api.wire import ChatRequest
from proxy.ledger.admin import OPERATIONS
from proxy.types import JSON, STRATEGIES

_SCHEMAS = "#/components/schemas/"
_PLAIN = str.maketrans("/", "_", "{}")
_BUDGET = 402
_OTHER = "default"
_JSON, _STREAM = "application/json", "text/event-stream"

_OF_RESPONSES = ("model", "temperature", "top_p", "tally")
"""What responses share with chats."""

_READING = (400, 401, 404, 500, 503)
_TELLING = (*_READING, 408, 413)
_PASSING = (*_TELLING, _BUDGET, 403, 429, 502, 504)
_SAMPLING = (*_PASSING, 422)
_ADMINISTERING = (*_TELLING, 403, 429)

_STATUSES = (
    (400, "The request is wrong, here or for the provider."),
    (401, "No key, or one that is unknown, revoked or expired."),
    (_BUDGET, "The budget does not hold one sample."),
    (403, "The tenant is blocked, or the model or strategy is off its list."),
    (404, "No such model, answer or path."),
    (408, "The body did not come in time."),
    (413, "The body is too large."),
    (422, "The answer is less sure than `tally.min_confidence`; or the provider's refusal."),
    (429, "Too many requests, here or at the provider; `retry-after` says when there is room."),
    (500, "A fault of the proxy or of the provider."),
    (502, "The provider cannot be reached, or its reply is not what it should be."),
    (503, "The proxy or the provider is not ready."),
    (504, "The provider did not answer in time."),
)


@dataclass(frozen=True, slots=True)
class _Operation:
    """One path with its method. `asked`, `told` and `streamed` name schemas, the last that of a stream's events.

    `query` has the parameters of the URL; `own`: a provider's other statuses come through.
    """

    path: str
    method: Literal["get", "post"]
    summary: str
    told: str
    statuses: tuple[int, ...]
    asked: str | None = None
    headers: tuple[str, ...] = ("x-request-id",)
    streamed: str | None = None
    own: bool = False
    query: type[BaseModel] | None = None


def _sampled(path: str, summary: str, asked: str, told: str, streamed: str) -> _Operation:
    headers = replies.TALLY_HEADERS
    return _Operation(path, "post", summary, told, _SAMPLING, asked, headers, streamed=streamed, own=True)


def _passed(name: str) -> _Operation:
    summary = f"{name.capitalize()}, passed through and metered"
    headers = replies.TALLY_HEADERS
    return _Operation(f"/v1/{name}", "post", summary, "PassedReply", _PASSING, _asking(name), headers, own=True)


def _asking(name: str) -> str:
    return f"{name.capitalize()}Request"


_OPERATIONS = (
    _sampled(
        "/v1/chat/completions",
        "A chat completion, voted on where that pays",
        "ChatRequest",
        "ChatCompletion",
        "ChatCompletionChunk",
    ),
    _sampled(
        "/v1/completions", "A text completion, scaled like a chat", "TextRequest", "TextCompletion", "TextCompletion"
    ),
    _sampled("/v1/responses", "A response, scaled like a chat", "ResponseRequest", "ModelResponse", "ResponseEvent"),
    *map(_passed, PATHS),
    _Operation("/v1/models", "get", "The models on offer to the caller", "ModelList", _READING),
    _Operation("/v1/models/{model}", "get", "One model", "Model", _READING),
    _Operation(
        "/v1/feedback", "post", "Tell whether an answer was right", "FeedbackReply", (*_TELLING, 429), "Feedback"
    ),
)
_ADMINISTERED = tuple(
    _Operation(
        path,
        "get" if each.method == "GET" else "post",
        f"{each.summary} (master key{', or for a key itself' if each.own else ''})",
        each.told,
        _ADMINISTERING,
        None if each.method == "GET" else each.asked.__name__,
        query=each.asked if each.method == "GET" else None,
    )
    for path, each in OPERATIONS.items()
)
_WATCHED = (
    ("/health/liveliness", "The process answers", _JSON, {"type": "string"}, ()),
    ("/health/liveness", "The same by its other name", _JSON, {"type": "string"}, ()),
    ("/health/readiness", "Requests can be served", _JSON, {"$ref": f"{_SCHEMAS}Readiness"}, (503,)),
    ("/metrics", "Prometheus' text format", "text/plain", {"type": "string"}, ()),
)


class OpenApiEndpoint:
    """Serves the document. `budget_status` is the status that a spent budget has here."""

    def __init__(self, *, budget_status: int) -> None:
        self._budget_status = budget_status
        self._document: bytes | None = None

    async def serve(self, _: Request) -> Response:
        """The document, made once."""
        if self._document is None:
            self._document = orjson.dumps(document(self._budget_status))
        return Response(self._document, media_type=_JSON)


def document(budget_status: int = _BUDGET) -> JSON:
    """The whole document as an object; `budget_status` stands for 402."""
    root = [{"url": "/"}]
    watched = {path: {"get": _watch(*rest), "servers": root} for path, *rest in _WATCHED}
    administered = {
        each.path: {each.method: _described(each, budget_status), "servers": root} for each in _ADMINISTERED
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tally",
            "version": __version__,
            "summary": "An OpenAI-compatible proxy that makes any model more accurate for a budget.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [
            {"url": "/"},
            {
                "url": "/{strategy}",
                "description": "The same with a strategy, for clients that can set no more than a base URL.",
                "variables": {"strategy": {"enum": list(STRATEGIES), "default": "off"}},
            },
        ],
        "security": [{"key": []}],
        "paths": {each.path: {each.method: _described(each, budget_status)} for each in _OPERATIONS}
        | administered
        | watched,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "headers": {name: {"schema": schema} for name, schema in replies.headers().items()},
            "responses": _errors(budget_status),
            "schemas": _schemas(),
        },
    }


def _schemas() -> JSON:
    asked: set[type[BaseModel]] = {ChatRequest, CompletionRequest, ResponsesRequest, PassedRequest, Feedback}
    asked |= {each.asked for each in OPERATIONS.values() if each.method == "POST"}
    named = sorted(asked, key=lambda model: model.__name__)
    made = models_json_schema([(model, "validation") for model in named], ref_template=_SCHEMAS + "{model}")[1]["$defs"]
    texts = set(ChatRequest.model_fields) - {"messages", "tools", *CompletionRequest.model_fields}
    return {
        **made,
        "TextRequest": _like_chats(made, texts, "CompletionRequest"),
        "ResponseRequest": _like_chats(made, _OF_RESPONSES, "ResponsesRequest"),
        **{_asking(name): _passed_request(made["PassedRequest"], name) for name in PATHS},
        **replies.schemas(),
    }


def _like_chats(made: JSON, words: Collection[str], own: str) -> JSON:
    """What a chat takes of these `words`, and what the schema `own` has beside them."""
    chats = made["ChatRequest"]
    taken = {name: schema for name, schema in chats["properties"].items() if name in words}
    return {"allOf": [{**chats, "title": "Common", "required": ["model"], "properties": taken}, _ref(own)]}


def _passed_request(common: JSON, path: str) -> JSON:
    """What a passed path takes: tally's own words, and those that every provider wants."""
    wanted: JSON = {"input": {"type": ["string", "array", "object"]}}
    if path == "rerank":
        wanted = {"query": {"type": "string"}, "documents": {"type": "array"}}
    required = [*wanted] if path == "moderations" else ["model", *wanted]
    properties = {**common["properties"], **wanted}
    return {**common, "title": _asking(path), "required": required, "properties": properties}


def _described(operation: _Operation, budget_status: int) -> JSON:
    content = {_JSON: {"schema": _ref(operation.told)}}
    if operation.streamed is not None:
        # as in OpenAI's own document: of each event's data, but for the [DONE] of chats
        content[_STREAM] = {"schema": _ref(operation.streamed)}
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in operation.headers}
    statuses = [str(budget_status if status == _BUDGET else status) for status in sorted(operation.statuses)]
    statuses += [_OTHER] if operation.own else []
    found: JSON = {
        "operationId": operation.method + operation.path.replace("/v1", "").replace("{model}", "one").translate(_PLAIN),
        "summary": operation.summary,
        "responses": {
            "200": {"description": "OK", "headers": headers, "content": content},
            **{status: {"$ref": f"#/components/responses/{status}"} for status in statuses},
        },
    }
    if operation.asked is not None:
        found["requestBody"] = {
            "required": "{key}" not in operation.path,
            "content": {_JSON: {"schema": _ref(operation.asked)}},
        }
    if operation.own:
        found["parameters"] = [_parameter("x-tally-strategy", "header", {"enum": list(STRATEGIES)}, required=False)]
    for name in ("model", "key"):
        if f"{{{name}}}" in operation.path:
            found["parameters"] = [_parameter(name, "path", {"type": "string", "minLength": 1}, required=True)]
    if operation.query is not None:
        found["parameters"] = list(_parameters(operation.query))
    return found


def _parameters(query: type[BaseModel]) -> Iterator[JSON]:
    """The parameters of a URL; null stands in no URL."""
    told = query.model_json_schema()
    for name, schema in told["properties"].items() if "properties" in told else ():
        bare = {word: value for word, value in schema.items() if word not in ("anyOf", "default", "title")}
        some = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
        yield _parameter(
            name, "query", {**bare, **(some[0] if some else {})}, required=name in told.get("required", ())
        )


def _watch(summary: str, media: str, schema: JSON, others: Iterable[int]) -> JSON:
    content = {media: {"schema": schema}}
    statuses = (200, *others)
    return {
        "summary": summary,
        "security": [],
        "responses": {str(each): {"description": summary if each == 200 else "Not now", "content": content}
                      for each in statuses},
    }  # fmt: skip


def _errors(budget_status: int) -> JSON:
    """The error of each status, by the status; and of all others."""
    told = dict(_STATUSES)
    over = told.pop(_BUDGET)
    told[budget_status] = " ".join(filter(None, (told.get(budget_status), over)))
    return {_OTHER: _error("The provider's own error, with its status.")} | {
        str(status): _error(told[status]) for status in sorted(told)
    }


def _error(description: str) -> JSON:
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in replies.ERROR_HEADERS}
    return {"description": description, "headers": headers, "content": {_JSON: {"schema": _ref("Error")}}}


def _parameter(name: str, place: str, schema: JSON, *, required: bool) -> JSON:
    return {"name": name, "in": place, "required": required, "schema": schema}


def _ref(name: str) -> JSON:
    return {"$ref": _SCHEMAS + name}
