"""The turns of a conversation that comes in items: a chat's messages, each with the results of its calls."""

from proxy.types import JSON


class _Turn:
    """One message; the assistant's with its calls, and the results of these. `waiting`: calls without a result."""

    def __init__(self, message: JSON) -> None:
        self.ours = message["role"] == "assistant"
        self.waiting: set[str] = set()
        self.results: list[JSON] = []
        self._said = [message]
        self._calls: list[JSON] = []

    def call(self, call: JSON) -> None:
        self._calls.append(call)
        self.waiting.add(call["id"])

    def say(self, message: JSON) -> None:
        self._said.append(message)

    def answer(self, result: JSON) -> None:
        self.waiting.discard(result["tool_call_id"])
        self.results.append(result)

    def messages(self) -> list[JSON]:
        first = self._joined() if self.ours else self._said[0]
        return [first, *self.results]

    def _joined(self) -> JSON:
        content, refusal = _joined(self._said, "content"), _joined(self._said, "refusal")
        made: JSON = {"role": "assistant", "content": content}
        if refusal is not None:
            made["refusal"] = refusal
        if self._calls:
            made["tool_calls"] = self._calls
        return made


class Thread:
    """A conversation as it grows; false while nothing is in it."""

    def __init__(self) -> None:
        self._turns: list[_Turn] = []
        self._called: dict[str, _Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def messages(self) -> list[JSON]:
        """Its messages, the results of calls right behind them."""
        return [message for turn in self._turns for message in turn.messages()]

    def say(self, message: JSON) -> None:
        """Add a message; what the assistant says beside calls that wait for results is one with them."""
        last = self._last()
        if message["role"] == "assistant" and last is not None and last.waiting:
            # nothing may stand between calls and their results, so it is said before them
            last.say(message)
        else:
            self._turns.append(_Turn(message))

    def call(self, call: JSON) -> None:
        """Add a call of the assistant, to those just before it where there are any."""
        last = self._last()
        if last is None or last.results:
            last = _Turn({"role": "assistant", "content": None})
            self._turns.append(last)
        last.call(call)
        self._called[call["id"]] = last

    def answer(self, result: JSON) -> bool:
        """Add the result of a call, wherever that was; false where there is none."""
        turn = self._called.get(result["tool_call_id"])
        if turn is not None:
            turn.answer(result)
        return turn is not None

    def _last(self) -> _Turn | None:
        """The last turn, where it is the assistant's."""
        return self._turns[-1] if self._turns and self._turns[-1].ours else None


def _joined(said: list[JSON], name: str) -> str | None:
    texts = [message[name] for message in said if message.get(name) is not None]
    return "".join(texts) if texts else None
