"""`off`: one call passed through as it is, and still inside the budget. Streams are live."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType

import orjson

from proxy.core.batch import Draw
from proxy.errors import BudgetExceeded, ClientGone, TallyError
from proxy.ledger import Ledger
from proxy.metering import Chunk, Errand, Meter, MeteredCall
from proxy.query import Query
from proxy.types import JSON, Choice
from proxy.upstream import sse
from proxy.upstream.deployment import Deployment
from proxy.upstream.need import Need, Place
from proxy.upstream.routing import Tour
from proxy.upstream.skim import Pattern, pattern
from proxy.upstream.usage import output_bound
from proxy.verdict import Verdict, failed_row, request_row, verdict


def relayable(query: Query) -> bool:
    """Whether a query can be passed through: it is not scaled, and streamed only where its model streams."""
    return query.plan.strategy.name == "off" and (query.route.streams or not query.plan.stream)


def sliceable(query: Query) -> bool:
    """Whether a call too dear to be reserved whole may still be paid slice by slice: nobody knows how long it gets."""
    if query.plan.stream or query.request.get("n"):
        return False
    return any(each.streams and output_bound(each.body(query.request), each) is None for each in query.route.own)


class Relay:
    """Passes calls through. `clock` is monotonic seconds.

    A call that fails goes to another deployment, where there is one, as long as nothing has come of it. None is tried
    twice: clients try again themselves.
    """

    def __init__(self, meter: Meter, ledger: Ledger, *, clock: Callable[[], float]) -> None:
        self._meter = meter
        self._ledger = ledger
        self._clock = clock

    async def complete(self, query: Query) -> tuple[bytes, Verdict]:
        """The upstream's reply, byte for byte unless its model goes by another name here, and the verdict on it."""
        try:
            raw, deployment = await self._completed(query)
            found = self._found(query)
        except (TallyError, asyncio.CancelledError) as error:
            self._failed(query, error)
            raise
        renamed = _renamed(deployment, query)
        if renamed or query.plan.show_tally:
            payload = orjson.loads(raw)
            if renamed:
                _rename(payload, query)
            if query.plan.show_tally:
                payload["tally"] = found.tally()
            raw = orjson.dumps(payload)
        return raw, found

    async def _completed(self, query: Query) -> tuple[bytes, Deployment]:
        tour = self._tour(query)
        while True:
            async with tour.stop() as place, self._call(query, place) as call:
                raw, choices = await call.complete(self._left(query, place.deployment))
                _keep(query, call, choices)
                call.settle()
                query.head = call.assembled.head
                return raw, place.deployment

    async def stream(self, query: Query) -> AsyncGenerator[bytes, None]:
        """The upstream's events as they come. Raises until the first one; after it an error is an event."""
        last = _Last(query)
        try:
            tour, whole = self._tour(query), False
            while not whole:
                async with tour.stop() as place, self._call(query, place) as call:
                    renamed = _renamed(place.deployment, query)
                    async with aclosing(call.payloads(self._left(query, place.deployment))) as chunks:
                        async for chunk in chunks:
                            tour.stay()
                            _keep(query, call, chunk.finished)
                            for event in last.pass_on(chunk, call, renamed=renamed):
                                yield event
                    call.settle()
                    query.cut |= call.was_cut
                    query.head = call.assembled.head
                    whole = True
            found = self._found(query)
        except (TallyError, asyncio.CancelledError, GeneratorExit) as error:
            self._failed(query, error)
            raise
        # from here on nothing that happens to the client changes what is recorded
        for event in last.end(found):
            yield event
        yield sse.END

    def _found(self, query: Query) -> Verdict:
        found = verdict(query, None)
        self._ledger.record(request_row(query.plan, found, self._latency(query)))
        return found

    def _failed(self, query: Query, error: BaseException) -> None:
        """Write a request that failed to the ledger, too."""
        if isinstance(error, BudgetExceeded) and sliceable(query):
            return  # the caller tries again, in slices
        told = error if isinstance(error, TallyError) else ClientGone()
        self._ledger.record(failed_row(query.plan, query.purse, told, self._latency(query)))

    def _tour(self, query: Query) -> Tour:
        def fits(deployment: Deployment) -> bool:
            return query.purse.knows_price(deployment) and (deployment.streams or not query.plan.stream)

        need = Need(query.request, query.request.get("n") or 1, whole=True)
        return Tour(query.route, need, fits=fits, deadline=query.deadline)

    def _call(self, query: Query, place: Place) -> "_Whole":
        return _Whole(self._meter, query, place)

    def _left(self, query: Query, deployment: Deployment) -> float:
        return max(0.001, min(deployment.timeout, query.deadline - self._clock()))

    def _latency(self, query: Query) -> int:
        return int((self._clock() - query.started) * 1000)


