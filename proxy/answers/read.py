"""Reading a choice: its answer, or nothing, which abstains."""

from functools import cached_property

from proxy.answers.answer import REFUSAL, Answer, shown
from proxy.answers.messages import refused, visible_text
from proxy.answers.structured import Documents, has_tool_calls, response_format
from proxy.answers.texts import Texts, refusal_in
from proxy.types import JSON, AnswerSpec, Choice

_DATA = frozenset({"json", "json_path"})


class Reader:
    """Reads the replies to one request as its plan wants answers found. What that takes is prepared on first use."""

    def __init__(self, spec: AnswerSpec, request: JSON) -> None:
        self._spec = spec
        self._request = request

    def read(self, choice: Choice) -> Answer | None:
        """The answer of `choice`, or None, which abstains. Never raises; whether it was truncated is not looked at."""
        kind = self._spec.kind
        if kind == "text":
            return None
        if refused(choice):
            said = choice.message.get("refusal")
            return Answer(REFUSAL, shown(said) if isinstance(said, str) and said else "(filtered)", marked=False)
        if has_tool_calls(choice.message):
            return self._documents.calls(choice.message)
        if kind in _DATA or (kind == "auto" and response_format(self._request) is not None):
            return self._documents.json(choice) or refusal_in(visible_text(choice))
        if kind == "tool_calls":
            return refusal_in(visible_text(choice))
        return self._texts.read(visible_text(choice))

    @cached_property
    def _documents(self) -> Documents:
        return Documents(self._spec, self._request)

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self._spec, self._request)


def read(choice: Choice, spec: AnswerSpec, request: JSON) -> Answer | None:
    """The answer of one `choice` to `request`: see `Reader.read`."""
    return Reader(spec, request).read(choice)
