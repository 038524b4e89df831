"""What an evaluation holds fixed, so that its answers can be compared and it can go on another day."""

from pydantic import BaseModel, ConfigDict, JsonValue

from proxy.evaluation.questions import Question
from proxy.types import JSON, AnswerKind

INSTRUCTION = "Think step by step, then put the final answer in \\boxed{}."


class Setup(BaseModel):
    """The model, the questions (the SHA-256 of their file) and how they are asked; None leaves it to the proxy.

    `scaling` is what a private proxy's configuration says there beside the defaults; of a running one nobody knows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    questions: str
    instruction: str = INSTRUCTION
    answer: AnswerKind = "auto"
    samples: int | None = None
    max_samples: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    scaling: dict[str, JsonValue] | None = None

    def body(self, question: Question, strategy: str) -> JSON:
        """The chat request that asks a question by a strategy."""
        tally = {"strategy": strategy, "samples": self.samples, "max_samples": self.max_samples}
        asked = {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": self.seed}
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": f"{question.question}\n\n{self.instruction}".strip()}],
            **_given(asked),
            "tally": {**_given(tally), "answer": {"kind": self.answer}, "detail": True},
        }

    def differences(self, other: "Setup") -> list[str]:
        """What another set-up has otherwise, in words."""
        mine, others = _flat(self.model_dump()), _flat(other.model_dump())
        return [
            # digests tell nobody anything
            "the questions are others"
            if name == "questions"
            else f"{name} was {_short(mine.get(name))} and is {_short(others.get(name))}"
            for name in dict.fromkeys([*mine, *others])
            if mine.get(name) != others.get(name)
        ]


def _given(values: JSON) -> JSON:
    return {name: value for name, value in values.items() if value is not None}


def _flat(values: JSON, before: str = "") -> JSON:
    found: JSON = {}
    for name, value in values.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return found


def _short(value: object) -> str:
    return text if len(text := repr(value)) <= 60 else text[:59] + "…"
