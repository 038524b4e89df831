"""The admin API: keys, teams (tenants) and spend, by LiteLLM's paths and fields, for whoever has the master key.

A key may ask for its own `/key/info` and `/spend/logs`, and for nothing else. Errors have LiteLLM's form here: `code`
is the status as text.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from proxy.api.entry import Door
from proxy.api.wire import error_response, validated
from proxy.auth import Caller
from proxy.errors import NotAllowed, NotAuthenticated, NotFound, RequestInvalid, TallyError
from proxy.ledger.admin import OPERATIONS, Operation
from proxy.ledger.keys import NO_KEY
from proxy.types import JSON

_MOST_BYTES = 256 * 1024
_FIELDS = {"expires_at": "expires", "name": "team_id"}
"""What the ledger and this API call the same thing."""

Administer = Callable[[str, JSON], Awaitable[Any]]
"""Does what a path is for, on the ledger. Raises NotFound, RequestInvalid and LedgerUnavailable."""


class AdminEndpoint:
    """Serves one operation. `log` hears who did it to what."""

    def __init__(self, path: str, door: Door, administer: Administer, log: FilteringBoundLogger) -> None:
        self._operation: Operation = OPERATIONS[path]
        self._door = door
        self._administer = administer
        self._log = log

    @property
    def methods(self) -> list[str]:
        """The one method that it has."""
        return [self._operation.method]

    async def serve(self, request: Request) -> Response:
        """Do it, if the caller may."""
        headers = self._door.headers()
        try:
            caller = await self._door.caller(request)
            self._check_caller(caller)
            entry = self._door.enter(caller)
            headers |= entry.told
            # it asks for nothing that lasts
            entry.leave()
            asked = await self._asked(request, caller)
            told = await self._administer(self._operation.path, asked)
        except TallyError as error:
            return error_response(_in_their_form(error), headers)
        self._note(caller, asked, told, headers["x-request-id"])
        return Response(orjson.dumps(told), 200, headers, "application/json")

    def _note(self, caller: Caller, asked: JSON, told: JSON | list[JSON], request: str) -> None:
        """Log what was done: keys by their public ids, teams by theirs, and never what was said beside."""
        operation = self._operation
        found = told if isinstance(told, dict) else {}
        named = {
            "keys": found.get("deleted_keys") or found.get("token") or asked.get(operation.own or ""),
            "teams": found.get("deleted_teams") or found.get("team_id") or asked.get("team_id"),
        }
        self._log.info(
            "admin",
            request=request,
            by="master" if caller.key is None else caller.key.id,
            method=operation.method,
            path=operation.path,
            **{kind: [names] if isinstance(names, str) else names for kind, names in named.items() if names},
        )

    def _check_caller(self, caller: Caller) -> None:
        if caller.is_master or (self._operation.own is not None and caller.key is not None):
            return
        if caller.key is None:
            # a server on which nobody has a key
            raise NotAuthenticated("There is no master key: the operator sets one in general_settings.master_key.")
        raise NotAllowed("This needs the master key.")

    async def _asked(self, request: Request, caller: Caller) -> JSON:
        """What is asked, as the ledger takes it; of a key that is not the master key only itself."""
        operation = self._operation
        body: JSON = {}
        if operation.method == "GET":
            body = _once(request)
        elif request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
            body = await self._door.body(request, _MOST_BYTES)
        for name, value in request.path_params.items():
            if body.setdefault(name, value) != value:
                raise RequestInvalid(f"{name}: is not the one of the path.", param=name)
        asked = validated(operation.asked, body)
        said = asked.model_dump(mode="json", exclude_unset=True)
        if operation.own is not None:
            await self._check_own(said, operation.own, caller)
        return said

    async def _check_own(self, said: JSON, field: str, caller: Caller) -> None:
        """Put the caller's own key where none is named. Raises NotAllowed for another's key, or all of a team."""
        named = said.get(field)
        if caller.key is None:
            if named is None and field == "key":
                raise RequestInvalid("key: is missing.", param="key")
            if named is not None:
                said[field] = (await self._administer("/key/info", {"key": named}))["key"]
            return
        if said.get("team_id") is not None:
            raise NotAllowed("A key may ask for itself alone; all else needs the master key.")
        if named is not None and named != caller.key.id and not await self._is(named, caller.key.id):
            raise NotAllowed("A key may ask for itself alone; all else needs the master key.")
        said[field] = caller.key.id

    async def _is(self, name: str, key_id: str) -> bool:
        """Whether a key's secret is that of `key_id`; nobody learns of another's key that it is one."""
        try:
            found = await self._administer("/key/info", {"key": name})
        except NotFound:
            return False
        return bool(found["key"] == key_id)


def _once(request: Request) -> JSON:
    """The parameters of the query. Raises RequestInvalid for one that is there twice."""
    found: JSON = {}
    for name, value in request.query_params.multi_items():
        if name in found:
            raise RequestInvalid(f"{name}: is there twice.", param=name)
        found[name] = value
    return found


def _in_their_form(error: TallyError) -> TallyError:
    """The same error with LiteLLM's type and code."""
    if isinstance(error, NotAuthenticated | NotAllowed):
        error.type = "auth_error"
    elif error.code == NO_KEY:
        error.type = "token_not_found_in_db"
    error.code = str(error.status)
    error.param = _FIELDS.get(error.param or "", error.param)
    return error
