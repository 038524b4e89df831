"""JSON schemas of what is answered, for the served OpenAPI document. Whatever else a provider says passes through.

Money is in US dollars, as the replies have it; tokens and samples are counts.
"""

from typing import Any, get_args

from proxy.types import JSON, STRATEGIES, Degraded

_DEGRADED = get_args(Degraded)

RATE_HEADERS = tuple(
    f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")
)
"""Headers that say what is left of `rpm_limit` and `tpm_limit`, where there are such limits."""

ERROR_HEADERS = ("x-request-id", "retry-after", "x-should-retry", *RATE_HEADERS)
"""Headers that an error may have."""

TALLY_HEADERS = (
    "x-request-id",
    "x-tally-strategy",
    "x-tally-reason",
    "x-tally-samples",
    "x-tally-confidence",
    "x-tally-low-confidence",
    "x-tally-degraded",
    "x-tally-cost-usd",
    *RATE_HEADERS,
)
"""Headers that an answer may have."""


def headers() -> JSON:
    """The schema of each header."""
    special: JSON = {
        "x-request-id": _text(pattern="^req_"),
        "retry-after": _text(pattern="^[0-9]+$"),
        "x-should-retry": _one_of("true", "false"),
        "x-tally-strategy": _one_of(*STRATEGIES),
        "x-tally-samples": _text(pattern="^[0-9]+$"),
        "x-tally-low-confidence": _one_of("true"),
        "x-tally-degraded": _one_of(*_DEGRADED),
        "x-tally-cost-usd": _text(pattern="^[0-9]+([.][0-9]+)?$"),
        "x-tally-confidence": _text(pattern="^[01][.][0-9]{4}$"),
        **{name: _text(pattern="^([0-9]+|[0-9.]+(ms|s)|[0-9]+m[0-9]+s)$") for name in RATE_HEADERS},
    }
    return {
        name: special.get(name, _text()) for name in {**dict.fromkeys(TALLY_HEADERS), **dict.fromkeys(ERROR_HEADERS)}
    }


def schemas() -> JSON:
    """The schema of each body, by name."""
    return {
        "Error": _object(
            error=_object(
                ["message", "type", "param", "code"],
                message=_text(),
                type=_text(),
                param=_or_null(_text()),
                code=_or_null(_text()),
                budget={"type": "object", "description": "The limit that was reached, where a budget was."},
            ),
        ),
        "Tally": _tally(),
        "ChatCompletion": _completion("chat.completion", message={"type": "object"}),
        "ChatCompletionChunk": _completion("chat.completion.chunk", delta={"type": "object"}),
        "TextCompletion": _completion("text_completion", text=_text()),
        "ModelResponse": _object(
            ["id", "object", "created_at", "status", "model", "output"],
            id=_text(),
            object=_one_of("response"),
            created_at={"type": "number"},
            status=_one_of("completed", "incomplete", "failed", "in_progress"),
            model=_text(),
            output=_list(_object(type=_text())),
            tally=_tally_of(),
        ),
        "ResponseEvent": _object(type=_text(), sequence_number=_count()),
        "PassedReply": {"type": "object", "description": "The provider's own reply."},
        "Model": _model(),
        "ModelList": _object(object=_one_of("list"), data=_list(_model())),
        "FeedbackReply": _object(id=_text(), object=_one_of("feedback"), correct={"type": "boolean"}),
        "Readiness": _object(["status"], status=_one_of("ready", "unavailable"), db=_text(), reason=_text()),
        **_administration(),
    }


def _administration() -> JSON:
    """What the admin API answers; money in US dollars, times in ISO 8601."""
    key: JSON = {
        **{name: _text() for name in ("token", "key_name", "team_id")},
        **{name: _or_null(_text()) for name in ("key_alias", "expires", "created_at", "revoked_at")},
        **_limits(),
    }
    team: JSON = {"team_id": _text(), "team_alias": _or_null(_text()), **_limits()}
    team |= {"answer": _or_null(_text()), "scale_fraction": _or_null(_share()), "shadow": {"type": "boolean"}}
    team |= {"store_samples": {"type": "boolean"}, "store_samples_days": _count()}
    ids, ref = _list(_text()), "#/components/schemas/"
    return {
        "ManagedKey": _object(**key),
        "NewKey": _object(key=_text(description="The secret, this one time."), **key),
        "KeyInfo": _object(key=_text(), info={"$ref": f"{ref}ManagedKey"}),
        "KeyPage": _object(
            keys=_list({"anyOf": [_text(), {"$ref": f"{ref}ManagedKey"}]}),
            total_count=_count(),
            current_page=_count(),
            total_pages=_count(),
        ),
        "DeletedKeys": _object(deleted_keys=ids),
        "Team": _object(**team),
        "TeamInfo": _object(
            team_id=_text(), team_info={"$ref": f"{ref}Team"}, keys=_list({"$ref": f"{ref}ManagedKey"})
        ),
        "TeamList": _list({"$ref": f"{ref}Team"}),
        "ChangedTeam": _object(team_id=_text(), data={"$ref": f"{ref}Team"}),
        "DeletedTeams": _object(deleted_teams=ids),
        "Spends": _list({"anyOf": [_spend_line(), _spend_day()]}),
        "TotalSpend": _object(spend=_usd(), max_budget={"type": "null"}),
    }


