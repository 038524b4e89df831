"""What a test can tell the fake upstream to do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from proxy.types import JSON
from tests.fake.call import Call

Content = str | JSON
"""A choice: its text, or its message (`content`, `tool_calls`, `refusal`, `reasoning_content`, anything else)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A chat completion. Choice i of a call gets `contents[i]`, cycling; so with `finish_reason` where it is a list.

    `latency`: seconds before the first byte; `per_token`: seconds a token after it (all choices advance together).
    `prompt_tokens` and `completion_tokens` (of each choice) are counted unless given. `max_tokens` of the request cuts
    a choice, whose finish_reason is then `length`. `usage` tells the tokens of all choices, of the first only, or is
    left out. `n`: honoured; ignored (one choice comes back); refused (400 above one); a number: the cap (400 above it).
    `logprobs`: given when asked for, or never, or these values a token, cycling. `top` are the alternatives that are
    told of every token, beside itself, where `top_logprobs` are asked for.
    `tool_calls`: `{"name", "arguments"}` of each; ids are made up. `kinds` are further fields of the usage, and
    `service_tier` is the grade of service that the reply says it got.
    """

    contents: Sequence[Content] = ("42",)
    finish_reason: str | Sequence[str] | None = None
    latency: float = 0.0
    per_token: float = 0.0
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    completion_tokens: int | None = None
    usage: Literal["all", "first", "none"] = "all"
    kinds: Mapping[str, object] = field(default_factory=dict)
    service_tier: str | None = None
    n: Literal["honour", "ignore", "refuse"] | int = "honour"
    logprobs: bool | Sequence[float] = True
    top: Mapping[str, float] = field(default_factory=dict)
    tool_calls: Sequence[JSON] = ()
    refusal: str | None = None
    reasoning_content: str | None = None
    system_fingerprint: str | None = "fp_fake"

    def choices(self, asked: int) -> int:
        """How many choices are served when `asked` are wanted; 0 when the call is refused."""
        if self.n == "ignore":
            return 1
        cap = asked if self.n == "honour" else 1 if self.n == "refuse" else self.n
        return asked if asked <= cap else 0


@dataclass(frozen=True, slots=True)
class Fault:
    """An error reply. With `after_chunks`, a streamed call gets that many tokens of `reply` first, then an error event.

    `retry_after` is in seconds; `latency` is seconds before the reply.
    """

    status: int = 429
    message: str = "Rate limit reached. Try again later."
    type: str = "requests"
    code: str | None = "rate_limit_exceeded"
    param: str | None = None
    retry_after: float | None = None
    after_chunks: int | None = None
    latency: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    reply: Reply = Reply(("one two three four five six",))


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection breaks: at once, or in a streamed call after so many tokens of `reply`."""

    after_chunks: int = 0
    latency: float = 0.0
    reply: Reply = Reply(("one two three four five six",))


@dataclass(frozen=True, slots=True)
class Malformed:
    """A success whose body is not JSON (in a streamed call: one event that is not)."""

    body: str = '{"id": "chatcmpl-'
    latency: float = 0.0


@dataclass(frozen=True, slots=True)
class Plain:
    """What one of the paths that generate nothing replies: `data` as it is, one item a text, and a usage.

    `prompt_tokens` are counted unless given; `usage`: told whole, only as `total_tokens`, or left out (and billed all
    the same). `latency`: seconds before the reply. `more` are further fields of the reply.
    """

    data: Sequence[JSON] = ()
    prompt_tokens: int | None = None
    usage: Literal["all", "total", "none"] = "all"
    latency: float = 0.0
    more: Mapping[str, object] = field(default_factory=dict)


Step = Reply | Plain | Fault | Drop | Malformed
Shorthand = Step | str | Sequence[Content]
Script = Shorthand | Callable[[Call], Shorthand]


class InOrder:
    """Contents taken one a choice, across all calls, cycling: what a plain list stands for."""

    def __init__(self, contents: Sequence[Content], reply: Reply | None = None) -> None:
        self.reply = reply or Reply()
        self._contents = contents
        self._taken = 0

    def __call__(self, call: Call) -> Reply:
        """The next contents, as many as choices are served."""
        count = self.reply.choices(call.n)
        taken = [self._contents[(self._taken + i) % len(self._contents)] for i in range(count)]
        self._taken += count
        return replace(self.reply, contents=taken)


class Scripted:
    """For each question its samples in order: `Scripted({"6 x 7": ["42", "41"]})`. Keys are parts of the question.

    Each question has its own counter; the longest key that fits counts; `default` answers all others.
    """

    def __init__(
        self,
        answers: Mapping[str, Sequence[Content]],
        *,
        default: Sequence[Content] = ("42",),
        reply: Reply | None = None,
    ) -> None:
        self._scripts = {key: InOrder(contents, reply) for key, contents in answers.items()}
        self._default = InOrder(default, reply)

    def __call__(self, call: Call) -> Reply:
        """The next samples of the call's question."""
        question = call.question
        fitting = [key for key in self._scripts if key in question]
        return self._scripts[max(fitting, key=len)](call) if fitting else self._default(call)


class Turns:
    """One step a call, in order of arrival; the last step repeats: `Turns(Fault(), "42")`."""

    def __init__(self, *steps: Script) -> None:
        self._steps = [as_script(step) for step in steps]
        self._next = 0

    def __call__(self, call: Call) -> Step:
        """The next step."""
        step = self._steps[min(self._next, len(self._steps) - 1)]
        self._next += 1
        return step(call)


def as_script(script: Script) -> Callable[[Call], Step]:
    """Any form of a script as a function: text is every choice, a list is one item a choice across calls."""
    if callable(script):
        return lambda call: as_script(script(call))(call)
    if isinstance(script, Reply | Plain | Fault | Drop | Malformed):
        return lambda _: script
    if isinstance(script, str):
        return lambda _: Reply((script,))
    return InOrder(script)
