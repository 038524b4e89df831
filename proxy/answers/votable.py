"""Whether a request is worth more than one sample."""

from proxy.answers.answer import REFUSAL, Answer
from proxy.answers.messages import visible_text
from proxy.answers.structured import response_format
from proxy.answers.texts import is_short
from proxy.types import JSON, AnswerSpec, Choice


def declared(spec: AnswerSpec, request: JSON) -> bool:
    """Whether the request alone says that its replies can be voted on, so that no probing draw is needed.

    It does by configuration (`votable: always`, a kind other than auto and text, a text of which one is to be picked),
    by asking for JSON, and by forcing a tool call.
    """
    if spec.votable != "auto":
        return spec.votable == "always"
    if spec.kind != "auto":
        return spec.kind != "text" or spec.pick != "none"
    return response_format(request) is not None or _forces_tool(request)


def votable(choice: Choice, answer: Answer | None, spec: AnswerSpec, request: JSON) -> bool:
    """Whether, after the one probing draw `choice` with its `answer`, a vote is worth having.

    It is when the answer is pointed out, a refusal or a tool call, or when the reply is short; prose is not.
    """
    if spec.votable != "auto":
        return spec.votable == "always"
    if spec.kind == "text":
        return spec.pick != "none"
    if declared(spec, request):
        return True
    if answer is None:
        return False
    return answer.marked or answer.label == REFUSAL or is_short(visible_text(choice))


def _forces_tool(request: JSON) -> bool:
    wanted = request.get("tool_choice")
    return (wanted == "required" or isinstance(wanted, dict)) and bool(request.get("tools"))
