"""An LLM as judge: one more call that grades a reply."""

from collections.abc import Callable
from contextlib import aclosing

from proxy.errors import TallyError
from proxy.metering import Errand, Meter
from proxy.purse import Purse
from proxy.scoring.grade import grade
from proxy.types import JSON, Choice
from proxy.upstream.deployment import Deployment

_ASK = (
    "You grade answers. Judge how likely the answer below is to be fully correct.\n\n"
    "<question>\n{question}\n</question>\n\n<answer>\n{answer}\n</answer>\n\n"
    "Reply with one whole number from 0 (certainly wrong) to 100 (certainly right) and nothing else."
)
_MAX_TOKENS = 16


class JudgeScorer:
    """Asks a judge model for a grade from 0 to 100. `find` gives the deployment to ask; `clock` is monotonic."""

    def __init__(self, meter: Meter, find: Callable[[], Deployment], *, clock: Callable[[], float]) -> None:
        self._meter = meter
        self._find = find
        self._clock = clock

    async def score(self, purse: Purse, request: JSON, choice: Choice, deadline: float) -> float | None:
        """The grade as a share of 100; None when the judge failed, gave no grade, or the budget does not hold it."""
        ask = _ASK.format(question=_question(request), answer=choice.content)
        grades: list[float | None] = []
        try:
            deployment = self._find()
            body = deployment.body(
                {"messages": [{"role": "user", "content": ask}], "max_tokens": _MAX_TOKENS, "temperature": 0}
            )
            async with (
                deployment.slot(),
                self._meter.call(purse, deployment, body, Errand("judge"), choices=1, deadline=deadline) as call,
            ):
                if call.granted:
                    async with aclosing(call.choices(max(0.001, deadline - self._clock()))) as replies:
                        grades = [grade(reply) async for reply in replies]
        except TallyError:
            return None
        return grades[0] if grades else None


def _question(request: JSON) -> str:
    for message in reversed(request["messages"]):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):
                return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
            return str(content)
    return ""
