"""The prompts of draws that see earlier ones: what each `Step` asks, in tally's own words.

DynScaling (Algorithm 2) publishes no template: the attempts' contents (not their reasoning) are appended to the last
user turn, and the question is asked again. The sequential steps go on as a conversation, with the model's earlier words
as its own turns; `rethink` follows the multi-round template (arXiv 2503.19855) and shows nothing but an answer.
"""

from collections.abc import Sequence

from proxy.answers import visible_text
from proxy.core.batch import Step
from proxy.core.vote import SILENT
from proxy.types import JSON, Choice

WAIT = "Wait. Check your work and think on, then answer the original question again, in the form it asks for."
CRITICISE = (
    "Review your answer above. Check each step and say what is wrong or missing in it, or that nothing is. "
    "Do not answer the question again yet."
)
REFINE = "Now answer the original question again, with this review in mind and in the form the question asks for."
GRADE = (
    "How likely is your answer above to be fully correct? "
    "Reply with one whole number from 0 (certainly wrong) to 100 (certainly right) and nothing else."
)

_HEAD = "Here are earlier attempts at this. They may be wrong."
_TAIL = "Look at them critically, then answer the original question again, in the form it asks for."
_AGAIN = (
    "Your previous answer was: <answer>{}</answer>. Answer again from the beginning, in the form that is asked for."
)
_NOTHING = "(nothing)"
_MAX_ATTEMPT_CHARS = 16_000

_FORMS = frozenset(
    {"response_format", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"}
    | {"logprobs", "top_logprobs", "logit_bias", "stop"}
    # what servers of open models call the same
    | {"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"}
    | {"grammar", "json_schema", "regex", "ebnf"}
)
"""What a request says of the form of its answer, and so nothing that prose can keep to."""


def prompt(body: JSON, step: Step, shown: Sequence[str]) -> JSON | None:
    """`body` as a step asks it, with the texts of the draws that it is given, in their order.

    None only for `answer`, where there is nothing to show or no user turn to show it in: such a draw is independent.
    Feedback and grades are prose: what forces another form is left out. A limit on their tokens stays.
    """
    if step == "answer":
        return conditioned(body, shown)
    texts = [_shorten(text.strip()) or _NOTHING for text in shown]
    if step == "rethink":
        return _rethought(body, texts[-1])
    asked = {
        "continue": [(text, WAIT) for text in texts],
        "feedback": [(texts[0], CRITICISE)],
        "refine": [(texts[0], CRITICISE), (texts[-1], REFINE)],
        "grade": [(texts[0], GRADE)],
    }[step]
    kept = {key: value for key, value in body.items() if step not in SILENT or key not in _FORMS}
    turns = [
        {"role": role, "content": text}
        for pair in asked
        for role, text in zip(("assistant", "user"), pair, strict=True)
    ]
    return {**kept, "messages": [*body["messages"], *turns]}


def conditioned(body: JSON, attempts: Sequence[str]) -> JSON | None:
    """`body` with `attempts` shown in its last user turn; None where there is no user turn or nothing to show."""
    shown = [_shorten(text.strip()) for text in attempts if text.strip()]
    listed = "\n\n".join(f"Attempt {number}:\n{text}" for number, text in enumerate(shown, 1))
    return _added(body, f"{_HEAD}\n\n{listed}\n\n{_TAIL}") if shown else None


def said(choice: Choice) -> str:
    """What a choice said, as text that can stand in a prompt: without its thinking, and with the tools it called."""
    calls = choice.message.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    called = [f"{made.get('name')}({made.get('arguments')})" for made in functions if isinstance(made, dict)]
    return "\n".join([text for text in (visible_text(choice), *called) if text])


def _rethought(body: JSON, answer: str) -> JSON:
    text = _AGAIN.format(answer)
    return _added(body, text) or {**body, "messages": [*body["messages"], {"role": "user", "content": text}]}


def _added(body: JSON, text: str) -> JSON | None:
    """`body` with a paragraph more in its last user turn, or None where it has none."""
    messages = list(body["messages"])
    place = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].get("role") == "user"), None)
    if place is None:
        return None
    messages[place] = _appended(messages[place], f"\n\n{text}")
    return {**body, "messages": messages}


def _appended(message: JSON, text: str) -> JSON:
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": [*content, {"type": "text", "text": text}]}
    return {**message, "content": f"{content or ''}{text}"}


def _shorten(text: str) -> str:
    # the end of an attempt holds its answer
    return text if len(text) <= _MAX_ATTEMPT_CHARS else "…" + text[-_MAX_ATTEMPT_CHARS:]
