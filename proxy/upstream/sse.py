"""Server-sent events as chat servers write them: bytes in, the data of each whole event out. Does no IO."""

DONE = b"[DONE]"
END = b"data: [DONE]\n\n"

_DATA = b"data: "


def event(data: bytes) -> bytes:
    """One event with `data`, which is JSON: a provider may have written it on several lines, which mean no more."""
    return _DATA + data.replace(b"\n", b" ") + b"\n\n"


def data(item: bytes) -> bytes | None:
    """What is in an event that `event` made; None of a comment."""
    return item.removeprefix(_DATA) if item.startswith(_DATA) else None


class EventParser:
    """Splits a byte stream into the data of its events; comments and other fields are left out."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that `chunk` completes, in order."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events: list[bytes] = []
        for raw in lines:
            line = raw.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        return events

    def end(self) -> list[bytes]:
        """The last event, where the stream ended without its blank line."""
        return self.feed(b"\n\n")
