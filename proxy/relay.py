"""`off`: one call passed through as it is, and still inside the budget. Streams are live."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import orjson

from proxy.core.batch import Draw
from proxy.errors import BudgetExceeded, ClientGone, TallyError, UpstreamTimeout
from proxy.ledger import Ledger
from proxy.metering import Chunk, Errand, Meter, MeteredCall
from proxy.query import Query
from proxy.types import JSON, Choice
from proxy.upstream import sse
from proxy.upstream.deployment import Deployment
from proxy.upstream.usage import output_bound
from proxy.verdict import Verdict, failed_row, request_row, verdict


def relayable(query: Query) -> bool:
    """Whether a query can be passed through: it is not scaled, and streamed only where its deployment streams."""
    return query.plan.strategy.name == "off" and (query.deployment.streams or not query.plan.stream)


def sliceable(query: Query) -> bool:
    """Whether a call too dear to be reserved whole may still be paid slice by slice: nobody knows how long it gets."""
    plain = not query.plan.stream and not query.request.get("n")
    return plain and query.deployment.streams and output_bound(query.request, query.deployment) is None


class Relay:
    """Passes calls through. `clock` is monotonic seconds."""

    def __init__(self, meter: Meter, ledger: Ledger, *, clock: Callable[[], float]) -> None:
        self._meter = meter
        self._ledger = ledger
        self._clock = clock

    async def complete(self, query: Query) -> tuple[bytes, Verdict]:
        """The upstream's reply, byte for byte unless its model goes by another name here, and the verdict on it."""
        body = query.deployment.body(query.request)
        async with self._recorded(query), self._call(query, body) as call:
            raw, choices = await call.complete(self._left(query))
            for choice in choices:
                query.keep(Draw(choice.index, query.id), choice.index, call.row_id(choice.index), choice)
            call.settle()
            query.head = call.assembled.head
            found = self._found(query)
        if _renamed(query.deployment) or query.plan.show_tally:
            payload = orjson.loads(raw)
            _rename(payload, query.deployment)
            if query.plan.show_tally:
                payload["tally"] = found.tally()
            raw = orjson.dumps(payload)
        return raw, found

    async def stream(self, query: Query) -> AsyncGenerator[bytes, None]:
        """The upstream's events as they come. Raises until the first one; after it an error is an event."""
        body = query.deployment.body(query.request)
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        last = _Last(query)
        async with self._recorded(query), self._call(query, body) as call:
            async with aclosing(call.payloads(self._left(query))) as chunks:
                async for chunk in chunks:
                    for choice in chunk.finished:
                        query.keep(Draw(choice.index, query.id), choice.index, call.row_id(choice.index), choice)
                    for event in last.pass_on(chunk, call):
                        yield event
            call.settle()
            query.head = call.assembled.head
            found = self._found(query)
        # from here on nothing that happens to the client changes what is recorded
        for event in last.end(found):
            yield event
        yield sse.END

    def _found(self, query: Query) -> Verdict:
        found = verdict(query, None)
        self._ledger.record(request_row(query.plan, found, self._latency(query)))
        return found

    @asynccontextmanager
    async def _recorded(self, query: Query) -> AsyncIterator[None]:
        """Write the request to the ledger where it fails, too."""
        try:
            yield
        except TallyError as error:
            if isinstance(error, BudgetExceeded) and sliceable(query):
                raise  # the caller tries again, in slices
            self._ledger.record(failed_row(query.plan, query.purse, error, self._latency(query)))
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self._ledger.record(failed_row(query.plan, query.purse, ClientGone(), self._latency(query)))
            raise

    @asynccontextmanager
    async def _call(self, query: Query, body: JSON) -> AsyncIterator[MeteredCall]:
        choices = query.request.get("n") or 1
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._left(query)):
                    await stack.enter_async_context(query.deployment.slot())
            except TimeoutError:
                raise UpstreamTimeout("the provider had no place for this call in time", sent=False) from None
            call = await stack.enter_async_context(
                self._meter.call(
                    query.purse, query.deployment, body, Errand("draw"), choices=choices, deadline=query.deadline
                )
            )
            if call.granted < choices:
                raise BudgetExceeded("The budget does not hold this request.")
            query.rounds = 1
            yield call

    def _left(self, query: Query) -> float:
        return max(0.001, min(query.deployment.timeout, query.deadline - self._clock()))

    def _latency(self, query: Query) -> int:
        return int((self._clock() - query.started) * 1000)


class _Last:
    """Keeps back what may be the last chunk, where it must carry the `tally` object, and the usage nobody asked for."""

    def __init__(self, query: Query) -> None:
        self._plan = query.plan
        self._deployment = query.deployment
        self._renamed = _renamed(query.deployment)
        self._held: list[JSON] = []
        self._head: JSON = {}

    def pass_on(self, chunk: Chunk, call: MeteredCall) -> list[bytes]:
        """The events to send now."""
        payload = _as_chunk(chunk.payload)
        if not chunk.raw:
            payload = _finish(call.assembled.head, chunk.finished)
        usage_only = not payload.get("choices") and "usage" in payload
        if usage_only and not self._plan.include_usage:
            return []
        self._head = call.assembled.head
        changed = payload is not chunk.payload or self._renamed
        if "usage" in payload and not self._plan.include_usage:
            payload = {key: value for key, value in payload.items() if key != "usage"}
            changed = True
        if self._renamed:
            _rename(payload, self._deployment)
        if self._plan.show_tally and (chunk.finished or not payload.get("choices")):
            self._held.append(payload)
            return []
        held, self._held = self._held, []
        return [*map(_event, held), _event(payload) if changed else sse.event(chunk.raw)]

    def end(self, found: Verdict) -> list[bytes]:
        """What was kept back, the last of it with the `tally` object."""
        if self._plan.show_tally:
            self._held = self._held or [_finish(self._head, [])]
            self._held[-1]["tally"] = found.tally()
        return [_event(payload) for payload in self._held]


def _event(payload: JSON) -> bytes:
    return sse.event(orjson.dumps(payload))


def _renamed(deployment: Deployment) -> bool:
    return deployment.endpoint.model != deployment.model_name


def _rename(payload: JSON, deployment: Deployment) -> None:
    # an unlisted model's name has its provider before it: what the provider calls itself stays
    if "model" in payload and _renamed(deployment):
        payload["model"] = deployment.model_name


def _as_chunk(payload: JSON) -> JSON:
    """The same as a chunk, where a server answered a streamed call in one piece."""
    if not any("message" in choice for choice in payload.get("choices") or ()):
        return payload
    choices = []
    for choice in payload["choices"]:
        delta = dict(choice["message"])
        if delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(delta["tool_calls"])]
        choices.append({**{key: value for key, value in choice.items() if key != "message"}, "delta": delta})
    return {**payload, "object": "chat.completion.chunk", "choices": choices}


def _finish(head: JSON, finished: Sequence[Choice]) -> JSON:
    """The finish chunk of choices that the budget cut, or that their provider ended without a word."""
    choices: list[JSON] = [
        {"index": choice.index, "delta": {}, "finish_reason": choice.finish_reason} for choice in finished
    ]
    return {**head, "object": "chat.completion.chunk", "choices": choices}
