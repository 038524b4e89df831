"""What the fake upstream remembers of each call, and what it would bill for them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.money import Rates
from proxy.types import JSON
from tests.fake.tokens import count_prompt, tokenize


@dataclass(slots=True)
class Call:
    """One call as it arrived, most often a chat completion.

    Times are `time.monotonic()` seconds; header names are in lower case. `cancelled`: the client disconnected before
    the end. The token counts are what was really served by now.
    """

    index: int
    path: str
    headers: dict[str, str]
    body: JSON
    started: float = field(default_factory=time.monotonic)
    finished: float | None = None
    cancelled: bool = False
    status: int | None = None
    billed: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def n(self) -> int:
        """How many choices were asked for."""
        return int(self.body.get("n") or 1)

    @property
    def stream(self) -> bool:
        """Whether the reply is to be streamed."""
        return bool(self.body.get("stream"))

    @property
    def max_tokens(self) -> int | None:
        """The cap on each choice's tokens, if any."""
        return self.body.get("max_completion_tokens") or self.body.get("max_tokens")

    @property
    def messages(self) -> list[Any]:
        """The prompt."""
        return list(self.body.get("messages") or ())

    @property
    def texts(self) -> list[str]:
        """What a call that generates nothing is about: its inputs, or the texts of its pairs."""
        documents = self.body.get("documents") or ()
        # a query is read with each of its documents
        pairs = [text for document in documents for text in (self.body["query"], document)]
        told = [*(self.body.get(name) for name in ("input", "text_1", "text_2")), pairs]
        return [
            text
            for value in told
            if value is not None
            for text in ([value] if isinstance(value, str) else map(str, value))
        ]

    @property
    def question(self) -> str:
        """The text of the last message of the user, or the empty string."""
        contents = [message.get("content") for message in self.messages if message.get("role") == "user"]
        content = contents[-1] if contents else ""
        if isinstance(content, list):
            return "".join(part.get("text") or "" for part in content)
        return content or ""

    def bill_prompt(self, prompt: int | None, cached: int) -> None:
        """Charge the prompt: `prompt` tokens (None: as counted), `cached` of them from a cache."""
        self.billed = True
        counted = count_prompt(self.messages) + sum(len(tokenize(text)) for text in self.texts)
        self.prompt_tokens = counted if prompt is None else prompt
        self.cached_tokens = cached


@dataclass(frozen=True, slots=True)
class Meter:
    """The provider's own account of what it served: refused and failed calls cost nothing."""

    _calls: Sequence[Call]

    @property
    def calls(self) -> int:
        """How many calls are billed."""
        return sum(call.billed for call in self._calls)

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all billed calls, once a call whatever its `n`."""
        return sum(call.prompt_tokens for call in self._calls)

    @property
    def completion_tokens(self) -> int:
        """Completion tokens of all choices served."""
        return sum(call.completion_tokens for call in self._calls)

    def cost_nano(self, rates: Rates) -> int:
        """Nano-USD at `rates`, rounded up once a call."""
        return sum(
            rates.cost(call.prompt_tokens, call.completion_tokens, call.cached_tokens)
            for call in self._calls
            if call.billed
        )
