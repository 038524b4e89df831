"""What is served is what the OpenAPI document says, and what OpenAI's own says of chats, whatever is sent.

Cases are drawn by schemathesis, from both documents, right ones and wrong ones. `TALLY_SCHEMA_CASES` says how many in
all; the default keeps the tests quick.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi import checks
from starlette.routing import Route

from proxy import __version__
from proxy.api.openapi import document
from proxy.app import Tally
from proxy.config import parse_config
from proxy.types import JSON
from tests.fake_upstream import Call, Fault, InOrder, Plain, Reply
from tests.served import KEY, MASTER_KEY, RATES, configuration
from tests.staged import ASK, Stage, staged

CASES = int(os.environ.get("TALLY_SCHEMA_CASES", "200"))
CHATS: JSON = json.loads((Path(__file__).parent / "schemas" / "openai-chat.json").read_text())
SCHEMAS = "#/components/schemas/"

PARTS = {
    "/v1/chat/completions": 6,
    "/v1/completions": 4,
    "/v1/responses": 4,
    "/v1/embeddings": 2,
    "/v1/moderations": 2,
    "/v1/rerank": 2,
    "/v1/feedback": 2,
    "/v1/models/{model}": 1,
    "/v1/models": 0,
    "/key/generate": 2,
    "/key/info": 1,
    "/key/list": 1,
    "/key/update": 1,
    "/key/delete": 1,
    "/key/block": 1,
    "/key/unblock": 1,
    "/key/{key}/regenerate": 1,
    "/team/new": 2,
    "/team/info": 1,
    "/team/list": 0,
    "/team/update": 1,
    "/team/delete": 1,
    "/team/block": 1,
    "/team/unblock": 1,
    "/spend/logs": 1,
    "/global/spend": 0,
    "/health/liveliness": 0,
    "/health/liveness": 0,
    "/health/readiness": 0,
    "/metrics": 0,
}
"""What is served, and how many parts of the cases it gets, for right ones and as many for wrong ones."""

CHAT_PARTS = 3
"""What OpenAI's chats get of each strategy."""

ALL = 2 * (sum(PARTS.values()) + 3 * CHAT_PARTS)
PREFIX = "/{strategy}"
UNTOLD = {"/openapi.json", "/v1/responses/{rest:path}"}
"""What is served and not told: the document itself, and what refuses whatever is asked."""

ADMIN = ("/key/", "/team/", "/spend/", "/global/")
NAMING = {path for path in PARTS if path.startswith(ADMIN)} - {"/key/generate", "/key/list", "/team/new"}
UNKNOWN = {"/v1/feedback", "/v1/models/{model}"} | NAMING
"""Where a good guess finds nothing: no drawn id is one that was given out."""

MODES = pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)


def says(call: Call) -> Reply | Plain | Fault:
    """Samples that differ; and of what generates nothing as much as was asked for, where that can be told."""
    if call.path.endswith("/chat/completions"):
        return contents(call)
    fields = ("query", str), ("documents", list)
    if call.path.endswith("/rerank") and not all(isinstance(call.body.get(name), kind) for name, kind in fields):
        return Fault(422, "A query and documents are wanted.", "invalid_request_error", None)
    return Plain([{"embedding": [0.5, 0.25]}])


contents = InOrder(["42", "41", '{"a": 1}', "The answer is B.", "I do not know."])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    scaling = {"samples": 3, "max_samples": 4, "batch_window_ms": 1, "deadline_s": 20}
    names = ["omni-moderation-latest"]
    folder = tmp_path_factory.mktemp("openapi")
    with staged(folder, aliases=names, scaling=scaling, tenant={"max_samples": 5}) as made:
        made.says(says)
        yield made


def test_the_document_is_openapi_3_1_and_anybody_may_read_it(stage: Stage) -> None:
    response = stage.get("/openapi.json", key=None)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    told = response.json()
    assert told == document(402)
    assert (told["openapi"], told["info"]["version"]) == ("3.1.0", __version__)


def test_every_reference_in_the_document_leads_to_something() -> None:
    told = document()
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(told))):
        found = told
        for name in reference.split("/"):
            found = found[name]
        assert found


def test_every_schema_in_the_document_is_a_json_schema() -> None:
    told = document()
    for name in told["components"]["schemas"]:
        jsonschema_rs.validator_for({"$ref": SCHEMAS + name, "components": told["components"]})


async def routes(folder: Path) -> dict[str, set[str]]:
    """The methods of every path of the running application, but for HEAD."""
    app = Tally(parse_config(configuration("http://127.0.0.1:9/v1", folder), "test", {}), environ={}).application()
    found: dict[str, set[str]] = {}
    async with app.router.lifespan_context(app):
        for route in app.routes:
            assert isinstance(route, Route)
            found.setdefault(route.path, set()).update((route.methods or set()) - {"HEAD"})
    return found


@pytest.mark.anyio
async def test_the_document_tells_of_every_path_that_is_served(tmp_path: Path) -> None:
    served = await routes(tmp_path)
    plain = {path: methods for path, methods in served.items() if not path.startswith(PREFIX)}
    assert plain.keys() >= UNTOLD
    told = {
        path: {method.upper() for method in operations if method != "servers"}
        for path, operations in document()["paths"].items()
    }
    assert {path.replace(":path}", "}"): plain[path] for path in plain.keys() - UNTOLD} == told
    watched = {path for path, operations in document()["paths"].items() if "servers" in operations}
    assert served.keys() - plain.keys() == {PREFIX + path for path in plain.keys() - watched - {"/openapi.json"}}
    assert told.keys() == PARTS.keys()