def _limits() -> JSON:
    numbers = ("token_budget", "sample_budget", "rpm_limit", "tpm_limit", "max_parallel_requests")
    window = {"budget_duration": _or_null(_text())}
    limited: JSON = {"max_budget": _or_null(_usd()), **{name: _or_null(_count()) for name in numbers[:2]}}
    used: JSON = {"spend": _usd(), "tokens": _count(), "samples": _count(), "budget_reset_at": _or_null(_text())}
    return {
        **window,
        **limited,
        **{name: _or_null(_count()) for name in (*numbers[2:], "max_samples", "max_rounds")},
        **{name: _or_null(_usd()) for name in ("soft_budget", "max_cost_usd")},
        "budgets": _list(_object(**window, **limited)),
        "models": _list(_text()),
        "strategies": _or_null(_list(_one_of(*STRATEGIES))),
        "strategy": _or_null(_one_of(*STRATEGIES)),
        "scale_until": _one_of("hard", "soft"),
        "on_exhausted": _one_of("single", "refuse"),
        "blocked": {"type": "boolean"},
        "spend": _usd(),
        "total_spend": _usd(),
        "reserved": _usd(),
        "budget_reset_at": _or_null(_text()),
        "windows": _list(_object(**window, **used)),
        "metadata": {"type": "object"},
        "managed": {"type": "boolean"},
    }


def _spend_line() -> JSON:
    texts = ("request_id", "team_id", "call_type", "model", "startTime", "endTime", "status", "attempt", "deployment")
    maybe = ("api_key", "model_group", "strategy")
    counts = ("total_tokens", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "round")
    return _object(
        **{name: _text() for name in texts},
        **{name: _or_null(_text()) for name in maybe},
        **{name: _count() for name in counts},
        spend=_usd(),
        estimated={"type": "boolean"},
    )


def _spend_day() -> JSON:
    shares = {"type": "object", "additionalProperties": _usd()}
    return _object(startTime=_text(), spend=_usd(), models=shares, api_keys=shares, teams=shares)


def _usd() -> JSON:
    return {"type": "number", "minimum": 0}


def _tally_of() -> JSON:
    return {"$ref": "#/components/schemas/Tally"}


def _tally() -> JSON:
    always: JSON = {
        "strategy": _one_of(*STRATEGIES),
        "samples": _count(),
        "abstained": _count(),
        "rounds": _count(),
        "votes": _list(_object(answer=_text(), count={"type": "number"})),
        "answer": _or_null(_text()),
        "confidence": _or_null(_share()),
        "chance_right": _or_null(_share()),
        "winner": _count(),
        "first_answer": _or_null(_text()),
        "cost_usd": {"type": "number", "minimum": 0},
        "paid": _object(prompt_tokens=_count(), completion_tokens=_count(), estimated={"type": "boolean"}),
        "reason": _or_null(_text()),
    }
    sometimes: JSON = {
        "reused": _count(),
        "low_confidence": {"type": "boolean"},
        "degraded": _one_of(*_DEGRADED),
        "winners": _list(_count()),
        "composed": {"type": "boolean"},
        "picked": _one_of("none", "central", "universal"),
        "draws": _list(
            _object(
                answer=_or_null(_text()),
                tokens=_count(),
                score=_or_null({"type": "number"}),
                finish_reason=_or_null(_text()),
                conditioned={"type": "boolean"},
            )
        ),
    }
    return _object(list(always), **always, **sometimes)


def _completion(kind: str, **said: JSON) -> JSON:
    choice = _object(["index", "finish_reason", *said], index=_count(), finish_reason=_or_null(_text()), **said)
    return _object(
        ["id", "object", "created", "model", "choices"],
        id=_text(),
        object=_one_of(kind),
        created={"type": "integer"},
        model=_text(),
        choices=_list(choice),
        usage=_or_null(_object(prompt_tokens=_count(), completion_tokens=_count(), total_tokens=_count())),
        tally=_tally_of(),
    )


def _model() -> JSON:
    return _object(id=_text(), object=_one_of("model"), created={"type": "integer"}, owned_by=_text())


def _object(required: list[str] | None = None, /, **properties: JSON) -> JSON:
    """An object with these properties, all of them required unless it is said which are."""
    named = list(properties) if required is None else required
    return {"type": "object", "required": named, "properties": properties}


def _list(item: JSON) -> JSON:
    return {"type": "array", "items": item}


def _one_of(*values: str) -> JSON:
    return {"type": "string", "enum": list(values)}


def _or_null(schema: JSON) -> JSON:
    return {"anyOf": [schema, {"type": "null"}]}


def _text(**more: Any) -> JSON:  # noqa: ANN401 - any JSON value
    return {"type": "string", **more}


def _count() -> JSON:
    return {"type": "integer", "minimum": 0}


def _share() -> JSON:
    return {"type": "number", "minimum": 0, "maximum": 1}
