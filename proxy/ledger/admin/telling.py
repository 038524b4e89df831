"""What the admin API tells of a key, of a team and of a line of the ledger; the names are LiteLLM's.

Money is in US dollars, times are in ISO 8601, UTC.
"""

import json
from datetime import UTC, datetime

from proxy.config.limits import dollars, shown
from proxy.ledger.counters import Standing
from proxy.types import JSON, Key, Tenant

_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def told_key(key: Key, standing: Standing) -> JSON:
    """A key without its secret; `token` is its public id."""
    return {
        "token": key.id,
        "key_name": f"sk-...{key.hint}",
        "key_alias": key.alias,
        "team_id": key.tenant,
        **shown(key),
        **_spend(standing),
        "models": list(key.models or ()),
        "expires": moment(key.expires_at),
        "created_at": moment(key.created_at),
        "revoked_at": moment(key.revoked_at),
        "metadata": _read(key.metadata),
        "managed": key.managed,
    }


def told_team(tenant: Tenant, standing: Standing) -> JSON:
    """A tenant, whose name is `team_id`."""
    return {
        "team_id": tenant.name,
        "team_alias": tenant.alias,
        **shown(tenant),
        **_spend(standing),
        "models": list(tenant.models or ()),
        "answer": None if tenant.answer is None else tenant.answer.kind,
        "scale_fraction": tenant.scale_fraction,
        "shadow": tenant.shadow,
        "store_samples": tenant.store_samples,
        "store_samples_days": tenant.store_samples_days,
        "metadata": _read(tenant.metadata),
        "managed": tenant.managed,
    }


def told_draw(row: JSON) -> JSON:
    """One line of the ledger: a draw, a retry or a judge's call."""
    begun = row["settled_at"] - row["latency_ms"] / 1000
    return {
        "request_id": row["request"],
        "api_key": row["key"],
        "team_id": row["tenant"],
        "call_type": row["purpose"],
        "model": row["model"],
        "model_group": row["asked"],
        "spend": dollars(row["cost_nano"]),
        "total_tokens": row["prompt_tokens"] + row["completion_tokens"],
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"],
        "startTime": moment(begun),
        "endTime": moment(row["settled_at"]),
        "status": row["status"],
        "attempt": row["attempt"],
        "round": row["round"],
        "deployment": row["deployment"],
        "strategy": row["strategy"],
        "cached_tokens": row["cached_tokens"],
        "reasoning_tokens": row["reasoning_tokens"],
        "estimated": bool(row["estimated"]),
    }


def moment(seconds: float | None) -> str | None:
    """A time, given in seconds since 1970; None for one that no calendar has."""
    if seconds is None or seconds > _LATEST:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _spend(standing: Standing) -> JSON:
    """`spend` and `budget_reset_at` are those of the first window, `windows` all of them."""
    windows: list[JSON] = [
        {
            "budget_duration": window.budget.duration,
            "spend": dollars(window.spent.nano),
            "tokens": window.spent.tokens,
            "samples": window.spent.samples,
            "budget_reset_at": moment(window.end),
        }
        for window in standing.windows
    ]
    return {
        "spend": windows[0]["spend"],
        "budget_reset_at": windows[0]["budget_reset_at"],
        "total_spend": dollars(standing.spent.nano),
        "reserved": dollars(standing.reserved.nano),
        "windows": windows,
    }


def _read(metadata: str | None) -> JSON:
    found: JSON = {} if metadata is None else json.loads(metadata)
    return found