def test_a_status_of_its_own_for_a_spent_budget_is_told() -> None:
    responses = document(429)["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert "402" not in responses
    assert "budget" in document(429)["components"]["responses"]["429"]["description"]
    assert document(422)["components"]["responses"].keys() == document(429)["components"]["responses"].keys()


def known(told: Any) -> Any:
    """A document whose models are the stage's, so that cases get further than to be told that there is no such one."""
    if isinstance(told, list):
        return [known(item) for item in told]
    if not isinstance(told, dict):
        return told
    # the ledger tells the model that was called, by its provider's name
    made = {name: item if name == "Spends" else known(item) for name, item in told.items()}
    if "type" in made.get("model", {}) or "$ref" in made.get("model", {}):
        made["model"] = {"enum": ["small"]}
    return made


class Cases:
    """Sends cases to a stage, and checks what comes back by the document `told`, whose server is at `prefix`."""

    def __init__(self, stage: Stage, told: JSON, prefix: str = "") -> None:
        self._stage = stage
        self._told = told
        self._base = f"{stage.tally.url}{prefix}"
        self._schema = schemathesis.openapi.from_dict(known(told))
        self.statuses: Counter[int] = Counter()

    def explore(self, path: str, method: str, mode: GenerationMode, cases: int) -> None:
        """Check so many cases of one operation."""

        @settings(
            max_examples=max(1, cases),
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
            phases=[Phase.generate],
        )
        @given(self._schema[path][method].as_strategy(generation_mode=mode))
        def each(case: Case[Any]) -> None:
            self._check(case, self._told["paths"][path][method]["responses"])

        each()

    def _check(self, case: Case[Any], responses: JSON) -> None:
        before = len(self._stage.upstream.calls)
        response = case.call(base_url=self._base, headers={"authorization": f"Bearer {_key(case.path)}"})
        self.statuses[response.status_code] += 1
        assert response.status_code < 500, response.text
        streamed = response.headers["content-type"][0].startswith("text/event-stream")
        case.validate_response(response, checks=[*STATUS, *([] if streamed else BODY)])
        if streamed:
            self._check_stream(response.text, responses["200"]["content"]["text/event-stream"]["schema"])
        if response.status_code >= 400:
            assert not any(call.billed for call in self._stage.upstream.calls[before:])

    def _check_stream(self, text: str, schema: JSON) -> None:
        validator = jsonschema_rs.validator_for({**schema, "components": self._told["components"]})
        data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
        assert data[:-1]
        if schema["$ref"] != f"{SCHEMAS}ResponseEvent":
            assert data.pop() == "[DONE]"
        for each in data:
            validator.validate(json.loads(each))


def _key(path: str) -> str:
    return MASTER_KEY if path.startswith(ADMIN) else KEY


STATUS = (
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
)
BODY = (checks.response_schema_conformance,)


@MODES
@pytest.mark.parametrize("path", [path for path, parts in PARTS.items() if parts])
def test_whatever_is_sent_the_reply_is_as_the_document_says(stage: Stage, path: str, mode: GenerationMode) -> None:
    cases = Cases(stage, document())
    (method,) = document()["paths"][path].keys() - {"servers"}
    cases.explore(path, method, mode, CASES * PARTS[path] // ALL)
    if mode is GenerationMode.POSITIVE and path not in UNKNOWN:
        assert cases.statuses[200]


@pytest.mark.parametrize("path", [path for path, parts in PARTS.items() if not parts])
def test_what_takes_nothing_is_answered_as_the_document_says(stage: Stage, path: str) -> None:
    cases = Cases(stage, document())
    cases.explore(path, "get", GenerationMode.POSITIVE, 1)
    assert cases.statuses == {200: 1}


@MODES
@pytest.mark.parametrize("strategy", ["off", "self_consistency", "adaptive"])
def test_whatever_openais_document_lets_a_client_send_the_reply_is_as_it_says(
    stage: Stage, strategy: str, mode: GenerationMode
) -> None:
    cases = Cases(stage, CHATS, f"/{strategy}/v1")
    cases.explore("/chat/completions", "post", mode, CASES * CHAT_PARTS // ALL)
    if mode is GenerationMode.POSITIVE:
        assert cases.statuses[200]


def test_what_the_provider_does_not_tell_is_left_out_where_openai_knows_no_null(stage: Stage) -> None:
    stage.says(Reply(system_fingerprint=None))
    try:
        whole = stage.post({"model": "small", "messages": ASK}).json()
        parts = [json.loads(each) for each in stage.events()[:-1]]
    finally:
        stage.says(says)
    for name, seen in (("CreateChatCompletionResponse", [whole]), ("CreateChatCompletionStreamResponse", parts)):
        validator = jsonschema_rs.validator_for({"$ref": SCHEMAS + name, "components": CHATS["components"]})
        for each in seen:
            validator.validate(each)


def test_after_all_of_that_what_was_served_is_paid_and_nothing_else(stage: Stage) -> None:
    assert stage.ask().choices
    stage.upstream.wait(lambda: not stage.tally.balance().reserved.nano)
    balance = stage.tally.balance()
    assert balance.ok
    assert balance.spent.nano >= stage.upstream.meter.cost_nano(RATES)
