"""`GET /v1/models`: what is on offer to the caller."""

import orjson
from starlette.requests import Request
from starlette.responses import Response

from proxy.api.entry import Door
from proxy.api.wire import error_response
from proxy.errors import NotFound, TallyError
from proxy.types import JSON
from proxy.upstream.catalogue import Catalogue


class ModelsEndpoint:
    """Lists models, or tells of one. `created` is when this server started, in seconds since 1970."""

    def __init__(self, door: Door, catalogue: Catalogue, *, created: int) -> None:
        self._door = door
        self._catalogue = catalogue
        self._created = created

    async def serve(self, request: Request) -> Response:
        """Answer for the list, or for the model that the path names."""
        headers = self._door.headers()
        try:
            caller = await self._door.caller(request)
            allowed = caller.tenant.models
            names = [name for name in self._catalogue.names() if allowed is None or name in allowed]
            wanted = request.path_params.get("model")
            if wanted is not None and wanted not in names:
                raise NotFound(f"The model {wanted!r} does not exist.", code="model_not_found", param="model")
        except TallyError as error:
            return error_response(error, headers)
        found = [self._model(name) for name in names]
        body = {"object": "list", "data": found} if wanted is None else self._model(wanted)
        return Response(orjson.dumps(body), 200, headers, "application/json")

    def _model(self, name: str) -> JSON:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "tally"}
