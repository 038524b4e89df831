"""A reward-model server that speaks vLLM's `/score`, `/classify` and `/pooling`."""

from collections.abc import Callable, Sequence
from math import exp, fsum, isfinite, prod

from proxy.errors import TallyError
from proxy.metering import Errand, Meter
from proxy.purse import Purse
from proxy.scoring.shown import shown_answer, shown_question
from proxy.types import JSON, Activation, Choice, Reduction, RewardApi
from proxy.upstream.routing import Route

_REDUCE: dict[Reduction, Callable[[Sequence[float]], float]] = {
    "mean": lambda values: fsum(values) / len(values),
    "min": min,
    "last": lambda values: values[-1],
    "product": prod,
}


class RewardScorer:
    """Asks a reward model. `find` gives the model to ask; `clock` is monotonic seconds.

    `api` says how: `score` has the question and the answer as a pair (`text_1`, `text_2`), `classify` both as one
    `input`, `pooling` as `messages`, and may reward each step: then `reduce` makes one value of them. A `separator`
    is put in place of the blank lines of the answer, and at its end, where the model looks for one after each step.
    Of a step or text with a value a class the last one's counts, which is what reward models of two classes call good.

    Rewards are put in [0, 1] by `activation`: `none` cuts off what is outside, `sigmoid` puts all through the logistic
    function 1 / (1 + exp(-x)), before they are reduced; `auto` does so from the first reply on that holds a value
    outside [0, 1], which is for servers whose values are never, or hardly ever, inside.
    """

    def __init__(
        self,
        meter: Meter,
        find: Callable[[], Route],
        *,
        clock: Callable[[], float],
        api: RewardApi = "score",
        reduce: Reduction = "last",
        activation: Activation = "auto",
        separator: str | None = None,
    ) -> None:
        self._meter = meter
        self._find = find
        self._clock = clock
        self._api = api
        self._reduce = _REDUCE[reduce]
        self._activation = activation
        self._separator = separator

    async def score(self, purse: Purse, request: JSON, choice: Choice, deadline: float) -> float | None:
        """The reward in [0, 1].

        None when the server failed or told none, there is no answer to show it, or the budget does not hold it.
        """
        answer = shown_answer(choice)
        if not answer or deadline <= self._clock():
            return None
        try:
            body = self._asked(shown_question(request), answer)
            reply = await self._meter.post(
                purse, self._find(), f"/{self._api}", body, Errand("reward"), deadline=deadline
            )
        except TallyError:
            return None
        rewards = _rewards(reply or {})
        return self._reduce(self._activated(rewards)) if rewards else None

    def _asked(self, question: str, answer: str) -> JSON:
        if self._separator is not None:
            steps = [step.strip() for step in answer.split("\n\n")]
            answer = "".join(step + self._separator for step in steps if step)
        if self._api == "score":
            return {"text_1": question, "text_2": answer}
        if self._api == "classify":
            return {"input": f"{question}\n\n{answer}"}
        turns = (("user", question), ("assistant", answer))
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    def _activated(self, rewards: Sequence[float]) -> list[float]:
        if self._activation == "auto" and not all(0.0 <= reward <= 1.0 for reward in rewards):
            # kept: one scale for all samples, for 0.9 is not to beat 1.1
            self._activation = "sigmoid"
        if self._activation == "sigmoid":
            return [_logistic(reward) for reward in rewards]
        return [min(1.0, max(0.0, reward)) for reward in rewards]


def _logistic(value: float) -> float:
    return 1.0 / (1.0 + exp(-value)) if value >= 0 else exp(value) / (1.0 + exp(value))


def _rewards(reply: JSON) -> list[float]:
    """The rewards of the one text that was asked about, a value a step; none where the reply has another shape."""
    data = reply.get("data")
    first = data[0] if isinstance(data, list) and data else None
    if not isinstance(first, dict):
        return []
    told = first.get("score", first.get("probs", first.get("data")))
    if "probs" in first:
        told = [told]
    steps = [_last(step) for step in (told if isinstance(told, list) else [told])]
    return [step for step in steps if step is not None] if None not in steps else []


def _last(step: object) -> float | None:
    """A step's value, or its last where it has one a class."""
    value: object = step[-1] if isinstance(step, list) and step else step
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)
