"""What may be asked of the admin API; the names are LiteLLM's, and a field that is not here is refused by its name."""

import json
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from proxy.config.limits import LimitsConfig, seconds
from proxy.config.models import TenantOptions
from proxy.types import JSON

_MOST_METADATA = 16_384
_MOST_NAMED = 1000
_MOST_LINES = 10_000
NEVER = "-1"
"""A `duration` that never ends, as LiteLLM has it."""


def _length(text: str) -> str:
    if text != NEVER:
        seconds(text)
    return text


def _small(metadata: JSON | None) -> JSON | None:
    if metadata is not None and len(json.dumps(metadata)) > _MOST_METADATA:
        raise ValueError(f"is more than {_MOST_METADATA} characters of JSON")
    return metadata


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable characters")
    return text


Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_printable)]
Length = Annotated[str, AfterValidator(_length)]
Metadata = Annotated[dict[str, Any], AfterValidator(_small)]


class Asked(BaseModel):
    """A body, or the parameters of a query."""

    # built when the first of its kind is asked: a server starts without
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)


class _Unlisted(LimitsConfig):
    """Limits where no models means all of them, as LiteLLM has it."""

    @field_validator("models")
    @classmethod
    def _all(cls, models: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return models or None


class _KeyFields(_Unlisted):
    """What is said of a key."""

    key_alias: Name | None = Field(default=None, description="what people call it")
    duration: Length | None = Field(default=None, description="how long it is good, as in 30d; -1: for ever")
    expires: datetime | None = Field(default=None, description="from when on it is worthless")
    metadata: Metadata | None = Field(default=None, description="kept as it is, and told again")

    @model_validator(mode="after")
    def _one_end(self) -> "_KeyFields":
        if self.duration is not None and self.expires is not None:
            raise ValueError("duration and expires say the same thing: give one of them")
        return self

    def told(self, now: float) -> dict[str, Any]:
        """What is said here, by the names of `Key`; what is not said is not there."""
        found = self.changes()
        given = self.model_fields_set
        if "key_alias" in given:
            found["alias"] = self.key_alias
        if "metadata" in given:
            found["metadata"] = written(self.metadata)
        if given & {"duration", "expires"}:
            found["expires_at"] = self._ends(now)
        return found

    def _ends(self, now: float) -> float | None:
        if self.duration not in (None, NEVER):
            return now + seconds(self.duration or "")
        if self.expires is None:
            return None
        moment = self.expires
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class KeyNew(_KeyFields):
    """A key to be made. Without `team_id` it is one of the team `default`."""

    team_id: Name | None = None


class KeyChange(_KeyFields):
    """What is to change of a key; null takes a limit away."""

    key: Name


class KeyNamed(Asked):
    """A key, by its secret or by its public id."""

    key: Name


class KeyAsked(Asked):
    """A key, by its secret or by its public id; none named: the caller's own."""

    key: Name | None = None


class KeyRenewed(Asked):
    """A key that is to have a new secret; its name stands in the path."""

    key: Name | None = None
    grace_period: Length | None = Field(default=None, description="how long the old secret stays good, as in 1h")

    @field_validator("grace_period")
    @classmethod
    def _ending(cls, text: str | None) -> str | None:
        if text == NEVER:
            raise ValueError("must come to an end")
        return text


class KeysListed(Asked):
    """Which keys are to be listed, and which page of them."""

    team_id: Name | None = None
    key_alias: Name | None = None
    page: Annotated[int, Field(ge=1, le=10**9)] = 1
    size: Annotated[int, Field(ge=1, le=100)] = 10
    return_full_object: bool = False


class KeysGone(Asked):
    """Keys to be deleted, by secrets, public ids, or aliases; `team_id` says whose aliases."""

    keys: Annotated[tuple[Name, ...], Field(max_length=_MOST_NAMED)] = ()
    key_aliases: Annotated[tuple[Name, ...], Field(max_length=_MOST_NAMED)] = ()
    team_id: Name | None = Field(default=None, description="the team of the keys that key_aliases name")

    @model_validator(mode="after")
    def _some(self) -> "KeysGone":
        if not self.keys and not self.key_aliases:
            raise ValueError("keys or key_aliases must name some")
        if self.team_id is not None and not self.key_aliases:
            raise ValueError("team_id says whose the key_aliases are, and there are none")
        return self


class _TeamFields(_Unlisted, TenantOptions):
    """What is said of a team, which is a tenant."""

    team_alias: Name | None = Field(default=None, description="what people call it")
    metadata: Metadata | None = Field(default=None, description="kept as it is, and told again")

    def told(self) -> dict[str, Any]:
        """What is said here, by the names of `Tenant`; what is not said is not there."""
        found = self.changes()
        if "team_alias" in self.model_fields_set:
            found["alias"] = self.team_alias
        if "metadata" in self.model_fields_set:
            found["metadata"] = written(self.metadata)
        return found


class TeamNew(_TeamFields):
    """A team to be made. `team_id` is the tenant's name; one is made up where none is given."""

    team_id: Name | None = None


class TeamChange(_TeamFields):
    """What is to change of a team; null takes a limit away."""

    team_id: Name


class TeamNamed(Asked):
    """A team, by its id."""

    team_id: Name


class TeamsGone(Asked):
    """Teams to be deleted."""

    team_ids: Annotated[tuple[Name, ...], Field(min_length=1, max_length=_MOST_NAMED)]


class SpendAsked(Asked):
    """Which lines of the ledger are wanted. Days are in UTC, the last one included."""

    api_key: Name | None = Field(default=None, description="a key, by its secret or by its public id")
    team_id: Name | None = None
    request_id: Name | None = None
    start_date: date | None = None
    end_date: date | None = None
    summarize: bool = Field(default=True, description="with both dates: what each day took, instead of lines")
    limit: Annotated[int, Field(ge=1, le=_MOST_LINES)] = Field(default=1000, description="how many lines, latest first")

    @field_validator("end_date")
    @classmethod
    def _forward(cls, end: date | None, others: ValidationInfo) -> date | None:
        start = others.data.get("start_date")
        if start is not None and end is not None and end < start:
            raise ValueError("is before start_date")
        return end


class Nothing(Asked):
    """Nothing may be said."""


def written(metadata: JSON | None) -> str | None:
    """Metadata as it is kept."""
    return None if metadata is None else json.dumps(metadata, sort_keys=True, separators=(",", ":"))
