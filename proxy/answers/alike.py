"""Whether two answers count as the same, as far as that can be told at once."""

from proxy.answers.answer import Answer
from proxy.types import AnswerSpec


def alike(one: Answer, other: Answer, spec: AnswerSpec) -> bool | None:  # noqa: ARG001 - tolerances come here
    """Whether two answers count as the same under `spec`; None where only algebra can tell. Symmetric."""
    if one.label == other.label:
        return True
    return None if one.formula is not None and other.formula is not None else False
