"""A provider with an API of its own on a loopback socket: it keeps what it was sent, and says what it was told to."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

JSON = dict[str, Any]
# what no two HTTP clients say alike, and no provider minds
CLIENTS_OWN = frozenset({"accept-encoding", "connection", "content-length", "host"})


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it came. Header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: JSON


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to a request: `body` as JSON (text: as it is), or `events`, one after the other.

    `names`: the events have names, as Anthropic's. `breaks`: the connection does, after the last event.
    """

    body: JSON | str | None = None
    events: Sequence[JSON | str] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    names: bool = False
    breaks: bool = False


class NativeUpstream:
    """The server, from `with` to the end of its block; `answer` may be set anew between requests."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer or Answer({})
        self.sent: list[Sent] = []
        self.connections = 0
        self.gone = threading.Event()
        """Set when a client has gone before the end of what it was told."""

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def taken(self) -> list[Sent]:
        """The requests since the last call of this."""
        sent, self.sent = self.sent, []
        return sent

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="native-upstream")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    owner: NativeUpstream
    protocol_version = "HTTP/1.1"
    # else its two writes a reply wait for each other
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.owner.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items() if name.lower() not in CLIENTS_OWN}
        self.owner.sent.append(Sent(self.path, headers, json.loads(body)))
        try:
            self._reply(self.owner.answer)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            self.owner.gone.set()

    def _reply(self, answer: Answer) -> None:
        streamed = bool(answer.events)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("content-type", "text/event-stream" if streamed else "application/json")
        if streamed:
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for event in answer.events:
                self._piece(_event(event, named=answer.names))
            if answer.breaks:
                self.connection.close()
                self.close_connection = True
                return
            self._piece(b"")
        else:
            body = (answer.body if isinstance(answer.body, str) else json.dumps(answer.body)).encode()
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def _piece(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_: Any) -> None:
        pass


def _event(event: JSON | str, *, named: bool) -> bytes:
    name = f"event: {event['type']}\n" if named and isinstance(event, dict) else ""
    data = event if isinstance(event, str) else json.dumps(event)
    return f"{name}data: {data}\n\n".encode()