class _Whole:
    """The block of a metered call that has room for all of the choices asked for."""

    __slots__ = ("_opening", "_query", "_wanted")

    def __init__(self, meter: Meter, query: Query, place: Place) -> None:
        self._query = query
        self._wanted = place.choices
        self._opening = meter.call(
            query.purse,
            place.deployment,
            _body(query, place.deployment),
            Errand("draw"),
            choices=place.choices,
            deadline=query.deadline,
            taken=place.taken,
        )

    async def __aenter__(self) -> MeteredCall:
        call = await self._opening.__aenter__()
        if call.granted < self._wanted:
            call.settle()
            raise BudgetExceeded("The budget does not hold this request.")
        self._query.rounds = 1
        return call

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opening.__aexit__(kind, error, trace)


class _Last:
    """Keeps back what may be the last chunk, where it must carry the `tally` object, and the usage nobody asked for."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._plan = query.plan
        self._held: list[JSON] = []
        self._head: JSON = {}
        self._alike: Pattern | None = None
        self._told_alike: Pattern | None = None

    def pass_on(self, chunk: Chunk, call: MeteredCall, *, renamed: bool) -> list[bytes]:
        """The events to send now."""
        if chunk.alike is not None:
            event = self._passed_alike(chunk.raw, chunk.alike, renamed=renamed)
            return [*self._released(), event] if self._held else [event]
        payload = _as_chunk(chunk.payload)
        if not chunk.raw:
            payload = _finish(call.assembled.head, chunk.finished)
        usage_only = not payload.get("choices") and "usage" in payload
        if usage_only and not self._plan.include_usage:
            return []
        self._head = call.assembled.head
        told = self._told(payload, renamed=renamed)
        changed = told is not chunk.payload or renamed
        payload = told
        if self._plan.show_tally and (chunk.finished or not payload.get("choices")):
            self._held.append(payload)
            return []
        return [*self._released(), _event(payload) if changed else sse.event(chunk.raw)]

    def _released(self) -> list[bytes]:
        held, self._held = self._held, []
        return list(map(_event, held))

    def _told(self, payload: JSON, *, renamed: bool) -> JSON:
        """A chunk as its client is told it."""
        if "usage" in payload and not self._plan.include_usage:
            payload = {key: value for key, value in payload.items() if key != "usage"}
        if renamed:
            _rename(payload, self._query)
        return payload

    def _passed_alike(self, raw: bytes, alike: Pattern, *, renamed: bool) -> bytes:
        """The event of a chunk that is like others but for its text."""
        if alike is not self._alike:
            told = self._told(alike.payload, renamed=renamed)
            self._told_alike = pattern(orjson.dumps(told), told) if told is not alike.payload or renamed else alike
            self._alike = alike
        if self._told_alike is alike:
            return sse.event(raw)
        text = alike.text(raw)
        if self._told_alike is None or text is None:
            return _event(self._told(orjson.loads(raw), renamed=renamed))
        return sse.event(self._told_alike.put(text))

    def end(self, found: Verdict) -> list[bytes]:
        """What was kept back, the last of it with the `tally` object."""
        if self._plan.show_tally:
            self._held = self._held or [_finish(self._head, [])]
            self._held[-1]["tally"] = found.tally()
        return [_event(payload) for payload in self._held]


def _event(payload: JSON) -> bytes:
    return sse.event(orjson.dumps(payload))


def _body(query: Query, deployment: Deployment) -> JSON:
    body = deployment.body(query.request)
    if body.get("stream"):
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    return body


def _keep(query: Query, call: MeteredCall, choices: Sequence[Choice]) -> None:
    for choice in choices:
        query.keep(Draw(choice.index, query.id), choice.index, call.row_id(choice.index), choice)


def _renamed(deployment: Deployment, query: Query) -> bool:
    return deployment.endpoint.model != query.route.model


def _rename(payload: JSON, query: Query) -> None:
    # an unlisted model's name has its provider before it, a fallback's is another: a client sees what it asked for
    if "model" in payload:
        payload["model"] = query.route.model


def _as_chunk(payload: JSON) -> JSON:
    """The same as a chunk, where a server answered a streamed call in one piece."""
    if not any("message" in choice for choice in payload.get("choices") or ()):
        return payload
    choices = []
    for choice in payload["choices"]:
        delta = dict(choice["message"])
        if delta.get("tool_calls"):
            delta["tool_calls"] = [
                {"index": index, **call} | {"index": index} for index, call in enumerate(delta["tool_calls"])
            ]
        choices.append({**{key: value for key, value in choice.items() if key != "message"}, "delta": delta})
    return {**payload, "object": "chat.completion.chunk", "choices": choices}


def _finish(head: JSON, finished: Sequence[Choice]) -> JSON:
    """The finish chunk of choices that the budget cut, or that their provider ended without a word."""
    choices: list[JSON] = [
        {"index": choice.index, "delta": {}, "finish_reason": choice.finish_reason} for choice in finished
    ]
    return {**head, "object": "chat.completion.chunk", "choices": choices}
