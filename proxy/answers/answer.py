"""What one reply says: an answer with its label."""

from collections.abc import Hashable
from dataclasses import dataclass

from proxy.answers.canonical import Label

REFUSAL: Label = ("refusal",)
"""The one ballot of all refusals: seven of them must not lose to one that complies."""

LONGEST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What one choice says. `label` is equal for equal answers; `text` is for people, at most 200 characters.

    `marked`: the reply pointed its answer out (boxed, `####`, "answer is", JSON or tools as asked, a choice alone).
    `formula` is the answer as the reply writes it where unequal labels may still be equal by algebra; else None.
    """

    label: Hashable
    text: str
    marked: bool
    formula: str | None = None


def shown(text: str) -> str:
    """`text` as people see it: one line, at most 200 characters, encodable as UTF-8."""
    clean = " ".join(text[: 5 * LONGEST_SHOWN].replace("\x00", "").encode(errors="replace").decode().split())
    return clean if len(clean) <= LONGEST_SHOWN else clean[: LONGEST_SHOWN - 1] + "…"
