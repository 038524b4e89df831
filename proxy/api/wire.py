"""The wire: what a request must look like, and how an error looks."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError
from starlette.responses import Response

from proxy.config import AnswerConfig
from proxy.config.limits import MOST_SAMPLES
from proxy.config.wording import wording
from proxy.errors import BodyTooSlow, BudgetExceeded, RateLimited, RequestInvalid, TallyError, UpstreamError
from proxy.plan import Wish
from proxy.types import JSON, STRATEGIES, LowConfidence, StrategyName, VerdictRule

_MOST_USD = 1_000_000
_DEEPEST = 128

_Model = TypeVar("_Model", bound=BaseModel)
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]

Tokens = Annotated[StrictInt, Field(ge=1, le=2**31 - 1)]
"""A limit of tokens."""


class TallyWish(BaseModel):
    """`tally` in a request. `detail`: the reply's `tally` object tells every sample, as `draws`.

    Below `min_confidence` the reply is marked with `low_confidence`, or refused. `progress`: a stream tells the votes
    while samples are drawn, as comments.
    """

    model_config = ConfigDict(extra="forbid")

    strategy: StrategyName | None = None
    samples: Annotated[StrictInt, Field(ge=1, le=MOST_SAMPLES)] | None = None
    max_samples: Annotated[StrictInt, Field(ge=1, le=MOST_SAMPLES)] | None = None
    max_cost_usd: Annotated[Decimal, Field(gt=0, le=_MOST_USD, allow_inf_nan=False)] | None = None
    answer: AnswerConfig | None = None
    verdict: VerdictRule | None = None
    detail: StrictBool | None = None
    min_confidence: Annotated[_Number, Field(ge=0, le=1)] | None = None
    low_confidence: LowConfidence = "mark"
    progress: StrictBool | None = None


class Message(BaseModel):
    """A message, as far as tally looks at it."""

    model_config = ConfigDict(extra="allow")

    role: Annotated[str, Field(strict=True, min_length=1)]
    content: Annotated[str, Field(strict=True)] | list[dict[str, Any]] | None = None


class StreamOptions(BaseModel):
    """`stream_options` in a request."""

    model_config = ConfigDict(extra="allow")

    include_usage: StrictBool | None = None


class ChatRequest(BaseModel):
    """A chat request, as far as tally looks at it; the upstream looks at the rest, and unknown fields pass through."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(strict=True, min_length=1, max_length=512)]
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[StrictInt, Field(ge=1, le=128)] | None = None
    temperature: Annotated[_Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[_Number, Field(ge=0, le=1)] | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    logprobs: StrictBool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None
    tally: TallyWish | None = None


def parse_body(raw: bytes) -> JSON:
    """The JSON object in `raw`. Raises RequestInvalid."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RequestInvalid(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise RequestInvalid("The body must be a JSON object.", code="invalid_json")
    # no level without a bracket, and counting those costs nothing
    if raw.count(b"{") + raw.count(b"[") > _DEEPEST and _deeper(body, _DEEPEST):
        raise RequestInvalid(f"The body is nested deeper than {_DEEPEST} levels.", code="invalid_json")
    return body


def check_chat(body: JSON, max_messages: int) -> ChatRequest:
    """Check a chat request. Raises RequestInvalid that names the first field that is wrong."""
    request = validated(ChatRequest, body)
    if len(request.messages) > max_messages:
        raise RequestInvalid(f"messages: more than {max_messages}.", param="messages", code="invalid_value")
    return request


def validated(model: type[_Model], body: JSON) -> _Model:
    """The body as `model` reads it. Raises RequestInvalid that names the first field that is wrong."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = _place(first["loc"])
        raise RequestInvalid(f"{place}: {wording(first)}.", param=place, code="invalid_value") from None


def known_strategy(name: str | None, place: str) -> StrategyName | None:
    """The strategy that a header or path (`place`) names, None where it names none. Raises RequestInvalid."""
    if name is None:
        return None
    for known in STRATEGIES:
        if name == known:
            return known
    raise RequestInvalid(
        f"{place}: unknown strategy {name!r}; known are {', '.join(STRATEGIES)}.", param=place, code="unknown_strategy"
    )


def wish(request: ChatRequest, header: str | None, path: str | None) -> Wish:
    """What the request asks of tally: its body before its header before its path. Raises RequestInvalid."""
    asked = request.tally
    answer = asked.answer if asked else None
    return Wish(
        strategy=(asked.strategy if asked else None)
        or known_strategy(header, "x-tally-strategy")
        or known_strategy(path, "path"),
        samples=asked.samples if asked else None,
        max_samples=asked.max_samples if asked else None,
        max_cost_usd=asked.max_cost_usd if asked else None,
        answer=answer.spec() if answer else None,
        verdict=asked.verdict if asked else None,
        show=asked is not None,
        detail=asked is not None and bool(asked.detail),
        min_confidence=asked.min_confidence if asked else None,
        low_confidence=asked.low_confidence if asked else "mark",
    )


def error_response(error: TallyError, headers: Mapping[str, str], budget_status: int = 402) -> Response:
    """`error` in OpenAI's envelope, a provider's scrubbed; `budget_status` stands for 402."""
    shown = scrubbed(error)
    status = shown_status(shown, budget_status)
    extra = dict(headers)
    if isinstance(shown, RateLimited):
        extra |= shown.told
    if shown.retry_after is not None:
        extra["retry-after"] = str(-(-shown.retry_after // 1)).removesuffix(".0")
    if isinstance(shown, BodyTooSlow):
        # what is left of the body would be taken for the next request
        extra["connection"] = "close"
    if shown.should_retry is not None:
        extra["x-should-retry"] = str(shown.should_retry).lower()
    return Response(orjson.dumps(envelope(shown)), status, extra, "application/json")


def shown_status(error: TallyError, budget_status: int) -> int:
    """The status that a client sees; `budget_status` stands for 402."""
    return budget_status if isinstance(error, BudgetExceeded) else error.status


def scrubbed(error: TallyError) -> TallyError:
    """The error as a client may see it: a provider's 401 and 403 are the operator's trouble, and may quote keys."""
    if isinstance(error, UpstreamError) and error.status in {401, 403}:
        return UpstreamError(
            "The provider refused the proxy's credentials; the operator must mend them.",
            status=502,
            code="upstream_auth",
        )
    return error


def envelope(error: TallyError) -> JSON:
    """OpenAI's error object; where a budget was reached, with the limit as `budget`."""
    told: JSON = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    if isinstance(error, BudgetExceeded) and error.budget is not None:
        told["budget"] = dict(error.budget)
    return {"error": told}


def _deeper(value: object, levels: int) -> bool:
    """Whether a JSON value is nested deeper than `levels`: what orjson reads is deeper than what it writes."""
    level = [value]
    for _ in range(levels):
        level = [item for outer in level for item in _items(outer)]
        if not level:
            return False
    return True


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _place(location: tuple[str | int, ...]) -> str:
    place = ""
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif "[" not in part and part != "str":  # pydantic names a union's member too, such as list[dict]
            place += f".{part}" if place else part
    return place
