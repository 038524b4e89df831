"""Reading a choice: its answer, or nothing, which abstains."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

from proxy.answers.answer import REFUSAL, SAID, Answer, shown
from proxy.answers.compose import Composed, compose
from proxy.answers.messages import refused, visible_text
from proxy.answers.structured import Calling, Documents, calling, has_tool_calls, response_format
from proxy.answers.texts import Texts, refusal_in
from proxy.types import JSON, AnswerSpec, Choice

_DATA = frozenset({"json", "json_path"})
_OBJECT = re.compile(r"(?:```(?:json)?\s*)?\{\s*[\"}]")
_CALLS = frozenset({"auto", "tool_calls"})


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
        text = visible_text(choice)
        if kind in _DATA or (kind == "auto" and self._wants_json):
            found = self._documents.json(choice) or refusal_in(text)
        elif self._wants_json and self._documents.json(choice) is None:
            # whatever else is looked for in it, a client could not parse it
            found = refusal_in(text)
        elif kind == "tool_calls" or (kind == "auto" and self._calling == "must"):
            found = refusal_in(text)
        elif kind == "auto" and _OBJECT.match(text):
            # "the last number" of {"label": "spam", "score": 0.9} is not what it says
            found = self._object(choice) or self._texts.read(text)
        else:
            found = self._texts.read(text)
        if found is None and text and kind in _CALLS and self._calling == "may":
            return Answer(SAID, shown(text), marked=False)
        return found

    def compose(self, choices: Sequence[Choice | None], best: Callable[[Sequence[int]], int]) -> Composed | None:
        """What to return where every field votes for itself: see `proxy.answers.compose.compose`."""
        return compose(choices, self._documents, best)

    def _object(self, choice: Choice) -> Answer | None:
        """The JSON of a reply that was not asked for it: worth a vote only where it is short."""
        found = self._documents.json(choice)
        return None if found is None else replace(found, marked=False)

    @cached_property
    def _documents(self) -> Documents:
        return Documents(self._spec, self._request)

    @cached_property
    def _calling(self) -> Calling:
        # where the request asks for JSON, a text that is none is no answer
        return "never" if self._wants_json else calling(self._request)

    @cached_property
    def _wants_json(self) -> bool:
        return response_format(self._request) is not None

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self._spec, self._request)


def read(choice: Choice, spec: AnswerSpec, request: JSON) -> Answer | None:
    """The answer of one `choice` to `request`: see `Reader.read`."""
    return Reader(spec, request).read(choice)
